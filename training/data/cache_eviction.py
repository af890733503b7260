"""Limits the cache folder, which would otherwise grow with every new data set.

Readers hold a lock on the files that they use, so the least recently used ones can be evicted
without taking anything from a running training, in whatever container that runs.
"""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO

from training.run.whole_files import discard_folder, discard_left

UNPACKED_TABLE = "labels.csv"  # of the images of Parquet files; what is locked of their folder
OURS = re.compile(
    r"decoded-[0-9a-f]{64}\.u8|activations-[0-9a-f]{64}\.safetensors|unpacked-[0-9a-f]{64}"
)
# What an earlier version wrote these in. Its writers hold no lock: those that were killed can only
# be told by the file's age.
TEMPORARY = re.compile(r"(\.decoded-[0-9a-f]{64}\.u8|activations-[0-9a-f]{64})\.\d+\.tmp")
ABANDONED_S = 86_400.0
# To stay free for others on the same volume: jobs, checkpoints, versions.
FREE_SHARE = 0.1
MOST_FREE = 5 << 30


def make_room(cache: Path, n_bytes: int, note: Callable[[str], None]) -> None:
    """Evicts files from `cache` until one of `n_bytes` fits and a tenth of the volume (at most
    `MOST_FREE`) stays free, or nothing is left to evict. Reports what was removed."""
    cache.mkdir(parents=True, exist_ok=True)
    discard_left(cache)
    _discard_abandoned(cache)
    volume = shutil.disk_usage(cache)
    free = min(int(FREE_SHARE * volume.total), MOST_FREE)
    gone = remove_oldest(cache, n_bytes + free - volume.free)
    if gone:
        note(
            f"the volume of {cache} was nearly full: removed {sum(gone) / 1e9:.1f} GB of the least "
            "recently used cache files, which are computed again when needed"
        )


def remove_oldest(cache: Path, n_bytes: int) -> list[int]:
    """Removes the least recently used of our files that nobody is using, until `n_bytes` are freed.
    Returns their sizes."""
    gone: list[int] = []
    ours = (path for path in cache.iterdir() if OURS.fullmatch(path.name))
    for path in sorted(ours, key=_last_used):
        if sum(gone) >= n_bytes:
            break
        with suppress(OSError):  # it is in use, or another user's, or somebody else removed it
            gone.append(_remove(path))
    return gone


def _discard_abandoned(cache: Path) -> None:
    """Removes what an earlier version left unfinished and nobody has written to for a day."""
    before = time.time() - ABANDONED_S
    for path in cache.iterdir():
        with suppress(OSError):  # another user's, or somebody else removed it
            if _is_unfinished(path) and path.stat().st_mtime < before:
                discard_folder(path) if path.is_dir() else path.unlink()


def _is_unfinished(path: Path) -> bool:
    """Whether only an earlier version can have written it: ours unpacked folders at once, or not at
    all."""
    if TEMPORARY.fullmatch(path.name):
        return True
    return bool(OURS.fullmatch(path.name)) and path.is_dir() and not _locked_of(path).exists()


def mark_used(file: IO[bytes]) -> None:
    """Marks `file` as used now, and locks it against removal while it, or a memory map, is open."""
    with suppress(OSError):  # no locks here, so nothing is removed either; or not our file
        fcntl.flock(file, fcntl.LOCK_SH)
        os.utime(file.fileno())


def hold(file: Path) -> mmap | None:
    """Marks `file` as used now, and locks it against removal until the map is gone; None: there is
    no such file."""
    try:
        with file.open("rb") as opened:
            mark_used(opened)
            held = mmap(opened.fileno(), 0, access=ACCESS_READ)
    except FileNotFoundError:
        return None
    return held if file.exists() else None  # it may have been removed before it was locked


def _last_used(path: Path) -> float:
    with suppress(OSError):  # somebody else removed it, or it is in another user's folder
        return _locked_of(path).stat().st_mtime
    return 0.0


def _locked_of(path: Path) -> Path:
    """The file that readers of `path` lock."""
    return path / UNPACKED_TABLE if path.is_dir() else path


def _remove(path: Path) -> int:
    """Returns its size.

    Raises:
        OSError: it is in use.
    """
    with _locked_of(path).open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.is_dir():
            path.unlink()
            return os.fstat(file.fileno()).st_size
        size = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
        discard_folder(path)
    return size
