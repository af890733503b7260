"""The folder that a server keeps its jobs in, and what it has measured."""

import fcntl
import os
from pathlib import Path
from typing import TextIO

from registry.errors import Conflict, Unavailable


def hold(state: Path) -> TextIO:
    """`state` is there, and no other server works in it until the file is closed.

    The lock dies with the process.

    Raises:
        Conflict: another one does.
        Unavailable: it is no folder that this process may write to.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        file = (state / "lock").open("w")
    except OSError as error:
        raise Unavailable(
            f"the state folder {state} cannot be written to ({error.strerror}); give another "
            f"--state, or let user {os.getuid()} write there"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise Conflict(
            f"another server is using the state folder {state}; stop it, or give this one a "
            "--state of its own"
        ) from error
    return file
