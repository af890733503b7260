"""Tables of images: CSV, as in most competitions, with commas, semicolons or tabs.

file,label           columns by name; else the first two are the file name and the labels
split (or part)      train, valid or test; in every row or in none; without valid, held-out images
                     are drawn at random, as from a folder train/
is_valid             the same in fastai's way: True for held-out images, False for the others
weight               of the image in the training loss, 1 if empty: 0.5 for a doubtful label
any other column     may be the setting `group`
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from registry.errors import DataError
from training.data.grouping import group_by_path
from training.data.items import PARTS, PLAIN, Item, Layout, Part, check_within, list_test

FILE, LABEL, SPLIT, WEIGHT = "file", "label", "split", "weight"
IS_VALID = "is_valid"
ANSWERS: dict[str, Part] = {"true": "valid", "1": "valid", "false": "train", "0": "train"}
SEPARATORS = (",", ";", "\t")  # of columns; the first that yields at least two is used


@dataclass(frozen=True)
class Table:
    """A CSV as read: each row's line number, and its cells by column."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]


def list_table(path: Path, layout: Layout = PLAIN, within: Sequence[Path] = ()) -> list[Item]:
    """Every row's image, in the order of the rows; the images are not opened.

    Args:
        within: folders that every file must lie in; checked before whether the file exists.

    Raises:
        DataError: names the line, and what is wrong with it.
    """
    table = _read(path, layout)
    if within:
        files = [_file(path, row[FILE], layout) for _, row in table.rows]
        check_within([*files, path.parent / layout.test], within)
    _check_files(table, layout)
    items = [_item(table, number, row, layout) for number, row in table.rows]
    without = [number for (number, _), item in zip(table.rows, items, strict=True) if not item.part]
    if 0 < len(without) < len(items) and any(item.part != "test" for item in items if item.part):
        raise DataError(
            f"{path}, line {without[0]}: the column {SPLIT} is empty here and filled elsewhere; "
            "fill it in every row or in none"
        )
    if not any(item.part == "valid" for item in items):
        items = [replace(item, part=None) if item.part == "train" else item for item in items]
    if layout.test:
        items += list_test(path.parent / layout.test)
    if layout.group and layout.group not in table.columns:
        return group_by_path(items, path.parent, layout.group)
    return items


def _read(path: Path, layout: Layout) -> Table:
    lines = _lines(path)
    columns = _columns(path, lines[0][1], layout) if lines else ()
    rows = lines[1:] if layout.header else lines
    if not rows:
        raise DataError(f"{path}: no rows")
    for number, cells in rows:
        if len(cells) < len(columns):
            raise DataError(
                f"{path}, line {number}: too few cells, {len(cells)} for {len(columns)} columns"
            )
    return Table(
        path, columns, tuple((n, dict(zip(columns, row, strict=False))) for n, row in rows)
    )


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Every non-empty line, split into cells, with its number."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; save it as CSV in UTF-8: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    found: list[tuple[int, list[str]]] = []
    for separator in SEPARATORS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            lines = [(reader.line_num, cells) for cells in reader if any(cells)]
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: cannot be read: {error}") from error
        found = found or lines
        if lines and len(lines[0][1]) > 1:
            return lines
    return found


def _columns(path: Path, first: list[str], layout: Layout) -> tuple[str, ...]:
    """By name if the header has the names, else the first is the file, the second its labels."""
    if len(first) < 2:
        raise DataError(f"{path}: only one column; it needs two, {FILE},{LABEL}")
    if not layout.header:
        return FILE, LABEL
    names = [name.strip() for name in first]
    if not {FILE, LABEL} <= set(names):
        if _file(path, names[0], layout).is_file():
            raise DataError(
                f"{path}: the first line already names a file, {names[0]}; set header=false, or "
                f"add a first line {FILE},{LABEL}"
            )
        names[:2] = FILE, LABEL
    return tuple(SPLIT if name == "part" else name for name in names)


def _file(path: Path, name: str, layout: Layout) -> Path:
    return path.parent / layout.images / f"{name}{layout.suffix}"


def _check_files(table: Table, layout: Layout) -> None:
    missing = [
        (number, file)
        for number, row in table.rows
        if not (file := _file(table.path, row[FILE], layout)).is_file()
    ]
    if missing:
        number, file = missing[0]
        raise DataError(
            f"{table.path}, line {number}: no such file: {file.name}; looked in {file.parent}; "
            f"{len(missing)} of {len(table.rows)} files are missing. Set images=FOLDER or "
            "suffix=.jpg to complete the names"
        )


def _item(table: Table, number: int, row: dict[str, str], layout: Layout) -> Item:
    text = row[LABEL]
    labels = [
        part.strip() for part in (text.split(layout.separator) if layout.separator else [text])
    ]
    # an unnamed column, as pandas writes its index, is no group
    group = row[layout.group].strip() if layout.group and layout.group in table.columns else ""
    return Item(
        _file(table.path, row[FILE], layout),
        tuple(label for label in labels if label),
        _part(table, number, row),
        group=group,
        weight=_weight(table, number, row.get(WEIGHT, "").strip()),
    )


def _part(table: Table, number: int, row: dict[str, str]) -> Part | None:
    if SPLIT in row or IS_VALID not in row:
        name, words, choice = SPLIT, PARTS, "train, valid or test"
    else:
        name, words, choice = IS_VALID, ANSWERS, "True or False"
    given = row.get(name, "").strip()
    if given and given.casefold() not in words:
        raise DataError(f"{table.path}, line {number}: {name} is {given!r}; it must be {choice}")
    return words[given.casefold()] if given else None


def _weight(table: Table, number: int, text: str) -> float:
    try:
        weight = float(text or 1)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise DataError(
            f"{table.path}, line {number}: {WEIGHT} is {text!r}; it must be a number above 0, or "
            "empty for 1"
        )
    return weight
