"""Decision thresholds of the labels in a multi-label task."""

import numpy as np

from registry.images import Float32Array
from training.evaluation.evaluate import BETA

CANDIDATES = np.arange(0.05, 0.951, 0.01)


def fit_thresholds(
    probabilities: Float32Array, targets: Float32Array, beta: float = BETA
) -> tuple[float, ...]:
    """For each label the threshold with the highest F-beta, the one nearest 0.5 on ties; 0.5 for a
    label that none of the images has.

    To be fitted on other images than those scored: fitted on the same, as courses of 2018 did it,
    the score is too optimistic.

    Args:
        probabilities, targets: [n,classes].
    """
    order = CANDIDATES[np.argsort(np.abs(CANDIDATES - 0.5), kind="stable")]
    chosen = []
    for answers, truth in zip(probabilities.T, targets.T > 0, strict=True):
        said = answers[:, None] >= order  # [n,candidates]
        hits = (said & truth[:, None]).sum(axis=0)
        scores = (1 + beta**2) * hits / (beta**2 * truth.sum() + said.sum(axis=0)).clip(1)
        chosen.append(round(float(order[scores.argmax()]), 2) if truth.any() else 0.5)
    return tuple(chosen)
