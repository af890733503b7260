"""One epoch of training: each layer group at its own rate, by a plan."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from registry.errors import TrainingError
from training.fit.batches import Batches
from training.fit.gradients import Forward, Loss, add_gradients
from training.fit.optimizer import Optimizer
from training.fit.out_of_memory import BatchSplitter
from training.fit.plan import Plan
from training.fit.sam import Sam, sharpen


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
    stepped: Callable[[Step], None] = lambda step: None,
    splitter: BatchSplitter | None = None,
) -> None:
    """Trains for the rest of the epoch that `tally` is in, and counts its steps there.

    The caller sets the layers' modes.

    Args:
        stepped: called after every step, once `tally` has counted it.
        splitter: splits batches where memory is short; None: never.

    Raises:
        Diverged: the loss is not finite; says when, and at what learning rate.
    """
    began = time.perf_counter()
    for inputs, targets in islice(stage.batches.epoch(tally.epoch), tally.n_batches, None):
        place = tally.epoch * len(stage.batches) + tally.n_batches
        rates = [rate * stage.plan.shares[place] for rate in stage.rates]
        optimizer.clear()
        loss = add_gradients(stage.forward, stage.loss_of, inputs, targets, splitter)
        if not math.isfinite(loss):
            raise Diverged(
                f"{stage.name}: the loss became {loss} in batch {place + 1} at a learning "
                f"rate of {max(rates):.1e}"
            )
        if stage.sam and place % stage.sam.every == 0:
            batch = (inputs, targets)
            sharpen(stage.sam, optimizer.parameters, stage.forward, stage.loss_of, *batch, splitter)
        optimizer.step(rates, momentum=stage.plan.momentum(place), decay=stage.plan.decay(place))
        now = time.perf_counter()
        step = Step(place, loss, rates, len(targets), now - began)
        began = now
        tally.add(step.loss, step.n_images, step.seconds)
        stepped(step)
