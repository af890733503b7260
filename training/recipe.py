"""A training from beginning to end, in the order in which things happen.

`train` leads from a folder of images to a sealed bundle and its score beside the promoted version:

    open_training   images read, split and decoded; a pretrained backbone with a new head
    learn           activations, learning rate, head; then all layers, each group at its own rate
    make_bundle     the network exported, verified, evaluated, sealed, compared

Both recipes, `modern` (the default) and `fastai2018`, take these steps, with other settings
(training/presets.py). Every step works on a `Bench` (training/bench.py): settings, images and
network, and the results that the steps collect for the report. The steps that train are in
`training/steps.py`, those that evaluate in `training/evaluation_steps.py`, and their details in the
files that these import from. `training/learner.py` offers the same steps to a notebook.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from registry.bundle import Bundle
from registry.errors import BadRequest
from registry.jobs import Assignment, Scored
from training.bench import Bench
from training.changed_settings import note_changed
from training.distributed.parallel import ALONE, World
from training.evaluation.compare import keep_label_order, known_parts, known_rule, score
from training.evaluation.learning_curve import measure_learning_curve
from training.evaluation.trust import calibrate, measure_trust
from training.evaluation_steps import check_labels, choose_thresholds, evaluate, read_tests
from training.export.bundling import export_and_verify, seal_bundle
from training.export.runtime import answering
from training.export.variants import add_variants
from training.fit.resizing import at_each_size
from training.fit.snapshots import average_snapshots
from training.images import Images, open_images
from training.network.backbone import Backbone
from training.network.classifier import divided
from training.opening import keep_checkpoint, open_backbone, open_bench
from training.planned_stages import planned_stages
from training.reading_settings import read_settings
from training.run.event_files import EVENTS_FOLDER, EventFile, tensorboard_wanted
from training.run.journal import journaled
from training.run.progress import Stages, Tell
from training.steps import (
    fit_augmented_head,
    fit_head,
    fit_unfrozen,
    precompute_parts,
    search_head,
    search_unfrozen,
)
from training.unused_settings import describe_unused


def train(assignment: Assignment, tell: Tell) -> tuple[Bundle, Scored]:
    """Leaves a complete bundle in `assignment.stage`, and the torch weights in `assignment.run`.

    Raises:
        BadRequest: the data or the settings are unusable; says why.
        TrainingError: training or export failed; nothing is staged.
    """
    with journaled(assignment, tell) as tell_and_write:
        return train_and_bundle(assignment, tell_and_write, ALONE)


def train_and_bundle(assignment: Assignment, tell: Tell, world: World) -> tuple[Bundle, Scored]:
    """The same, for a caller that already holds `assignment.run` for itself, see `journaled`.

    Args:
        world: seen from its main process; the others call `train_network` alone.
    """
    # left by a killed process; not removed earlier, as another process might still be working there
    shutil.rmtree(assignment.stage, ignore_errors=True)
    bench, backbone = train_network(assignment, tell, world)
    return make_bundle(bench, assignment, backbone)


def train_network(assignment: Assignment, tell: Tell, world: World) -> tuple[Bench, Backbone]:
    """Trains; the network is the same in every process of `world`.

    Raises:
        BadRequest: the data or the settings are unusable; says why.
        TrainingError: the loss is not finite.
    """
    bench, backbone = open_training(assignment, tell, world)
    with divided(bench.network, world):
        keep_checkpoint(bench, backbone.digest)
        note_changed(bench, assignment)
        learn(bench, backbone.digest, assignment.cache)
    return bench, backbone


def open_training(assignment: Assignment, tell: Tell, world: World) -> tuple[Bench, Backbone]:
    """What the steps work on, before anything is learnt.

    Raises:
        BadRequest: the data or the settings are unusable; says why.
    """
    settings = read_settings(assignment.settings)
    if settings.compile and world.size > 1:
        raise BadRequest("settings: compile=true works with one process only; leave it out here")
    torch.manual_seed(settings.seed)
    stages = Stages(tell, len(planned_stages(settings)))

    def load() -> Backbone:
        return open_backbone(settings, within=assignment.within)

    def read() -> Images:
        images = open_images(
            settings,
            assignment.data,
            assignment.cache,
            stages,
            within=assignment.within,
            known_parts=known_parts(assignment.champion),
            known_rule=known_rule(assignment.champion),
        )
        dataset = keep_label_order(images.dataset, assignment, stages.note)
        return replace(images, dataset=dataset)

    backbone, images = world.main_first(load), world.main_first(read)
    bench = open_bench(settings, images, backbone, stages, assignment.run)
    if tensorboard_wanted(settings.tensorboard):
        stages.note(f"curves: tensorboard --logdir {assignment.run / EVENTS_FOLDER}")
    if world.size > 1:
        bench.note("processes", f"{world.size} processes share the work")
    if not world.is_main:
        bench = replace(bench, event_file=EventFile(None))
    return bench, backbone


def learn(bench: Bench, weights_digest: str, cache: Path) -> None:
    """Trains the network on the training part, step by step, as the settings say.

    Args:
        weights_digest: SHA-256 of the backbone's weights, part of the activations' key in `cache`.

    Raises:
        TrainingError: the loss is not finite; the run has the weights of the epoch before.
    """
    settings = bench.settings
    if unused := describe_unused(settings, bench.dataset.task):
        bench.note("unused_settings", unused)
    # one bench per size, sharing the network; `bench` alone, unless the settings name sizes
    benches = bench.network.world.main_first(lambda: at_each_size(bench, cache))
    first = benches[0]

    activations = precompute_parts(first, weights_digest, cache)
    if settings.label_noise:
        check_labels(first, activations)

    head_rate = search_head(first, activations)
    fit_head(first, activations, head_rate)
    if settings.learning_curve:
        measure_learning_curve(first, activations, head_rate, settings.learning_curve)

    # 0 until found; if given, the range test is skipped: through all layers it takes an epoch
    unfrozen_rate = settings.unfrozen_learning_rate or 0.0
    for sized in benches:
        if sized.phase.head_epochs:
            fit_augmented_head(sized, activations, head_rate)
        if sized.phase.epochs:
            unfrozen_rate = unfrozen_rate or search_unfrozen(sized)
            fit_unfrozen(sized, unfrozen_rate)
    average_snapshots(bench)


def make_bundle(bench: Bench, assignment: Assignment, backbone: Backbone) -> tuple[Bundle, Scored]:
    """Turns the trained network into a complete bundle in `assignment.stage`, verified and scored.

    Raises:
        TrainingError: the ONNX model's outputs differ from the network's; nothing is staged.
    """
    calibrated = calibrate(bench) if bench.settings.calibrate else None
    choose_thresholds(bench)
    exported = export_and_verify(assignment, bench)

    answer = answering(exported.path)
    evaluation = evaluate(bench, answer)
    tests = read_tests(bench, answer, assignment.cache, assignment.model)
    evaluation = replace(evaluation, tests=tests)

    if bench.settings.variants:
        exported = add_variants(bench, exported, evaluation)
    trust = measure_trust(bench, calibrated, evaluation)
    bundle = seal_bundle(assignment, bench, exported, evaluation, trust, backbone)

    scored = score(
        bench.dataset,
        bundle,
        evaluation.served,
        assignment,
        bench.stages,
        bench.settings.beta,
        bench.network.learnt_before,
    )
    bench.stages.tell(scored)
    return bundle, scored
