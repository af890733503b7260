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
from training.fit.out_of_memory import BatchSplitter
from training.settings import OptimizerSpec

LOWEST, HIGHEST = 1e-5, 10.0
ARMED_AFTER = 10  # steps before the smoothed loss is reliable enough to stop at
DIVERGED = 4.0  # times the best smoothed loss
FELL = 0.9  # of the loss in the first steps: a lowest loss below this has clearly fallen
NEAR = 1.1  # times the lowest smoothed loss
# AdamW moves every weight by about the learning rate, however flat the loss is (Kingma & Ba 2015,
# section 2.1). The few steps of a sweep may tolerate a rate that the many steps of a training do
# not, and an easy data set tolerates any.
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
    splitter: BatchSplitter | None = None,
) -> RateSearch:
    """Trains with an exponentially rising learning rate until the loss diverges, then restores
    weights, buffers, gradients and random-number generators exactly.

    Args:
        groups, group_rates: parameters, and their rates as shares of the rate searched for.
    """
    raised = _rates(max_steps)
    used: list[float] = []
    losses: list[float] = []
    smooth = _Smooth(0.98 ** (100 / max_steps))  # over the same share of any sweep
    with untouched(model):
        optimizer = Optimizer(groups, spec)
        for rate, (inputs, targets) in zip(raised, _endless(batches), strict=False):
            optimizer.clear()
            loss = add_gradients(forward, loss_of, inputs, targets, splitter)
            value = smooth(loss.item())
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
    """A tenth of the rate with the lowest loss: there the loss still falls, and divergence is more
    than an order of magnitude away. Returned with the reason in words.

    Where the loss has not clearly fallen, as is usual after unfreezing, the place of its minimum is
    chance, and all that the search shows is where it begins to rise: there a hundredth of the
    highest rate at which it is still near its lowest, so that little can be spoiled.

    Args:
        most: upper limit of the suggestion.
    """
    if len(losses) <= ARMED_AFTER:
        return rates[0] if rates else LOWEST, "the loss diverged at once; the lowest rate tried"
    lowest, began = min(losses[ARMED_AFTER:]), min(losses[:ARMED_AFTER])
    best = rates[losses.index(lowest, ARMED_AFTER)]
    suggestion, reason = best / 10, f"a tenth of {best:.1e}, where the loss is lowest, {lowest:.3f}"
    if lowest > FELL * began:
        edge = max(rate for rate, loss in zip(rates, losses, strict=True) if loss <= NEAR * lowest)
        fell = (
            f"the loss does not clearly fall ({began:.3f} in the first steps, {lowest:.3f} at best)"
        )
        if edge / 100 < suggestion:
            suggestion = edge / 100
            reason = f"a hundredth of {edge:.1e}, up to where it stays near that"
        reason = f"{fell}, so only {reason}"
    if suggestion > most:
        return most, f"{reason}; but at most {most:.0e}, so that weights change slowly"
    return suggestion, reason


def _rates(steps: int) -> list[float]:
    growth = (HIGHEST / LOWEST) ** (1 / (steps - 1))
    return [LOWEST * growth**step for step in range(steps)]


class _Smooth:
    """Exponential moving average with bias correction."""

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
    """Afterwards weights, buffers, gradients and random-number generators are exactly as before."""
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
