"""Room in the folder of what is computed once, which would otherwise grow with every new data set.

Whoever reads a file there holds a lock on it, so that what was used longest ago can go without
taking anything from a training, in whatever container that runs.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from training.run.whole_files import discard_left

OURS = re.compile(r"decoded-[0-9a-f]{64}\.u8|activations-[0-9a-f]{64}\.safetensors")
# What stays free for others on the same volume: jobs, checkpoints, versions.
FREE_SHARE = 0.1
MOST_FREE = 20 << 30


def make_room(cache: Path, n_bytes: int, note: Callable[[str], None] = lambda text: None) -> None:
    """A file of so many bytes fits into `cache`, and a tenth of its volume stays free beside it; or
    nothing is left there that could go. What has gone is noted."""
    cache.mkdir(parents=True, exist_ok=True)
    discard_left(cache)
    volume = shutil.disk_usage(cache)
    free = min(int(FREE_SHARE * volume.total), MOST_FREE)
    gone = remove_oldest(cache, n_bytes + free - volume.free)
    if gone:
        note(
            f"the volume of {cache} was nearly full; {sum(gone) / 1e9:.1f} GB of what was used "
            "longest ago there are gone, and computed anew when they are needed"
        )


def remove_oldest(cache: Path, n_bytes: int) -> list[int]:
    """Files of ours are gone that nobody uses, of so many bytes together or more: those that were
    used longest ago. Gives their sizes."""
    gone: list[int] = []
    ours = (path for path in cache.iterdir() if OURS.fullmatch(path.name))
    for path in sorted(ours, key=_last_used):
        if sum(gone) >= n_bytes:
            break
        with suppress(OSError):  # it is in use, or another user's, or somebody else removed it
            gone.append(_remove(path))
    return gone


def mark_used(file: IO[bytes]) -> None:
    """`file` was used now, and is not removed while it is open, or a map of it is."""
    with suppress(OSError):  # no locks there, by which nothing is removed; or another user's file
        fcntl.flock(file, fcntl.LOCK_SH)
        os.utime(file.fileno())


def _last_used(path: Path) -> float:
    with suppress(FileNotFoundError):  # somebody else removed it
        return path.stat().st_mtime
    return 0.0


def _remove(path: Path) -> int:
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return os.fstat(file.fileno()).st_size
