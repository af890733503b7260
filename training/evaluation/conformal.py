"""Prediction sets with guaranteed coverage: split conformal prediction.

Every label of an image gets a nonconformity score. A quantile of the true labels' scores is taken
on images that are neither trained on nor held out; an image's set is all labels that score no
higher. If the images are from the same distribution, sets contain the true label with a probability
of at least 1 - alpha, however good the network is: a bad one has large sets.

lac    one minus the probability: the smallest sets (Sadinle et al. 2019, arXiv 1609.00451)
aps    the probability of all likelier labels plus a random part of its own: larger sets for hard
       images (Romano et al. 2020, arXiv 2006.02544)
raps   the same, plus a penalty for every rank below the first: no long tails (Angelopoulos et al.
       2021, arXiv 2009.14193)
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt

from registry.images import Float32Array
from training.evaluation.intervals import Interval, wilson

ALPHAS = (0.1, 0.05)  # how often a set may miss the true label
RANK_PENALTY = 0.1  # of raps, for each rank below the first
CROSS_LEAST = 100  # images to cross-fit: half of them just tell one in twenty
ALONE = 0.95  # the accuracy wanted where a single label is given

Method = Literal["lac", "aps", "raps"]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quantile:
    """The highest score of a label in a set."""

    method: Method
    alpha: float
    score: float | None  # None: so few images that sets must contain every label


@dataclass(frozen=True)
class SetFigures:
    """Statistics of the sets of held-out images; all but the size are shares of the images."""

    method: Method
    alpha: float
    score: float | None  # of cross-fitted sets the mean of both halves'
    images: int
    coverage: float  # contain the true label; at least 1 - alpha is guaranteed
    coverage_interval: Interval  # 95 %
    coverage_of_class: tuple[float | None, ...]  # None: the class has no held-out images
    mean_size: float  # labels
    empty: float  # no label fits
    single: float  # exactly one does


@dataclass(frozen=True)
class Abstention:
    """The effect of abstaining where the top label is not confident enough."""

    wanted: float  # accuracy wanted on the images that are answered
    least: float | None  # confidence threshold; None: none suffices, so nothing is answered
    answered: float  # share of the held-out images
    right: float | None  # accuracy on those answered; None: there are none


def fit_quantiles(
    probabilities: Float32Array, targets: Float32Array, seed: int
) -> tuple[Quantile, ...]:
    """For every method and alpha, from images that are neither trained on nor held out.

    Args:
        probabilities, targets: [n,classes], one label each.
    """
    found = []
    for method, score in SCORES.items():
        scores = score(probabilities.astype(np.float64), _draw(len(targets), seed))
        true = scores[targets > 0]
        found += [Quantile(method, alpha, quantile(true, alpha)) for alpha in ALPHAS]
    return tuple(found)


def quantile(scores: Float64Array, alpha: float) -> float | None:
    """The ⌈(n+1)(1-alpha)⌉-th smallest of n scores; None if there are fewer."""
    place = ceil((len(scores) + 1) * (1 - alpha) - 1e-9)  # 19.000000000000004 is 19
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else None


def measure_sets(
    quantiles: Iterable[Quantile], probabilities: Float32Array, targets: Float32Array, seed: int
) -> tuple[SetFigures, ...]:
    """How the sets do on held-out images, [n,classes]."""
    return tuple(
        _measure(each, label_sets(each, probabilities, seed), targets) for each in quantiles
    )


def cross_fit_sets(
    probabilities: Float32Array, targets: Float32Array, seed: int
) -> tuple[SetFigures, ...]:
    """How sets do whose quantiles are of the same held-out images: each half of them, drawn with
    the seed, is measured with the quantiles of the other one. Empty if there are fewer
    than `CROSS_LEAST` images.
    """
    if len(targets) < CROSS_LEAST:
        return ()
    halves = np.array_split(np.random.default_rng(seed).permutation(len(targets)), 2)
    fits = [fit_quantiles(probabilities[half], targets[half], seed) for half in halves]
    figures = []
    for first, second in zip(*fits, strict=True):
        sets = np.empty(targets.shape, np.bool_)
        for fitted, measured in zip((first, second), reversed(halves), strict=True):
            sets[measured] = label_sets(fitted, probabilities[measured], seed)
        scores = [each.score for each in (first, second) if each.score is not None]
        score = sum(scores) / 2 if len(scores) == 2 else None
        figures.append(_measure(Quantile(first.method, first.alpha, score), sets, targets))
    return tuple(figures)


def label_sets(fitted: Quantile, probabilities: Float32Array, seed: int) -> npt.NDArray[np.bool_]:
    """[n,classes]: whether a label is in the image's set."""
    draw = _draw(len(probabilities), seed + 1)  # other draws than in the fit
    scores = SCORES[fitted.method](probabilities.astype(np.float64), draw)
    return np.asarray(scores <= (np.inf if fitted.score is None else fitted.score))


def least_probabilities(quantiles: Iterable[Quantile]) -> dict[str, float]:
    """By alpha, the least probability of a label in the `lac` set: all that a client needs."""
    return {
        f"{each.alpha:g}": max(0.0, 1 - each.score) if each.score is not None else 0.0
        for each in quantiles
        if each.method == "lac"
    }


def least_confidence(probabilities: Float32Array, targets: Float32Array) -> float | None:
    """The lowest confidence threshold above which accuracy is at least `ALONE`, counting one unseen
    error on top; None: even the most confident predictions do not reach it.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    wrong = (probabilities.argmax(axis=1) != targets.argmax(axis=1))[order]
    risks = (wrong.cumsum() + 1) / (np.arange(len(wrong)) + 2)
    least_of = np.diff(confidence[order], append=-1) != 0  # ties are answered together
    enough = np.flatnonzero((risks <= 1 - ALONE + 1e-9) & least_of)
    return float(confidence[order[enough[-1]]]) if len(enough) else None


def measure_abstention(
    least: float | None, probabilities: Float32Array, targets: Float32Array
) -> Abstention:
    """How many held-out images are answered at a threshold of `least`, and how accurately."""
    if least is None:
        return Abstention(ALONE, None, 0.0, None)
    answered = probabilities.max(axis=1) >= least
    right = probabilities.argmax(axis=1) == targets.argmax(axis=1)
    share = float(right[answered].mean()) if answered.any() else None
    return Abstention(ALONE, least, float(answered.mean()), share)


def _measure(fitted: Quantile, sets: npt.NDArray[np.bool_], targets: Float32Array) -> SetFigures:
    truth = targets.argmax(axis=1)
    held, sizes = sets[np.arange(len(sets)), truth], sets.sum(axis=1)
    of_class = tuple(
        float(held[truth == each].mean()) if (truth == each).any() else None
        for each in range(targets.shape[1])
    )
    return SetFigures(
        fitted.method,
        fitted.alpha,
        fitted.score,
        len(targets),
        coverage=float(held.mean()),
        coverage_interval=wilson(int(held.sum()), len(held)),
        coverage_of_class=of_class,
        mean_size=float(sizes.mean()),
        empty=float((sizes == 0).mean()),
        single=float((sizes == 1).mean()),
    )


# The scores, [n,classes], of probabilities [n,classes] and of numbers drawn from 0…1, [n,1]


def _lac(probabilities: Float64Array, drawn: Float64Array) -> Float64Array:
    return 1 - probabilities


def _aps(probabilities: Float64Array, drawn: Float64Array) -> Float64Array:
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    likelier = ranked.cumsum(axis=1) - ranked
    scores = np.empty_like(probabilities)
    np.put_along_axis(scores, order, likelier + drawn * ranked, axis=1)
    return scores


def _raps(probabilities: Float64Array, drawn: Float64Array) -> Float64Array:
    ranks = np.argsort(np.argsort(-probabilities, axis=1, kind="stable"), axis=1)
    return _aps(probabilities, drawn) + RANK_PENALTY * ranks


def _draw(n: int, seed: int) -> Float64Array:
    return np.random.default_rng(seed).random((n, 1))


SCORES: Mapping[Method, Callable[[Float64Array, Float64Array], Float64Array]] = {
    "lac": _lac,
    "aps": _aps,
    "raps": _raps,
}
