"""What each column of a table is for, by its name, whatever its capitals."""

from collections.abc import Sequence
from pathlib import Path

from registry.errors import DataError

FILE, IMAGE, LABEL, SPLIT, IS_VALID, WEIGHT, GROUP = (
    "file",
    "image",
    "label",
    "split",
    "is_valid",
    "weight",
    "group",
)
# of several names of one column, the first that a table has is taken
NAMES = {
    FILE: (
        FILE,
        "filename",
        "file_name",
        "path",
        "filepath",
        "file_path",
        "image_path",
        "image",
        "image_id",
    ),
    IMAGE: (IMAGE, "img"),  # of Parquet and Arrow files
    LABEL: (LABEL, "labels", "class", "category", "target"),
    SPLIT: (SPLIT, "part"),
    IS_VALID: (IS_VALID,),
    WEIGHT: (WEIGHT,),
}
MEANT = {FILE: "the file names", LABEL: "the labels"}
NEITHER = {name for column in (SPLIT, IS_VALID, WEIGHT) for name in NAMES[column]}


def find_columns(table: Path, header: Sequence[str], group: str) -> dict[str, int]:
    """The places of the columns file and label, and of those others that `header` has.

    File and label are the columns called so, or else the first with a usual name; if there is
    none, the first that are not something else.

    Args:
        group: the name of the column of groups, which may be in the table.

    Raises:
        DataError: there is no file or label, or two columns have one name.
    """
    names = [name.strip().casefold() for name in header]
    found = {
        column: place
        for column in (SPLIT, IS_VALID, WEIGHT)
        if (place := _place(table, names, NAMES[column])) is not None
    }
    if group and group.casefold() in names:
        stripped = [name.strip() for name in header]
        found[GROUP] = stripped.index(group) if group in stripped else names.index(group.casefold())
    free = [
        place
        for place, name in enumerate(names)
        if name not in NEITHER and (place != found.get(GROUP) or name in (FILE, LABEL))
    ]
    if sum(bool(names[place]) for place in free) >= 2:  # pandas leaves its index unnamed
        free = [place for place in free if names[place]]
    return found | _by_usual_names(table, header, free)


def _by_usual_names(table: Path, header: Sequence[str], free: Sequence[int]) -> dict[str, int]:
    """The places of file and label among the `free` ones: those called so, or else the first with
    a usual name. A label without one is the first behind the file, or else the last before it."""
    names = [header[place].strip().casefold() for place in free]
    found = {
        column: free[place]
        for column in (FILE, LABEL)
        if (place := _place(table, names, (column, *_usual(names, column)))) is not None
    }
    for column in (FILE, LABEL):
        spare = [place for place in free if place not in found.values()]
        if column not in found and not spare:
            raise DataError(
                f"{table}: which column has {MEANT[column]}? It has {', '.join(header)}; call "
                f"that column {column}"
            )
        if column not in found:
            behind = [place for place in spare if place > found.get(FILE, -1)]
            found[column] = behind[0] if behind else spare[-1]
    return found


def _usual(names: Sequence[str], column: str) -> list[str]:
    return [name for name in names if name in NAMES[column]]


def find_name(names: Sequence[str], column: str) -> str | None:
    """The one of `names` that means `column`, as it is spelt there."""
    spelt = {name.strip().casefold(): name for name in reversed(names)}
    return next((spelt[name] for name in NAMES[column] if name in spelt), None)


def _place(table: Path, names: Sequence[str], known: Sequence[str]) -> int | None:
    """The place of the first of the `known` names that is among `names`."""
    name = next((name for name in known if name in names), None)
    if name is None:
        return None
    if names.count(name) > 1:
        raise DataError(f"{table}: two columns are called {name}; rename or remove one of them")
    return names.index(name)
