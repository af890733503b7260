"""Unpacks archives that strangers made: plain files, below one folder, and not too much of them."""

import bz2
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
LONGEST_READ = 16 << 20  # tarfile reads a header at once, however long it says to be
FREE_OF_RATIO = 64 << 20  # what any archive may unpack to, however small it is

DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    IndexError,  # of tarfile, where the map of a sparse file breaks off
)


class DamagedArchive(ArchiveError):
    """Its bytes are no archive, or not all that was packed; fetched anew, they may be."""


@dataclass(frozen=True)
class Limits:
    n_entries: int = 2_000_000
    n_bytes: int = 100 << 30  # unpacked
    ratio: float = 100  # unpacked to packed; images hardly compress


def unpack(archive: Path, folder: Path, limits: Limits) -> int:
    """`folder`, which was absent or empty, has the archive's files; gives how many there are.

    They are unpacked beside it and put there in one step: nothing is there unless all is.

    Raises:
        DamagedArchive: no zip or tar (plain, gzip, bzip2, xz), or a part of one.
        ArchiveError: it breaks a rule, or there is no room for it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        allowed = int(
            min(limits.n_bytes, max(FREE_OF_RATIO, limits.ratio * archive.stat().st_size))
        )
        entries = _zip_entries if _begins(archive, b"PK") else _tar_entries
        n_files = _write_all(entries(archive, allowed, limits.n_entries), fresh, allowed)
        if not n_files:
            raise ArchiveError("there is no file in the archive")
        fresh.chmod(0o755)
        fresh.replace(folder)
    except DAMAGE as error:
        raise DamagedArchive(f"damaged archive: {error}") from error
    except OSError as error:
        if error.errno is None:  # of a decompressor, not of the disk
            raise DamagedArchive(f"damaged archive: {error}") from error
        raise ArchiveError(f"cannot be unpacked: {error}") from error
    # zipfile raises the first two for compressions and encryptions that it lacks
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
                    raise _too_much(allowed)
                file.write(chunk)
    return len(names.files)


def _zip_entries(archive: Path, allowed: int, n_entries: int) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
        if len(entries) > n_entries:
            raise _too_many(n_entries)
        if sum(entry.file_size for entry in entries) > allowed:
            raise _too_much(allowed)
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
                    raise _too_much(allowed)
                if member.isdir():
                    if member.name != ".":  # which `tar c .` begins with
                        inside(member.name)
                    continue
                content = opened.extractfile(member) if member.isreg() else None
                if content is None:
                    raise _not_plain(member.name)
                yield member.name, content
            _check_end(counted, opened.offset)


def _check_end(plain: "_Counted", place: int) -> None:
    """The archive has ended at `place`: with zeros to its last byte, a block of them or more.

    tarfile takes whatever is no header for the end, and also that nothing follows. All is read, so
    that a decompressor compares its checksum.

    Raises:
        DamagedArchive: it has not.
    """
    read, n_zeros = plain.last, 0
    while read and not read.strip(b"\0"):
        n_zeros += len(read)
        read = plain.read(CHUNK)
    if read or n_zeros < tarfile.BLOCKSIZE:
        raise DamagedArchive(
            f"damaged archive: at byte {place} there is neither another file nor the end"
        )


def _decompressed(archive: Path) -> Any:
    """The archive's bytes, by what it begins with and not by its name."""
    if _begins(archive, b"\x1f\x8b"):
        return gzip.open(archive)
    if _begins(archive, b"BZh"):
        return bz2.open(archive)
    if _begins(archive, b"\xfd7zXZ\0"):
        return lzma.open(archive)
    if not tarfile.is_tarfile(archive):
        raise DamagedArchive("neither a zip nor a tar (plain, gzip, bzip2 or xz)")
    return archive.open("rb")


class _Counted(io.RawIOBase):
    """Reads on, and stops at `allowed` bytes: also of what tarfile skips or takes for a header."""

    def __init__(self, file: Any, allowed: int) -> None:
        self._file, self._allowed = file, allowed
        self.last = b""  # what was read; to seek back for it may be to decompress all again

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
            raise _too_much(self._allowed)
        return int(self._file.seek(place, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def _check(self) -> None:
        if self.tell() > self._allowed:
            raise _too_much(self._allowed)


def _begins(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _too_much(allowed: int) -> ArchiveError:
    return ArchiveError(f"unpacks to more than the allowed {allowed} bytes; see --max-gigabytes")


def _too_many(n_entries: int) -> ArchiveError:
    return ArchiveError(f"has more than the allowed {n_entries} entries")


def _not_plain(name: str) -> ArchiveError:
    return ArchiveError(f"{name!r}: is a link or a device; only plain files are unpacked")
