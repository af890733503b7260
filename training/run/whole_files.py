"""Writes large files and folders atomically: after a kill they are there in full or not at all, and
nothing is left behind.

They are written in a folder of their own beside their destination, `.NAME.….unfinished`, in which
the writer holds a lock. The lock ends with the process, in whatever container that was, so the next
writer can tell leftovers from files being written.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from registry.files import sync

LOCK = "lock"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields the name of a file, or folder, to write; after the block `path` is that, durably.

    A reader sees the old file or the new one. If the block fails, the old one stays.
    """
    discard_left(path.parent)
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
    locked = fresh.with_suffix(".unfinished")
    fresh.mkdir(parents=True)
    try:
        with (fresh / LOCK).open("w") as lock:
            with suppress(OSError):  # no locks on this file system: nothing is discarded there
                fcntl.flock(lock, fcntl.LOCK_EX)
            fresh.rename(locked)  # only now: without a lock it would be discarded
            yield locked / path.name
            _flush(locked / path.name)
            (locked / path.name).replace(path)
        sync(path.parent)
    finally:
        for folder in (fresh, locked):
            shutil.rmtree(folder, ignore_errors=True)


def _flush(path: Path) -> None:
    """Flushes the file, or the folder with all its files, to the disk."""
    if path.is_dir():
        os.sync()  # of everything, once: in a folder of many files much faster than each file
    sync(path)


def discard_left(folder: Path) -> None:
    """Removes what killed writers left in `folder`; files being written stay."""
    for lock in folder.glob(f".*.unfinished/{LOCK}"):
        with suppress(OSError), lock.open("r+") as file:  # OSError: its writer is at work
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent)


def discard_folder(folder: Path) -> None:
    """Removes it in one step; what a kill leaves of it, the next writer beside it discards."""
    (folder / LOCK).touch()
    left = folder.rename(folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.unfinished"))
    shutil.rmtree(left, ignore_errors=True)  # another may already
