"""Checks file names in untrusted archives: they must stay below one folder and be distinct on every
file system."""

import unicodedata
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from unfreeze.errors import UnfreezeClientError


class ArchiveError(UnfreezeClientError):
    """The archive is damaged, or contains something that no data set needs."""


@dataclass
class Names:
    """Names seen so far; those that differ only in case or Unicode normalisation are the same."""

    files: set[str] = field(default_factory=set)
    folders: dict[str, str] = field(default_factory=dict)

    def add(self, name: str) -> PurePosixPath:
        """The name as a relative path that is safe to write to.

        Raises:
            ArchiveError: it leads outside the folder, or clashes with another name.
        """
        path = inside(name)
        key = _folded(path)
        if key in self.files:
            raise ArchiveError(
                f"{name!r}: is in the archive twice (names that differ only in case or Unicode "
                "normalisation count as one)"
            )
        for folder in list(path.parents)[:-1]:
            folded = _folded(folder)
            if folded in self.files or self.folders.setdefault(folded, str(folder)) != str(folder):
                raise ArchiveError(f"{name!r}: {str(folder)!r} clashes with another name")
        if key in self.folders:
            raise ArchiveError(f"{name!r}: is a file here and a folder elsewhere")
        self.files.add(key)
        return path


def inside(name: str) -> PurePosixPath:
    """The name as a relative path that stays inside the folder.

    Raises:
        ArchiveError: it does not, on this or another operating system.
    """
    path = PurePosixPath(name)
    strange = "\\" in name or ":" in name or any(ord(sign) < 32 for sign in name)
    if path.is_absolute() or ".." in path.parts or not path.parts or strange:
        raise ArchiveError(
            f"{name!r}: unsafe file name: it is empty or absolute, or has '..', a backslash, a "
            "colon or a control character"
        )
    return path


def _folded(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFKC", str(path).casefold())
