"""Refuses JPEGs that take far longer to decode than their bytes and pixels suggest.

A progressive one may repeat its scans, each of which goes through all pixels: half a megabyte kept
a core busy for 9 s. Pillow concatenates Exif segments one by one: 56 MB of them took 15 s.
"""

import re
from typing import NamedTuple

from registry.errors import BadImage

MAX_SEGMENTS = 2_000
MAX_METADATA = 16 << 20  # bytes before the first scan
# Markers with a length after them; others are entropy-coded data, padding, or stand alone.
MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
SEQUENTIAL, SCAN, END = (b"\xc0", b"\xc1"), b"\xda", b"\xd9"


class Scans(NamedTuple):
    """How often a decoder goes through the image, and whether it works line by line; if not, it
    holds the whole image at full size."""

    number: int
    by_line: bool


def count_scans(encoded: bytes) -> Scans:
    """The scans of a JPEG, from its segments alone.

    Raises:
        BadImage: it has more segments, or more bytes before its first scan, than a camera writes.
    """
    at = n_scans = 0
    components = b""
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(encoded, at)
        if found is None or found[1] == END:
            return Scans(n_scans, by_line=False)
        if not n_scans and found.start() > MAX_METADATA:
            raise BadImage(
                f"a JPEG with more than {MAX_METADATA >> 20} MB before its image data; save it "
                "without that metadata"
            )
        segment = encoded[found.end() : found.end() + 8]
        if found[1] in SEQUENTIAL:
            components = segment[7:8]
        if found[1] == SCAN:
            n_scans += 1
            # all components in one scan: a decoder reads no further
            if components and segment[2:3] == components:
                return Scans(n_scans, by_line=n_scans == 1)
        at = found.end() + max(2, int.from_bytes(segment[:2], "big"))
    raise BadImage(f"a JPEG of more than {MAX_SEGMENTS} segments; re-encode it")
