"""Keeps freed memory in the process, for the next tensor."""

import ctypes
import platform

# of <malloc.h>
TRIM_THRESHOLD, MMAP_MAX = -1, -4
NEVER, NONE = -1, 0


def keep_freed_memory() -> bool:
    """What tensors leave is for tensors to come, and no longer goes back to the system.

    The system clears every page that it hands out, and glibc asks it anew for every large tensor.
    A step of training makes and drops hundreds, the same ones each time; without this a quarter of
    its time was spent on clearing them (`mallopt(3)`). The process keeps the memory of its largest
    step until it ends, and more of it where tensors do not fit what others left: of two that took
    turns, up to twice as much. False: the C library is another, and all is as it was.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(MMAP_MAX, NONE) and libc.mallopt(TRIM_THRESHOLD, NEVER))
