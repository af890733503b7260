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
# Standard deviation of a prior on the logarithm of the temperature. It weighs as much as a dozen
# images: if all of a few are classified correctly, likelihood alone would make every prediction
# certain.
PRIOR = log(2)
# Least gain in log-likelihood for a temperature other than 1 (chi-squared with one degree of
# freedom, 5 %, halved): fitted on 200 images that are calibrated already, it would be anything from
# 0.8 to 1.2, which does harm.
CLEARLY = 1.92

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Predictions of similar confidence, from above `low` up to `high`."""

    low: float
    high: float
    n: int  # at least one
    confidence: float  # mean
    accuracy: float  # share that is correct


@dataclass(frozen=True)
class Reliability:
    """How well calibrated predictions are; the errors are means over the predictions, 0…1."""

    log_loss: float
    error: float  # expected calibration error, bins of equal width
    adaptive_error: float  # the same, bins of equally many answers
    bins: tuple[Bin, ...]  # of equal width


def fit_temperature(logits: Tensor, targets: Tensor, task: Task) -> float:
    """The maximum-likelihood temperature, for logits and targets [n,classes]; 1 changes nothing.

    All labels of a multi-label task share it. The network must not have been trained on the images.
    With few of them it stays near 1, see `PRIOR`; without clear evidence against 1, it is 1.
    """
    wide, truth, loss = logits.double(), targets.double(), loss_function(task)
    n_answers = truth.numel() if task == "multi" else len(truth)  # the loss is the mean over them

    def unlikely(log_temperature: float) -> float:
        return n_answers * float(loss(wide / exp(log_temperature), truth))

    def cost(log_temperature: float) -> float:
        return unlikely(log_temperature) + (log_temperature / PRIOR) ** 2 / 2

    found = float(minimize_scalar(cost, bounds=(log(COLDEST), log(HOTTEST)), method="bounded").x)
    return exp(found) if unlikely(0) - unlikely(found) > CLEARLY else 1.0


def divide_logits(network: Network, temperature: float) -> None:
    """Divides the network's logits by `temperature`.

    This is done to the weight and bias of its last layer: so the temperature is part of the saved
    weights and the exported graph, without an operation of its own. The classes' order is kept.
    """
    last = network.head[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        for values in (last.weight, last.bias):
            values.div_(temperature)


def at_temperature(probabilities: Float32Array, temperature: float, task: Task) -> Float32Array:
    """The probabilities [n,classes] if their logits were divided by `temperature` once more."""
    wide = probabilities.astype(np.float64).clip(1e-12, 1 - 1e-12)
    powers = wide ** (1 / temperature)
    others = (1 - wide) ** (1 / temperature)
    total = powers + others if task == "multi" else powers.sum(axis=1, keepdims=True)
    return np.asarray(powers / total, np.float32)


def measure_reliability(
    probabilities: Float32Array, targets: Float32Array, task: Task
) -> Reliability:
    """For predictions [n,classes] on images that the network was not trained on. Empty bins are
    left out.

    A prediction is the top label; in a multi-label task each label is one, and its confidence is
    its probability.
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
    """[predictions]: the confidence of each, and 1 where it is correct."""
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
    """Mean distance of confidence and accuracy, bins weighted by their size (eq. 3)."""
    n = sum(each.n for each in bins)
    return sum(each.n * abs(each.accuracy - each.confidence) for each in bins) / n
