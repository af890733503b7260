"""The known names nearest to a misspelt one."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches

LONGEST = 80  # names come over a network, and comparing takes longer with every letter


def did_you_mean(given: str, known: Iterable[str], write: Callable[[str], str] = str) -> str:
    """The end of a sentence that names the nearest one or two of `known`, as `write` has them;
    empty if none is near."""
    name, names = given[:LONGEST].lower(), sorted(set(known))
    near = get_close_matches(name, names, 2, 0.85) or get_close_matches(name, names, 2, 0.6)
    return f"; did you mean {' or '.join(map(write, near))}?" if near else ""
