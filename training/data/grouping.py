"""Groups that the images' paths name, found by a regular expression, which may come over a network.

Python's matcher tries one way after another, and of an expression such as `(a+)+b` there are more
ways than anybody can wait for. So expressions have to be simple: a row of characters and classes,
of which a few are repeated, and one pair of parentheses that is not. Each repetition then costs a
factor of the name's length at most, and names have a longest, too. RE2, which is linear whatever it
is given, would be a compiled package more for the sake of this one setting.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from registry.errors import DataError
from training.data.items import Item

LONGEST_NAME = 255  # characters of a path
MOST_REPEATS = 2  # of three, the worst take more than a second for one path

# possessive throughout, so that reading an expression takes one way alone
ATOM = r"(?:\\[^0-9]|\[\^?+\]?+(?:[^]\\]|\\.)*+\]|[^][\\(){}|*+?^$])"
REPEATED = ATOM + r"(?:\{\d++\}|([*+?][?+]?+|\{\d*+,\d*+\}[?+]?+))?+"
ROW = rf"(?:{REPEATED})*+"
SIMPLE = re.compile(rf"\^?+{ROW}(?:\({ROW}\))?+{ROW}\$?+")


def group_by_path(items: Sequence[Item], root: Path, pattern: str) -> list[Item]:
    """The items with the group that `pattern` finds in the path of each below `root`: what its
    parentheses match, or else all of the match. Test images, which are not split, get none.

    Raises:
        DataError: it is not a simple regular expression, or finds nothing in one of the paths.
    """
    finder = _read(pattern)
    grouped = []
    for item in items:
        if item.part == "test":
            grouped.append(item)
            continue
        path = item.path.relative_to(root) if item.path.is_relative_to(root) else item.path
        name = path.as_posix()
        if len(name) > LONGEST_NAME:
            raise DataError(
                f"{item.path}: {len(name)} characters are too long a path to look for group="
                f"{pattern} in; the most are {LONGEST_NAME}"
            )
        found = finder.search(name)
        if not found:
            raise DataError(f"{item.path}: the setting group={pattern} finds nothing in {name}")
        grouped.append(replace(item, group=found.group(finder.groups) or ""))
    return grouped


def _read(pattern: str) -> re.Pattern[str]:
    try:
        finder = re.compile(pattern)
    except re.error as error:
        raise DataError(
            f"group={pattern}: neither a column nor a regular expression: {error}"
        ) from error
    n_repeats = sum(repeat != "" for repeat in re.findall(REPEATED, pattern))
    if not SIMPLE.fullmatch(pattern) or n_repeats > MOST_REPEATS:
        raise DataError(
            f"group={pattern}: an expression for paths has one pair of parentheses, which is not "
            f"repeated, no alternatives, and at most {MOST_REPEATS} characters or classes with *, "
            "+ or ?; say it so, or name the groups in a column of a table"
        )
    return finder
