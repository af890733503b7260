"""How many images a run is given: no shape is met after the warm-up that was not met in it."""

from collections.abc import Callable, Sequence

import numpy as np

from registry.images import Float32Array, UInt8Array
from service.execution.providers import ActiveProvider

Run = Callable[[UInt8Array], Float32Array]  # [n,s,s,3] -> [n,classes]

# Those that a measurement tries; a GPU, to which each shape is new, is given no others.
BATCHES: dict[ActiveProvider, tuple[int, ...]] = {
    "cpu": (1, 4, 8),
    "openvino": (1, 4, 8),
    "cuda": (1, 4, 8, 16, 32),
    "tensorrt": (1, 4, 8, 16, 32),
}


def tried_batches(
    provider: ActiveProvider, most: int | None, fixed_batch: int | None
) -> tuple[int, ...]:
    """The numbers of images that a measurement tries, smallest first.

    Args:
        most: the largest one, which is tried too; None: that of the provider.
        fixed_batch: the only number that the network takes, if it is such a one.
    """
    if fixed_batch:
        return (fixed_batch,)
    known = BATCHES[provider]
    return known if most is None else (*(size for size in known if size < most), most)


def batch_sizes(provider: ActiveProvider, most: int, fixed_batch: int | None) -> tuple[int, ...]:
    """Every number of images that a run may have, smallest first.

    Args:
        most: the batch of the execution plan.
        fixed_batch: the only number that the network takes, if it is such a one.
    """
    if fixed_batch:
        return (fixed_batch,)
    if provider == "cpu":  # no shape is dearer than another, and an image in vain is
        return tuple(range(1, most + 1))
    return (*(n_images for n_images in BATCHES[provider] if n_images < most), most)


def shaped(run: Run, sizes: Sequence[int]) -> Run:
    """`run`, given batches of `sizes` alone: larger ones are split, and others are filled up with
    black images whose answers nobody gets.
    """
    largest = max(sizes)
    filled = [min(size for size in sizes if size >= n_images) for n_images in range(largest + 1)]
    fitting = frozenset(sizes)

    def run_shaped(images: UInt8Array) -> Float32Array:
        if len(images) in fitting:
            return run(images)
        parts = [images[i : i + largest] for i in range(0, len(images), largest)]
        answers = [run(_fill(part, filled[len(part)]))[: len(part)] for part in parts]
        return answers[0] if len(answers) == 1 else np.concatenate(answers)

    return run_shaped


def _fill(images: UInt8Array, size: int) -> UInt8Array:
    missing = size - len(images)
    if not missing:
        return images
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)])
