"""Refuses PNGs that take far longer to decode than their bytes and pixels suggest.

Pillow goes through the chunks one by one: 64 MB of empty ones took 12 s. It decompresses every
compressed text or profile, up to a megabyte each, which took 0.6 to 1.6 ms for a chunk of 1 KB.
"""

import struct

from registry.errors import BadImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK = struct.Struct(">I4s")  # a chunk's length and name; its content and 4 bytes of CRC follow
PIXELS = (b"IDAT", b"fdAT", b"fcTL")  # the latter two are of animations
END = b"IEND"
MAX_CHUNKS = 20_000  # the usual encoder puts 8 KB of pixels into one
MAX_OTHERS = 1_000
MAX_PACKED = 50  # compressed texts and profiles; an image has a few


def check_chunks(encoded: bytes) -> None:
    """Checks that a PNG has no more chunks than an image needs.

    Raises:
        BadImage: it has more.
    """
    at, n_others, n_packed = len(SIGNATURE), 0, 0
    for _ in range(MAX_CHUNKS):
        if at + CHUNK.size > len(encoded):
            return
        n_bytes, name = CHUNK.unpack_from(encoded, at)
        if name == END:
            return
        if name not in PIXELS:
            n_others += 1
            if n_others > MAX_OTHERS:
                raise BadImage(
                    f"a PNG of more than {MAX_OTHERS} chunks besides its pixels; re-encode it"
                )
            n_packed += _is_packed(encoded, at + CHUNK.size, n_bytes, name)
            if n_packed > MAX_PACKED:
                raise BadImage(
                    f"a PNG of more than {MAX_PACKED} compressed texts or profiles; re-encode it"
                )
        at += CHUNK.size + n_bytes + 4
    raise BadImage(f"a PNG of more than {MAX_CHUNKS} chunks; re-encode it")


def _is_packed(encoded: bytes, begin: int, n_bytes: int, name: bytes) -> bool:
    """Whether a chunk, whose content begins at `begin`, is compressed. An iTXt chunk has a flag for
    that after its keyword."""
    if name != b"iTXt":
        return name in (b"zTXt", b"iCCP")
    flag = encoded.find(b"\0", begin, begin + n_bytes) + 1
    return encoded[flag : flag + 1] != b"\0"
