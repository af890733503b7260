"""Augmented images as the network meets them, to be looked at."""

import numpy as np
import torch

from registry.images import UInt8Array
from training.fit.batches import ImageBatches

SHOWN = 8


def augmented(batches: ImageBatches) -> UInt8Array:
    """Up to eight views of the first epoch, [n,s,s,3]; `training.tiles.images` draws them."""
    pixels, _ = next(batches.epoch(0))
    shown = pixels[:SHOWN].round().clamp(0, 255).to(torch.uint8)
    views: UInt8Array = np.ascontiguousarray(shown.permute(0, 2, 3, 1).cpu().numpy())
    return views
