"""The base class of every record that crosses a boundary (a file, a process, a request)."""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from registry.did_you_mean import did_you_mean

# What pydantic says of "80x" at length: unable to parse string as an integer.
NO_NUMBER = {"int_parsing": "a whole number", "float_parsing": "a number"}


class Record(BaseModel):
    """Immutable, and strict about unknown fields: a misspelt setting is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def explain(error: ValidationError) -> str:
    """One line that names each invalid field, what is wrong with it, and the value given; for a
    choice, also the closest valid values."""
    return "; ".join(_line(problem) for problem in error.errors(include_url=False))


def _line(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"]) or "value"
    given = "" if problem["type"] == "missing" else f" (given: {problem['input']!r:.80})"
    if problem["type"] in NO_NUMBER:
        return f"{field}: {problem['input']!r:.80} is not {NO_NUMBER[problem['type']]}"
    message = problem["msg"].removeprefix("Value error, ")  # pydantic's prefix to our messages
    return f"{field}: {message}{given}{_near(problem)}"


def _near(problem: Any) -> str:
    if problem["type"] != "literal_error" or not isinstance(problem["input"], str):
        return ""
    choices = re.findall(r"'(\w+)'", problem["ctx"]["expected"])
    return did_you_mean(problem["input"], choices)
