"""Settings from text, and what is told of those that make no sense, before anything else is."""

import re
from pathlib import Path

import photos
import pytest

from registry.errors import BadRequest
from training import read_images
from training.__main__ import main
from training.reading_settings import ELSEWHERE, read_settings
from training.recipe import train
from training.settings import Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nonsense": "224"}, "no setting is called 'nonsense'; there are: augmentation"),
        ({"xtra_cut": "1"}, "no setting is called 'xtra_cut'"),
        ({"custom_head": "linear"}, "no setting is called 'custom_head'"),
        ({"size": "large"}, "size: 'large' is not a whole number"),
        (
            {"dropout": "0.5,0.5,0.5"},
            "3 dropout values for 1 hidden layer; give one for all, or 2",
        ),
        ({"group_rates": "0.1,1"}, r"group_rates.2: Field required"),
        ({"recipe": "fastai2017"}, "recipe: Input should be 'modern' or 'fastai2018'"),
        (
            {"cycles": "200", "cycle_len": "1", "cycle_mult": "2"},
            r"cycle_mult make 1.6e\+60 epochs; at most 10000",
        ),
        ({"seed": str(2**32)}, "seed: Input should be less than 4294967296"),
        ({"hidden": "512,0"}, "hidden.1: Input should be greater than or equal to 1"),
        ({"dropout": "2"}, r"dropout.0: Input should be less than 1"),
        ({"dropout": "0.5,-1"}, r"dropout.1: Input should be greater than or equal to 0"),
        ({"group_rates": "-1,0,1"}, r"group_rates.0: Input should be greater than or equal to 0"),
        ({"group_rates": "0,0,nan"}, r"group_rates.2: Input should be a finite number"),
        ({"cycle_momenta": "0.95,1"}, r"cycle_momenta.1: Input should be less than 1"),
        ({"learning_rate": "inf"}, "learning_rate: Input should be a finite number"),
        ({"mixup": "inf"}, "mixup: Input should be a finite number"),
        ({"augmentation": "wild"}, "augmentation: Input should be 'none', 'basic'"),
        ({"header": "2"}, "settings: header: '2' is not true or false$"),
        (
            {"freeze_batchnorm": "nope"},
            "settings: freeze_batchnorm: 'nope' is not true or false or 'family'$",
        ),
        (
            {"layer_decay": "2"},
            "settings: layer_decay: '2' is not less than or equal to 1 or 'family'$",
        ),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, str], message: str):
    with pytest.raises(BadRequest, match=message):
        read_settings(settings)


@pytest.mark.parametrize("split", ["hash", "stratified"])
def test_a_fold_is_refused_where_the_split_has_none(split: str):
    """Otherwise whoever cross-validates would measure one split k times."""
    with pytest.raises(BadRequest, match=f"fold=9 has no effect with split={split}.* split=cv"):
        read_settings({"split": split, "fold": "9"})
    assert read_settings({"split": split, "fold": "0"}).fold == 0  # as all settings passed on have
    assert read_settings({"split": "cv", "fold": "4"}).fold == 4


def test_settings_are_read_from_text():
    settings = read_settings({"hidden": "64,32", "dropout": "0.1,0.2,0.3", "learning_rate": ""})
    assert (settings.hidden, settings.learning_rate) == ((64, 32), None)


@pytest.mark.parametrize(
    ("settings", "meant"),
    [
        ({"learning_rat": "1e-3"}, "learning_rate"),
        ({"Learning-Rate": "1e-3"}, "learning_rate"),
        ({"sise": "224"}, "size or sizes"),
        ({"lr": "1e-3"}, "learning_rate"),
        ({"epochs": "4"}, "head_epochs, augmented_epochs or cycle_len"),
        ({"recipe": "modren"}, "modern"),
        ({"split": "stratifed"}, "stratified"),
        ({"schedule": "onecycle"}, "one_cycle"),
        ({"variants": "int4"}, "int8"),
        ({"header": "ture"}, "true"),
        ({"freeze_batchnorm": "ture"}, "true"),
        ({"freeze_batchnorm": "famly"}, "family"),
        ({"layer_decay": "famly"}, "family"),
    ],
)
def test_a_misspelt_setting_is_answered_with_the_nearest_name(settings: dict[str, str], meant: str):
    with pytest.raises(BadRequest) as refusal:
        read_settings(settings)
    assert str(refusal.value).endswith(f"; did you mean {meant}?")


def test_help_lists_every_setting_with_its_default_and_its_choices(
    capsys: pytest.CaptureFixture[str],
):
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = (
        capsys.readouterr()
        .out.split("what fastai2018 sets is in training/presets.py):\n")[1]
        .splitlines()
    )
    named = [line for line in lines if line[2] != " "]
    listed = dict(line.split("  (")[0].strip().split("=") for line in named)
    assert list(listed) == list(Settings.model_fields)
    assert {"  balance=none  (none, weights, sampling)", "  freeze_batchnorm=true"} <= set(lines)
    told = listed | {"label_separator": " "}
    assert read_settings({name: text for name, text in told.items() if text}) == read_settings({})


def test_blanks_around_a_value_are_none_of_it_but_may_be_a_separator():
    told = {"split": " cv", "freeze_batchnorm": "true ", "test": " test", "sizes": "128, 224"}
    settings = read_settings(told | {"label_separator": " "})
    assert (settings.split, settings.freeze_batchnorm, settings.test) == ("cv", True, "test")
    assert (settings.sizes, settings.label_separator) == ((128, 224), " ")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_help_says_of_every_setting_what_it_does(name: str):
    assert re.fullmatch(
        r"[A-Z0-9t].{10,}\.", Settings.model_fields[name].description or "", re.DOTALL
    )


def test_what_others_call_a_setting_is_called_otherwise_here():
    ours = set(Settings.model_fields)
    assert not ours & set(ELSEWHERE)
    assert set(re.findall(r"\w+", " ".join(ELSEWHERE.values()))) - {"or"} <= ours


MISSPELT = [
    ("--set=learning_rat=1e-3", "no setting is called 'learning_rat'; did you mean learning_rate?"),
    ("--set=balance=wieghts", "(given: 'wieghts'); did you mean weights?"),
    ("--backbone=efficientnet_lite", "did you mean efficientnet_lite4 or "),
    ("--set=weights=nowhere.pt", "nowhere.pt: no such file of weights"),
]


@pytest.mark.parametrize(("argument", "message"), MISSPELT)
def test_a_command_reports_that_alone_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argument: str, message: str
):
    data = photos.folder(tmp_path / "data", per_class=1)
    folders = [f"--{name}={tmp_path / name}" for name in ("cache", "registry", "run")]
    assert main([f"--data={data}", "--model=photos", *folders, argument]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("unfreeze train: ")
    assert message in told.err
    assert told.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [data]


@pytest.mark.parametrize("settings", [{"learning_rat": "1"}, {"backbone": "resnet35"}])
def test_a_services_child_reports_nothing_before(tmp_path: Path, settings: dict[str, str]):
    heard = photos.Heard()
    with pytest.raises(BadRequest, match=r"is called '.*'; did you mean .*\?"):
        train(photos.assignment(tmp_path, tmp_path / "data", **settings), heard.append)
    assert not heard


def test_in_python_the_error_comes_before_an_image_is_read(tmp_path: Path):
    with pytest.raises(BadRequest, match=r"'learning_rat'; did you mean learning_rate\?"):
        read_images(tmp_path / "nowhere", settings={"learning_rat": 1e-3}, cache=tmp_path / "cache")
    assert not list(tmp_path.iterdir())
