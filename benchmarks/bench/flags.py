"""What the flags of the programs have in common."""

from pathlib import Path


def absolute(text: str) -> Path:
    """A path as given on the command line: servers and clients run in folders of their own."""
    return Path(text).absolute()
