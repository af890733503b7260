"""Which held-out images are worth looking at."""

import numpy as np
import numpy.typing as npt

from registry.images import Float32Array
from training.evaluate import right

SHOWN = 8  # images in a gallery

Places = npt.NDArray[np.int64]


def galleries(probabilities: Float32Array, targets: Float32Array) -> dict[str, Places]:
    """Places of the most wrong, least sure and most right of single-label answers, [n,classes].

    Least sure is the smallest margin between the best two; with more than two classes also the
    highest entropy, which sees how many others are in question.
    """
    truth = (probabilities * targets).sum(axis=1)  # probability of the true class
    correct = right(probabilities, targets, "single")
    best_two = np.sort(probabilities, axis=1)[:, -2:]
    margin = best_two[:, 1] - best_two[:, 0]
    by_truth = np.argsort(truth, kind="stable")
    found = {
        "most_incorrect": by_truth[~correct[by_truth]],
        "most_uncertain": np.argsort(margin, kind="stable"),
        "most_correct": by_truth[correct[by_truth]][::-1],
    }
    if probabilities.shape[1] > 2:
        entropy = -(probabilities * np.log(probabilities.clip(1e-12))).sum(axis=1)
        found["most_entropy"] = np.argsort(-entropy, kind="stable")
    return {name: places[:SHOWN] for name, places in found.items()}
