"""Checks as a section of RESULTS.md."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from bench.results import Condition, verdicts
from bench.table import facts
from load.verdict import Check

RESULTS = Path(__file__).parents[1] / "RESULTS.md"


def add_write(parser: ArgumentParser, title: str) -> None:
    """Adds the option --write, which names the file that the section `title` goes into."""
    parser.add_argument(
        "--write",
        type=Path,
        nargs="?",
        const=RESULTS,
        metavar="FILE",
        help=f"write the section {title} of this file (benchmarks/RESULTS.md)",
    )


def section(what: str, checks: Sequence[Check]) -> str:
    """The machine and the versions, `what` was run, and a table of the checks."""
    conditions = [Condition(one.name, one.wanted, _cell(one.found), one.holds) for one in checks]
    return "\n\n".join([facts(None), what, verdicts(conditions)])


def _cell(text: str) -> str:
    """On one line and without the separator of columns: errors may hold anything."""
    return " ".join(text.replace("|", "\\|").split())
