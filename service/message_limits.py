"""What a message holds, seen before it is parsed.

Two bytes are an empty message within another, and become 80 in memory: of 64 MB, which may come as
64 KB that are packed, the parser makes 2.6 GB.
"""

from collections.abc import Mapping
from typing import TypeAlias

from google.protobuf.descriptor import Descriptor

from registry.errors import BadRequest

SMALL_BYTES = 1 << 19  # what has no more is parsed unseen, into 20 MB at worst
MAX_FIELDS = 1 << 14  # of a larger one, with those of the messages in it; each image is one

MAX_VARINT = 10  # bytes; what is longer is no number
VARINT, DELIMITED = 0, 2  # of the wire's types of fields
FIXED = {1: 8, 5: 4}  # bytes of those that always have as many

Inner: TypeAlias = Mapping[int, "Inner"]


def inner_of(kind: Descriptor) -> Inner:
    """By their numbers, the fields of a message that are messages themselves, with theirs."""
    return {one.number: inner_of(one.message_type) for one in kind.fields if one.message_type}


def check_fields(message: bytes, inner: Inner) -> None:
    """It has no more fields than a request needs. What is no message is left to the parser.

    Raises:
        BadRequest: it has more.
    """
    if _count(message, 0, len(message), inner, 0) > MAX_FIELDS:
        raise BadRequest(
            f"a request of more than {MAX_FIELDS} fields (images, tensors, parameters and "
            "unpacked numbers are some); send several requests"
        )


def _count(message: bytes, at: int, end: int, inner: Inner, before: int) -> int:
    """The fields from `at` to `end` and those `before` them, or one more than too many."""
    n = before
    while at < end and n <= MAX_FIELDS:
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        n += 1
        if kind == VARINT:
            _, at = _varint(message, at)
        elif kind == DELIMITED:
            n_bytes, at = _varint(message, at)
            if number in inner:
                n = _count(message, at, min(at + n_bytes, end), inner[number], n)
            at += n_bytes
        else:  # both ends of a group have nothing behind them
            at += FIXED.get(kind, 0)
    return n


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends: with the message, if it is none."""
    number = 0
    for i, byte in enumerate(message[at : at + MAX_VARINT]):
        number |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return number, at + i + 1
    return 0, len(message)
