"""The end of a process in which clients, or the server beside them, may still be at work."""

import os
import sys
import threading
from typing import NoReturn

AT_WORK = "fed-rebel at work"
"""The name of the threads that compute, which nobody waits for at the end."""


def end_process(status: int) -> NoReturn:
    """End this process, also where one of those threads still computes: Python's own end would abort in it."""
    if any(thread.name == AT_WORK for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
