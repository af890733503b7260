"""What the commands share: options, exit codes and output formats."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import PurePath
from typing import Any

OK, FAILED, USAGE, NOT_FOUND, UNREACHABLE, INTERRUPTED, OUTPUT_CLOSED = 0, 1, 2, 3, 4, 130, 141

GAP = 2  # characters between the columns of a table
READABLE = 10  # characters: a column with as many breaks only very long words

ESCAPES = {i: f"\\x{i:02x}" for i in (*range(32), *range(127, 160))}
ESCAPES |= {ord("\\"): r"\\", ord("\t"): r"\t", ord("\n"): r"\n", ord("\r"): r"\r"}
FOR_PEOPLE = {sign: shown for sign, shown in ESCAPES.items() if chr(sign) not in "\\\n"}

Commands = Any  # argparse's type for this is private
Run = Callable[[argparse.Namespace], int]  # returns the exit code


class UsageError(Exception):
    """The command line is wrong."""


def add_command(
    commands: Commands, name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    """Adds a command with its help: a one-line summary, then examples."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        default=os.environ.get("UNFREEZE_ADDRESS") or "127.0.0.1:8001",
        metavar="HOST:PORT",
        help="the server (UNFREEZE_ADDRESS; now %(default)s)",
    )


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--json", action="store_true", help=f"print {what}")


def ask_admin(parser: argparse.ArgumentParser, output: str, run: Run) -> None:
    """Makes this a command that calls the admin listener; with --json it prints `output`."""
    parser.add_argument(
        "--admin-address",
        default=os.environ.get("UNFREEZE_ADMIN_ADDRESS") or "127.0.0.1:8003",
        metavar="HOST:PORT",
        help="the server's admin listener (UNFREEZE_ADMIN_ADDRESS; now %(default)s)",
    )
    add_json(parser, output)
    parser.set_defaults(run=run)


def whole(least: int, most: int) -> Callable[[str], int]:
    """The argparse type of a whole number in a range; argparse names the option."""

    def read(text: str) -> int:
        with suppress(ValueError):
            if least <= (number := int(text)) <= most:
                return number
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from {least} to {most}")

    return read


def above_zero(text: str) -> float:
    """The argparse type of a number above 0, which may be infinite."""
    with suppress(ValueError):
        if (number := float(text)) > 0:
            return number
    raise argparse.ArgumentTypeError(f"{text} is not a number above 0")


def add_settings(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help=help
    )


def settings_of(given: Sequence[str]) -> dict[str, str]:
    """The values of `--set`.

    Raises:
        UsageError: one is not of the form KEY=VALUE.
    """
    return dict(_key_value(setting) for setting in given)


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text}: write it as KEY=VALUE")
    return key.strip(), value  # not stripped: label_separator may be a space


def show_json(value: object) -> None:
    """Prints one line of JSON to standard output, and flushes it.

    If standard output cannot encode it, all but ASCII is escaped. The name of a file may not be
    UTF-8: what `json` then reads from the line, `os.fsencode` turns back into the name.
    """
    line = json.dumps(plain(value), ensure_ascii=False)
    if printable(line) != line:
        line = json.dumps(plain(value))
    print(line, flush=True)


def show_fields(fields: Sequence[str]) -> None:
    """Prints one line with tabs between the fields, and flushes it. Control characters in them, and
    backslashes, become backslash escapes, so that the line can be taken apart again."""
    print("\t".join(printable(field.translate(ESCAPES)) for field in fields), flush=True)


def printable(text: str) -> str:
    """`text` with a backslash escape for every character that standard output cannot encode, such
    as the bytes of a file name that is not UTF-8."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def plain(value: object) -> object:
    """`value` in the types of JSON; a dataclass becomes an object of its fields."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None  # `json` would write NaN, which is not valid JSON
    return str(value) if isinstance(value, Exception | PurePath) else value


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on a terminal; elsewhere one line per row, as `show_fields` prints it.

    The first column is what a next command is given: it stays whole, even where that makes the
    table wider than the terminal. The others wrap.
    """
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in cells:
            show_fields(row)
        return
    cells = [[harmless(cell) for cell in row] for row in cells]
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    widths = _widths([columns, *cells], console.width)
    console.width = max(console.width, sum(widths) + GAP * (len(widths) - 1))
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for name, width in zip(columns, widths, strict=True):
        table.add_column(name, width=width, overflow="fold")
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _widths(lines: Sequence[Sequence[str]], available: int) -> list[int]:
    """The width of each column: the first is as wide as its longest cell, the last (prose) at least
    as its heading, the others as their words. Then they widen, from left to right, until their
    cells are whole or `available` is used up.

    rich itself would first cut what is longest: the ids.
    """
    columns = list(zip(*lines, strict=True))
    full = [max(map(len, column)) for column in columns]
    words = [max(map(len, " ".join(column).split()), default=0) for column in columns]
    widths = [full[0], *(min(word, READABLE) for word in words[1:-1]), len(lines[0][-1])]
    spare = available - sum(widths) - GAP * (len(widths) - 1)
    for i, wanted in enumerate(full):
        more = max(0, min(wanted - widths[i], spare))
        widths[i] += more
        spare -= more
    return widths


def say(text: str) -> None:
    """Prints a remark to standard error; standard output is for results."""
    print(harmless(text), file=sys.stderr, flush=True)


def harmless(text: str) -> str:
    """`text` with backslash escapes for control characters except line breaks: what a server wrote
    into it must not command the terminal."""
    return text.translate(FOR_PEOPLE)


def when(moment: datetime | None) -> str:
    """Local time to the second; empty for None."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""
