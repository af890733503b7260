"""Predicts images, and evaluates the predictions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import confusion_matrix, fbeta_score, log_loss
from torch import Tensor

from registry.bundle import Task
from registry.images import Float32Array, UInt8Array
from registry.tta import TtaSpec, tta_views
from training.data.dataset import Dataset, Rows
from training.data.decoded import Decoded
from training.data.read_again import read_again
from training.export.runtime import Answer
from training.fit.activations import BATCH, to_device
from training.fit.out_of_memory import BatchSplitter, in_parts
from training.network.classifier import Network, evaluating, to_probabilities

BETA = 2.0  # a label that is missed counts for more than one too many
THRESHOLD = 0.5  # of a multi-label answer
Thresholds = float | Sequence[float]  # one for all labels, or one each; single-label ignores them


@dataclass(frozen=True)
class Measures:
    """Exact on the whole set, whatever the batch size; `value`: accuracy, or multi-label F-beta."""

    metric: str
    value: float
    log_loss: float
    label_accuracy: float | None = None  # how often a label is rightly said or not; multi-label


@dataclass(frozen=True)
class Evaluation:
    """Predictions for the held-out rows, [n,classes] each: one view, and means over several."""

    rows: Rows = field(repr=False)
    plain: Float32Array = field(repr=False)
    tta: Float32Array = field(repr=False)
    served: Float32Array = field(repr=False)  # with as many views as a service uses unless told
    plain_measures: Measures
    tta_measures: Measures
    gained: int  # predictions that the views corrected
    lost: int  # and spoiled
    # predictions for the test images, once they have been read
    tests: Float32Array | None = field(default=None, repr=False)


def predict(network: Network, pixels: UInt8Array, task: Task) -> Float32Array:
    """float32 arithmetic throughout: [n,s,s,3] -> probabilities [n,classes]."""
    return to_probabilities(answer_logits(network, pixels), task).numpy()


def answer_logits(
    network: Network, pixels: UInt8Array, advance: Callable[[int], None] = lambda n: None
) -> Tensor:
    """float32 arithmetic throughout: [n,s,s,3] -> logits [n,classes] on the CPU."""
    batches, splitter = [], BatchSplitter(network)
    with evaluating(network):
        for start in range(0, len(pixels), BATCH):
            batch = to_device(np.array(pixels[start : start + BATCH]), network.device)
            batches.append(in_parts(network, batch, splitter).float().cpu())
            advance(len(batch))
    return torch.cat(batches).clone()


def predict_rows(
    answer: Answer,
    dataset: Dataset,
    decoded: Decoded,
    rows: Rows,
    *,
    tta: TtaSpec,
    n_views: int,
    advance: Callable[[int], None] = lambda n: None,
) -> Float32Array:
    """Probabilities of `rows`, the mean over the same views that a server would average.

    Args:
        advance: called with how many views have been answered since its last call.
    """
    results = []
    for row in rows:
        views = decoded.pixels[[row]]
        if n_views > 1:
            views = tta_views(views[0], read_again(dataset.items[row]), tta, n_views)
        results.append(answer(views).mean(axis=0))
        advance(len(views))
    return np.stack(results)


def metric_of(task: Task, beta: float) -> str:
    """The name of what `measure` measures: accuracy, or f2 and the like."""
    return "accuracy" if task == "single" else f"f{beta:g}"


def measure(
    probabilities: Float32Array,
    targets: Float32Array,
    task: Task,
    thresholds: Thresholds = THRESHOLD,
    beta: float = BETA,
) -> Measures:
    """Metric and log loss of [n,classes] against one-hot or multi-hot targets."""
    if task == "multi":
        clipped = probabilities.clip(1e-7, 1 - 1e-7)
        loss = -(targets * np.log(clipped) + (1 - targets) * np.log(1 - clipped)).mean()
        chosen = probabilities >= np.asarray(thresholds, np.float32)
        label_accuracy = float((chosen == (targets > 0)).mean())
        # to say nothing of an image that has no label is right
        value = fbeta_score(targets, chosen, beta=beta, average="samples", zero_division=1)
        return Measures(metric_of(task, beta), float(value), float(loss), label_accuracy)
    truth = targets.argmax(axis=1)
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)
    loss = log_loss(truth, exact, labels=range(targets.shape[1]))
    return Measures(
        metric_of(task, beta), float(right(probabilities, targets, task).mean()), float(loss)
    )


def right(
    probabilities: Float32Array,
    targets: Float32Array,
    task: Task,
    thresholds: Thresholds = THRESHOLD,
) -> npt.NDArray[np.bool_]:
    """[n]: whether each prediction is correct; in a multi-label task, in all labels."""
    if task == "multi":
        agree = (probabilities >= np.asarray(thresholds, np.float32)) == (targets > 0)
        return np.asarray(agree.all(axis=1))
    return np.asarray(probabilities.argmax(axis=1) == targets.argmax(axis=1))


def flips(
    plain: Float32Array,
    tta: Float32Array,
    targets: Float32Array,
    task: Task,
    thresholds: Thresholds = THRESHOLD,
) -> tuple[int, int]:
    """How many predictions the views corrected, and how many they spoiled."""
    before, after = (right(each, targets, task, thresholds) for each in (plain, tta))
    return int((after & ~before).sum()), int((before & ~after).sum())


def confusions(probabilities: Float32Array, targets: Float32Array) -> npt.NDArray[np.int64]:
    """[classes,classes] counts, true class by row; sums to n."""
    labels: Sequence[int] = range(targets.shape[1])
    counts: npt.NDArray[np.int64] = confusion_matrix(
        targets.argmax(axis=1), probabilities.argmax(axis=1), labels=labels
    )
    return counts
