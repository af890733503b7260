"""Returns freed memory to the system."""

import ctypes


def release_freed_memory() -> None:
    """Returns memory that this process has freed to the system, with a C library that can (glibc).

    Otherwise glibc keeps the memory of closed networks for later, in as many arenas as there were
    threads: after a hundred swaps, about two networks' worth.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
