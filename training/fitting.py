"""What the fitting steps share: forward passes, statistics, what is kept."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from registry.errors import TrainingError
from training.activations import compute
from training.batches import ImageBatches
from training.bench import Bench
from training.compiling import compiled
from training.evaluate import measure
from training.folding import folded
from training.gradients import Loss
from training.keeping import DIRECTIONS, Keeper, recompute_statistics
from training.memory import Room, in_parts
from training.network import evaluating, to_probabilities
from training.plan import Plan

SETTLING_BATCHES = 8  # enough for a mean and a variance


def head_on(bench: Bench) -> Callable[[Tensor], Tensor]:
    """Features [b,d] -> logits, with the head on whatever device it is."""
    return lambda features: bench.network.head(features.to(bench.device))


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
    """Within it, frozen normalisation costs a CPU next to nothing; see `training/folding.py`."""
    if bench.device.type != "cpu" or not bench.settings.freeze_batchnorm:
        yield
        return
    size = bench.settings.size
    with folded(bench.network.body, torch.zeros(2, 3, size, size)):
        yield


def training_loss(bench: Bench) -> Loss:
    """Logits -> loss, wherever the targets are."""
    loss = bench.training_loss()
    return lambda logits, targets: loss(logits, targets.to(logits.device))


def make_keeper(bench: Bench, plan: Plan) -> Keeper:
    """What looks at the network after each epoch of `plan`, as the settings say; at a size before
    the last one it keeps nothing but the last weights."""
    settings, last = bench.settings, bench.turn.last
    return Keeper(
        bench.network,
        settings.keep if last else "last",
        plan.cycle_ends,
        lambda: judge(bench),
        direction=DIRECTIONS[settings.judge_by],
        patience=settings.patience if last else 0,
        snapshots=settings.snapshots and last,
    )


def judge(bench: Bench) -> float:
    """What the images set apart say of the network, by `judge_by`."""
    features = compute(bench.network, bench.decoded, bench.judged, bench.device)
    targets = torch.from_numpy(bench.dataset.targets[bench.judged])
    loss, metric = _score(bench, features, targets)
    return loss if bench.settings.judge_by == "log_loss" else metric


def keep_chosen(bench: Bench, keeper: Keeper, batches: ImageBatches) -> None:
    """The network has the weights that the settings keep; snapshots are on the bench."""
    keeper.restore()
    bench.snapshots.extend(keeper.at_cycle_ends)
    if keeper.best_epoch:
        bench.note(
            "best_epoch",
            f"epoch {keeper.best_epoch} was the best by {bench.settings.judge_by} of "
            f"{len(bench.judged)} images set apart",
        )
    if keeper.keep == "swa":
        bench.network.train_unfrozen(freeze_batchnorm=bench.settings.freeze_batchnorm)
        pixels = (pixels for pixels, _ in islice(batches.epoch(0), SETTLING_BATCHES))
        recompute_statistics(bench.network, whole(bench), pixels)
        settle(bench, augmented_features(bench, batches))
        bench.note("averaged", "the network is the mean of all unfrozen epochs, statistics anew")


def settle(bench: Bench, batches: Iterable[Tensor]) -> None:
    """The head's batch statistics are exact for `batches` of features.

    They have to be batches as it learns from, shuffled: in batches of one class, what tells the
    classes apart is not part of the variance, and the answers are far too sure.

    The running averages lag behind: with few batches they are still near where they started, and
    while the backbone learns they are those of features it no longer gives.
    """
    update_bn(batches, bench.network.head, bench.device)


def augmented_features(bench: Bench, batches: ImageBatches) -> list[Tensor]:
    """Features [b,d] of some batches, as the backbone gives them now."""
    features, room = [], Room(bench.network)
    with evaluating(bench.network.body), bench.network.autocast():
        for pixels, _ in islice(batches.epoch(0), SETTLING_BATCHES):
            features.append(in_parts(lambda p: bench.network.features(p).float(), pixels, room))
    return [batch.clone() for batch in features]


def validate_head(bench: Bench, features: Tensor) -> tuple[float, float]:
    """Loss and metric of the head on features of the held-out images."""
    return _score(bench, features, bench.targets("valid"))


def _score(bench: Bench, features: Tensor, targets: Tensor) -> tuple[float, float]:
    with evaluating(bench.network):
        logits = bench.network.head(features.to(bench.device)).float().cpu()
        if not bool(logits.isfinite().all()):
            raise TrainingError(
                "after an epoch the answers are no longer numbers; set a lower learning_rate"
            )
        loss = float(bench.loss()(logits, targets)) + 0.0  # which of right and sure ones is -0.0
    task = bench.dataset.task
    answers = to_probabilities(logits, task).numpy()
    return loss, measure(answers, np.asarray(targets), task).value
