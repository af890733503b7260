"""Near-duplicates: the correlation of small greyscale versions.

One matrix product rather than a library's perceptual hash: where an image is uniform, a hash's bits
are noise, and imagehash would bring SciPy and PyWavelets. The images compared come from `prepare`,
so they are turned upright and converted exactly as in training.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from registry.images import Float32Array, UInt8Array

SIDE = 18
# Of 2,624 solar cells, which all look much the same, no two different ones reached 0.9986; copies
# as JPEG of quality 60 or at 3/5 of the size did not fall below 0.9985.
ALIKE = 0.9985
EVEN_LIGHT = 1  # largest difference from the mean in a blank image, in levels
CHUNK = 512  # rows compared with all others at a time

Rows = npt.NDArray[np.int64]


def look_at(pixels: UInt8Array) -> UInt8Array:
    """The greyscale version, [18,18], that a prepared image, [s,s,3], is compared by."""
    image = Image.fromarray(pixels).convert("L")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def is_blank(look: UInt8Array) -> bool:
    """Whether an image is of a single colour."""
    levels = look.astype(float)
    return bool(abs(levels - levels.mean()).max() <= EVEN_LIGHT)


def alike(looks: Sequence[UInt8Array]) -> Iterator[tuple[int, Rows]]:
    """Each row with the later rows that are near-duplicates of it: rescaled, recompressed, or a
    little brightened. Blank images match no other.

    Row by row, to bound memory: with a fixed camera, every image may match all others.
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
