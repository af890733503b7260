"""The folder that a server keeps its jobs in, and what it has measured."""

import fcntl
from pathlib import Path
from typing import TextIO

from registry.errors import Conflict


def hold(state: Path) -> TextIO:
    """`state` is there, and no other server works in it until the file is closed.

    The lock dies with the process.

    Raises:
        Conflict: another one does.
    """
    state.mkdir(parents=True, exist_ok=True)
    file = (state / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise Conflict(
            f"another server is using the state folder {state}; stop it, or give this one a "
            "--state of its own"
        ) from error
    return file
