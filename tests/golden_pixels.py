"""Images of every kind that `prepare` treats in its own way, and the pixels it gave for them.

`python tests/golden_pixels.py` makes golden_pixels.npz again: only when the preparation is meant
to give other pixels, which also raises `ImageSpec.preparation`.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from registry.images import ImageSpec, UInt8Array, prepare

FILE = Path(__file__).with_suffix(".npz")
SPECS = {
    "center": ImageSpec(size=16),
    "squash": ImageSpec(size=16, crop="squash"),
    "border": ImageSpec(size=16, crop_fraction=0.875),
}


def scene() -> Image.Image:
    """48 x 36, smooth, and different in each corner, so that a turn or a shift would show."""
    x, y = np.meshgrid(np.linspace(0, 1, 48), np.linspace(0, 1, 36))
    channels = [x * 255, y * 255, (np.sin(6 * x) * np.cos(4 * y) + 1) * 127]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def images() -> dict[str, bytes]:
    """Encoded, by kind."""
    rgb = scene()
    clear = rgb.copy()
    clear.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 48).astype(np.uint8), (36, 1))))
    deep = np.asarray(rgb.convert("L")).astype(np.uint16) * 257
    kinds = {
        "grey png": encode(rgb.convert("L"), "PNG"),
        "grey jpeg": encode(rgb.convert("L"), "JPEG"),
        "bilevel": encode(rgb.convert("1"), "PNG"),
        "16-bit grey": encode(Image.fromarray(deep), "PNG"),
        "16-bit colour": deep_png(np.asarray(rgb).astype(np.uint16) * 257),
        "cmyk": encode(rgb.convert("CMYK"), "JPEG", quality=95),
        "alpha": encode(clear, "PNG"),
        "grey alpha": encode(clear.convert("LA"), "PNG"),
        "palette": encode(rgb.quantize(64), "PNG"),
        "clear palette": encode(clear.quantize(64), "PNG"),
        "webp alpha": encode(clear, "WEBP", lossless=True),
        "large jpeg": encode(rgb.resize((480, 360), Image.Resampling.BICUBIC), "JPEG", quality=95),
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        kinds[f"exif {orientation}"] = encode(rgb, "JPEG", quality=95, exif=exif)
    return kinds


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def deep_png(pixels: np.ndarray) -> bytes:
    """[h,w,3] uint16; Pillow reads these and cannot write them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def pixels_of(encoded: bytes) -> UInt8Array:
    """[3,16,16,3]: prepared in each of the ways of SPECS."""
    return np.stack([prepare(encoded, spec) for spec in SPECS.values()])


def read() -> dict[str, tuple[bytes, UInt8Array]]:
    """Encoded image and golden pixels, by kind."""
    with np.load(FILE, allow_pickle=False) as file:
        kinds = [name.removeprefix("pixels ") for name in file if name.startswith("pixels ")]
        return {kind: (file[f"image {kind}"].tobytes(), file[f"pixels {kind}"]) for kind in kinds}


if __name__ == "__main__":
    arrays = {}
    for kind, encoded in images().items():
        arrays[f"image {kind}"] = np.frombuffer(encoded, dtype=np.uint8)
        arrays[f"pixels {kind}"] = pixels_of(encoded)
    np.savez_compressed(FILE, **arrays)
