"""Sets of labels that hold the true one as often as was promised: split conformal prediction.

Every label of an image gets a score, the higher the stranger it would be. Of images neither learnt
from nor held out, the scores of the true labels have a quantile; all labels of another image that
score no higher are its set. Where images come from where those came from, sets hold the true label
with a probability of 1 - alpha at least, whatever the network is worth: a bad one has large sets.

lac    one minus the probability: the smallest sets (Sadinle et al. 2019, arXiv 1609.00451)
aps    the probability of all likelier labels and a random part of its own: larger where images are
       hard (Romano et al. 2020, arXiv 2006.02544)
raps   the same, and more for every rank below the first: no long tails (Angelopoulos et al. 2021,
       arXiv 2009.14193)
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt

from registry.images import Float32Array

ALPHAS = (0.1, 0.05)  # how often a set may lack the true label
RANK_PENALTY = 0.1  # of raps, for each rank below the first
ALONE = 0.95  # how often an answer that is given alone should be right

Method = Literal["lac", "aps", "raps"]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quantile:
    """What a label of a set may score at most."""

    method: Method
    alpha: float
    score: float | None  # None: so few images that a set has to have every label


@dataclass(frozen=True)
class SetFigures:
    """What the sets of held-out images are like; all but the size are shares of the images."""

    method: Method
    alpha: float
    score: float | None
    images: int
    coverage: float  # hold the true label; 1 - alpha or more was promised
    coverage_of_class: tuple[float | None, ...]  # None: nothing of the class is held out
    mean_size: float  # labels
    empty: float  # no label fits
    single: float  # exactly one does


@dataclass(frozen=True)
class Abstention:
    """What becomes of answering only where the likeliest label is likely enough."""

    wanted: float  # share of the answers given that should be right
    least: float | None  # probability; None: no such was found, so that no answer is given
    answered: float  # share of the held-out images
    right: float | None  # share of those answered; None: there are none


def fit_quantiles(
    probabilities: Float32Array, targets: Float32Array, seed: int
) -> tuple[Quantile, ...]:
    """Of every method and alpha, from images that are neither learnt from nor held out.

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
    """The ⌈(n+1)(1-alpha)⌉-th smallest of n scores; None where there are not so many."""
    place = ceil((len(scores) + 1) * (1 - alpha) - 1e-9)  # 19.000000000000004 is 19
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else None


def measure_sets(
    quantiles: Iterable[Quantile], probabilities: Float32Array, targets: Float32Array, seed: int
) -> tuple[SetFigures, ...]:
    """How the sets do on held-out images, [n,classes]."""
    return tuple(_measure(each, probabilities, targets, seed) for each in quantiles)


def label_sets(fitted: Quantile, probabilities: Float32Array, seed: int) -> npt.NDArray[np.bool_]:
    """[n,classes]: whether a label is in the image's set."""
    draw = _draw(len(probabilities), seed + 1)  # not those of the fit
    scores = SCORES[fitted.method](probabilities.astype(np.float64), draw)
    return np.asarray(scores <= (np.inf if fitted.score is None else fitted.score))


def least_probabilities(quantiles: Iterable[Quantile]) -> dict[str, float]:
    """By alpha, how likely a label has to be to be in the set of `lac`: all that a client needs."""
    return {
        f"{each.alpha:g}": max(0.0, 1 - each.score) if each.score is not None else 0.0
        for each in quantiles
        if each.method == "lac"
    }


def least_confidence(probabilities: Float32Array, targets: Float32Array) -> float | None:
    """The lowest probability of a likeliest label from which on the share of right answers is at
    least `ALONE`, counting one wrong answer that was not seen; None: even the surest are too few.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    wrong = (probabilities.argmax(axis=1) != targets.argmax(axis=1))[order]
    risks = (wrong.cumsum() + 1) / (np.arange(len(wrong)) + 2)
    least_of = np.diff(confidence[order], append=-1) != 0  # who answers at it answers its equals
    enough = np.flatnonzero((risks <= 1 - ALONE + 1e-9) & least_of)
    return float(confidence[order[enough[-1]]]) if len(enough) else None


def measure_abstention(
    least: float | None, probabilities: Float32Array, targets: Float32Array
) -> Abstention:
    """How many held-out images are answered from `least` on, and how well."""
    if least is None:
        return Abstention(ALONE, None, 0.0, None)
    answered = probabilities.max(axis=1) >= least
    right = probabilities.argmax(axis=1) == targets.argmax(axis=1)
    share = float(right[answered].mean()) if answered.any() else None
    return Abstention(ALONE, least, float(answered.mean()), share)


def _measure(
    fitted: Quantile, probabilities: Float32Array, targets: Float32Array, seed: int
) -> SetFigures:
    sets, truth = label_sets(fitted, probabilities, seed), targets.argmax(axis=1)
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
