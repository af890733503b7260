"""Tables with a column of 0 and 1 for each class, as competitions and pandas write them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from registry.did_you_mean import did_you_mean
from registry.errors import DataError
from registry.quoted import quoted
from training.data.columns import LABEL, NAMES
from training.data.csv_lines import Line
from training.data.items import SEPARATOR

ANSWERS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def join_label_columns(table: Path, lines: Sequence[Line], names: Sequence[str]) -> list[Line]:
    """The lines with one column more, `label`, instead of the columns called `names`: it has the
    names of those with a 1 in that line, with SEPARATOR between them.

    Args:
        lines: the header first; all of the same width.

    Raises:
        DataError: there is one name, or a name is not that of one column, a cell is neither 0 nor
            1, or a column has no 1 at all.
    """
    if len(names) < 2:
        raise DataError(
            f"{table}: label_columns needs the columns of at least two classes; leave it out if "
            f"{names[0]} alone says yes or no, and call that column label"
        )
    _, header = lines[0]
    places = {name: _place(table, header, name) for name in names}
    kept = [place for place in range(len(header)) if place not in places.values()]
    if any(header[place].strip().casefold() == LABEL for place in kept):
        raise DataError(
            f"{table}: has a column {LABEL} as well as those of label_columns; remove or rename "
            "it, or leave out label_columns"
        )
    joined: list[Line] = [(lines[0][0], [header[place] for place in kept] + [LABEL])]
    seen: set[str] = set()
    for number, cells in lines[1:]:
        said = {name: _answer(table, number, name, cells[at]) for name, at in places.items()}
        labels = [name for name, yes in said.items() if yes]
        seen.update(labels)
        joined.append((number, [cells[place] for place in kept] + [SEPARATOR.join(labels)]))
    if without := [name for name in names if name not in seen]:
        raise DataError(
            f"{table}: no row has a 1 in the column {without[0]}, so nothing can be learnt about "
            "it; leave it out of label_columns"
        )
    return joined


def _place(table: Path, header: Sequence[str], name: str) -> int:
    stripped = [one.strip() for one in header]
    if stripped.count(name) > 1:
        raise DataError(f"{table}: two columns are called {name}; rename or remove one of them")
    if name not in stripped:
        meant = did_you_mean(name, stripped) or f"; it has {', '.join(stripped)}"
        raise DataError(f"{table}: label_columns: no column is called {quoted(name)}{meant}")
    return stripped.index(name)


def _answer(table: Path, number: int, name: str, cell: str) -> bool:
    answer = ANSWERS.get(cell.strip().casefold())
    if answer is None:
        raise DataError(
            f"{table}, line {number}: {name} is {quoted(cell)}; a column of label_columns has 1 "
            "where an image is of that class, and 0 where it is not"
        )
    return answer


def check_one_label_column(
    table: Path, header: Sequence[str], rows: Sequence[Sequence[str]], columns: Mapping[str, int]
) -> None:
    """Checks that the column taken for the labels is not one of several that say yes or no, as in
    `image,rust,scab`: it would give the classes 0 and 1.

    Args:
        columns: the place of each column whose purpose is known.

    Raises:
        DataError: it is.
    """
    if header[columns[LABEL]].strip().casefold() in NAMES[LABEL]:
        return
    known = set(columns.values()) - {columns[LABEL]}
    flags = [
        place
        for place, name in enumerate(header)
        if name.strip()
        and place not in known
        and all(row[place].strip().casefold() in ANSWERS for row in rows)
    ]
    if columns[LABEL] in flags and len(flags) > 1:
        names = [header[place].strip() for place in flags]
        raise DataError(
            f"{table}: the columns {', '.join(names[:5])} have only 0 and 1 in them, as if each "
            f"were a class; if so, give --set label_columns={','.join(names)}, or else call the "
            "column with the classes label"
        )
