"""Stronger changes of training images than those of 2018, all of torchvision; off unless asked for.

They pay in long trainings, and may destroy what tells classes apart where that is small.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from training.settings import Policy

POLICIES = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment}


@dataclass(frozen=True)
class Stronger:
    """What is done to a batch of views, in this order."""

    # a random operation on each view (arXiv 2103.10158), or two of middle strength (1909.13719)
    policy: Policy = "none"
    erasing: float = 0  # how often a box of a view is filled with noise (arXiv 1708.04896)
    # two views as one, weighed by Beta(alpha, alpha) (arXiv 1710.09412), or a box of one in the
    # other (1905.04899); 0: never; of both, one for each batch
    mixup: float = 0
    cutmix: float = 0

    def apply(
        self, views: Tensor, targets: Tensor, numbers: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """[n,3,s,s] in 0…255 and [n,classes], changed; targets of mixed views are mixed as well.

        Args:
            numbers: name the batch; the same ones, the same changes.
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
    """Within it, torch's own generator, by which torchvision draws, has `numbers` for a seed;
    afterwards it is as it was. Those of GPUs are never touched: dropout goes on where it was."""
    seed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        yield


def follow(views: Tensor, policy: Policy) -> Tensor:
    """Each view changed by a draw of its own from the policy's operations, in whole numbers."""
    change = POLICIES[policy](interpolation=v2.InterpolationMode.BILINEAR)
    changed = torch.empty_like(views)
    for place, view in enumerate(views.round().to(torch.uint8)):
        changed[place] = change(view)
    return changed


def erase(views: Tensor, share: float) -> Tensor:
    """In that share of the views, a box of 2 to 33 % of the area has noise from 0 to 255.

    torchvision draws the boxes; its noise is for normalised pixels, and ours are not.
    """
    boxes, erased = v2.RandomErasing(p=1), views.clone()
    for view in erased:
        if torch.rand(()) < share:
            box = boxes.make_params([view])
            top, left, high, wide = (box[name] for name in "ijhw")
            noise = torch.rand(3, high, wide) * 255
            view[:, top : top + high, left : left + wide] = noise
    return erased


def mix(views: Tensor, targets: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Each view mixed with its neighbour's, and its targets in the same parts."""
    ways = [
        mixed(alpha=float(alpha))
        for mixed, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        if alpha
    ]
    if not ways:
        return views, targets
    pixels, shares = ways[int(torch.randint(len(ways), ()))](views, targets)
    return pixels, shares
