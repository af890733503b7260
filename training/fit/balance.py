"""For unbalanced classes: weights in the loss, or oversampling of rare classes."""

import numpy as np
import numpy.typing as npt

from registry.bundle import Task
from registry.images import Float32Array

Float64Array = npt.NDArray[np.float64]


def class_weights(targets: Float32Array, task: Task) -> Float32Array:
    """[classes]: what makes classes count the same in the loss of [n,classes] targets, in which an
    image counts as much as its row's sum.

    Single-label: inverse frequencies, 1 in the mean over the images. Multi-label: how many images
    lack the label for each that has it.
    """
    counts = _counts(targets)
    if task == "multi":
        return np.asarray((len(targets) - counts).clip(1) / counts, dtype=np.float32)
    return np.asarray(targets.sum() / (len(counts) * counts), dtype=np.float32)


def draw_shares(targets: Float32Array) -> Float64Array:
    """[n], sum 1: how likely each image is drawn so that every class weighs the same in the loss;
    where all images weigh the same, every class comes equally often.

    An image of several labels counts as its rarest one.
    """
    rarity = ((targets > 0) / _counts(targets)).max(axis=1).astype(np.float64)
    rarity[rarity == 0] = 1 / len(targets)  # images without any label
    return np.asarray(rarity / rarity.sum())


def _counts(targets: Float32Array) -> Float32Array:
    """[classes]: what all images of each weigh together; 1 where there are none."""
    counts = targets.sum(axis=0)
    return np.where(counts > 0, counts, 1)
