"""Batch sizes: after the warm-up, no run has a shape that the network has not seen."""

from collections.abc import Callable, Sequence

import numpy as np

from registry.images import Float32Array, UInt8Array
from service.execution.providers import ActiveProvider

Run = Callable[[UInt8Array], Float32Array]  # [n,s,s,3] -> [n,classes]

# The batch sizes that are measured; a GPU gets no others, since every new shape costs it time.
BATCHES: dict[ActiveProvider, tuple[int, ...]] = {
    "cpu": (1, 4, 8),
    "openvino": (1, 4, 8),
    "cuda": (1, 4, 8, 16, 32),
    "tensorrt": (1, 4, 8, 16, 32),
}
# A CPU gets more of them, since padding costs it time; but to warm up every size up to 64 took more
# than 80 s with images of 224 pixels.
CPU_SIZES = (*range(1, 8), *(2**i for i in range(3, 10)))
MAX_WASTE = 1 / 3  # of a batch may be black images
FEW = 4  # images that may be wasted all the same: one run more costs about as much


def tried_batches(
    provider: ActiveProvider, most: int | None, fixed_batch: int | None
) -> tuple[int, ...]:
    """The batch sizes to measure, smallest first.

    Args:
        most: the largest one, which is measured too; None: the provider's default.
        fixed_batch: the only batch size that the network accepts; None: any.
    """
    if fixed_batch:
        return (fixed_batch,)
    known = BATCHES[provider]
    return known if most is None else (*(size for size in known if size < most), most)


def batch_sizes(provider: ActiveProvider, most: int, fixed_batch: int | None) -> tuple[int, ...]:
    """Every batch size that a run may have, smallest first.

    Args:
        most: the batch size of the execution plan.
        fixed_batch: the only batch size that the network accepts; None: any.
    """
    if fixed_batch:
        return (fixed_batch,)
    known = CPU_SIZES if provider == "cpu" else BATCHES[provider]
    return (*(size for size in known if size < most), most)


def filled(n_images: int, sizes: Sequence[int]) -> int:
    """The batch size that so many images are filled up to; the largest if they are more."""
    return min((size for size in sizes if size >= n_images), default=max(sizes))


def worth_running(n_images: int, sizes: Sequence[int]) -> int:
    """How many of the images that wait should run now: all, or fewer if filling up would waste too
    much. The rest runs next."""
    size = filled(n_images, sizes)
    wasted = size - n_images
    smaller = [it for it in sizes if it <= n_images]
    if smaller and wasted >= FEW and wasted > MAX_WASTE * size:
        return max(smaller)
    return n_images


def shaped(run: Run, sizes: Sequence[int]) -> Run:
    """`run`, called only with batches of `sizes`: larger ones are split, others are padded with
    black images whose answers are dropped."""
    largest = max(sizes)
    fitting = frozenset(sizes)

    def run_shaped(images: UInt8Array) -> Float32Array:
        if len(images) in fitting:
            return run(images)
        parts = [images[i : i + largest] for i in range(0, len(images), largest)]
        answers = [run(_fill(part, filled(len(part), sizes)))[: len(part)] for part in parts]
        return answers[0] if len(answers) == 1 else np.concatenate(answers)

    return run_shaped


def _fill(images: UInt8Array, size: int) -> UInt8Array:
    missing = size - len(images)
    if not missing:
        return images
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)])
