"""Memory of tensors that come and go with every batch."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Of glibc's `mallopt`."""
_LARGEST = 2**30


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next tensors of this process, in one heap for all its threads.

    By default it gives every block above 32 MB back to the system, which then has to clear it page by page when the
    next batch asks for as much: in an evaluation a quarter of the time. Nothing where the library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _LARGEST)
