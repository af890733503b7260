"""Fits some layer groups, with a rate for each group and a schedule."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from registry.errors import TrainingError
from training.batches import Batches
from training.optimizer import Optimizer
from training.schedule import Shares
from training.settings import OptimizerSpec


@dataclass(frozen=True)
class Epoch:
    """One row of a training's table."""

    stage: str
    train_loss: float  # mean over the epoch's images, as they were met
    valid_loss: float
    metric_value: float
    seconds: float
    images_per_second: float


def fit(
    stage: str,
    forward: Callable[[Tensor], Tensor],
    groups: Sequence[list[nn.Parameter]],
    rates: Sequence[float],
    shares: Shares,
    batches: Batches,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    *,
    spec: OptimizerSpec,
    momenta: Shares | None = None,
    decays: Shares | None = None,
    before_epoch: Callable[[], None],
    validate: Callable[[], tuple[float, float]],
    advance: Callable[[int], None] = lambda n: None,
    epoch_done: Callable[[int, Epoch], None] = lambda number, epoch: None,
    goes_on: Callable[[int], bool] = lambda number: True,
) -> list[Epoch]:
    """The groups are trained for as many epochs as `shares` has batches for.

    Args:
        forward: inputs of a batch -> logits [b,classes].
        groups, rates: parameters, and the base learning rate of each group.
        shares: of the base rates, one a batch; so the groups' ratio holds at each step.
        momenta, decays: of each batch, where they are not the optimizer's; see `Optimizer.step`.
        before_epoch: puts the layers into the mode in which they train.
        validate: gives the loss and the metric on held-out images.
        goes_on: asked after each epoch, of which it is told the number, counted from 1.

    Raises:
        TrainingError: the loss is no longer a number; says when, and at what rate.
    """
    optimizer = Optimizer(groups, spec)
    history: list[Epoch] = []
    for number in range(len(shares) // len(batches)):
        before_epoch()
        began, total, seen = time.perf_counter(), 0.0, 0
        for step, (inputs, targets) in enumerate(
            batches.epoch(number), start=number * len(batches)
        ):
            loss = loss_of(forward(inputs), targets)
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingError(
                    f"{stage}: the loss became {value} in batch {step + 1} at a learning "
                    f"rate of {max(rates) * shares[step]:.1e}; set a lower learning_rate"
                )
            optimizer.step(
                loss,
                [rate * shares[step] for rate in rates],
                momentum=None if momenta is None else float(momenta[step]),
                decay=None if decays is None else float(decays[step]),
            )
            total, seen = total + value * len(targets), seen + len(targets)
            advance(len(targets))
        seconds = time.perf_counter() - began
        valid_loss, metric_value = validate()
        epoch = Epoch(stage, total / seen, valid_loss, metric_value, seconds, seen / seconds)
        history.append(epoch)
        epoch_done(number + 1, epoch)
        if not goes_on(number + 1):
            break
    return history
