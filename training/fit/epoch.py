"""One epoch of training: each layer group at its own rate, by a plan."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from registry.errors import TrainingError
from training.fit.batches import Batches
from training.fit.gradients import Forward, Loss, add_gradients
from training.fit.optimizer import Optimizer
from training.fit.out_of_memory import BatchSplitter
from training.fit.plan import Plan
from training.fit.sam import Sam, sharpen

READ_EVERY = 8  # steps on a GPU, which has nothing to do while a loss is read


class Diverged(TrainingError):
    """The loss or the outputs are not finite."""


@dataclass(frozen=True)
class Stage:
    """A training stage of the recipe: model, data, learning rates and schedule."""

    name: str
    forward: Forward
    loss_of: Loss
    batches: Batches
    rates: Sequence[float]  # base learning rate of each layer group
    plan: Plan  # one value per batch for all groups, so that their ratio is constant
    sam: Sam | None = None  # for sharpness-aware gradients instead of plain ones
    advice: str = "set a lower learning_rate"  # to whoever sees it diverge: where its rate is from


@dataclass(frozen=True)
class Epoch:
    """One row of a training's table."""

    stage: str
    train_loss: float  # running mean over the epoch's images
    valid_loss: float
    metric_value: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Step:
    """A completed optimisation step."""

    number: int  # in its stage, counted from 0
    loss: float
    rates: Sequence[float]  # of each layer group
    n_images: int
    seconds: float


class Begun(NamedTuple):
    """A step whose loss has not been read yet."""

    place: int
    rates: Sequence[float]
    n_images: int
    loss: Tensor


@dataclass
class Tally:
    """The position in a stage, between two steps, and the running totals of its epoch."""

    epoch: int = 0  # counted from 0
    n_batches: int = 0  # of this epoch, already done
    n_images: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0

    def add(self, loss: float, n_images: int, seconds: float) -> None:
        self.n_batches += 1
        self.n_images += n_images
        self.loss_sum += loss * n_images
        self.seconds += seconds

    def row(self, stage: str, valid_loss: float, metric_value: float) -> Epoch:
        """The epoch, once it is over."""
        n, seconds = self.n_images, self.seconds
        return Epoch(stage, self.loss_sum / n, valid_loss, metric_value, seconds, n / seconds)


def train_epoch(
    stage: Stage,
    optimizer: Optimizer,
    tally: Tally,
    *,
    stepped: Callable[[], None] = lambda: None,
    counted: Callable[[Sequence[Step]], None] = lambda steps: None,
    splitter: BatchSplitter | None = None,
) -> None:
    """Trains for the rest of the epoch that `tally` is in, and counts its steps there.

    The caller sets the layers' modes.

    Args:
        stepped: called after every step of the optimizer.
        counted: called with the steps that `tally` has counted since its last call, when it has
            counted all that were made: after every step on a CPU, and on a GPU whenever losses are
            read.
        splitter: splits batches where memory is short; None: never.

    Raises:
        Diverged: the loss is not finite; says when, and at what learning rate. On a GPU, steps may
            have been made with it: the weights are those of a training that has diverged.
    """
    began = time.perf_counter()
    begun: list[Begun] = []
    first, end = (number * len(stage.batches) for number in (tally.epoch, tally.epoch + 1))
    first += tally.n_batches
    batches = islice(stage.batches.epoch(tally.epoch), tally.n_batches, None)
    for place, (inputs, targets) in enumerate(batches, first):
        rates = [rate * stage.plan.shares[place] for rate in stage.rates]
        optimizer.clear()
        loss = add_gradients(stage.forward, stage.loss_of, inputs, targets, splitter)
        begun.append(Begun(place, rates, len(targets), loss))
        due = inputs.device.type == "cpu" or len(begun) == READ_EVERY or place + 1 == end
        losses = _read(stage.name, begun) if due else []
        if stage.sam and place % stage.sam.every == 0:
            batch = (inputs, targets)
            sharpen(stage.sam, optimizer.parameters, stage.forward, stage.loss_of, *batch, splitter)
        optimizer.step(rates, momentum=stage.plan.momentum(place), decay=stage.plan.decay(place))
        stepped()
        if due:
            now = time.perf_counter()
            seconds = (now - began) / len(begun)
            steps = [
                Step(one.place, loss, one.rates, one.n_images, seconds)
                for one, loss in zip(begun, losses, strict=True)
            ]
            for step in steps:
                tally.add(step.loss, step.n_images, step.seconds)
            counted(steps)
            begun, began = [], now


def _read(stage: str, begun: Sequence[Begun]) -> list[float]:
    """Their losses, once a GPU has computed them.

    Raises:
        Diverged: one is not finite.
    """
    losses: list[float] = torch.stack([one.loss for one in begun]).tolist()
    for one, loss in zip(begun, losses, strict=True):
        if not math.isfinite(loss):
            raise Diverged(
                f"{stage}: the loss became {loss} in batch {one.place + 1} at a learning "
                f"rate of {max(one.rates):.1e}"
            )
    return losses
