"""What each column of a table is for, by its name, whatever its capitals."""

from collections.abc import Sequence
from pathlib import Path

from registry.errors import DataError

FILE, LABEL, SPLIT, IS_VALID, WEIGHT, GROUP = (
    "file",
    "label",
    "split",
    "is_valid",
    "weight",
    "group",
)
# of several names of one column, the first that a table has is taken
NAMES = {
    FILE: (FILE, "filename", "file_name", "path", "image", "image_id"),
    LABEL: (LABEL, "labels", "class", "category", "target"),
    SPLIT: (SPLIT, "part"),
    IS_VALID: (IS_VALID,),
    WEIGHT: (WEIGHT,),
}
MEANT = {FILE: "the file names", LABEL: "the labels"}
NEITHER = {name for column in (SPLIT, IS_VALID, WEIGHT) for name in NAMES[column]}


def find_columns(table: Path, header: Sequence[str], group: str = "") -> dict[str, int]:
    """The place of the file, of the label, and of those of the others that `header` has.

    A missing file is the first column that has no other use; a missing label the first of these
    behind the file, or else before it.

    Args:
        group: the name of the column of groups, which may be in the table.

    Raises:
        DataError: there is no file or label, or two columns have one name.
    """
    names = [name.strip().casefold() for name in header]
    places = {
        column: place for column in NAMES if (place := _place(table, names, column)) is not None
    }
    if group.casefold() in names and group:
        stripped = [name.strip() for name in header]
        places[GROUP] = (
            stripped.index(group) if group in stripped else names.index(group.casefold())
        )
    for column in (FILE, LABEL):
        if column not in places:
            places[column] = _spare(table, header, places, column)
    return places


def find_name(names: Sequence[str], column: str) -> str | None:
    """That of `names` which is one of the column's, as it is spelt there."""
    spelt = {name.strip().casefold(): name for name in reversed(names)}
    return next((spelt[name] for name in NAMES[column] if name in spelt), None)


def _place(table: Path, names: Sequence[str], column: str) -> int | None:
    name = find_name(names, column)
    if name is None:
        return None
    if names.count(name) > 1:
        raise DataError(f"{table}: two columns are called {name}; rename or remove one of them")
    return names.index(name)


def _spare(table: Path, header: Sequence[str], places: dict[str, int], column: str) -> int:
    """The place of the first column without a use, from the file on; unnamed ones come last, as
    pandas leaves its index unnamed."""
    spare = [
        place
        for place, name in enumerate(header)
        if place not in places.values() and name.strip().casefold() not in NEITHER
    ]
    if not spare:
        raise DataError(
            f"{table}: which column has {MEANT[column]}? It has {', '.join(header)}; call that "
            f"column {column}"
        )
    return min(spare, key=lambda place: (not header[place].strip(), place < places.get(FILE, 0)))
