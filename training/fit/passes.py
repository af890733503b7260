"""Shared by the training steps: forward passes, batch statistics, and validation."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from training.bench import Bench
from training.data.dataset import Rows
from training.evaluation.evaluate import measure
from training.fit.batches import ImageBatches
from training.fit.epoch import Diverged
from training.fit.out_of_memory import BatchSplitter, in_parts
from training.network.classifier import evaluating, to_probabilities
from training.network.compiling import compiled
from training.network.folding import folded

SETTLING_BATCHES = 8  # enough for a mean and a variance


def whole(bench: Bench) -> Callable[[Tensor], Tensor]:
    """Augmented pixels -> logits, through every layer."""
    features_of = bench.network.features
    if bench.settings.compile:
        features_of = compiled(features_of, bench.device)

    def forward(pixels: Tensor) -> Tensor:
        with bench.network.autocast():
            features = features_of(pixels)
        logits: Tensor = bench.network.head(features.float())
        return logits

    return forward


@contextmanager
def folding(bench: Bench) -> Iterator[None]:
    """Inside, frozen normalisation is almost free on a CPU; see `training/network/folding.py`."""
    if bench.device.type != "cpu" or not bench.settings.keeps_statistics:
        yield
        return
    size = bench.settings.size
    with folded(bench.network.body, torch.zeros(2, 3, size, size)):
        yield


def settle(bench: Bench, batches: Iterable[Tensor]) -> None:
    """Recomputes the head's batch statistics exactly, over `batches` of features.

    These must be shuffled as in training: with batches of a single class, the variance between
    classes is missing, and predictions are far too confident.

    Running averages would lag behind: after few batches they are still close to their initial
    values, and while the backbone learns they are of outdated features.
    """
    update_bn(batches, bench.network.head, bench.device)


def augmented_features(bench: Bench, batches: ImageBatches) -> list[Tensor]:
    """Features [b,d] of some augmented batches, with the backbone as it is now."""
    features, splitter = [], BatchSplitter(bench.network)
    with evaluating(bench.network.body), bench.network.autocast():
        for pixels, _ in islice(batches.epoch(0), SETTLING_BATCHES):
            features.append(in_parts(lambda p: bench.network.features(p).float(), pixels, splitter))
    return [batch.clone() for batch in features]


def validate_head(bench: Bench, features: Tensor) -> tuple[float, float]:
    """Loss and metric of the head on features of the held-out images."""
    return score_head(bench, features, bench.dataset.rows("valid"))


def score_head(bench: Bench, features: Tensor, rows: Rows) -> tuple[float, float]:
    """Loss and metric of the head on features of `rows`, [rows,d].

    Raises:
        Diverged: its outputs are not finite.
    """
    task, targets = bench.dataset.task, bench.dataset.targets[rows]
    with evaluating(bench.network):
        logits = bench.network.head(features.to(bench.device)).float().cpu()
        if not bool(logits.isfinite().all()):
            raise Diverged("after an epoch the outputs are no longer finite")
        loss = float(bench.loss()(logits, torch.from_numpy(targets)))
        loss += 0.0  # turns the -0.0 of perfect predictions into 0.0
    answers, beta = to_probabilities(logits, task).numpy(), bench.settings.beta
    return loss, measure(answers, targets, task, beta=beta).value
