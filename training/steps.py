"""The steps of the recipe, each on the same bench."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from registry.images import Float32Array
from training.activations import compute, precompute
from training.answers import answer_tests
from training.batches import Batches, ImageBatches
from training.bench import Bench, Evaluation, Parts
from training.device import autocast
from training.evaluate import METRICS, flips, measure, predict, predict_rows
from training.finder import RateSearch, find_rate
from training.fit import Epoch, fit
from training.items import Part
from training.keeping import DIRECTIONS, Keeper, recompute_statistics
from training.network import evaluating, to_probabilities
from training.plan import Plan, plan_cycles, plan_head
from training.runtime import Answer
from training.thresholds import fit_thresholds

SETTLING_BATCHES = 8  # enough for a mean and a variance
UNFROZEN_SEARCH_STEPS = 30  # where a step costs a backward pass through everything

PARTS: tuple[Part, Part] = ("train", "valid")


def precompute_parts(bench: Bench, weights_digest: str, cache: Path) -> Parts:
    """The frozen backbone's features of both parts, from the cache if nothing has changed."""
    train, valid = (
        precompute(
            bench.network,
            weights_digest,
            bench.decoded,
            bench.rows(part),
            cache,
            bench.device,
            bench.stages.advance,
        )
        for part in PARTS
    )
    return Parts(train, valid)


def search_head(bench: Bench, activations: Parts) -> float:
    """The head's learning rate: what the settings say, or else what the range test suggests."""
    bench.network.freeze_to(2)
    bench.network.head.train()
    search = find_rate(
        bench.network.head,
        _head_on(bench),
        [list(bench.network.head.parameters())],
        [1.0],
        bench.activation_batches(activations.train),
        bench.training_loss(),
        spec=bench.settings.optimizer_spec(),
    )
    return _chosen(bench, "head", search, bench.settings.learning_rate)


def fit_head(bench: Bench, activations: Parts, rate: float) -> None:
    """The head has learnt from activations for `head_epochs`."""
    batches = bench.activation_batches(activations.train)

    def validate() -> tuple[float, float]:
        _settle(bench, [features for features, _ in batches.epoch(0)])
        return _validate(bench, activations.valid.features)

    _fit(
        bench,
        "head on activations",
        _head_on(bench),
        [0.0, 0.0, rate],
        plan_head(bench.settings, len(batches)),
        batches,
        validate=validate,
    )


def fit_augmented_head(bench: Bench, activations: Parts, rate: float) -> None:
    """The head has learnt from augmented images through the frozen backbone, a cycle an epoch."""
    batches = bench.image_batches()

    def forward(pixels: Tensor) -> Tensor:
        with torch.no_grad(), autocast(bench.device, backward=False):
            features = bench.network.features(pixels)
        logits: Tensor = bench.network.head(features.float())
        return logits

    def validate() -> tuple[float, float]:
        _settle(bench, _augmented_features(bench, batches))
        return _validate(bench, activations.valid.features)

    _fit(
        bench,
        "head with augmentation",
        forward,
        [0.0, 0.0, rate],
        plan_cycles(bench.settings, len(batches), [1] * bench.settings.augmented_epochs),
        batches,
        validate=validate,
    )


def search_unfrozen(bench: Bench) -> float:
    """The network is unfrozen, and its rate chosen likewise; the groups keep their ratio."""
    bench.network.freeze_to(bench.settings.frozen_groups)
    bench.network.train_unfrozen(freeze_batchnorm=bench.settings.freeze_batchnorm)
    search = find_rate(
        bench.network,
        _whole(bench),
        bench.network.learning_groups(),
        bench.settings.group_rates,
        bench.image_batches(),
        bench.training_loss(),
        spec=bench.settings.optimizer_spec(),
        max_steps=UNFROZEN_SEARCH_STEPS,
    )
    return _chosen(bench, "unfrozen", search, bench.settings.unfrozen_learning_rate)


def fit_unfrozen(bench: Bench, rate: float) -> None:
    """All unfrozen layers have learnt, with differential rates and cosine restarts; of what they
    were after each epoch, the network has what `keep` says."""
    batches = bench.image_batches()
    plan = plan_cycles(bench.settings, len(batches), bench.unfrozen_cycles)
    keeper = _keeper(bench, plan)

    def validate() -> tuple[float, float]:
        _settle(bench, _augmented_features(bench, batches))
        rows = bench.dataset.rows("valid")
        return _validate(bench, compute(bench.network, bench.decoded, rows, bench.device))

    _fit(
        bench,
        "all layers",
        _whole(bench),
        [rate * share for share in bench.settings.group_rates],
        plan,
        batches,
        validate=validate,
        goes_on=keeper.goes_on,
    )
    _keep(bench, keeper, batches)


def choose_thresholds(bench: Bench) -> None:
    """A multi-label bench has thresholds fitted on images that are neither learnt from nor scored,
    if the settings ask for it."""
    if bench.dataset.task == "single" or bench.settings.thresholds == "half":
        return
    pixels = bench.decoded.pixels[bench.judged]
    answers = predict(bench.network, pixels, bench.dataset.task, bench.device)
    bench.thresholds[:] = fit_thresholds(answers, bench.dataset.targets[bench.judged])
    shown = ", ".join(f"{value:.2f}" for value in bench.thresholds[:10])
    bench.note("thresholds", f"fitted on {len(bench.judged)} images set apart: {shown}")


def evaluate(bench: Bench, answer: Answer) -> Evaluation:
    """The held-out images answered once plainly and once with views, by what will be served; and
    the test images, which nothing has looked at before."""
    settings, dataset = bench.settings, bench.dataset
    rows = dataset.rows("valid")

    def answers(n_views: int) -> Float32Array:
        return predict_rows(
            answer,
            dataset,
            bench.decoded,
            rows,
            tta=settings.tta_spec(),
            n_views=n_views,
            advance=bench.stages.advance,
        )

    plain = answers(1)
    tta = answers(settings.tta_views) if settings.tta_views > 1 else plain
    targets = dataset.targets[rows]
    gained, lost = flips(plain, tta, targets, dataset.task, bench.label_thresholds)
    return Evaluation(
        rows,
        plain,
        tta,
        measure(plain, targets, dataset.task, bench.label_thresholds),
        measure(tta, targets, dataset.task, bench.label_thresholds),
        gained=gained,
        lost=lost,
        tests=answer_tests(dataset, answer, bench.decoded.spec),
    )


# Below the steps


def _head_on(bench: Bench) -> Callable[[Tensor], Tensor]:
    """Features [b,d] -> logits, with the head on whatever device it is."""
    return lambda features: bench.network.head(features.to(bench.device))


def _whole(bench: Bench) -> Callable[[Tensor], Tensor]:
    """Augmented pixels -> logits, through every layer."""

    def forward(pixels: Tensor) -> Tensor:
        with autocast(bench.device, backward=True):
            features = bench.network.features(pixels)
        logits: Tensor = bench.network.head(features.float())
        return logits

    return forward


def _chosen(bench: Bench, stage: str, search: RateSearch, told: float | None) -> float:
    """The rate that will be used; the report marks this one."""
    bench.stages.note(f"suggested learning rate {search.suggestion:.1e}: {search.reason}")
    if told:
        bench.stages.note(f"learning rate {told:.1e}, as the settings say")
        search = replace(search, suggestion=told, reason="as the settings say")
    bench.searches[stage] = search
    return search.suggestion


def _fit(
    bench: Bench,
    stage: str,
    forward: Callable[[Tensor], Tensor],
    rates: list[float],
    plan: Plan,
    batches: Batches,
    validate: Callable[[], tuple[float, float]],
    goes_on: Callable[[int], bool] = lambda number: True,
) -> None:
    """Fits the groups that learn, tells of each epoch, and keeps schedule and rows."""
    settings, loss = bench.settings, bench.training_loss()
    bench.schedules[stage] = plan.shares
    n_epochs = plan.cycle_ends[-1]

    def epoch_done(number: int, epoch: Epoch) -> None:
        bench.stages.epoch(
            number,
            n_epochs,
            train_loss=epoch.train_loss,
            valid_loss=epoch.valid_loss,
            metric=METRICS[bench.dataset.task],
            metric_value=epoch.metric_value,
            images_per_second=epoch.images_per_second,
        )

    bench.history.extend(
        fit(
            stage,
            forward,
            bench.network.learning_groups(),
            rates,
            plan.shares,
            batches,
            lambda logits, targets: loss(logits, targets.to(logits.device)),
            spec=settings.optimizer_spec(),
            momenta=plan.momenta,
            decays=plan.decays,
            before_epoch=lambda: bench.network.train_unfrozen(
                freeze_batchnorm=settings.freeze_batchnorm
            ),
            validate=validate,
            advance=bench.stages.advance,
            epoch_done=epoch_done,
            goes_on=goes_on,
        )
    )


def _keeper(bench: Bench, plan: Plan) -> Keeper:
    settings = bench.settings

    def judge() -> float:
        features = compute(bench.network, bench.decoded, bench.judged, bench.device)
        targets = torch.from_numpy(bench.dataset.targets[bench.judged])
        loss, metric = _score(bench, features, targets)
        return loss if settings.judge_by == "log_loss" else metric

    return Keeper(
        bench.network,
        settings.keep,
        plan.cycle_ends,
        judge,
        direction=DIRECTIONS[settings.judge_by],
        patience=settings.patience,
        snapshots=settings.snapshots,
    )


def _keep(bench: Bench, keeper: Keeper, batches: ImageBatches) -> None:
    keeper.restore()
    bench.snapshots.extend(keeper.at_cycle_ends)
    if keeper.best_epoch:
        bench.note(
            "best_epoch",
            f"epoch {keeper.best_epoch} was the best by {bench.settings.judge_by} of "
            f"{len(bench.judged)} images set apart",
        )
    if bench.settings.keep == "swa":
        bench.network.train_unfrozen(freeze_batchnorm=bench.settings.freeze_batchnorm)
        pixels = (pixels for pixels, _ in islice(batches.epoch(0), SETTLING_BATCHES))
        recompute_statistics(bench.network, _whole(bench), pixels)
        _settle(bench, _augmented_features(bench, batches))
        bench.note("averaged", "the network is the mean of all unfrozen epochs, statistics anew")


def _settle(bench: Bench, batches: Iterable[Tensor]) -> None:
    """The head's batch statistics are exact for `batches` of features.

    They have to be batches as it learns from, shuffled: in batches of one class, what tells the
    classes apart is not part of the variance, and the answers are far too sure.

    The running averages lag behind: with few batches they are still near where they started, and
    while the backbone learns they are those of features it no longer gives.
    """
    update_bn(batches, bench.network.head, bench.device)


def _augmented_features(bench: Bench, batches: ImageBatches) -> list[Tensor]:
    """Features [b,d] of some batches, as the backbone gives them now."""
    features = []
    with evaluating(bench.network.body), autocast(bench.device, backward=False):
        for pixels, _ in islice(batches.epoch(0), SETTLING_BATCHES):
            features.append(bench.network.features(pixels).float())
    return [batch.clone() for batch in features]


def _validate(bench: Bench, features: Tensor) -> tuple[float, float]:
    """Loss and metric of the head on features of the held-out images."""
    return _score(bench, features, bench.targets("valid"))


def _score(bench: Bench, features: Tensor, targets: Tensor) -> tuple[float, float]:
    with evaluating(bench.network):
        logits = bench.network.head(features.to(bench.device)).float().cpu()
        loss = float(bench.loss()(logits, targets))
    task = bench.dataset.task
    answers = to_probabilities(logits, task).numpy()
    return loss, measure(answers, np.asarray(targets), task).value
