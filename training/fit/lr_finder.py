"""The learning-rate range test (Smith 2015, arXiv 1506.01186), as the 2018 library runs it."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from training.fit.batches import Batches
from training.fit.gradients import Forward, Loss, add_gradients
from training.fit.optimizer import Optimizer
from training.fit.out_of_memory import Room
from training.settings import OptimizerSpec

LOWEST, HIGHEST = 1e-5, 10.0
ARMED_AFTER = 10  # steps before the loss is believed enough to stop at
DIVERGED = 4.0  # times the best smoothed loss
NEAR = 1.1  # times the lowest smoothed loss
# AdamW moves every weight by about its rate, however flat the loss is (Kingma & Ba 2015, section
# 2.1). A sweep of few steps may bear what the many steps of a training do not, and an easy data set
# bears anything.
MOST = {"sgd": math.inf, "adamw": 3e-3}


@dataclass(frozen=True)
class RateSearch:
    """Smoothed loss at each rate tried, the rate suggested, and why."""

    rates: list[float] = field(repr=False)
    losses: list[float] = field(repr=False)
    suggestion: float
    reason: str


def find_rate(
    model: nn.Module,
    forward: Forward,
    groups: Sequence[list[nn.Parameter]],
    group_rates: Sequence[float],
    batches: Batches,
    loss_of: Loss,
    *,
    spec: OptimizerSpec,
    max_steps: int = 100,
    room: Room | None = None,
) -> RateSearch:
    """Trains with a rate that rises exponentially until the loss diverges, then puts everything
    back: weights, buffers, gradients and random numbers are bit for bit as before.

    Args:
        groups, group_rates: parameters, and their rates as shares of the rate searched for.
    """
    raised = _rates(max_steps)
    used: list[float] = []
    losses: list[float] = []
    smooth = _Smooth(0.98 ** (100 / max_steps))  # the same share of the sweep, however long it is
    with untouched(model):
        optimizer = Optimizer(groups, spec)
        for rate, (inputs, targets) in zip(raised, _endless(batches), strict=False):
            optimizer.clear()
            value = smooth(add_gradients(forward, loss_of, inputs, targets, room))
            if not math.isfinite(value):
                break
            used.append(rate)
            losses.append(value)
            if len(losses) > ARMED_AFTER and value > DIVERGED * min(losses[ARMED_AFTER:]):
                break
            optimizer.step([rate * share for share in group_rates])
    suggestion, reason = suggest(used, losses, most=MOST[spec.kind])
    return RateSearch(used, losses, suggestion, reason)


def suggest(
    rates: Sequence[float], losses: Sequence[float], most: float = math.inf
) -> tuple[float, str]:
    """A tenth of the highest rate up to which the loss stays near its lowest: there it still falls,
    and divergence is an order of magnitude away. With it, the reason in words.

    The lowest point itself would mislead after unfreezing, where the loss is flat for long and its
    lowest point is chance.

    Args:
        most: is suggested at most.
    """
    if len(losses) <= ARMED_AFTER:
        return rates[0] if rates else LOWEST, "the loss diverged at once; the lowest rate tried"
    lowest = min(losses[ARMED_AFTER:])
    edge = max(place for place, loss in enumerate(losses) if loss <= NEAR * lowest)
    reason = f"a tenth of {rates[edge]:.1e}, up to where the loss stays near {lowest:.3f}"
    if rates[edge] / 10 > most:
        return most, f"{reason}; but at most {most:.0e}, so that weights move little by little"
    return rates[edge] / 10, reason


def _rates(steps: int) -> list[float]:
    growth = (HIGHEST / LOWEST) ** (1 / (steps - 1))
    return [LOWEST * growth**step for step in range(steps)]


class _Smooth:
    """Exponential mean, corrected for its start at zero."""

    def __init__(self, beta: float) -> None:
        self._beta, self._mean, self._n = beta, 0.0, 0

    def __call__(self, value: float) -> float:
        self._n += 1
        self._mean = self._beta * self._mean + (1 - self._beta) * value
        return float(self._mean / (1 - self._beta**self._n))


def _endless(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    number = 0
    while True:
        yield from batches.epoch(number)
        number += 1


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Afterwards weights, buffers, gradients and random numbers are bit for bit as before."""
    state = deepcopy(model.state_dict())
    gradients = [parameter.grad for parameter in model.parameters()]
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            model.load_state_dict(state)
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient
