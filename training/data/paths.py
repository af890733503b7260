"""Whether paths exist, and lie where they may."""

from collections.abc import Sequence
from pathlib import Path

from registry.errors import DataError


def check_there(source: Path) -> None:
    """Raises DataError if there is nothing at `source`."""
    if not source.exists():
        raise DataError(
            f"{source}: no such folder or file; give a folder of class folders, a CSV or TSV, or "
            "Parquet files"
        )


def check_within(paths: Sequence[Path], folders: Sequence[Path]) -> None:
    """Raises DataError if one of `paths` lies outside all of `folders`, links followed."""
    roots = [folder.resolve() for folder in folders]
    for given in paths:
        if not is_within(given, roots):
            raise DataError(f"{given}: lies outside the folders that may be trained on")


def is_within(path: Path, folders: Sequence[Path]) -> bool:
    """Whether `path` lies in one of `folders`, links followed."""
    real = path.resolve()
    return any(real.is_relative_to(folder.resolve()) for folder in folders)
