"""How many clients train at the same time."""

import os

from fed_rebel.settings import Settings


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def clients_at_once(settings: Settings) -> int:
    """As set, else as many as the cores allow with `engine.threads` each; never more than there are clients."""
    wanted = settings.engine.clients_at_once or max(1, cores() // settings.engine.threads)
    return min(wanted, settings.partition.clients)
