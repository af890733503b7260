"""Files that survive a crash: whole or absent, never half."""

import hashlib
import os
import re
import uuid
from pathlib import Path
from typing import Literal

MOUNT = "only folders are read: mount it as one, or copy what is there"  # said of a URL


def is_url(path: Path) -> bool:
    """Whether it was one before `Path` made one stroke of two: it would be taken for a folder."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", str(path)) is not None


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """What was written to the file or folder `path` is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """`path` holds `content`, on the disk; a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _write(temporary, "wb", content)
    temporary.replace(path)
    sync(path.parent)


def create_exclusively(path: Path, content: bytes) -> None:
    """`path` holds `content`, on the disk, and was not there before.

    A reader sees nothing or all of it, where the file system has hard links. Where it has none, a
    crash in between leaves an empty file, which readers pass over.

    Raises:
        FileExistsError: somebody else created it first.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    _write(temporary, "xb", content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        # NFS asks again where no answer came, and is told so of the link that it has just made
        if temporary.stat().st_nlink != 2:
            raise
    except OSError:  # no links here, as on many network stores
        _write(path, "xb", content)
    finally:
        temporary.unlink()
    sync(path.parent)


def _write(path: Path, mode: Literal["wb", "xb"], content: bytes) -> None:
    """All of it is on the disk, or the file is gone again, as when the disk is full."""
    with path.open(mode) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink()
            raise
