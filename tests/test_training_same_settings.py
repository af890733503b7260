"""A training with `--same-settings` has those that the promoted version was trained with."""

import json
from pathlib import Path

import photos
import pytest
import tiny
from test_training_checking import ask

from registry.errors import BadRequest
from registry.store import Registry
from training.__main__ import main as train
from training.changed_settings import describe_changed
from training.reading_settings import read_settings
from training.run.request import Request, make_request
from training.same_settings import with_settings_of

UNUSUAL = {
    "size": "288",
    "backbone": "convnext_nano",
    "hidden": "512,256",
    "group_rates": "0.01,0.1,1",
    "freeze_batchnorm": "false",
    "layer_decay": "0.75",
    "clip_norm": "",
    "variants": "",
    "label_separator": " ",
    "weights": "/data/begin.safetensors",
    "split": "cv",
    "fold": "2",
    "seed": "7",
}


def version(folder: Path, recorded: object, **provenance: str) -> Path:
    """A bundle that was trained with these settings."""
    tiny.stage(folder, provenance={"settings": json.dumps(recorded)} | provenance)
    return folder


def trained(folder: Path, **settings: str) -> Path:
    return version(folder, json.loads(read_settings(settings).model_dump_json()))


@pytest.mark.parametrize("recipe", ["modern", "fastai2018"])
def test_the_same_settings_are_all_that_decides_what_is_learnt(tmp_path: Path, recipe: str):
    before = UNUSUAL | {"recipe": recipe}
    told = with_settings_of(trained(tmp_path / "4", **before), {})
    assert read_settings(told) == read_settings(before)
    assert told["recipe"] == recipe
    assert len(told) <= len(before)  # and not those that the recipe gives


def test_those_that_are_given_override_them(tmp_path: Path):
    promoted = trained(tmp_path / "4", size="288", backbone="convnext_nano")
    told = with_settings_of(promoted, {"size": "160", "recipe": "modern"})
    assert told == {"recipe": "modern", "size": "160", "backbone": "convnext_nano"}


def test_settings_of_one_run_only_are_left_out_and_do_not_count_as_changed(tmp_path: Path):
    promoted = trained(tmp_path / "4", checkpoint_seconds="5", tensorboard="false", size="160")
    told = with_settings_of(promoted, {})
    assert told == {"recipe": "modern", "size": "160"}
    assert describe_changed(read_settings(told), promoted, 4) == ""


@pytest.mark.parametrize("recipe", ["modern", "fastai2018"])
def test_the_dropout_of_the_recipe_follows_the_layers_that_are_given(tmp_path: Path, recipe: str):
    promoted = trained(tmp_path / "4", recipe=recipe, hidden="512,256")
    told = with_settings_of(promoted, {"hidden": "128"})
    assert told == {"recipe": recipe, "hidden": "128"}


def test_another_recipe_is_refused(tmp_path: Path):
    promoted = trained(tmp_path / "4", size="288")
    with pytest.raises(BadRequest, match="leave out either recipe or same_settings"):
        with_settings_of(promoted, {"recipe": "fastai2018"})


def test_a_version_that_was_imported_is_refused(tmp_path: Path):
    tiny.stage(tmp_path / "4", provenance={"backbone": "imported, 123"})
    said = "version 4 does not say which settings .* give the settings by name, without same_set"
    with pytest.raises(BadRequest, match=said):
        with_settings_of(tmp_path / "4", {})


def test_a_version_that_was_trained_step_by_step_is_refused(tmp_path: Path):
    learner = photos.learner(tmp_path, 4)
    learner.fit_head(learner.precompute(), 0.5)
    promoted = version(tmp_path / "4", {"size": 32}, **learner.bench.results.facts)
    with pytest.raises(
        BadRequest, match="step by step from Python, and its settings do not say all"
    ):
        with_settings_of(promoted, {})


def test_settings_that_are_no_longer_there_are_named_with_the_others(tmp_path: Path):
    promoted = version(tmp_path / "4", {"size": 288, "warmth": [1, 2], "hidden": [256]})
    with pytest.raises(BadRequest) as caught:
        with_settings_of(promoted, {})
    assert str(caught.value) == (
        "version 4 was trained with settings that this release does not have: warmth=1,2; give its "
        "others by name, without same_settings: recipe=modern size=288 hidden=256"
    )


def test_a_value_that_is_no_longer_there_is_refused_unless_another_is_given(tmp_path: Path):
    promoted = version(tmp_path / "4", {"size": 160, "optimizer": "lion"})
    with pytest.raises(BadRequest, match=r"optimizer: .*together with the settings of version 4"):
        with_settings_of(promoted, {})
    told = with_settings_of(promoted, {"optimizer": "sgd"})
    assert told == {"recipe": "modern", "size": "160", "optimizer": "sgd"}


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path):
    promoted = trained(tmp_path / "4", size="288", sizes="128,288")
    with pytest.raises(BadRequest, match="sizes end with 288 and size is 160; make them the same"):
        with_settings_of(promoted, {"size": "160"})


def test_a_service_is_told_them_before_there_is_a_job_and_without_torch(tmp_path: Path):
    promoted = trained(tmp_path / "4", backbone="resnet34", seed="7")
    code, (told, heavy) = ask({"seed": "8"}, "--settings-of", str(promoted))
    assert (code, heavy) == (0, "heavy: []")
    settings = {"recipe": "modern", "seed": "8", "backbone": "resnet34"}
    assert json.loads(told) == {"kind": "resolved", "settings": settings}


def request(tmp_path: Path, **given: str) -> Request:
    return make_request(
        tmp_path / "models",
        "photos",
        photos.folder(tmp_path / "data", per_class=1),
        given,
        tmp_path / "cache",
        tmp_path / "run",
        promote=False,
        same_settings=True,
    )


def publish(tmp_path: Path, **settings: str) -> None:
    recorded = {"settings": read_settings(settings).model_dump_json()}
    tiny.publish(tmp_path / "models", model="photos", promote=True, provenance=recorded)


def test_a_command_is_given_them_once_and_keeps_them_when_it_is_repeated(tmp_path: Path):
    """Of several processes the first asks again whenever it is restarted."""
    publish(tmp_path, size="288")
    begun = request(tmp_path, seed="8")
    assert begun.assignment.settings == {"recipe": "modern", "size": "288", "seed": "8"}
    publish(tmp_path, size="160")
    assert request(tmp_path, seed="8") == begun


def test_a_model_without_a_promoted_version_has_none_to_give(tmp_path: Path):
    with pytest.raises(BadRequest, match="photos: no version is promoted"):
        request(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_version_is_trained_again_as_it_was(tmp_path: Path):
    data = photos.folder(tmp_path / "data")
    settings = photos.QUICK | {"cycles": "0", "augmented_epochs": "0", "serve_tta_views": "2"}
    given = [f"--set={name}={text}" for name, text in settings.items()]
    folders = [f"--{name}={tmp_path / name}" for name in ("cache", "registry")]
    command = ["--data", str(data), "--model=photos", *folders]
    assert train([*command, *given, f"--run={tmp_path / 'first'}"]) == 0
    assert train([*command, "--same-settings", "--set=seed=7", f"--run={tmp_path / 'again'}"]) == 0
    registry = Registry(tmp_path / "registry")
    first, again = (registry.bundle("photos", number).provenance for number in (1, 2))
    assert json.loads(again["settings"]) == json.loads(first["settings"]) | {"seed": 7}
    assert "seed=7 (there 42); a training takes" in again["changed_settings"]
