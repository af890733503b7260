"""Pictures that look the same: small grey versions, correlated.

One matrix product rather than a library's perceptual hash: the bits of a hash are noise where a
picture is even, and imagehash would bring SciPy and PyWavelets. What is compared comes from
`prepare`, so it is turned upright and converted exactly as in training.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from registry.images import Float32Array, ImageSpec, UInt8Array

SIDE = 18
SPEC = ImageSpec(size=4 * SIDE, crop="squash")  # decoded a little larger, then averaged
# Of 2,624 solar cells, which all look much the same, no two different ones reached 0.9986; copies
# as JPEG of quality 60 or at 3/5 of the size did not fall below 0.9985.
ALIKE = 0.9985
EVEN_LIGHT = 1  # largest difference from the mean in a blank picture, in levels
CHUNK = 512  # rows compared with all others at once

Rows = npt.NDArray[np.int64]


def look_at(pixels: UInt8Array) -> UInt8Array:
    """What a prepared image, [s,s,3], is compared by: [18,18] grey."""
    image = Image.fromarray(pixels).convert("L")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def is_blank(look: UInt8Array) -> bool:
    """Whether a picture is of one colour."""
    levels = look.astype(float)
    return bool(abs(levels - levels.mean()).max() <= EVEN_LIGHT)


def alike(looks: Sequence[UInt8Array]) -> Iterator[tuple[int, Rows]]:
    """Each row with those behind it that show the same picture: rescaled, recompressed, or a little
    brightened. Blank ones are like no other.

    Row by row, because of a camera that stands still every picture is like all others.
    """
    shapes = _normalised(looks)
    for start in range(0, len(shapes), CHUNK):
        correlations = shapes[start : start + CHUNK] @ shapes[start:].T
        same = np.triu(correlations, k=1) >= ALIKE
        for row in np.flatnonzero(same.any(axis=1)):
            yield start + int(row), start + np.flatnonzero(same[row])


def _normalised(looks: Sequence[UInt8Array]) -> Float32Array:
    """[n,324], each of mean 0 and length 1, so that a product of two is their correlation."""
    shapes = np.zeros((len(looks), SIDE * SIDE), dtype=np.float32)
    for row, look in enumerate(looks):
        if not is_blank(look):
            levels = look.reshape(-1) - look.mean(dtype=np.float32)
            shapes[row] = levels / np.linalg.norm(levels)
    return shapes
