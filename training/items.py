"""Which files are labelled, and how: folders and tables, listed.

    PATH/train/<class>/…, PATH/valid/<class>/…     the parts are given
    PATH/<class>/…                                 the parts are drawn
    PATH.csv with the columns file,label           the parts are drawn, or given by a column `part`

In a CSV, several labels in one row are separated by spaces and make the task multi-label.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registry.errors import DataError

Part = Literal["train", "valid"]
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class Item:
    """One labelled image; several labels only in a multi-label task."""

    path: Path
    labels: tuple[str, ...]
    part: Part | None
    sha256: str = ""


def list_items(source: Path) -> list[Item]:
    """Every labelled image of a folder or a CSV, sorted by path; the files are not opened.

    Raises:
        DataError: there is none, or the layout is not one of the three.
    """
    return _list_csv(source) if source.suffix.lower() == ".csv" else _list_folder(source)


def _list_folder(root: Path) -> list[Item]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give a folder of class folders, or a CSV file")
    if (root / "train").is_dir():
        if not (root / "valid").is_dir():
            raise DataError(f"{root}: there is train/ but no valid/; add it, or use class folders")
        return _list_classes(root / "train", "train") + _list_classes(root / "valid", "valid")
    return _list_classes(root, None)


def _list_classes(root: Path, part: Part | None) -> list[Item]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    items = [
        Item(path, (folder.name,), part)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not items:
        raise DataError(
            f"{root}: no images; put JPEG, PNG or WebP files into one folder for each class"
        )
    return items


def _list_csv(path: Path) -> list[Item]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"file", "label"} <= set(reader.fieldnames or []):
                raise DataError(f"{path}: the first line must name the columns file,label")
            items = [_row(path, number, row) for number, row in enumerate(reader, start=2)]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not items:
        raise DataError(f"{path}: no rows")
    given = sum(item.part is not None for item in items)
    if given not in (0, len(items)):
        raise DataError(f"{path}: the column part is empty in {len(items) - given} rows; fill it")
    return sorted(items, key=lambda item: item.path)


def _row(path: Path, number: int, row: dict[str, str]) -> Item:
    file = path.parent / (row["file"] or "")
    if not file.is_file():
        raise DataError(f"{path}, line {number}: no such file: {row['file']}")
    parts: dict[str, Part | None] = {"train": "train", "valid": "valid", "": None}
    given = (row.get("part") or "").strip()
    if given not in parts:
        raise DataError(f"{path}, line {number}: part is {given!r}; it can be train or valid")
    return Item(file, tuple((row["label"] or "").split()), parts[given])


def check_within(items: Sequence[Item], folders: Sequence[Path]) -> None:
    """Raises DataError if an image lies outside all of `folders`, links followed."""
    roots = [folder.resolve() for folder in folders]
    for item in items:
        path = item.path.resolve()
        if not any(path.is_relative_to(root) for root in roots):
            raise DataError(f"{item.path}: lies outside the folders that may be trained on")
