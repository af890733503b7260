"""Who goes first while the cores are busy: the event loop of a service, which has little to do at a
time, and for everybody; then the threads that answer its requests; then trainings."""

import os
import sys
from contextlib import suppress

ANSWERING = 5
TRAINING = 15


def give_way(niceness: int) -> None:
    """Raises the niceness of the calling thread, and of threads that it starts later.

    On Linux only: elsewhere, a thread has none of its own. A sandbox may forbid it; then everything
    goes on as before, only slower for others.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.nice(niceness)
