"""Suggests known names that are close to a misspelt one."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches

LONGEST = 80  # names come over a network, and long ones take long to compare


def did_you_mean(given: str, known: Iterable[str], write: Callable[[str], str] = str) -> str:
    """A "did you mean" clause with the closest one or two of `known`, formatted by `write`; empty
    if none is close."""
    name, names = given[:LONGEST].lower(), sorted(set(known))
    near = get_close_matches(name, names, 2, 0.85) or get_close_matches(name, names, 2, 0.6)
    return f"; did you mean {' or '.join(map(write, near))}?" if near else ""
