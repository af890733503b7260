"""Parts of RESULTS.md: tables, verdicts, sections."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COMPARED = "for comparison"


@dataclass(frozen=True)
class Condition:
    """A condition. If `wanted` is COMPARED there is none: the figure is reported and not judged."""

    what: str
    wanted: str
    measured: str
    holds: bool


def verdicts(judged: Sequence[Condition]) -> str:
    lines = [["", "wanted", "measured", ""]]
    for one in judged:
        verdict = "pass" if one.holds else "**fail**"
        shown = "" if one.wanted == COMPARED else verdict
        lines.append([one.what, one.wanted, one.measured, shown])
    return markdown(lines)


def write_section(path: Path, title: str, text: str) -> None:
    """Replaces the text below the heading `## title` in `path`."""
    before = path.read_text() if path.exists() else "# Results\n"
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", before, re.DOTALL | re.MULTILINE)
    start, end = found.span() if found else (len(before), len(before))
    parts = (before[:start], f"## {title}\n\n{text}", before[end:])
    path.write_text("\n\n".join(part.strip() for part in parts if part.strip()) + "\n")


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table whose first line is its heading."""
    rows = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([rows[0], "|" + " --- |" * len(lines[0]), *rows[1:]])
