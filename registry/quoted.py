"""Values that somebody gave, as messages name them."""


def quoted(value: object, most: int = 80) -> str:
    """As Python writes it; where it has more than `most` characters, the first and three dots."""
    if isinstance(value, str):
        return repr(_cut(value, most))
    return _cut(repr(value), most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
