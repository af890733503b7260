"""Which held-out images are worth looking at, and their captions."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from registry.bundle import Task
from registry.images import Float32Array, UInt8Array
from training.data.dataset import Dataset
from training.evaluation.evaluate import THRESHOLD, Thresholds, right
from training.evaluation.gradcam import overlay
from training.evaluation.per_class import predicted_labels
from training.tiles import Tile

SHOWN = 8  # images in a gallery
SAID = 4  # labels of a prediction that are shown

Places = npt.NDArray[np.int64]


def galleries(
    probabilities: Float32Array,
    targets: Float32Array,
    task: Task = "single",
    thresholds: Thresholds = THRESHOLD,
) -> dict[str, Places]:
    """Places of the most incorrect, most uncertain and most correct predictions, [n,classes].

    Most uncertain is the smallest margin between the top two; with more than two classes also the
    highest entropy, which reflects how many others compete. In a multi-label task the most
    incorrect have the highest loss, the most uncertain the highest mean entropy over the labels.
    """
    correct = right(probabilities, targets, task, thresholds)
    if task == "multi":
        worst_first = np.argsort(-_losses(probabilities, targets).mean(axis=1), kind="stable")
        unsure = {"most_uncertain": -_entropies(probabilities, 1 - probabilities).mean(axis=1)}
    else:
        worst_first = np.argsort((probabilities * targets).sum(axis=1), kind="stable")
        best_two = np.sort(probabilities, axis=1)[:, -2:]
        unsure = {"most_uncertain": best_two[:, 1] - best_two[:, 0]}
        if probabilities.shape[1] > 2:
            unsure["most_entropy"] = -_entropies(probabilities).sum(axis=1)
    found = {
        "most_incorrect": worst_first[~correct[worst_first]],
        **{name: np.argsort(values, kind="stable") for name, values in unsure.items()},
        "most_correct": worst_first[correct[worst_first]][::-1],
    }
    return {name: places[:SHOWN] for name, places in found.items()}


def in_question(
    probabilities: Float32Array, targets: Float32Array, task: Task
) -> npt.NDArray[np.int64]:
    """[n]: the class to draw the Grad-CAM heat map for: the prediction, or in a multi-label task
    the label that it is most wrong about."""
    scores = _losses(probabilities, targets) if task == "multi" else probabilities
    return np.asarray(scores.argmax(axis=1))


def tiles(
    dataset: Dataset,
    pixels: UInt8Array,
    rows: Sequence[int] | npt.NDArray[np.int64],
    answers: Float32Array,
    thresholds: Thresholds,
    heats: Float32Array | None = None,
) -> list[Tile]:
    """Images of a data set as a gallery shows them.

    Args:
        pixels: of the whole data set, [n,s,s,3].
        rows: of it, those to show.
        answers: to those, [rows,classes].
        heats: where the network looked, [rows,s,s].
    """
    correct = right(answers, dataset.targets[rows], dataset.task, thresholds)
    shown = []
    for place, row in enumerate(rows):
        image = np.asarray(pixels[row])
        heat = heats[place] if heats is not None else None
        said = describe(answers[place], dataset, thresholds)
        truth = ", ".join(dataset.items[row].labels) or "nothing"
        caption = (caption_name(dataset, row), f"true: {truth}", f"predicted: {said}")
        over = None if heat is None or not heat.any() else overlay(image, heat)
        shown.append(Tile(image, caption, wrong=not correct[place], overlay=over))
    return shown


def caption_name(dataset: Dataset, row: int) -> str:
    """An image's path relative to the data set's folder; its name alone if its folder is its
    class."""
    item = dataset.items[row]
    return item.path.name if item.labels == (item.path.parent.name,) else dataset.name(item)


def describe(answer: Float32Array, dataset: Dataset, thresholds: Thresholds) -> str:
    """The predicted labels of an image, [classes], with their probabilities, as text."""
    (said,) = predicted_labels(answer[None], dataset.task, thresholds)
    chosen = sorted(np.flatnonzero(said), key=lambda label: -answer[label])
    named = [f"{dataset.labels[label]} {answer[label]:.2f}" for label in chosen[:SAID]]
    return ", ".join(named) + (", …" if len(chosen) > SAID else "") if named else "nothing"


def _losses(probabilities: Float32Array, targets: Float32Array) -> Float32Array:
    """[n,labels], each label's cross-entropy."""
    likely = np.where(targets > 0, probabilities, 1 - probabilities)
    return np.asarray(-np.log(likely.clip(1e-12)))


def _entropies(*shares: Float32Array) -> Float32Array:
    return np.asarray(sum(-share * np.log(share.clip(1e-12)) for share in shares))
