"""Reads an image's file again, which may be hours after the training began."""

import hashlib

from registry.errors import DataError
from training.data.items import Item


def read_again(item: Item) -> bytes:
    """The file's content, the same as when the training began.

    Raises:
        DataError: the file is gone, or has another content now.
    """
    try:
        encoded = item.path.read_bytes()
    except OSError as error:
        raise DataError(_what_to_do(item, f"can no longer be read ({error.strerror})")) from error
    if hashlib.sha256(encoded).hexdigest() != item.sha256:
        raise DataError(_what_to_do(item, "has changed since the training began"))
    return encoded


def _what_to_do(item: Item, what: str) -> str:
    return (
        f"{item.path}: this image {what}; leave images as they are until a training has ended; put "
        "it back, or start another training without it"
    )
