"""Tables of images: CSV, as in most competitions, with commas, semicolons or tabs.

file                 the image's path, relative to the table
label                one class, or several; or, with the setting `label_columns`, a column of 0
                     and 1 for each class
split (or part)      train, valid or test; in every row or in none; without valid, held-out images
                     are drawn at random, as from a folder train/
is_valid             the same in fastai's way: True for held-out images, False for the others; it
                     counts where split is empty
weight               of the image in the training loss, 1 if empty: 0.5 for a doubtful label
any other column     may be the setting `group`

Capitals do not matter. Without columns called file and label, the first two are taken, as those
of id,breed are, unless the name of one of them says that it is something else, as in
filename,split,class; then those with a usual name: see `training/data/columns.py`.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from registry.counted import are, counted
from registry.errors import DataError
from training.data.columns import (
    FILE,
    GROUP,
    IS_VALID,
    LABEL,
    NAMES,
    SPLIT,
    WEIGHT,
    find_columns,
)
from training.data.csv_lines import Line, read_lines
from training.data.folders import list_test
from training.data.grouping import group_by_path
from training.data.items import PARTS, PLAIN, SEPARATOR, Item, Layout, Part
from training.data.one_hot import check_one_label_column, join_label_columns
from training.data.paths import check_within

ANSWERS: dict[str, Part] = {
    **dict.fromkeys(("true", "1", "1.0"), "valid"),
    **dict.fromkeys(("false", "0", "0.0"), "train"),
}


@dataclass(frozen=True)
class Table:
    """A CSV as read: each row's line number, and its cells by what their columns are for."""

    path: Path
    columns: dict[str, str]  # what each is for, and what the header calls it
    rows: tuple[tuple[int, dict[str, str]], ...]


def list_table(path: Path, layout: Layout = PLAIN, within: Sequence[Path] = ()) -> list[Item]:
    """Every row's image, in the order of the rows; the images are not opened.

    Args:
        within: folders that every file must lie in; checked before whether the file exists.

    Raises:
        DataError: names the line, and what is wrong with it.
    """
    if layout.label_columns:
        layout = replace(layout, separator=SEPARATOR)
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
    if layout.group and GROUP not in table.columns:
        return group_by_path(items, path.parent, layout.group)
    return items


def columns_note(path: Path, layout: Layout) -> str:
    """Which columns of a table are read as file and label, for people; empty if they say so."""
    lines = _lines(path, layout)
    if not layout.header or not lines:
        return ""
    header = lines[0][1]
    places = _columns(path, header, layout)
    file, label = (header[places[column]].strip() for column in (FILE, LABEL))
    if (file.casefold(), label.casefold()) == (FILE, LABEL):
        return ""
    labels = "" if layout.label_columns else f", and {label!r} as {LABEL}"
    return f"the column {file!r} is read as {FILE}{labels}"


def _read(path: Path, layout: Layout) -> Table:
    lines = _lines(path, layout)
    header = lines[0][1] if lines else []
    columns = _columns(path, header, layout) if lines else {}
    rows = lines[1:] if layout.header else lines
    if not rows:
        raise DataError(f"{path}: no rows")
    _check_widths(path, rows, len(header))
    if layout.header:
        check_one_label_column(path, header, [cells for _, cells in rows], columns)
    return Table(
        path,
        {name: header[place].strip() for name, place in columns.items()} if layout.header else {},
        tuple((n, {name: row[place] for name, place in columns.items()}) for n, row in rows),
    )


def _lines(path: Path, layout: Layout) -> list[Line]:
    """The table's lines, with all labels in one column."""
    lines = read_lines(path)
    if not layout.label_columns or not lines:
        return lines
    if not layout.header:
        raise DataError(f"{path}: label_columns needs a first line with the columns' names")
    _check_widths(path, lines, len(lines[0][1]))
    return join_label_columns(path, lines, layout.label_columns)


def _check_widths(path: Path, rows: Sequence[Line], n_columns: int) -> None:
    for number, cells in rows:
        if len(cells) < n_columns:
            raise DataError(
                f"{path}, line {number}: too few cells, {len(cells)} for {n_columns} columns"
            )
        if any(cell.strip() for cell in cells[n_columns:]):
            raise DataError(
                f"{path}, line {number}: too many cells, {len(cells)} for {n_columns} columns; put "
                "a cell that has a separator of columns in it into quotes, or separate labels by "
                "another character, as with label_separator=|"
            )


def _columns(path: Path, first: list[str], layout: Layout) -> dict[str, int]:
    """The place of each column; without a header the first has the files, the second the labels."""
    if len(first) < 2:
        raise DataError(
            f"{path}: only one column; it needs two, {FILE},{LABEL}, with commas, semicolons or "
            "tabs between them"
        )
    if not layout.header:
        return {FILE: 0, LABEL: 1}
    columns = find_columns(path, first, layout.group)
    name = first[columns[FILE]].strip()
    if name.casefold() not in NAMES[FILE] and os.path.isfile(_file(path, name, layout)):
        raise DataError(
            f"{path}: the first line already names a file, {name}; set header=false, or "
            f"add a first line {FILE},{LABEL}"
        )
    return columns


def _file(path: Path, name: str, layout: Layout) -> Path:
    """The file of that name; without blanks around it and with slashes for backslashes, as Windows
    and spreadsheets write them, unless there is one with them."""
    folder, plain = path.parent / layout.images, name.strip().replace("\\", "/")
    given = folder / f"{name}{layout.suffix}"
    return given if plain == name or os.path.isfile(given) else folder / f"{plain}{layout.suffix}"


def _check_files(table: Table, layout: Layout) -> None:
    missing = [
        (number, file)
        for number, row in table.rows
        # Path.is_file would raise if a name is too long
        if not os.path.isfile(file := _file(table.path, row[FILE], layout))
    ]
    if missing:
        number, file = missing[0]
        names = f"the names in the column {table.columns[FILE]!r}" if table.columns else "the names"
        raise DataError(
            f"{table.path}, line {number}: no such file: {file.name}; looked in {file.parent}; "
            f"{len(missing)} of {counted(len(table.rows), 'file')} {are(len(missing))} missing. "
            f"Set images=FOLDER or suffix=.jpg to complete {names}"
        )


def _item(table: Table, number: int, row: dict[str, str], layout: Layout) -> Item:
    text = row[LABEL]
    labels = [
        part.strip() for part in (text.split(layout.separator) if layout.separator else [text])
    ]
    return Item(
        _file(table.path, row[FILE], layout),
        tuple(label for label in labels if label),
        _part(table, number, row),
        group=row.get(GROUP, "").strip(),
        weight=_weight(table, number, row.get(WEIGHT, "").strip()),
    )


def _part(table: Table, number: int, row: dict[str, str]) -> Part | None:
    given = row.get(SPLIT, "").strip()
    name, words, choice = SPLIT, PARTS, "train, valid or test"
    if not given:
        given = row.get(IS_VALID, "").strip()
        name, words, choice = IS_VALID, ANSWERS, "True or False"
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
