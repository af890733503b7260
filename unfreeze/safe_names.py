"""Names in archives that strangers made: below one folder, and the same on every file system."""

import unicodedata
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from unfreeze.errors import UnfreezeClientError


class ArchiveError(UnfreezeClientError):
    """The archive is damaged, or asks for something that no data set needs."""


@dataclass
class Names:
    """Names met so far, as a file system would compare them that ignores case and accents' form."""

    files: set[str] = field(default_factory=set)
    folders: dict[str, str] = field(default_factory=dict)

    def add(self, name: str) -> PurePosixPath:
        """The name as a path to write to, which clashes with no other.

        Raises:
            ArchiveError: it leads outside, or clashes.
        """
        path = inside(name)
        key = _folded(path)
        if key in self.files:
            raise ArchiveError(
                f"{name!r}: is in the archive twice (names that differ only in case or accents' "
                "form count as one)"
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
    """The name as a relative path that stays inside.

    Raises:
        ArchiveError: it does not, here or on another system.
    """
    path = PurePosixPath(name)
    strange = "\\" in name or ":" in name or any(ord(sign) < 32 for sign in name)
    if path.is_absolute() or ".." in path.parts or not path.parts or strange:
        raise ArchiveError(
            f"{name!r}: not a safe name: absolute, with '..', a backslash, a colon or a control "
            "character"
        )
    return path


def _folded(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFKC", str(path).casefold())
