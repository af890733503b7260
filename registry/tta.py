"""Test-time augmentation: views of prepared pixels, the same in evaluation and in serving.

The random draw is seeded with the SHA-256 of the encoded image, so a repeated request gets the same
answer, and offline evaluation of a file matches serving it.
"""

import hashlib
import random
from collections.abc import Iterator
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field

from registry.images import UInt8Array
from registry.record import Record

MAX_VIEWS = 32

Symmetries = Literal["none", "flip", "flips", "dihedral"]

# (Quarter turns, then whether to flip left-right); dihedral: all eight symmetries of the square.
SYMMETRIES: dict[Symmetries, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "flip": ((0, False), (0, True)),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "dihedral": tuple((turns, flip) for flip in (False, True) for turns in range(4)),
}


class TtaSpec(Record):
    """How views are drawn. Part of every bundle."""

    draw: Literal[1] = 1  # incremented when the same spec would give different views
    default_views: int = Field(default=1, ge=0, le=MAX_VIEWS)
    symmetries: Symmetries = "flip"
    # each view is a random crop whose side is 1/zoom of the image's, zoom in [1, max_zoom]
    max_zoom: float = Field(default=1.1, ge=1, le=2)
    # brightness and contrast are each jittered by up to this share
    lighting: float = Field(default=0.05, ge=0, le=0.5)


def tta_views(pixels: UInt8Array, encoded: bytes, spec: TtaSpec, n_views: int) -> UInt8Array:
    """`n_views` views of one image, the plain one first: [s,s,3] -> [n_views,s,s,3].

    0 and 1 both give only the plain image. No symmetry repeats before all have been used.
    """
    return np.stack(list(each_view(pixels, encoded, spec, n_views)))


def each_view(
    pixels: UInt8Array, encoded: bytes, spec: TtaSpec, n_views: int
) -> Iterator[UInt8Array]:
    """The same views one by one, each [s,s,3] and yielded as soon as it is drawn."""
    yield pixels
    if n_views > 1:
        rng = random.Random(int.from_bytes(hashlib.sha256(encoded).digest(), "big"))
        image = Image.fromarray(pixels)
        for turns, flip in _symmetries(spec, n_views - 1, rng):
            window = _zoomed(image, spec.max_zoom, rng)
            turned = np.rot90(window, turns)
            turned = turned[:, ::-1] if flip else turned
            yield _lit(turned, spec.lighting, rng)


def _symmetries(spec: TtaSpec, n: int, rng: random.Random) -> list[tuple[int, bool]]:
    """`n` symmetries in random order, the identity last in each round: the plain view has it."""
    symmetries: list[tuple[int, bool]] = []
    identity, *others = SYMMETRIES[spec.symmetries]
    while len(symmetries) < n:
        # only random() is guaranteed to give the same sequence in every version of Python
        symmetries += [*sorted(others, key=lambda _: rng.random()), identity]
    return symmetries[:n]


def _zoomed(image: Image.Image, max_zoom: float, rng: random.Random) -> UInt8Array:
    size = image.width
    side = size / (1 + rng.random() * (max_zoom - 1))
    left, top = rng.random() * (size - side), rng.random() * (size - side)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def _lit(pixels: UInt8Array, lighting: float, rng: random.Random) -> UInt8Array:
    brightness = (2 * rng.random() - 1) * lighting * 255
    contrast = 1 + (2 * rng.random() - 1) * lighting
    table = (np.arange(256) - 127.5) * contrast + 127.5 + brightness
    levels: UInt8Array = np.rint(table).clip(0, 255).astype(np.uint8)
    return levels[pixels]
