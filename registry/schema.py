"""The base of every record that crosses a border (a file, a process, a request)."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class Record(BaseModel):
    """Immutable, and strict about unknown fields: a misspelt setting is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def explain(error: ValidationError) -> str:
    """One line that names each wrong field, what is wrong with it, and the value given."""
    return "; ".join(_line(problem) for problem in error.errors(include_url=False))


def _line(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"]) or "value"
    given = "" if problem["type"] == "missing" else f" (given: {problem['input']!r:.80})"
    return f"{field}: {problem['msg']}{given}"
