"""The end of a process in which clients may still be at work."""

import os
import sys
import threading
from typing import NoReturn

CLIENT_THREAD = "fed-rebel client"
"""The name of the threads on which clients are at work."""


def end_process(status: int) -> NoReturn:
    """End this process, also where a client that was given up still computes: Python's own end would abort in it."""
    if any(thread.name == CLIENT_THREAD for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
