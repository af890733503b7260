"""Stronger augmentation than in 2018, all from torchvision; off by default.

It pays off in long trainings, and may destroy small details that distinguish classes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from training.fit.device import send
from training.settings import Policy

POLICIES = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment}


@dataclass(frozen=True)
class Stronger:
    """The changes to a batch of views, in this order."""

    # TrivialAugment: a random operation per view (arXiv 2103.10158), or RandAugment: two of medium
    # strength (1909.13719)
    policy: Policy = "none"
    erasing: float = 0  # probability of filling a box of a view with noise (arXiv 1708.04896)
    # alpha of mixup (arXiv 1710.09412) and of CutMix (1905.04899); 0: off; with both, each batch
    # gets one of them
    mixup: float = 0
    cutmix: float = 0

    def apply(
        self, views: Tensor, targets: Tensor, numbers: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """[n,3,s,s] in 0…255 and [n,classes], changed; targets of mixed views are mixed as well.

        Args:
            numbers: seed of the batch; equal numbers give equal changes.
        """
        if self == PLAIN:
            return views, targets
        with drawing_by(numbers):
            if self.policy != "none":
                views = follow(views, self.policy)
            if self.erasing:
                views = erase(views, self.erasing)
            return mix(views, targets, self.mixup, self.cutmix)


PLAIN = Stronger()


@contextmanager
def drawing_by(numbers: Sequence[int]) -> Iterator[None]:
    """Within it, torch's global generator, which torchvision uses, is seeded with `numbers`;
    afterwards it is as before. Those of GPUs are not touched, so dropout is not affected."""
    seed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        yield


def follow(views: Tensor, policy: Policy) -> Tensor:
    """Applies the policy to each view with its own draw, in uint8."""
    change = POLICIES[policy](interpolation=v2.InterpolationMode.BILINEAR)
    changed = torch.empty_like(views)
    for place, view in enumerate(views.round().to(torch.uint8)):
        changed[place] = change(view)
    return changed


def erase(views: Tensor, share: float) -> Tensor:
    """Random erasing: fills a box of 2 to 33 % of the area with noise from 0 to 255, in that share
    of the views.

    The boxes are torchvision's; its noise is not, as that is for normalised pixels.
    """
    boxes, erased = v2.RandomErasing(p=1), views.clone()
    for view in erased:
        if torch.rand(()) < share:
            box = boxes.make_params([view])
            top, left, high, wide = (box[name] for name in "ijhw")
            noise = torch.rand(3, high, wide) * 255
            view[:, top : top + high, left : left + wide] = send(noise, view.device)
    return erased


def mix(views: Tensor, targets: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Mixes each view with its neighbour, and the targets in the same proportion."""
    ways = [
        mixed(alpha=float(alpha))
        for mixed, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        if alpha
    ]
    if not ways:
        return views, targets
    pixels, shares = ways[int(torch.randint(len(ways), ()))](views, targets)
    return pixels, shares
