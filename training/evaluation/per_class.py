"""Metrics of each class, and which classes are confused."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from registry.bundle import Task
from registry.images import Float32Array
from training.evaluation.evaluate import BETA, THRESHOLD, Thresholds, right
from training.evaluation.intervals import Interval, mean_interval, wilson

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClassFigures:
    """A class, or a label of a multi-label task, on the held-out images."""

    label: str
    n: int  # images of it
    said: int  # images predicted as it
    hits: int  # true positives
    precision: float | None  # None: it was never predicted
    precision_interval: Interval  # 95 %
    recall: float | None  # None: no image of it
    recall_interval: Interval
    f: float | None  # F1, or F-beta in a multi-label task; None: there is nothing to count
    threshold: float | None = None  # decision threshold of a label; multi-label


@dataclass(frozen=True)
class Pair:
    """A class predicted as another one; in a multi-label task, a false positive beside a true
    label."""

    true: str
    said: str
    count: int
    share: float  # of the images that are `true`


def per_class(
    probabilities: Float32Array,
    targets: Float32Array,
    labels: Sequence[str],
    task: Task,
    thresholds: Sequence[float] = (),
    beta: float = BETA,
) -> list[ClassFigures]:
    """Metrics of each label, the worst F score first; those without any come last.

    Args:
        probabilities, targets: [n,classes].
        thresholds: of each label in a multi-label task; none: 0.5.
    """
    truth = targets > 0
    limits = list(thresholds) or [THRESHOLD] * len(labels)
    said = predicted_labels(probabilities, task, limits)
    figures = [
        _figures(
            label,
            int(truth[:, place].sum()),
            int(said[:, place].sum()),
            int((truth & said)[:, place].sum()),
            beta if task == "multi" else 1,
            limits[place] if task == "multi" else None,
        )
        for place, label in enumerate(labels)
    ]
    return sorted(figures, key=lambda one: (one.f is None, one.f or 0.0, -one.n))


def predicted_labels(
    probabilities: Float32Array, task: Task, thresholds: Thresholds
) -> npt.NDArray[np.bool_]:
    """[n,classes]: whether a label is predicted."""
    if task == "multi":
        return np.asarray(probabilities >= np.asarray(thresholds, np.float32))
    places = np.arange(probabilities.shape[1])
    return np.asarray(probabilities.argmax(axis=1)[:, None] == places)


def taken_for(said: npt.NDArray[np.bool_], targets: Float32Array) -> Counts:
    """[classes,classes]: images of one label on which another one was predicted wrongly; in a
    single-label task the confusion matrix without its diagonal."""
    truth = targets > 0
    wrong = said & ~truth
    some = wrong.any(axis=1)
    # float32 products use BLAS and are exact below 2**24; those of int64 are slow
    counts = truth[some].T.astype(np.float32) @ wrong[some].astype(np.float32)
    return counts.astype(np.int64)


def confused_pairs(wrong: Counts, targets: Float32Array, labels: Sequence[str]) -> list[Pair]:
    """Every pair that `taken_for` counted, the most frequent first."""
    totals = (targets > 0).sum(axis=0)
    pairs = [
        Pair(labels[i], labels[j], int(wrong[i, j]), float(wrong[i, j] / totals[i]))
        for i, j in np.argwhere(wrong)
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.share))


def score_interval(
    probabilities: Float32Array,
    targets: Float32Array,
    task: Task,
    thresholds: Thresholds,
    beta: float = BETA,
) -> Interval:
    """95 % interval of the metric: Wilson's of the accuracy, or that of the mean of the images'
    F-beta."""
    if task == "single":
        correct = right(probabilities, targets, task)
        return wilson(int(correct.sum()), len(correct))
    said, truth = predicted_labels(probabilities, task, thresholds), targets > 0
    weighed = beta**2 * truth.sum(axis=1) + said.sum(axis=1)
    scores = np.ones(len(weighed))
    hits = (1 + beta**2) * (truth & said).sum(axis=1)
    np.divide(hits, weighed, out=scores, where=weighed > 0)
    return mean_interval(scores.astype(np.float32))


def _figures(
    label: str, n: int, said: int, hits: int, beta: float, threshold: float | None
) -> ClassFigures:
    weighed = beta**2 * n + said
    return ClassFigures(
        label,
        n,
        said,
        hits,
        hits / said if said else None,
        wilson(hits, said),
        hits / n if n else None,
        wilson(hits, n),
        (1 + beta**2) * hits / weighed if weighed else None,
        threshold,
    )
