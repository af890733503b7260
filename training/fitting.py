"""What the fitting steps share: the forward pass, one stage's fit, statistics, what is kept."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from registry.errors import TrainingError
from training.activations import compute
from training.batches import ImageBatches
from training.bench import Bench
from training.compiling import compiled
from training.device import autocast
from training.ema import Ema
from training.evaluate import METRICS, measure
from training.fit import Epoch, Stage, Step, Tally, train_epoch
from training.folding import folded
from training.gradients import Loss
from training.keeping import DIRECTIONS, Keeper, copy_state, recompute_statistics
from training.memory import Room, in_parts
from training.network import evaluating, to_probabilities
from training.optimizer import Optimizer
from training.plan import Plan

LAST_GOOD = "last-good.safetensors"  # in the folder of a training that diverged
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
        with autocast(bench.device, backward=True):
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


def fit_stage(
    bench: Bench,
    stage: Stage,
    groups: Sequence[list[nn.Parameter]],
    validate: Callable[[], tuple[float, float]],
    keeper: Keeper | None = None,
    ema: Ema | None = None,
) -> bool:
    """The groups that learn have learnt, for as many epochs as the stage's plan has; each was told.

    It begins where a process that was killed left off. False: that one had begun another stage
    since, so there was nothing to do, and the network is not yet as it was.

    Args:
        groups: what learns, at the stage's rates in their order.
        validate: gives the loss and the metric on held-out images.
        keeper: looks at the network after each epoch, and may end the stage.
        ema: follows the network, step by step.

    Raises:
        TrainingError: the loss is no longer a number; the run has the last good weights.
    """
    network, n_epochs = bench.network, stage.plan.n_epochs
    before = bench.n_planned  # batches, of the stages so far
    bench.schedules[stage.name] = stage.plan.shares
    if not bench.checkpoint.begin(stage.name):
        bench.stages.note(f"{stage.name}: was over before the interruption")
        return False
    optimizer = Optimizer(groups, bench.settings.optimizer_spec())
    tally = bench.checkpoint.enter(
        {
            "network": network,
            "optimizer": optimizer,
            "keeper": keeper,
            "ema": ema,
            "room": bench.room,
        }
    )
    tell_where(bench, stage, tally)

    def stepped(step: Step) -> None:
        if ema:
            ema.update()
        bench.checkpoint.save_if_due(tally)
        bench.curves.batch(before + step.number, step)
        bench.stages.advance(step.n_images)

    while tally.epoch < n_epochs:
        network.world.level(network)
        good = copy_state(network)
        network.train_unfrozen(freeze_batchnorm=bench.settings.freeze_batchnorm)
        try:
            train_epoch(stage, optimizer, tally, stepped=stepped, room=bench.room)
            epoch = tally.row(stage.name, *validate())
        except TrainingError as error:
            network.load_state_dict(good)
            kept = bench.save(LAST_GOOD)
            raise TrainingError(f"{error}; the weights before this epoch are in {kept}") from error
        bench.history.append(epoch)
        tell_epoch(bench, tally.epoch + 1, n_epochs, epoch)
        last = before + (tally.epoch + 1) * len(stage.batches) - 1
        bench.curves.epoch(last, epoch, METRICS[bench.dataset.task])
        goes_on = network.world.told(keeper is None or keeper.goes_on(tally.epoch + 1))
        tally = Tally(tally.epoch + 1 if goes_on else n_epochs)
        bench.checkpoint.save_if_due(tally, at_once=tally.epoch == n_epochs)
    return True


def tell_where(bench: Bench, stage: Stage, tally: Tally) -> None:
    """What an earlier process has done of the stage need not be done again; that is told."""
    if not tally.epoch and not tally.n_batches:
        return
    done = f"after {tally.epoch} of {stage.plan.n_epochs} epochs"
    within = f" and {tally.n_batches} of {len(stage.batches)} batches" if tally.n_batches else ""
    bench.note("resumed", f"{stage.name}: goes on {done}{within}")
    bench.stages.advance(tally.epoch * stage.batches.n_images + tally.n_images)


def tell_epoch(bench: Bench, number: int, n_epochs: int, epoch: Epoch) -> None:
    bench.stages.epoch(
        number,
        n_epochs,
        train_loss=epoch.train_loss,
        valid_loss=epoch.valid_loss,
        metric=METRICS[bench.dataset.task],
        metric_value=epoch.metric_value,
        images_per_second=epoch.images_per_second,
    )


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
    with evaluating(bench.network.body), autocast(bench.device, backward=False):
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
        loss = float(bench.loss()(logits, targets))
    task = bench.dataset.task
    answers = to_probabilities(logits, task).numpy()
    return loss, measure(answers, np.asarray(targets), task).value
