"""Whether paths exist, lie where they may, and can be named."""

from collections.abc import Sequence
from pathlib import Path

from registry.counted import are, counted
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


def check_text(paths: Sequence[Path]) -> None:
    """Raises DataError if a path is no text in UTF-8, as names in archives of old Windows are not:
    neither reports nor versions could name it."""
    odd = [path for path in paths if not _is_text(path)]
    if odd:
        example = str(odd[0]).encode(errors="backslashreplace").decode()
        raise DataError(
            f"{len(odd)} of {counted(len(paths), 'file name')} {are(len(odd))} not in UTF-8, such "
            f"as {example}; rename such files and folders, for example with convmv"
        )


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
