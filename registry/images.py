"""The one image preprocessing: encoded bytes in, pixels out.

Cached activations, evaluation, golden answers and serving all call `prepare`, so there is no
training-serving skew. Normalisation (scale, mean, standard deviation) is inside the ONNX graph.
"""

import hashlib
import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError
from pydantic import Field

from registry.errors import BadImage
from registry.jpeg import count_scans
from registry.png import SIGNATURE, check_chunks
from registry.record import Record

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]

JPEG = b"\xff\xd8"  # its magic bytes
FORMATS = ("JPEG", "PNG", "WEBP")  # every further decoder adds attack surface
BRANDS = {  # of ISO media files, in their bytes 8 to 12
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc"), "HEIC, as phones write it,"),
    **dict.fromkeys((b"mif1", b"msf1"), "HEIF, as phones write it,"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}
MAX_PIXELS = 100_000_000  # 300 MB of RGB; a request's limit may be lower
WEBP_SHARE = 4  # its decoder holds four copies, so a WebP may have a quarter of the pixels
# A row counts as no fewer, since Pillow has a pointer to each: a PNG of one column and 99 million
# rows took 2.3 GB.
ROW_PIXELS = 16
BAND_PIXELS = 1 << 20  # converted to 8 bits at a time; whole, each step would hold another copy
# Only one image with more pixels is decoded at a time, since a file of a few hundred kilobytes can
# hold that many. A JPEG is exempt, being decoded at reduced size, unless its decoder has to hold
# the whole image.
LARGE_PIXELS = 20_000_000
ONE_LARGE = threading.Lock()
NO_SCANS = (0, False)
MAX_SCANS = 20  # of a JPEG with the most pixels; a smaller one may have more; a camera's has 10

# Pillow's names for samples that it brings to 8 bits, though not the transparent one
DEPTHS = {"L;2": 2, "L;4": 4, "RGB;16B": 16}
CLEAR_MODES = ("RGB", "L", "I;16")  # Pillow's, of PNGs in which tRNS names a single colour

ORIENTATION = 0x0112  # the Exif tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Large(Exception):
    """An image of which only one is decoded at a time, met where none is to be."""


class _Here(threading.local):
    leaves_large = False


HERE = _Here()  # what holds in this thread


class ImageSpec(Record):
    """How an image becomes [size, size, 3] RGB uint8. Part of every bundle."""

    # incremented when the same spec would give different pixels; each goes on giving its own. 1: a
    # colour that a PNG's tRNS chunk makes transparent was ignored, instead of becoming white
    preparation: Literal[1, 2] = 2
    size: int = Field(ge=1, le=4096)
    # center: the largest centred square; squash: the whole image, whatever its shape
    crop: Literal["center", "squash"] = "center"
    # share of the square's side to keep; below 1 cuts the border off
    crop_fraction: float = Field(default=1.0, gt=0, le=1)

    def digest(self) -> str:
        """SHA-256 of every field, in hexadecimal; equal digests mean equal pixels."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def prepare(
    encoded: bytes,
    spec: ImageSpec,
    max_pixels: int = MAX_PIXELS,
    admit: Callable[[int], None] | None = None,
) -> UInt8Array:
    """The pixels that the network sees, [size, size, 3] RGB.

    Decodes a JPEG no larger than needed (DCT scaling), crops and resizes in one antialiased
    bilinear step, then applies the Exif orientation.

    Args:
        admit: called with the number of pixels about to be decoded, and may raise BadImage to
            refuse them. A JPEG's pixels count once for every MAX_SCANS scans, at least once.

    Raises:
        BadImage: empty, not a JPEG, PNG or WebP, damaged, or more than `max_pixels`.
        Large: it is, within `leaving_large`.
    """
    image, by_line = _open(encoded, max_pixels, admit)
    with image, _lock_if_large(image, by_line):
        if spec.preparation > 1 and "transparency" in image.info and image.mode in CLEAR_MODES:
            _set_clear(image)
        try:
            image.draft(image.mode, _needed(image.size, spec))
            image.load()
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise BadImage(f"truncated or damaged {image.format}: {error}") from error
        # only now: for a PNG, Pillow would decode it here, and not report damage
        orientation = _orientation(image)
        if spec.preparation == 1 and image.mode in CLEAR_MODES:
            # only now: Pillow also reads a tRNS chunk that follows the pixels
            image.info.pop("transparency", None)
        plain = _eight_bits(image)
        box = _crop_box(plain.size, spec)
        small = plain.resize((spec.size, spec.size), Image.Resampling.BILINEAR, box=box)
        if orientation in UPRIGHT:
            small = small.transpose(UPRIGHT[orientation])
        return np.asarray(small if small.mode == "RGB" else small.convert("RGB"))


@contextmanager
def leaving_large() -> Iterator[None]:
    """Within it and in this thread, `prepare` raises Large before it decodes a large image, instead
    of waiting for those of other threads."""
    HERE.leaves_large = True
    try:
        yield
    finally:
        HERE.leaves_large = False


def image_info(encoded: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int, str, str]:
    """Width, height, Pillow mode and format, read from the header alone.

    Raises:
        BadImage: as `prepare`, except that damage after the header goes unnoticed.
    """
    image, _ = _open(encoded, max_pixels)
    with image:
        return image.width, image.height, image.mode, str(image.format)


def _open(
    encoded: bytes, max_pixels: int, admit: Callable[[int], None] | None = None
) -> tuple[ImageFile.ImageFile, bool]:
    """The image, not decoded yet, and whether its decoder works line by line."""
    if not encoded:
        raise BadImage("empty: 0 bytes")
    if encoded.startswith(SIGNATURE):
        check_chunks(encoded)
    n_scans, by_line = count_scans(encoded) if encoded.startswith(JPEG) else NO_SCANS
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\d+ pixels", str(error))  # Pillow's message names a limit of its own
        size = found.group() if found else str(error)
        raise BadImage(
            f"too many pixels, the limit is {max_pixels}: {size}; use a smaller image"
        ) from error
    except UnidentifiedImageError as error:
        start = encoded[:12]
        if start[4:8] == b"ftyp" and (kind := BRANDS.get(start[8:12])):
            raise BadImage(f"{kind} is not supported; save it as JPEG, PNG or WebP") from error
        raise BadImage(
            f"not an image: {len(encoded)} bytes that begin with {start!r}; use JPEG, PNG or WebP"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise BadImage(f"damaged image header: {error}") from error
    if image.format == "WEBP":
        max_pixels //= WEBP_SHARE
    n_pixels = _n_pixels(image)
    if n_pixels > max_pixels:
        narrow = f", whose rows count as {ROW_PIXELS} each" if image.width < ROW_PIXELS else ""
        raise BadImage(
            f"{image.width} x {image.height} pixels is above the limit of {max_pixels} for a "
            f"{image.format}{narrow}; use a smaller image"
        )
    if n_pixels * n_scans > max_pixels * MAX_SCANS:
        raise BadImage(
            f"{n_scans} scans of {image.width} x {image.height} pixels are too many for a JPEG; "
            "re-encode it"
        )
    if admit:
        admit(max(n_pixels, n_pixels * n_scans // MAX_SCANS))
    return image, by_line


def _n_pixels(image: Image.Image) -> int:
    return max(image.width, ROW_PIXELS) * image.height


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a thousand cameras write Exif; ignore it where it is broken
        return 1


def _side(size: tuple[int, int], spec: ImageSpec) -> float:
    return min(size) * spec.crop_fraction


def _needed(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """The smallest decoded size that still gives the crop at full resolution."""
    width, height = size
    if spec.crop == "squash":
        scale = spec.size / spec.crop_fraction
        return max(1, round(min(width, scale))), max(1, round(min(height, scale)))
    scale = min(1.0, spec.size / _side(size, spec))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _crop_box(size: tuple[int, int], spec: ImageSpec) -> tuple[float, float, float, float]:
    width, height = size
    if spec.crop == "squash":
        wide, high = width * spec.crop_fraction, height * spec.crop_fraction
    else:
        wide = high = _side(size, spec)
    left, top = (width - wide) / 2, (height - high) / 2
    return left, top, left + wide, top + high


def _lock_if_large(image: Image.Image, by_line: bool) -> AbstractContextManager[object]:
    if by_line or _n_pixels(image) <= LARGE_PIXELS:
        return nullcontext()
    if HERE.leaves_large:
        raise Large
    return ONE_LARGE


def _set_clear(image: ImageFile.ImageFile) -> None:
    """Before a PNG is decoded: its one transparent colour becomes that of the decoded pixels. Of 16
    bits in RGB, Pillow leaves the upper 8 to compare."""
    clear = image.info["transparency"]
    # without pixels there is no tile, and decoding will say what is missing
    depth = DEPTHS.get(str(image.tile[0].args), 8) if image.tile else 8
    if image.mode == "RGB":
        clear = tuple(level >> (depth - 8) & 255 for level in clear)
    elif image.mode == "L":
        most = 2**depth - 1
        clear = (clear & most) * 255 // most
    image.info["transparency"] = clear


def _eight_bits(image: Image.Image) -> Image.Image:
    """8-bit grey or RGB: 16 bits lose their lower byte, transparency is composited on white."""
    if image.mode in ("RGB", "L") and not image.has_transparency_data:
        return image
    rows = max(1, BAND_PIXELS // image.width)
    plain = _eight_bits_of(image.crop((0, 0, image.width, min(rows, image.height))))
    if rows >= image.height:
        return plain
    whole = Image.new(plain.mode, image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        whole.paste(_eight_bits_of(band), (0, top))
    return whole


def _eight_bits_of(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip
        deep = np.asarray(image).astype(np.uint32)
        grey = (deep >> 8).clip(0, 255).astype(np.uint8)
        if image.has_transparency_data:
            grey[deep == image.info["transparency"]] = 255
        return Image.fromarray(grey)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("L" if image.mode == "1" else "RGB")
