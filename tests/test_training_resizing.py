"""Progressive resizing: small first, then the size that is served."""

from itertools import combinations
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from registry.errors import BadRequest
from registry.jobs import EpochFinished, StageStarted
from training import Learner, pretrained, read_images
from training.bench import Bench
from training.fit.plan import plan_cycles
from training.fit.resizing import at_each_size
from training.images import open_images
from training.network.backbone import load_backbone
from training.network.saving import load_network
from training.opening import open_bench
from training.planned_stages import planned_stages
from training.reading_settings import read_settings
from training.recipe import learn, train
from training.run.progress import Stages
from training.steps import fit_augmented_head, fit_unfrozen, precompute_parts

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def opened(tmp_path: Path, **told: str) -> Bench:
    settings = read_settings(photos.QUICK | told)
    stages = Stages(lambda event: None, 1)
    images = open_images(settings, photos.folder(tmp_path / "data"), tmp_path / "cache", stages)
    backbone = load_backbone(settings.backbone, pretrained=False)
    return open_bench(settings, images, backbone, stages, tmp_path / "run")


def test_without_sizes_there_is_one_phase():
    (phase,) = read_settings(
        {"augmented_epochs": "2", "cycles": "3", "cycle_len": "1"}
    ).size_phases()
    assert (phase.size, phase.head_epochs, phase.epochs, phase.suffix) == (224, 2, range(3), "")


def test_as_in_2018_each_size_has_the_heads_epochs_and_all_cycles():
    phases = read_settings({"recipe": "fastai2018", "sizes": "64,128,224"}).size_phases()
    assert [phase.size for phase in phases] == [64, 128, 224]
    assert {(phase.head_epochs, phase.epochs) for phase in phases} == {(3, range(7))}


def test_one_schedule_can_be_divided_among_the_sizes():
    told = {"sizes": "128,224", "size_epochs": "4,2", "cycle_len": "6", "augmented_epochs": "1"}
    small, large = read_settings(told).size_phases()
    assert (small.epochs, large.epochs) == (range(4), range(4, 6))
    assert (small.head_epochs, large.head_epochs) == (1, 0)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"cache_size": "200"}, "cache_size=200 is smaller than the network's input, 224 pixels"),
        ({"sizes": "128,192"}, "sizes end with 192 and size is 224; make them the same"),
        ({"sizes": "1,224"}, "sizes are different numbers from 2 to 1024"),
        ({"sizes": "224,224"}, "sizes are different numbers from 2 to 1024"),
        ({"sizes": "128,224", "size_epochs": "3"}, "2 sizes need as many size_epochs"),
        ({"sizes": "128,224", "size_epochs": "3,0"}, "each at least 1"),
        ({"sizes": "128,224", "size_epochs": "3,2"}, "add up to 5, and cycles.* to 10; make them"),
        ({"size_epochs": "3"}, "size_epochs need sizes"),
        ({"sizes": "128,224", "cycles": "0", "augmented_epochs": "0"}, "need augmented_epochs or"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_what_to_do(told: dict[str, str], message: str):
    with pytest.raises(BadRequest, match=message):
        read_settings(told)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_a_divided_schedule_is_the_whole_one_in_parts(schedule: str):
    settings = read_settings({"schedule": schedule, "decay": "per_cycle"})
    whole = plan_cycles(settings, 5, [2, 4])
    parts = [whole.part(epochs, 5) for epochs in (range(3), range(3, 6))]
    assert [len(part.shares) for part in parts] == [15, 15]
    assert [part.cycle_ends for part in parts] == [(2, 3), (3,)]
    for name in ("shares", "momenta", "decays"):
        values = [getattr(plan, name) for plan in (whole, *parts)]
        if values[0] is not None:
            assert np.array_equal(values[0], np.concatenate(values[1:]))


def test_a_divided_schedule_goes_on_with_the_batches_of_its_epochs(tmp_path: Path):
    bench = opened(tmp_path, sizes="16,32", size_epochs="2,1", cycle_len="3")
    small, large = at_each_size(bench, tmp_path / "cache")
    pixels, targets = next(small.image_batches().epoch(2))
    fit_unfrozen(small, 0.01)
    others, other_targets = next(large.image_batches().epoch(0))
    assert (pixels.shape[2:], others.shape[2:]) == ((16, 16), (32, 32))
    assert torch.equal(targets, other_targets)


def test_every_stage_meets_augmented_views_of_its_own(tmp_path: Path):
    bench = opened(tmp_path, augmented_epochs="2", cycle_len="2")
    met = [bench.image_batches()]
    fit_augmented_head(bench, precompute_parts(bench, "weights", tmp_path / "cache"), 0.1)
    met.append(bench.image_batches())
    fit_unfrozen(bench, 0.01)
    met.append(bench.image_batches())
    views = [next(batches.epoch(number))[0] for batches in met for number in range(2)]
    assert not any(torch.equal(one, other) for one, other in combinations(views, 2))


def test_the_backbone_is_frozen_anew_at_each_size_and_its_weights_are_kept(tmp_path: Path):
    bench = opened(tmp_path, sizes="16,32")
    small, large = at_each_size(bench, tmp_path / "cache")
    assert (small.decoded.spec.size, large.decoded.spec.size) == (16, 32)
    activations = precompute_parts(small, "weights", tmp_path / "cache")
    bench.network.freeze_to(0)
    before = {name: tensor.clone() for name, tensor in bench.network.state_dict().items()}
    fit_augmented_head(large, activations, 0.1)
    changed = {
        name.split(".")[0]
        for name, tensor in bench.network.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert small.network is large.network
    assert changed == {"head"}


def test_images_on_disk_can_have_one_size_whatever_the_network_sees(tmp_path: Path):
    small, large = at_each_size(
        opened(tmp_path, sizes="16,32", cache_size="48"), tmp_path / "cache"
    )
    assert small.enlarged.pixels.shape[1:] == (48, 48, 3)
    assert small.enlarged.key == large.enlarged.key
    assert len(list((tmp_path / "cache").glob("decoded-*"))) == 3
    for bench, size in ((small, 16), (large, 32)):
        views, _ = next(bench.image_batches().epoch(0))
        assert views.shape[1:] == (3, size, size)
        assert bench.decoded.spec.size == size  # what is measured is what will be served


def test_a_size_that_the_backbone_does_not_take_is_refused(tmp_path: Path):
    bench = opened(tmp_path, backbone="test_vit", sizes="8,32")
    with pytest.raises(BadRequest, match=r"test_vit does not take 8 x 8 pixels.*patch size"):
        at_each_size(bench, tmp_path / "cache")


def test_a_learner_goes_on_at_another_size_with_activations_of_what_it_has_learnt(tmp_path: Path):
    def opened_at(size: int) -> Learner:
        images = read_images(data, size, settings=told, cache=tmp_path / "cache", tell=heard.append)
        return pretrained(photos.QUICK["backbone"], images, run=tmp_path / "run", tell=heard.append)

    data, heard = photos.folder(tmp_path / "data"), photos.Heard()
    arguments = ("size", "backbone")
    told = {name: text for name, text in photos.QUICK.items() if name not in arguments}
    small = opened_at(16)
    untrained = opened_at(32).precompute()
    small.fit_unfrozen(0.1)
    large = small.at_size(32)
    activations = large.precompute()
    assert not torch.equal(activations.valid.features, untrained.valid.features)
    large.fit_augmented_head(activations, 0.1)
    views = large.augmented()
    assert views.shape[1:] == (32, 32, 3)
    assert [epoch.stage for epoch in large.history] == ["all layers", "head with augmentation"]
    assert large.bench.results.facts["by_hand"] == "size=32"


def stages_of_epochs(heard: photos.Heard) -> list[str]:
    """The stage of every epoch, in order."""
    return [event.stage for event in heard if isinstance(event, EpochFinished)]


def test_the_recipe_of_2018_trains_at_each_size(tmp_path: Path):
    """With a fresh optimizer each time: no momentum is known at a stage's first step."""
    heard, known = photos.Heard(), dict[str, int]()

    def watch(optimizer: torch.optim.Optimizer, *arguments: object) -> None:
        stage = [event for event in heard if isinstance(event, StageStarted)][-1].stage
        known.setdefault(stage, len(optimizer.state))

    data = photos.folder(tmp_path / "data")
    assignment = photos.assignment(tmp_path, data, recipe="fastai2018", sizes="16,32")
    watching = register_optimizer_step_pre_hook(watch)
    try:
        bundle, _ = train(assignment, heard.append)
    finally:
        watching.remove()
    stages = [event for event in heard if isinstance(event, StageStarted)]
    planned = planned_stages(read_settings(assignment.settings))
    assert [(stage.number, stage.stage) for stage in stages] == list(enumerate(planned, start=1))
    sized = [
        "head with augmentation at 16 pixels",
        "all layers at 16 pixels",
        "head with augmentation at 32 pixels",
        "all layers at 32 pixels",
    ]
    assert stages_of_epochs(heard)[4:] == sized
    assert [known[stage] for stage in sized] == [0, 0, 0, 0]
    assert bundle.image.size == 32


def test_small_first_and_the_end_at_the_size_that_is_served(tmp_path: Path):
    """What is kept, judged and averaged are epochs at the last size alone."""
    told = {"sizes": "16,32", "size_epochs": "2,2", "cycle_len": "2", "cycles": "2"}
    told |= {"cycle_mult": "1", "keep": "best", "snapshots": "true", "augmented_epochs": "0"}
    bench = opened(tmp_path, **told)
    learn(bench, "weights", tmp_path / "cache")
    sizes = [epoch.stage[-9:] for epoch in bench.results.history[4:]]
    assert sizes == ["16 pixels"] * 2 + ["32 pixels"] * 2
    assert "1 answer averaged" in bench.results.facts["snapshots"]
    assert bench.results.facts["best_epoch"].startswith(("epoch 1 ", "epoch 2 "))
    network, _ = load_network(bench.run / "cycle-1.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())
