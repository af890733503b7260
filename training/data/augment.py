"""Augmentation of training images, a batch at a time on the device.

The transforms of fastai 0.7: `basic` rotates and changes brightness and contrast, `side_on` also
flips left to right, `top_down` draws one of the eight symmetries of the square; all zoom and crop.
`flips` is ours: left-right and up-down, for images that are never turned by 90 degrees. The crop is
a window of the zoomed image, or with `googlenet` a random resized crop: a rectangle of any size,
stretched to the square.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from training.fit.device import send
from training.settings import Augmentation, TrainCrop

LIGHTING = 0.05  # largest change of brightness and of contrast
LIKELY = 0.75  # probability of rotating an image, and of zooming it
AREAS, ASPECTS = (0.08, 1.0), (3 / 4, 4 / 3)  # of googlenet's rectangles
TRIES = 10  # to draw a rectangle that fits into the image


def augment(
    pixels: Tensor,
    size: int,
    kind: Augmentation,
    *,
    max_zoom: float,
    max_rotate: float,
    crop: TrainCrop = "window",
    generator: torch.Generator,
) -> Tensor:
    """A random view of each image: float [n,3,S,S] in 0…255 -> [n,3,size,size].

    Args:
        max_zoom: of squares; rectangles have their own range.
        max_rotate: degrees, either way.
        generator: on the CPU; the same state gives the same views.
    """
    n, changed = len(pixels), kind != "none"
    turn = math.radians(max_rotate) * changed
    angle = _uniform((n,), -turn, turn, generator) * _chosen(n, LIKELY, generator)
    if crop == "googlenet":
        zoom = _rectangles(n, generator)
    else:
        zoom = _squares(n, max_zoom if changed else 1, generator)
    shift = (2 * torch.rand(n, 2, generator=generator) - 1) * (1 - 1 / zoom)
    symmetry = _symmetries(n, kind, generator)
    views = _sample(pixels, _affine(angle, zoom, shift, symmetry), size)
    return _relight(views, generator) if changed else views


def _squares(n: int, max_zoom: float, generator: torch.Generator) -> Tensor:
    """[n,2]: the zoom of each image's width and height, both the same."""
    zoom = 1 + _uniform((n,), 0, max_zoom - 1, generator) * _chosen(n, LIKELY, generator)
    return zoom[:, None].expand(n, 2)


def _rectangles(n: int, generator: torch.Generator) -> Tensor:
    """[n,2]: the same, so that a rectangle fills the view: the first drawn that fits into the
    image, or else the whole image.

    Szegedy et al. 2015 (arXiv 1409.4842, section 6), drawn as the 2018 library's GoogleNetResize.
    """
    area, aspect = (_uniform((n, TRIES), *bounds, generator) for bounds in (AREAS, ASPECTS))
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 2)
    upright = _chosen(n, 0.5, generator).bool()
    sides = torch.where(upright[:, None, None], sides.flip(2), sides)
    fits = (sides <= 1).all(2)
    first = sides[torch.arange(n), fits.int().argmax(1)]
    return torch.where(fits.any(1, keepdim=True), 1 / first, 1.0)


def _affine(angle: Tensor, zoom: Tensor, shift: Tensor, symmetry: Tensor) -> Tensor:
    """[n,2,3]: maps a position in the view to that in the image, both in -1…1."""
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    linear = (turn / zoom[:, None, :]) @ symmetry
    return torch.cat([linear, shift[:, :, None]], 2)


def _sample(pixels: Tensor, theta: Tensor, size: int) -> Tensor:
    n, channels = pixels.shape[:2]
    # anti-aliasing: average several image pixels for one of the view
    finer = max(1, round(pixels.shape[2] / size))
    side = finer * size
    # send six numbers per image to the device rather than two per pixel
    grid = functional.affine_grid(
        send(theta, pixels.device), [n, channels, side, side], align_corners=False
    )
    views = functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    views = functional.avg_pool2d(views, finer) if finer > 1 else views
    return views.contiguous(memory_format=torch.channels_last)


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
    brightness = _uniform((n,), -LIGHTING, LIGHTING, generator) * 255
    contrast = 1 + _uniform((n,), -LIGHTING, LIGHTING, generator)
    shape = (n, 1, 1, 1)
    brightness, contrast = (
        send(value.view(shape), views.device) for value in (brightness, contrast)
    )
    # in place: eight times as fast on a CPU as with a copy for each step
    return views.sub_(127.5).mul_(contrast).add_(127.5).add_(brightness).clamp_(0, 255)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + torch.rand(shape, generator=generator) * (high - low)


def _chosen(n: int, share: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(n, generator=generator) < share).float()
