"""Memory that is given back to the system."""

import ctypes


def give_back() -> None:
    """What this process has freed is the system's again, where the C library can do that (glibc).

    Left alone, glibc keeps the weights of a network that was closed for the next one, in as many
    arenas as there were threads: after a hundred swaps some two networks' worth.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
