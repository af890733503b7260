"""Checks the number of fields in a message before it is parsed.

An empty nested message takes two bytes on the wire and 80 in memory: from 64 MB, which compressed
may be only 64 KB, the parser makes 2.6 GB.
"""

from collections.abc import Mapping
from typing import TypeAlias

from google.protobuf.descriptor import Descriptor

from registry.errors import BadRequest

SMALL_BYTES = 1 << 19  # messages up to this size are not checked; they take 20 MB at worst
MAX_FIELDS = 1 << 14  # of a larger message, including nested ones; each image is one

MAX_VARINT = 10  # bytes; anything longer is not a varint
VARINT, DELIMITED = 0, 2  # wire types
FIXED = {1: 8, 5: 4}  # bytes, by wire type of fixed size

Inner: TypeAlias = Mapping[int, "Inner"]


def inner_of(kind: Descriptor) -> Inner:
    """The fields of a message that are messages themselves, by number, recursively."""
    return {one.number: inner_of(one.message_type) for one in kind.fields if one.message_type}


def check_fields(message: bytes, inner: Inner) -> None:
    """Checks that a message has no more fields than a request needs; whether it is well-formed is
    left to the parser.

    Raises:
        BadRequest: it has more.
    """
    if _count(message, 0, len(message), inner, 0) > MAX_FIELDS:
        raise BadRequest(
            f"the request has more than {MAX_FIELDS} fields (images, tensors, parameters and "
            "unpacked numbers count); send several requests"
        )


def _count(message: bytes, at: int, end: int, inner: Inner, before: int) -> int:
    """`before` plus the number of fields from `at` to `end`; stops counting above MAX_FIELDS."""
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
        else:  # the start and end tags of a group have no payload
            at += FIXED.get(kind, 0)
    return n


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The varint at `at` and the position after it, which is the message's end if it is invalid."""
    number = 0
    for i, byte in enumerate(message[at : at + MAX_VARINT]):
        number |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return number, at + i + 1
    return 0, len(message)
