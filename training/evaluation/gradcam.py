"""Where a network looked: Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391)."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from registry.bundle import Task
from registry.images import Float32Array, UInt8Array
from training.fit.activations import BATCH, to_device
from training.network.classifier import Network, evaluating
from training.network.head import concat_pool

COLOURS = "inferno"  # its lightness grows with the heat, so that it is legible in print
ALIKE = 1e-5  # of the largest contribution: smaller differences between places are rounding


def heat_maps(
    network: Network, pixels: UInt8Array, classes: Sequence[int] | np.ndarray, task: Task
) -> Float32Array | None:
    """How much each place in an image spoke for a class: [n,s,s,3] -> [n,s,s], 0 to 1.

    Each channel of the last feature map is weighted by the mean gradient with respect to it
    (eq. 1), and summed with these weights. It differs from the paper in two ways. The gradient is
    that of the class's log odds: a logit alone means nothing, since softmax ignores what is added
    to all of them. And the heat is what a place's sum exceeds the mean of its image's places by,
    not what it exceeds 0 by, which often none does. It is zero everywhere if all are alike. The
    network stays as it was: the backward pass goes through its head only, and no parameter gets a
    gradient.

    A network of tokens has a map if its tokens, without prefix tokens, form a square (a ViT); for
    any other the result is None, and for one whose last feature map is a single place.

    Args:
        classes: of each image, which class.
        task: whether the classes exclude each other.
    """
    heats = []
    for start in range(0, len(pixels), BATCH):
        chosen = torch.as_tensor(np.asarray(classes[start : start + BATCH]), dtype=torch.int64)
        batch = to_device(np.array(pixels[start : start + BATCH]), network.device)
        heat = _heat(network, batch, chosen.to(batch.device), task)
        if heat is None:
            return None
        heats.append(heat.cpu().numpy())
    return np.concatenate(heats) if heats else np.empty((0, *pixels.shape[1:3]), np.float32)


def overlay(pixels: UInt8Array, heat: Float32Array) -> UInt8Array:
    """The image in grey under its heat map: dark where nothing contributed, bright where most did.

    Args:
        pixels: [s,s,3].
        heat: [s,s], 0 to 1.
    """
    grey = pixels.mean(axis=2, keepdims=True)
    colours = 255 * matplotlib.colormaps[COLOURS](heat)[..., :3]
    share = 0.25 + 0.35 * heat[..., None]
    mixed = (1 - share) * grey * 0.75 + share * colours
    return np.asarray(mixed.clip(0, 255).astype(np.uint8))


def _heat(network: Network, pixels: Tensor, classes: Tensor, task: Task) -> Tensor | None:
    """[n,3,s,s] and [n] -> [n,s,s]."""
    with evaluating(network):
        features = network.body((pixels - network.mean) / network.std)
        with torch.inference_mode(False), torch.enable_grad():
            leaf = features.float().clone().requires_grad_()
            logits = network.head(concat_pool(leaf, network.channel_axis))
            (gradient,) = torch.autograd.grad(_log_odds(logits, classes, task).sum(), leaf)
        maps, slopes = (_places(network, value) for value in (leaf.detach(), gradient))
        if maps is None or slopes is None or maps.shape[2:].numel() == 1:
            return None
        weights = slopes.mean((2, 3), keepdim=True)
        sums = (weights * maps).sum(1, keepdim=True)
        heat = (sums - sums.mean((2, 3), keepdim=True)).relu()
        heat[heat < ALIKE * sums.abs().amax((2, 3), keepdim=True)] = 0
        sized = functional.interpolate(heat, pixels.shape[2:], mode="bilinear")[:, 0]
        return sized / sized.amax((1, 2), keepdim=True).clamp_min(torch.finfo(sized.dtype).tiny)


def _log_odds(logits: Tensor, classes: Tensor, task: Task) -> Tensor:
    """Of each image's class, log(p / (1 - p)): [n,classes] and [n] -> [n]."""
    own = logits.gather(1, classes[:, None])[:, 0]
    if task == "multi":
        return own
    return own - logits.scatter(1, classes[:, None], -math.inf).logsumexp(1)


def _places(network: Network, features: Tensor) -> Tensor | None:
    """Features in any layout -> [n,c,h,w], or None if they have no spatial positions."""
    channels_first = features.movedim(network.channel_axis, 1)
    if channels_first.dim() == 4:
        return channels_first
    if channels_first.dim() != 3:
        return None
    n_standing_apart = int(getattr(network.body, "num_prefix_tokens", 0))
    tokens = channels_first[:, :, n_standing_apart:]
    side = math.isqrt(tokens.shape[2])
    return tokens.reshape(*tokens.shape[:2], side, side) if side**2 == tokens.shape[2] else None
