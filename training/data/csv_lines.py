"""The lines of a CSV, with commas, semicolons or tabs."""

import csv
import io
import re
from pathlib import Path

from registry.errors import DataError

Line = tuple[int, list[str]]  # its number, from 1 on, and its cells

SEPARATORS = (",", ";", "\t")  # of columns; the first that yields at least two is used


def read_lines(path: Path) -> list[Line]:
    """Every non-empty line, split into cells, with its number.

    Raises:
        DataError: it is no text in UTF-8, or no CSV.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; save it as CSV in UTF-8: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    found: list[Line] = []
    for separator in SEPARATORS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            lines = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: cannot be read: {error}") from error
        if lines and re.fullmatch("sep=.?", lines[0][1][0], re.IGNORECASE):  # to a spreadsheet
            del lines[0]
        found = found or lines
        if lines and len(lines[0][1]) > 1:
            return lines
    return found
