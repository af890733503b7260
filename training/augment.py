"""Random changes of training images, drawn and applied a batch at a time on the device.

The transforms of the 2018 library: `basic` rotates and relights, `side_on` also flips left to
right, `top_down` draws one of the eight symmetries of the square; all zoom and crop. `flips` is
ours: left-right and up-down, for pictures that are never turned by 90 degrees.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from training.settings import Augmentation

LIGHTING = 0.05  # largest change of brightness and of contrast
LIKELY = 0.75  # how often an image is rotated, and how often zoomed


def augment(
    pixels: Tensor,
    size: int,
    kind: Augmentation,
    *,
    max_zoom: float,
    max_rotate: float,
    generator: torch.Generator,
) -> Tensor:
    """A random view of each image: float [n,3,S,S] in 0…255 -> [n,3,size,size].

    Args:
        max_rotate: degrees, either way.
        generator: on the CPU; the same state gives the same views.
    """
    n = len(pixels)
    if kind == "none":
        theta = _affine(n, torch.zeros(n), torch.ones(n), torch.zeros(n, 2), torch.eye(2)[None])
        return _sample(pixels, theta, size)
    turn = math.radians(max_rotate)
    angle = _uniform(n, -turn, turn, generator) * _chosen(n, LIKELY, generator)
    zoom = 1 + _uniform(n, 0, max_zoom - 1, generator) * _chosen(n, LIKELY, generator)
    shift = (2 * torch.rand(n, 2, generator=generator) - 1) * (1 - 1 / zoom)[:, None]
    symmetry = _symmetries(n, kind, generator)
    views = _sample(pixels, _affine(n, angle, zoom, shift, symmetry), size)
    return _relight(views, generator)


def _affine(n: int, angle: Tensor, zoom: Tensor, shift: Tensor, symmetry: Tensor) -> Tensor:
    """[n,2,3]: from a place in the view to its place in the image, both in -1…1."""
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    linear = (turn @ symmetry.expand(n, 2, 2)) / zoom[:, None, None]
    return torch.cat([linear, shift[:, :, None]], 2)


def _sample(pixels: Tensor, theta: Tensor, size: int) -> Tensor:
    n, channels = pixels.shape[:2]
    grid = functional.affine_grid(theta, [n, channels, size, size], align_corners=False)
    return functional.grid_sample(
        pixels, grid.to(pixels.device), padding_mode="reflection", align_corners=False
    ).contiguous(memory_format=torch.channels_last)


def _symmetries(n: int, kind: Augmentation, generator: torch.Generator) -> Tensor:
    """[n,2,2]: the identity and, as `kind` allows, mirror images and quarter turns."""
    matrices = torch.eye(2).repeat(n, 1, 1)
    if kind in ("side_on", "flips", "top_down"):
        matrices[:, 0, 0] = 1 - 2 * _chosen(n, 0.5, generator)
    if kind == "flips":
        matrices[:, 1, 1] = 1 - 2 * _chosen(n, 0.5, generator)
    if kind == "top_down":
        turns = torch.randint(4, (n,), generator=generator) * (math.pi / 2)
        cosine, sine = turns.cos().round(), turns.sin().round()
        quarter = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
        matrices = quarter @ matrices
    return matrices


def _relight(views: Tensor, generator: torch.Generator) -> Tensor:
    n = len(views)
    brightness = _uniform(n, -LIGHTING, LIGHTING, generator) * 255
    contrast = 1 + _uniform(n, -LIGHTING, LIGHTING, generator)
    shape = (n, 1, 1, 1)
    brightness, contrast = (value.view(shape).to(views.device) for value in (brightness, contrast))
    return ((views - 127.5) * contrast + 127.5 + brightness).clamp(0, 255)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + torch.rand(n, generator=generator) * (high - low)


def _chosen(n: int, share: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(n, generator=generator) < share).float()
