"""The base class of every record that crosses a boundary (a file, a process, a request)."""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from registry.did_you_mean import did_you_mean
from registry.quoted import quoted

# What pydantic says of "80x" at length: unable to parse string as an integer.
WANTED = {
    "int_parsing": "a whole number",
    "float_parsing": "a number",
    "bool_parsing": "true or false",
}


class Record(BaseModel):
    """Immutable, and strict about unknown fields: a misspelt setting is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def explain(error: ValidationError) -> str:
    """One line that names each invalid field, what is wrong with it, and the value given; for a
    choice, also the closest valid values."""
    problems = error.errors(include_url=False)
    # where a word is one of several kinds of value, each kind is a problem of its own
    several = {problem["loc"][:-1] for problem in problems if _is_kind(problem)}
    by_field: dict[tuple[int | str, ...], list[Any]] = {}
    for problem in problems:
        inner = problem["loc"]
        by_field.setdefault(inner[:-1] if inner[:-1] in several else inner, []).append(problem)
    return "; ".join(_line(field, those) for field, those in by_field.items())


def _is_kind(problem: Any) -> bool:
    return bool(problem["loc"]) and str(problem["loc"][-1]).startswith("literal[")


def _line(place: tuple[int | str, ...], problems: Sequence[Any]) -> str:
    field = ".".join(map(str, place)) or "value"
    problem, given = problems[0], quoted(problems[0]["input"])
    if len(problems) > 1 or problem["type"] in WANTED:
        return f"{field}: {given} is not {' or '.join(map(_wanted, problems))}{_near(problems)}"
    message = problem["msg"].removeprefix("Value error, ")  # pydantic's prefix to our messages
    said = "" if problem["type"] == "missing" else f" (given: {given})"
    return f"{field}: {message}{said}{_near(problems)}"


def _wanted(problem: Any) -> str:
    said: str = problem["msg"].removeprefix("Input should be ")
    return WANTED.get(problem["type"], said)


def _near(problems: Sequence[Any]) -> str:
    given, choices = problems[0]["input"], []
    for problem in problems:
        if problem["type"] == "literal_error":
            choices += re.findall(r"'(\w+)'", problem["ctx"]["expected"])
        elif problem["type"] == "bool_parsing":
            choices += ["true", "false"]
    return did_you_mean(given, choices) if isinstance(given, str) else ""
