"""Settings that have no effect are named."""

from pathlib import Path

import photos
import pytest
from benches import opened

from training.reading_settings import read_settings
from training.recipe import learn
from training.unused_settings import describe_unused

HEAD_ONLY = {"cycles": "0", "augmented_epochs": "0"}


@pytest.mark.parametrize("recipe", ["fastai2018", "modern"])
def test_what_is_set_and_not_used_is_named(recipe: str):
    told = {"mixup": "0.2", "patience": "3", "snapshots": "true", "augmentation": "top_down"}
    assert describe_unused(read_settings({"recipe": recipe} | HEAD_ONLY | told)) == (
        "no effect: mixup=0.2, patience=3, snapshots=true; no effect except on views at test time: "
        "augmentation=top_down (cycles=0 and augmented_epochs=0: the head learns from activations "
        "only)"
    )


@pytest.mark.parametrize("recipe", ["fastai2018", "modern"])
def test_what_the_recipe_sets_is_not_named(recipe: str):
    assert describe_unused(read_settings({"recipe": recipe} | HEAD_ONLY)) == ""


def test_augmentation_is_used_by_augmented_epochs_of_the_head():
    told = {"cycles": "0", "augmented_epochs": "1", "mixup": "0.2", "ema": "0.9"}
    assert (
        describe_unused(read_settings(told))
        == "no effect: ema=0.9 (cycles=0: the head alone learns)"
    )


def test_all_is_used_where_all_layers_learn():
    assert describe_unused(read_settings({"mixup": "0.2", "ema": "0.9", "cycles": "1"})) == ""


def test_a_training_notes_what_it_does_not_use(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=8)
    bench = opened(
        tmp_path, data, photos.QUICK | HEAD_ONLY | {"cutmix": "1", "label_noise": "false"}
    )
    learn(bench, "0" * 64, tmp_path / "cache")
    assert "cutmix=1.0" in bench.results.facts["unused_settings"]
