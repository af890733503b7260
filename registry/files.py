"""Files that survive a crash: whole or absent, never half."""

import hashlib
import os
import uuid
from pathlib import Path


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
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
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
    try:
        _create(temporary, content)
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # no links here, as on many network stores
        _create(path, content)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def _create(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
