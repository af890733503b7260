"""Which images there are, and what is said of them: folders and tables, listed.

PATH/train/<class>/…, PATH/valid/<class>/…     the parts are given; test/ may stand beside them
PATH/<class>/…                                 the parts are drawn
PATH.csv, PATH.parquet                         one row an image; see `training/table.py`
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registry.errors import DataError

Part = Literal["train", "valid", "test"]
Drawing = Literal["hash", "stratified", "cv", "blocks"]
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
OTHERS = {".avif", ".bmp", ".dcm", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".tif", ".tiff"}
PARTS: dict[str, Part] = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "test": "test",
}


@dataclass(frozen=True)
class Facts:
    """What an image's header says."""

    width: int
    height: int
    mode: str  # as Pillow names it: RGB, L, I;16, CMYK, P, …
    format: str
    n_bytes: int


@dataclass(frozen=True)
class Item:
    """One image; several labels only in a multi-label task, none perhaps in the test part."""

    path: Path
    labels: tuple[str, ...]
    part: Part | None
    sha256: str = ""
    group: str = ""  # images of one group are never parted
    weight: float = 1.0  # how much it counts in learning; scores count every image once
    facts: Facts | None = None  # once the file has been read

    @property
    def unit(self) -> str:
        """What is never parted: the group, or else all images of the same content."""
        return self.group or self.sha256


@dataclass(frozen=True)
class Layout:
    """What files and tables do not say of themselves."""

    images: str = ""  # the folder that a table's names are in, relative to the table
    suffix: str = ""  # what the names in a table lack, such as .jpg
    header: bool = True  # the table's first line names its columns
    separator: str = " "  # between the labels of a row; empty: a row has one label
    # a column, or a regular expression that finds the group's name in a path: training/grouping.py
    group: str = ""
    test: str = ""  # a folder of images to answer in the end; train/ has test/ beside it anyway


@dataclass(frozen=True)
class SplitRule:
    """How parts are drawn where nobody gives them."""

    kind: Drawing = "hash"
    valid_fraction: float = 0.2
    seed: int = 42
    fold: int = 0  # of cv and blocks: which share of the images is held out


PLAIN = Layout()
BY_HASH = SplitRule()


def check_there(source: Path) -> None:
    """Raises DataError if there is nothing at `source`."""
    if not source.exists():
        raise DataError(
            f"{source}: no such folder or file; give a folder of class folders, or a CSV file"
        )


def list_folder(root: Path, layout: Layout = PLAIN) -> list[Item]:
    """Every image below class folders, and of the test folder if there is one; none is opened.

    Drawn ones come in the order of their file names, whatever their class; others by path.

    Raises:
        DataError: there is none, or the layout is not one of the two.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give a folder of class folders, or a CSV file")
    test = root / (layout.test or "test")
    if not (root / "train").is_dir():
        drawn = _list_classes(root, None, test if layout.test else None)
        drawn.sort(key=lambda item: (_natural(item.path.name), item.path))
        return drawn + (list_test(test) if layout.test else [])
    valid = next(
        (root / name for name, part in PARTS.items() if part == "valid" and (root / name).is_dir()),
        None,
    )
    if valid is None:
        raise DataError(f"{root}: there is train/ but no valid/; add it, or use class folders")
    given = _list_classes(root / "train", "train") + _list_classes(valid, "valid")
    return given + (list_test(test) if layout.test or test.is_dir() else [])


def passed_over(source: Path) -> tuple[Path, ...]:
    """Pictures below a folder in formats that are not read; none of a table, which names its
    files."""
    return tuple(sorted(path for path in source.rglob("*") if path.suffix.lower() in OTHERS))


def list_test(folder: Path) -> list[Item]:
    """The images to answer in the end; labelled with the folder below `folder` that they are in."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of test images; change the setting test")
    return [Item(path, path.relative_to(folder).parts[:-1][:1], "test") for path in _images(folder)]


def _list_classes(root: Path, part: Part | None, without: Path | None = None) -> list[Item]:
    folders = sorted(
        path for path in root.iterdir() if path.is_dir() and path.name[0] != "." and path != without
    )
    items = [Item(path, (folder.name,), part) for folder in folders for path in _images(folder)]
    if not items:
        raise DataError(
            f"{root}: no images; put JPEG, PNG or WebP files into one folder for each class"
        )
    return items


def _images(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which cell2 comes before cell10."""
    return [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", name)]


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
