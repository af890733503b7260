"""Unpacks untrusted archives safely: plain files only, below one folder, within limits."""

import bz2
import errno
import gzip
import io
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from unfreeze.safe_names import ArchiveError, Names, inside

CHUNK = 1 << 20
LONGEST_READ = 16 << 20  # tarfile reads a header in one go, however long it claims to be
FREE_OF_RATIO = 64 << 20  # any archive may unpack to this much, however small it is

DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    IndexError,  # from tarfile, when the map of a sparse file is truncated
)


class DamagedArchive(ArchiveError):
    """It is not an archive, or corrupt or truncated; downloading it again may help."""


class NotEnoughSpace(ArchiveError):
    """It exceeds `Limits.n_bytes`, or the disk did not take it; unpacking it again may succeed."""


class _LimitExceeded(Exception):
    """It unpacks to more than is allowed."""


@dataclass(frozen=True)
class Limits:
    n_entries: int = 2_000_000
    n_bytes: int = 100 << 30  # unpacked
    ratio: float = 100  # unpacked size to packed size; images hardly compress


def unpack(archive: Path, folder: Path, limits: Limits) -> int:
    """Unpacks into `folder`, which must be absent or empty; returns the number of files.

    It unpacks into a temporary folder beside it and renames that, so `folder` gets all or nothing.

    Raises:
        DamagedArchive: not a zip or tar (plain, gzip, bzip2, xz), or corrupt or truncated.
        NotEnoughSpace: it does not fit on the disk or within `limits.n_bytes`.
        ArchiveError: it breaks a rule.
    """
    by_ratio = int(max(FREE_OF_RATIO, limits.ratio * archive.stat().st_size))
    allowed = min(limits.n_bytes, by_ratio)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        entries = _zip_entries if _begins(archive, b"PK") else _tar_entries
        n_files = _write_all(entries(archive, allowed, limits.n_entries), fresh, allowed)
        if not n_files:
            raise ArchiveError("the archive contains no files")
        fresh.chmod(0o755)
        fresh.replace(folder)
    except _LimitExceeded as error:
        if by_ratio < limits.n_bytes:
            raise ArchiveError(
                f"unpacks to more than the limit of {by_ratio} bytes for an archive of its size; "
                "images hardly compress, so it may be a bomb"
            ) from error
        raise NotEnoughSpace(
            f"unpacks to more than the limit of {allowed} bytes; see --max-gigabytes"
        ) from error
    except DAMAGE as error:
        raise DamagedArchive(f"damaged archive: {error}") from error
    except OSError as error:
        if error.errno is None:  # from a decompressor, not from the disk
            raise DamagedArchive(f"damaged archive: {error}") from error
        kind = ArchiveError if error.errno == errno.ENAMETOOLONG else NotEnoughSpace
        raise kind(f"cannot be unpacked: {error}") from error
    # zipfile raises the first two for compression and encryption methods that it does not support
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise ArchiveError(f"cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return n_files


def _write_all(entries: Iterator[tuple[str, IO[bytes]]], root: Path, allowed: int) -> int:
    names, left = Names(), allowed
    for name, content in entries:
        path = root / names.add(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with content, path.open("xb") as file:
            while chunk := content.read(CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise _LimitExceeded
                file.write(chunk)
    return len(names.files)


def _zip_entries(archive: Path, allowed: int, n_entries: int) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
        if len(entries) > n_entries:
            raise _too_many(n_entries)
        if sum(entry.file_size for entry in entries) > allowed:
            raise _LimitExceeded
        for entry in entries:
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _not_plain(entry.filename)
            if entry.flag_bits & 1:
                raise ArchiveError(f"{entry.filename!r}: is encrypted")
            if entry.orig_filename.endswith("/"):
                inside(entry.orig_filename)
            else:
                yield entry.orig_filename, opened.open(entry)


def _tar_entries(archive: Path, allowed: int, n_entries: int) -> Iterator[tuple[str, IO[bytes]]]:
    with closing(_decompressed(archive)) as plain:
        counted = _Counted(plain, allowed + 1024 * n_entries)
        with tarfile.open(fileobj=counted, mode="r:") as opened:
            for number, member in enumerate(opened):
                if number >= n_entries:
                    raise _too_many(n_entries)
                if member.size > allowed:
                    raise _LimitExceeded
                if member.isdir():
                    if member.name != ".":  # the first entry of `tar c .`
                        inside(member.name)
                    continue
                content = opened.extractfile(member) if member.isreg() else None
                if content is None:
                    raise _not_plain(member.name)
                yield member.name, content
            _check_end(counted, opened.offset)


def _check_end(plain: "_Counted", place: int) -> None:
    """Checks that the archive really ends at `place`: with two blocks of zeros, or with fewer that
    nothing follows.

    tarfile takes anything that is not a header for the end, and a missing end too.

    Raises:
        DamagedArchive: it does not end there.
    """
    end = plain.last + plain.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE or end.strip(b"\0"):
        raise DamagedArchive(
            f"damaged archive: neither another file nor the end of the archive at byte {place}"
        )
    # POSIX leaves undefined what follows in the last record, so it is not judged. It is read
    # because a decompressor verifies its checksum at the end.
    try:
        while plain.read(CHUNK):
            pass
    except gzip.BadGzipFile as error:
        # bz2 and lzma ignore bytes behind the compressed data by themselves
        if not str(error).startswith("Not a gzipped file"):
            raise


def _decompressed(archive: Path) -> Any:
    """Opens the archive for reading, decompressed according to its first bytes, not its name."""
    if _begins(archive, b"\x1f\x8b"):
        return gzip.open(archive)
    if _begins(archive, b"BZh"):
        return bz2.open(archive)
    if _begins(archive, b"\xfd7zXZ\0"):
        return lzma.open(archive)
    if not tarfile.is_tarfile(archive):
        raise DamagedArchive("not an archive: neither a zip nor a tar (plain, gzip, bzip2 or xz)")
    return archive.open("rb")


class _Counted(io.RawIOBase):
    """Limits reading to `allowed` bytes, including those that tarfile skips or reads as headers."""

    def __init__(self, file: Any, allowed: int) -> None:
        self._file, self._allowed = file, allowed
        self.last = b""  # the last bytes read; seeking back may mean decompressing everything again

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > LONGEST_READ:
            raise DamagedArchive(
                f"a header claims {size} bytes; the archive is damaged or malicious"
            )
        self.last = self._file.read(size)
        self._check()
        return self.last

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and place > self._allowed:
            raise _LimitExceeded
        return int(self._file.seek(place, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def _check(self) -> None:
        if self.tell() > self._allowed:
            raise _LimitExceeded


def _begins(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _too_many(n_entries: int) -> ArchiveError:
    return ArchiveError(f"has more than the limit of {n_entries} entries")


def _not_plain(name: str) -> ArchiveError:
    return ArchiveError(f"{name!r}: is a link or a device; only plain files are unpacked")
