"""Probabilities that can be believed: temperature scaling, and how far from the truth they are.

Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599).
"""

from dataclasses import dataclass
from math import exp, log

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from registry.bundle import Task
from registry.images import Float32Array
from training.fit.loss import loss_function
from training.network.classifier import Network

BINS = 15
COLDEST, HOTTEST = 0.1, 10.0
# How far a temperature is from 1 before anything has been seen, as a standard deviation of its
# logarithm. It weighs as much as a dozen images: where all of a few are answered rightly, the
# likelihood alone would have every answer certain.
PRIOR = log(2)
# By how much likelier the images have to be with it (chi-squared of one degree, 5 %, halved): by
# 200 that are answered as surely as they are right, it would be anything from 0.8 to 1.2, which
# does harm.
CLEARLY = 1.92

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Answers of a similar confidence, from above `low` up to `high`."""

    low: float
    high: float
    n: int  # at least one
    confidence: float  # mean
    accuracy: float  # share that is right


@dataclass(frozen=True)
class Reliability:
    """How far answers can be believed; the errors are means over the answers, 0…1."""

    log_loss: float
    error: float  # expected calibration error, bins of equal width
    adaptive_error: float  # the same, bins of equally many answers
    bins: tuple[Bin, ...]  # of equal width


def fit_temperature(logits: Tensor, targets: Tensor, task: Task) -> float:
    """The temperature that makes `targets` likeliest, logits and targets [n,classes]; 1 is none.

    All labels of a multi-label task share it. The images have to be such as the network has not
    learnt from. With few of them it stays near 1, see `PRIOR`; where they do not clearly speak
    against 1, it is 1.
    """
    wide, truth, loss = logits.double(), targets.double(), loss_function(task)
    n_answers = truth.numel() if task == "multi" else len(truth)  # the loss is the mean over them

    def unlikely(log_temperature: float) -> float:
        return n_answers * float(loss(wide / exp(log_temperature), truth))

    def cost(log_temperature: float) -> float:
        return unlikely(log_temperature) + (log_temperature / PRIOR) ** 2 / 2

    found = float(minimize_scalar(cost, bounds=(log(COLDEST), log(HOTTEST)), method="bounded").x)
    return exp(found) if unlikely(0) - unlikely(found) > CLEARLY else 1.0


def cool(network: Network, temperature: float) -> None:
    """The network's logits are divided by `temperature`, whatever is done with them next.

    Its last layer is, weight and bias: so the temperature is in the saved weights and in the
    exported graph without an operation of its own, and no class overtakes another.
    """
    last = network.head[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        for values in (last.weight, last.bias):
            values.div_(temperature)


def at_temperature(probabilities: Float32Array, temperature: float, task: Task) -> Float32Array:
    """What [n,classes] would be if their logits were divided by `temperature` once more."""
    wide = probabilities.astype(np.float64).clip(1e-12, 1 - 1e-12)
    powers = wide ** (1 / temperature)
    others = (1 - wide) ** (1 / temperature)
    total = powers + others if task == "multi" else powers.sum(axis=1, keepdims=True)
    return np.asarray(powers / total, np.float32)


def measure_reliability(
    probabilities: Float32Array, targets: Float32Array, task: Task
) -> Reliability:
    """Of answers [n,classes] to images that the network has not learnt from. Bins that nothing is
    in are left out.

    An answer is the likeliest label; in a multi-label task each label is one, and its confidence
    is the probability that it is there.
    """
    confidence, right = _answers(probabilities, targets, task)
    bins = _binned(confidence, right, np.linspace(0, 1, BINS + 1))
    masses = np.quantile(confidence, np.linspace(0, 1, BINS + 1))
    logits = torch.from_numpy(probabilities.astype(np.float64).clip(1e-12, 1 - 1e-12))
    logits = logits.logit() if task == "multi" else logits.log()
    loss = loss_function(task)(logits, torch.from_numpy(targets.astype(np.float64)))
    adaptive = _binned(confidence, right, np.unique(masses))
    return Reliability(float(loss), _error(bins), _error(adaptive), bins)


def _answers(
    probabilities: Float32Array, targets: Float32Array, task: Task
) -> tuple[Float64Array, Float64Array]:
    """[answers]: how sure each is, and 1 where it is right."""
    if task == "multi":
        return probabilities.ravel().astype(np.float64), (targets > 0).ravel().astype(np.float64)
    hits = probabilities.argmax(axis=1) == targets.argmax(axis=1)
    return probabilities.max(axis=1).astype(np.float64), hits.astype(np.float64)


def _binned(confidence: Float64Array, right: Float64Array, edges: Float64Array) -> tuple[Bin, ...]:
    # above the lower edge, up to the upper one; the lowest edge belongs to the first bin
    places = (np.searchsorted(edges, confidence, side="left") - 1).clip(0)
    bins = []
    for place in np.unique(places):
        inside = places == place
        low, high = edges[place], edges[min(place + 1, len(edges) - 1)]
        mean, share = confidence[inside].mean(), right[inside].mean()
        bins.append(Bin(float(low), float(high), int(inside.sum()), float(mean), float(share)))
    return tuple(bins)


def _error(bins: tuple[Bin, ...]) -> float:
    """Mean distance of confidence and accuracy, bins weighted by their answers (eq. 3)."""
    n = sum(each.n for each in bins)
    return sum(each.n * abs(each.accuracy - each.confidence) for each in bins) / n
