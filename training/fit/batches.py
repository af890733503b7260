"""Where an epoch's batches come from: cached activations, or augmented images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from training.data.augment import augment
from training.data.dataset import Rows
from training.data.decoded import Decoded
from training.data.prefetch import read_each
from training.data.strong_augmentation import PLAIN, Stronger
from training.fit.activations import Activations, to_device
from training.fit.balance import Float64Array
from training.fit.device import send
from training.settings import Augmentation, TrainCrop

CPU = torch.device("cpu")


class Batches(Protocol):
    """Shuffled (inputs, targets) of one epoch after another, on the device that learns; the same
    epoch number, the same batches."""

    @property
    def n_images(self) -> int: ...

    def __len__(self) -> int: ...

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class ActivationBatches:
    """Features [b,d] and targets [b,classes]."""

    activations: Activations
    targets: Tensor
    batch_size: int
    seed: int
    shares: Float64Array | None = None  # how likely each image is drawn; None: each once an epoch
    device: torch.device = CPU

    @property
    def n_images(self) -> int:
        return len(self.targets)

    def __len__(self) -> int:
        return _n_batches(self.n_images, self.batch_size)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        for places in _drawn(self.n_images, self.batch_size, self.seed, number, self.shares):
            index = torch.from_numpy(places)
            # twice as fast as indexing with brackets
            yield (
                send(self.activations.features.index_select(0, index), self.device),
                send(self.targets.index_select(0, index), self.device),
            )


@dataclass(frozen=True)
class ImageBatches:
    """Augmented pixels [b,3,s,s] in 0…255 and targets [b,classes]."""

    decoded: Decoded  # as large as `size` or larger, so that a zoomed view is still sharp
    rows: Rows
    targets: Tensor
    size: int
    augmentation: Augmentation
    max_zoom: float
    max_rotate: float  # degrees
    batch_size: int
    seed: int
    device: torch.device
    shares: Float64Array | None = None  # as above
    first_epoch: int = 0  # after those of earlier stages, whose draws are not repeated
    crop: TrainCrop = "window"
    stronger: Stronger = PLAIN

    @property
    def n_images(self) -> int:
        return len(self.rows)

    def __len__(self) -> int:
        return _n_batches(self.n_images, self.batch_size)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        number += self.first_epoch
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        drawn = _drawn(self.n_images, self.batch_size, self.seed, number, self.shares)
        read = read_each(self.decoded, [self.rows[places] for places in drawn], self.device)
        for index, (places, pixels) in enumerate(zip(drawn, read, strict=True)):
            views = augment(
                to_device(pixels, self.device),
                self.size,
                self.augmentation,
                max_zoom=self.max_zoom,
                max_rotate=self.max_rotate,
                crop=self.crop,
                generator=generator,
            )
            targets = send(self.targets[places], self.device)
            yield self.stronger.apply(views, targets, (self.seed, number, index))


def _drawn(
    n: int, batch_size: int, seed: int, epoch: int, shares: Float64Array | None
) -> list[Rows]:
    """`n` places in random order: each once, or drawn with `shares` as probabilities."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(n) if shares is None else random.choice(n, n, p=shares)
    return _cut(order, batch_size)


def _cut(order: Rows, batch_size: int) -> list[Rows]:
    """Batches in order; a last one of a single image joins its neighbour, because batch
    normalisation needs two."""
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def _n_batches(n: int, batch_size: int) -> int:
    """How many `_cut` gives."""
    full, rest = divmod(n, batch_size)
    return full + (rest > 1 or (rest == 1 and not full))
