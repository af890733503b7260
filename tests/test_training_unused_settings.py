"""Settings that have no effect are named."""

from pathlib import Path

import photos
import pytest
from benches import opened

from registry.bundle import Task
from training.reading_settings import read_settings
from training.recipe import learn
from training.unused_settings import describe_unused

HEAD_ONLY = {"cycles": "0", "augmented_epochs": "0"}


@pytest.mark.parametrize("recipe", ["fastai2018", "modern"])
def test_what_is_set_and_not_used_is_named(recipe: str):
    told = {"mixup": "0.2", "patience": "3", "snapshots": "true", "augmentation": "top_down"}
    assert describe_unused(read_settings({"recipe": recipe} | HEAD_ONLY | told), "single") == (
        "no effect: mixup=0.2, patience=3, snapshots=true; no effect except on views at test time: "
        "augmentation=top_down (cycles=0 and augmented_epochs=0: the head learns from activations "
        "only)"
    )


@pytest.mark.parametrize("recipe", ["fastai2018", "modern"])
def test_what_the_recipe_sets_is_not_named(recipe: str):
    assert describe_unused(read_settings({"recipe": recipe} | HEAD_ONLY), "single") == ""


def test_augmentation_is_used_by_augmented_epochs_of_the_head():
    told = {"cycles": "0", "augmented_epochs": "1", "mixup": "0.2", "ema": "0.9"}
    assert (
        describe_unused(read_settings(told), "single")
        == "no effect: ema=0.9 (cycles=0: the head alone learns)"
    )


def test_all_is_used_where_all_layers_learn():
    told = {"mixup": "0.2", "ema": "0.9", "cycles": "1", "judge_share": "0.2", "judge_by": "metric"}
    assert describe_unused(read_settings(told), "single") == ""


@pytest.mark.parametrize(
    ("told", "task", "unused"),
    [
        ({"sam_every": "2"}, "single", "sam_every=2 (sam=0)"),
        ({"ema_kept": "always"}, "single", "ema_kept=always (ema=0)"),
        ({"cycle_mult": "2"}, "single", "cycle_mult=2 (cycles=1: there is none to be longer)"),
        ({"judge_share": "0.2"}, "single", "judge_share=0.2 (no images are set apart to choose"),
        ({"judge_by": "metric"}, "multi", "judge_by=metric (neither epochs nor weights are"),
        ({"calibrate_share": "0.2"}, "single", "calibrate_share=0.2 (calibrate=false)"),
        (
            {"thresholds": "fitted", "beta": "1"},
            "single",
            "thresholds=fitted, beta=1.0 (each image",
        ),
        ({"label_smoothing": "0.1"}, "multi", "label_smoothing=0.1 (images have several labels)"),
        ({"momentum": "0.5"}, "single", "momentum=0.5 (optimizer=adamw)"),
        (
            {"backbone": "convnext_nano", "group_rates": "0.01,0.1,1"},
            "single",
            "group_rates=0.01,0.1,1.0 (layer_decay is used instead)",
        ),
        (
            {"augmentation": "none", "max_rotate": "20"},
            "single",
            "max_rotate=20.0 (augmentation=none)",
        ),
        (
            {"schedule": "cosine", "cycle_div": "9", "cycle_momenta": "0.9,0.8"},
            "single",
            "cycle_div=9.0, cycle_momenta=0.9,0.8 (schedule=cosine)",
        ),
        ({"schedule": "one_cycle", "cycle_rise": "0.5"}, "single", "cycle_rise=0.5 (schedule="),
        ({"cycle_tail": "5"}, "single", "cycle_tail=5.0 (schedule=cosine_cycle)"),
        ({"patience": "2"}, "single", "patience=2 (it counts cycles without a new best epoch"),
        ({"patience": "2", "cycles": "3"}, "single", "patience=2 (it counts cycles without"),
    ],
)
def test_what_another_setting_leaves_without_effect_is_named(
    told: dict[str, str], task: Task, unused: str
):
    described = describe_unused(read_settings(told), task)
    assert described.startswith(f"no effect: {unused}")
    assert described.count("no effect") == 1


@pytest.mark.parametrize(
    ("told", "task"),
    [
        ({"sam": "0.05", "sam_every": "2"}, "single"),
        ({"ema": "0.9", "ema_kept": "always"}, "single"),
        ({"cycle_mult": "2", "cycles": "2"}, "single"),
        ({"keep": "best", "judge_share": "0.2", "judge_by": "metric"}, "single"),
        ({"thresholds": "fitted", "beta": "1", "judge_share": "0.2"}, "multi"),
        ({"label_smoothing": "0.1"}, "single"),
        ({"optimizer": "sgd", "momentum": "0.5", "group_rates": "0.01,0.1,1"}, "single"),
        ({"schedule": "one_cycle", "cycle_div": "9", "cycle_tail": "5"}, "single"),
        ({"backbone": "vit_tiny", "layer_decay": "1", "group_rates": "0.01,0.1,1"}, "single"),
        ({"patience": "2", "cycles": "4", "cycle_len": "1"}, "single"),
    ],
)
def test_what_has_an_effect_is_not_named(told: dict[str, str], task: Task):
    assert describe_unused(read_settings(told), task) == ""


def test_a_training_notes_what_it_does_not_use(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=8)
    bench = opened(
        tmp_path, data, photos.QUICK | HEAD_ONLY | {"cutmix": "1", "label_noise": "false"}
    )
    learn(bench, "0" * 64, tmp_path / "cache")
    assert "cutmix=1.0" in bench.results.facts["unused_settings"]
