"""Files that survive a crash: complete or absent, never partial."""

import codecs
import hashlib
import os
import re
import stat
import uuid
from pathlib import Path
from typing import Literal

MOUNT = "only folders are read: mount it as a folder, or copy its content to one"  # said of a URL


def is_url(path: Path) -> bool:
    """Whether it was a URL before `Path` collapsed its `//`; it would be taken for a folder."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", str(path)) is not None


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_plain(path: Path, most: int) -> bytes:
    """The content of a plain file of at most `most` bytes; reading a pipe would never end.

    Raises:
        ValueError: it is something else, or larger.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a plain file")
    if found.st_size > most:
        raise ValueError(f"{found.st_size} bytes, and at most {most} are read")
    return path.read_bytes()


def read_json(path: Path, most: int) -> bytes:
    """As `read_plain`, without the byte order mark that some editors write first, and that parsers
    of JSON refuse."""
    return read_plain(path, most).removeprefix(codecs.BOM_UTF8)


def sync(path: Path) -> None:
    """Flushes the file or folder `path` to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Writes `content` to `path` atomically and durably; a reader sees the old file or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _write(temporary, "wb", content)
    temporary.replace(path)
    sync(path.parent)


def create_exclusively(path: Path, content: bytes) -> None:
    """Writes `content` durably to `path`, which must not exist.

    On a file system with hard links, a reader sees nothing or all of it. Without them, a crash in
    between leaves an empty file, which readers skip.

    Raises:
        FileExistsError: another writer created it first.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    _write(temporary, "xb", content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        # an NFS client that got no reply retries, and then finds the link that it made itself
        if temporary.stat().st_nlink != 2:
            raise
    except OSError:  # no hard links, as on many network file systems
        _write(path, "xb", content)
    finally:
        temporary.unlink()
    sync(path.parent)


def _write(path: Path, mode: Literal["wb", "xb"], content: bytes) -> None:
    """Writes and syncs all of it, or deletes the file again, if the disk is full for example."""
    with path.open(mode) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink()
            raise
