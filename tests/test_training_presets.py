"""Recipes by name, and the settings that they leave to the command."""

import pytest

from registry.errors import BadRequest
from training.fit.plan import plan_cycles, plan_head
from training.presets import FASTAI2018, PRESETS
from training.reading_settings import read_settings
from training.settings import Settings


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_read(name: str):
    assert read_settings({"recipe": name}).recipe == name


def test_without_a_recipe_it_is_the_modern_one():
    assert read_settings({}) == read_settings({"recipe": "modern"})
    assert read_settings({}).recipe == "modern"


def test_a_preset_sets_what_it_says_and_nothing_else():
    chosen, default = read_settings({"recipe": "fastai2018"}), Settings()
    differing = {
        name for name in Settings.model_fields if getattr(chosen, name) != getattr(default, name)
    }
    assert differing <= {*FASTAI2018, "recipe"}
    assert (chosen.backbone, chosen.weight_decay, chosen.clip_norm) == ("resnet34", 0, None)
    assert (chosen.optimizer, chosen.momentum, chosen.batch_size) == ("sgd", 0.9, 64)
    assert not chosen.keeps_statistics


def test_what_is_set_goes_before_the_preset():
    settings = read_settings({"recipe": "fastai2018", "cycles": "1", "backbone": "resnet18"})
    assert (settings.cycles, settings.backbone, settings.split) == (1, "resnet18", "cv")


@pytest.mark.parametrize(
    ("backbone", "kept"),
    [
        ("resnet34", False),
        ("resnet18", False),
        ("tv_resnet34", False),
        ("resnet33ts", True),
        ("resnet50", True),
        ("resnext50_32x4d", True),
        ("efficientnet_lite0", True),
    ],
)
def test_as_in_2018_only_small_resnets_update_their_batch_statistics(backbone: str, kept: bool):
    given = {"recipe": "fastai2018", "backbone": backbone}
    assert read_settings(given).keeps_statistics is kept
    assert read_settings(given | {"freeze_batchnorm": "true"}).keeps_statistics
    assert not read_settings(given | {"freeze_batchnorm": "false"}).keeps_statistics


def test_rare_features_are_no_louder_in_the_recipe_of_2018():
    """Its steps are not scaled to the gradients as AdamW's are, so it needs the floor more."""
    assert read_settings({"recipe": "fastai2018"}).epsilon == Settings().epsilon == 0.01


def test_a_server_averages_as_many_views_as_the_settings_say_if_a_request_does_not():
    assert read_settings({"serve_tta_views": "3"}).tta_spec().default_views == 3


def test_the_unfrozen_cycles_of_2018_are_seven_epochs():
    settings = read_settings({"recipe": "fastai2018"})
    assert plan_cycles(settings, 10, [1, 2, 4]).cycle_ends == (1, 3, 7)
    assert (settings.cycles, settings.cycle_len, settings.cycle_mult) == (3, 1, 2)


def test_the_head_of_2018_learns_at_a_constant_rate():
    plan = plan_head(read_settings({"recipe": "fastai2018"}), 5)
    assert plan.shares.tolist() == [1.0] * 10
    assert plan.momenta is None
    assert plan.decays is None


def test_one_cycle_and_decay_reach_the_plan():
    settings = read_settings({"schedule": "one_cycle", "decay": "per_cycle", "weight_decay": "0.5"})
    plan = plan_cycles(settings, 20, [1])
    assert plan.momenta is not None
    assert plan.decays is not None
    assert {len(each) for each in (plan.shares, plan.momenta, plan.decays)} == {20}
    assert plan.decays[0] == pytest.approx(0.5 / 20**0.5)


@pytest.mark.parametrize(
    ("given", "dropout"),
    [
        ({}, (0, 0)),
        ({"hidden": ""}, (0,)),
        ({"dropout": "", "hidden": "64,32"}, (0.25, 0.25, 0.5)),
        ({"dropout": "0.3"}, (0.3, 0.3)),
        ({"recipe": "fastai2018"}, (0.25, 0.5)),
        ({"recipe": "fastai2018", "hidden": ""}, (0.5,)),
        ({"recipe": "fastai2018", "hidden": "1024,512"}, (0.25, 0.25, 0.5)),
        ({"hidden": "64,32", "dropout": "0.1,0.2,0.3"}, (0.1, 0.2, 0.3)),
    ],
)
def test_dropout_fills_up_as_in_2018(given: dict[str, str], dropout: tuple[float, ...]):
    assert read_settings(given).dropout == dropout


def test_dropout_of_another_length_is_an_error():
    with pytest.raises(BadRequest, match="2 dropout values for 2 hidden layers"):
        read_settings({"hidden": "64,32", "dropout": "0.1,0.2"})
