"""Counts with their noun, for people."""


def counted(n: int, noun: str, several: str = "") -> str:
    """`1 image`, `2 images`; `several` is the plural where it takes more than an s."""
    return f"{n} {noun if n == 1 else several or noun + 's'}"


def are(n: int) -> str:
    """The verb for so many: 1 of 24 images is, 2 of 24 are."""
    return "is" if n == 1 else "are"
