"""The state folder: jobs, measured plans and caches of one server."""

import fcntl
import os
from pathlib import Path
from typing import TextIO

from registry.errors import Conflict, Unavailable


def lock_state(state: Path) -> TextIO:
    """Creates `state` if necessary and locks it until the returned file is closed.

    The operating system releases the lock when the process dies.

    Raises:
        Conflict: another server uses it.
        Unavailable: it is not a folder that this process may write to.
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
