"""Images of every kind that `prepare` treats in its own way, and the pixels it gave for them.

`python tests/golden_pixels.py` adds kinds that golden_pixels.npz does not have yet. Pixels that are
there change only with `ImageSpec.preparation`.
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
    flat = rgb.copy()
    flat.paste((10, 200, 30), (10, 5, 40, 20))
    flat_deep = np.asarray(flat).astype(np.uint16) * 257
    levels = np.tile(np.arange(48, dtype=np.uint8) // 3, (36, 1))  # of 4 bits
    kinds = {
        "grey png": encode(rgb.convert("L"), "PNG"),
        "grey jpeg": encode(rgb.convert("L"), "JPEG"),
        "bilevel": encode(rgb.convert("1"), "PNG"),
        "16-bit grey": encode(Image.fromarray(deep), "PNG"),
        "16-bit colour": deep_png(np.asarray(rgb).astype(np.uint16) * 257),
        "clear colour": encode(flat, "PNG", transparency=(10, 200, 30)),
        "clear grey": encode(
            flat.convert("L"), "PNG", transparency=flat.convert("L").getpixel((20, 10))
        ),
        "clear 16-bit grey": encode(
            Image.fromarray(flat_deep[..., 0]), "PNG", transparency=10 * 257
        ),
        "clear 16-bit colour": deep_png(flat_deep, clear=(10 * 257, 200 * 257, 30 * 257)),
        "clear 4-bit grey": raw_png(
            (48, 36, 4, 0), [(row[::2] << 4 | row[1::2]).tobytes() for row in levels], clear=(5,)
        ),
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


def deep_png(pixels: np.ndarray, clear: tuple[int, ...] = ()) -> bytes:
    """[h,w,3] uint16; Pillow reads these and cannot write them."""
    height, width, _ = pixels.shape
    return raw_png((width, height, 16, 2), [row.astype(">u2").tobytes() for row in pixels], clear)


def raw_png(kind: tuple[int, int, int, int], rows: list[bytes], clear: tuple[int, ...]) -> bytes:
    """Of a width, height, depth and colour type; `clear` is the transparent colour, if any."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", *kind, 0, 0, 0))
        + (chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)) if clear else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
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
    with np.load(FILE, allow_pickle=False) as file:
        arrays = dict(file)
    for kind, encoded in images().items():
        if f"image {kind}" in arrays:
            continue
        arrays[f"image {kind}"] = np.frombuffer(encoded, dtype=np.uint8)
        arrays[f"pixels {kind}"] = pixels_of(encoded)
    np.savez_compressed(FILE, **arrays)
