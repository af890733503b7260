"""Tables with a column for each class, as some competitions have them, are not taken for others."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from registry.errors import DataError
from training.data.columns import LABEL, NAMES

FLAGS = {"0", "1", "0.0", "1.0"}


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
        if name.strip() and place not in known and all(row[place].strip() in FLAGS for row in rows)
    ]
    if columns[LABEL] in flags and len(flags) > 1:
        names = ", ".join(header[place].strip() for place in flags[:5])
        raise DataError(
            f"{table}: the columns {names} have only 0 and 1 in them, as if each were a class; "
            "write the names of an image's classes into one column called label, or call the one "
            "that is meant label"
        )
