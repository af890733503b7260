"""The training steps of the recipe, all on the same bench."""

from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from training.bench import Bench
from training.data.dataset import Rows
from training.fit.activations import Activations, Parts, compute, precompute
from training.fit.choosing import begin_ema, keep_better, keep_chosen, make_keeper
from training.fit.epoch import Stage
from training.fit.lr_finder import RateSearch, find_rate
from training.fit.passes import augmented_features, folding, settle, validate_head, whole
from training.fit.plan import plan_cycles, plan_head
from training.fit.rates import RateGroups, rate_groups
from training.fit.sam import Sam
from training.fit.stage import fit_stage
from training.overrides import advice_on_rate

SETTLING_BATCHES_HEAD = 64  # a small data set in full; saves a third of the time with a large one
UNFROZEN_SEARCH_STEPS = 30  # where a step costs a backward pass through everything


def precompute_parts(bench: Bench, weights_digest: str, cache: Path) -> Parts:
    """The frozen backbone's features of both parts, from the cache if nothing has changed; also of
    the images set apart, if label errors are to be looked for."""
    stages = bench.stages
    stages.begin("precompute activations", len(bench.dataset.items))
    network, decoded, apart = bench.network, bench.decoded, bench.rows_set_apart

    def features_of(rows: Rows) -> Activations:
        return precompute(
            network, weights_digest, decoded, rows, cache, stages.advance, stages.note
        )

    return Parts(
        train=features_of(bench.rows("train")),
        valid=features_of(bench.rows("valid")),
        apart=features_of(apart) if bench.settings.label_noise and len(apart) else None,
    )


def search_head(bench: Bench, activations: Parts) -> float:
    """The head's learning rate: from the settings, or else as the range test suggests."""
    bench.stages.begin("find the learning rate", 0)
    bench.network.freeze_to(2)
    if not bench.checkpoint.begin("find the head's rate"):
        return bench.results.searches["head"].suggestion
    head = bench.network.head.train()
    search = find_rate(
        head,
        head,
        [list(head.parameters())],
        [1.0],
        bench.activation_batches(activations.train),
        bench.training_loss(),
        spec=bench.settings.optimizer_spec(),
        splitter=bench.splitter,
    )
    return _note_rate(bench, "head", search, bench.settings.learning_rate)


def fit_head(bench: Bench, activations: Parts, rate: float) -> None:
    """Trains the head on activations for `head_epochs`."""
    bench.network.freeze_to(2)
    batches = bench.activation_batches(activations.train)

    def validate() -> tuple[float, float]:
        some = islice(batches.epoch(0), SETTLING_BATCHES_HEAD)
        settle(bench, [features for features, _ in some])
        return validate_head(bench, activations.valid.features)

    plan = plan_head(bench.settings, len(batches))
    loss = bench.training_loss()
    advice = advice_on_rate(bench, "head", rate)
    head = bench.network.head
    stage = Stage("head on activations", head, loss, batches, [rate], plan, advice=advice)
    fit_stage(bench, stage, [list(head.parameters())], validate)


def fit_augmented_head(bench: Bench, activations: Parts, rate: float) -> None:
    """Trains the head on augmented images through the frozen backbone, one epoch per cycle."""
    bench.network.freeze_to(2)
    batches = bench.image_batches()

    @cache  # lazily: an interrupted training's network is restored only in fit_stage
    def held_out() -> Tensor:
        # the cached activations are outdated at later sizes: the backbone has learnt since
        return activations.valid.features if bench.phase.first else _held_out_features(bench)

    def forward(pixels: Tensor) -> Tensor:
        with torch.no_grad(), bench.network.autocast():
            features = bench.network.features(pixels)
        logits: Tensor = bench.network.head(features.float())
        return logits

    def validate() -> tuple[float, float]:
        settle(bench, augmented_features(bench, batches))
        return validate_head(bench, held_out())

    plan = plan_cycles(bench.settings, len(batches), [1] * bench.phase.head_epochs)
    bench.results.n_augmented_epochs += plan.n_epochs
    name, loss = "head with augmentation" + bench.phase.suffix, bench.training_loss()
    advice = advice_on_rate(bench, "head", rate)
    stage = Stage(name, forward, loss, batches, [rate], plan, advice=advice)
    fit_stage(bench, stage, [list(bench.network.head.parameters())], validate)


def search_unfrozen(bench: Bench) -> float:
    """Unfreezes the network and chooses its learning rate likewise; the groups' ratios are kept."""
    bench.stages.begin("unfreeze, find the learning rate", 0)
    bench.network.freeze_to(bench.settings.frozen_groups)
    if not bench.checkpoint.begin("find the unfrozen rate"):
        return bench.results.searches["unfrozen"].suggestion
    bench.network.train_unfrozen(freeze_batchnorm=bench.settings.keeps_statistics)
    learning = rates_of(bench)
    with folding(bench):
        search = find_rate(
            bench.network,
            whole(bench),
            learning.groups,
            learning.shares,
            bench.image_batches(),
            bench.training_loss(),
            spec=bench.settings.optimizer_spec(),
            max_steps=UNFROZEN_SEARCH_STEPS,
            splitter=bench.splitter,
        )
    return _note_rate(bench, "unfrozen", search)


def fit_unfrozen(bench: Bench, rate: float) -> None:
    """Trains all unfrozen layers, each group at its own rate; then the network has the weights
    that `keep` says, or their moving average if that is better."""
    bench.network.freeze_to(bench.settings.frozen_groups)
    batches = bench.image_batches()
    schedule = plan_cycles(bench.settings, len(batches), bench.settings.unfrozen_cycles)
    plan = schedule.part(bench.phase.epochs, len(batches))
    bench.results.n_augmented_epochs += plan.n_epochs
    keeper, ema = make_keeper(bench, plan), begin_ema(bench)

    def validate() -> tuple[float, float]:
        settle(bench, augmented_features(bench, batches))
        return validate_head(bench, _held_out_features(bench))

    learning = rates_of(bench)
    rates = [rate * share for share in learning.shares]
    name, forward, loss = "all layers" + bench.phase.suffix, whole(bench), bench.training_loss()
    advice = advice_on_rate(bench, "unfrozen", rate)
    stage = Stage(name, forward, loss, batches, rates, plan, make_sam(bench), advice)
    with folding(bench):
        if not fit_stage(bench, stage, learning.groups, validate, keeper, ema):
            return
    keep_chosen(bench, keeper, batches)
    if ema:
        keep_better(bench, ema, batches)


def rates_of(bench: Bench) -> RateGroups:
    """The trainable parameters of the unfrozen network, with their relative learning rates."""
    return rate_groups(bench.network, bench.settings.group_rates, bench.settings.layer_decay)


def make_sam(bench: Bench) -> Sam | None:
    settings = bench.settings
    return Sam(bench.network, settings.sam, settings.sam_every) if settings.sam else None


def _held_out_features(bench: Bench) -> Tensor:
    """With the backbone as it is now."""
    return compute(bench.network, bench.decoded, bench.dataset.rows("valid"))


def _note_rate(bench: Bench, stage: str, search: RateSearch, given: float | None = None) -> float:
    """Notes the learning rate to use, which the report marks, and returns it."""
    search = bench.network.world.broadcast(search)
    bench.stages.note(f"suggested learning rate {search.suggestion:.1e}: {search.reason}")
    if given:
        bench.stages.note(f"learning rate {given:.1e}, as the settings say")
        search = replace(search, suggestion=given, reason="as the settings say")
    bench.results.searches[stage] = search
    return search.suggestion
