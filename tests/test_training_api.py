"""Training from Python: three calls, the steps one by one, and what they leave."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import photos
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from registry.bundle import verify_bundle
from registry.errors import BadRequest
from registry.store import Registry
from training import Learner, classify, looking, pretrained, read_images
from training.fastai_names import STEPS
from training.fit.keeping import copy_state
from training.recipe import train

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    """What three calls give."""
    learner = photos.learner(tmp_path_factory.mktemp("fitted"))
    learner.fit()
    return learner


@pytest.fixture(scope="module")
def version(fitted: Learner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted.publish(tmp_path_factory.mktemp("models"), "photos")


def test_three_calls_learn_what_the_command_learns(fitted: Learner, tmp_path: Path):
    assignment = photos.assignment(tmp_path, fitted.source)
    train(assignment, lambda event: None)
    fitted.bench.save("now.safetensors")
    mine = (fitted.bench.run / "now.safetensors").read_bytes()
    assert mine == (assignment.run / "network.safetensors").read_bytes()


def test_a_version_is_published_and_answers_as_the_network_does(fitted: Learner, version: Path):
    image = next((fitted.source / "light").iterdir())
    said = classify(version, image)
    assert verify_bundle(version).labels == ("dark", "light") == tuple(said)
    assert said == pytest.approx(fitted.classify(image), abs=1e-4)
    with_views = classify(version, image, views=3)
    assert with_views == pytest.approx(fitted.classify(image, views=3), abs=1e-4)
    assert with_views != said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lr_find", "a Learner has no 'lr_find'; here it is search_head(activations) or"),
        ("fine_tune", "here it is fit(); the settings say how long"),
        ("precomputed", "did you mean precompute?"),
        ("_repr_html_", "a Learner has no '_repr_html_'"),
    ],
)
def test_what_fastai_calls_a_step_is_answered_with_its_name_here(
    fitted: Learner, name: str, said: str
):
    with pytest.raises(AttributeError, match=re.escape(said)):
        getattr(fitted, name)


def test_every_step_that_is_named_instead_exists(fitted: Learner):
    for said in STEPS.values():
        assert hasattr(fitted, re.match(r"\w+", said).group())  # type: ignore[union-attr]


def test_what_is_shown_in_a_notebook_is_a_line(fitted: Learner):
    assert re.fullmatch(r"<\d+ features of each of \d+ images>", repr(fitted.precompute().valid))


def test_a_gallery_that_is_not_there_is_answered_with_those_that_are(fitted: Learner):
    with pytest.raises(BadRequest, match="no gallery is called 'top_losses'; there are: most_in"):
        looking.gallery(fitted, fitted.evaluate(), "top_losses")


def test_the_most_confused_are_those_of_the_matrix(fitted: Learner):
    evaluation = fitted.evaluate()
    counts = looking.confusion(fitted, evaluation)
    pairs = looking.most_confused(fitted, evaluation)
    assert sum(pair.count for pair in pairs) == counts.sum() - counts.trace()


def test_the_eight_steps_can_be_taken_one_by_one_with_other_numbers(tmp_path: Path, version: Path):
    learner = photos.learner(tmp_path)
    activations = learner.precompute()
    rate = learner.search_head(activations).suggestion
    learner.fit_head(activations, rate, epochs=2)
    learner.fit_augmented_head(activations, rate / 2, epochs=1)
    shares = (0.01, 0.1, 1)
    found = learner.search_unfrozen(group_rates=shares)
    learner.fit_unfrozen(found.suggestion, group_rates=shares, cycles=2, cycle_len=1, cycle_mult=2)
    stages = [epoch.stage for epoch in learner.history]
    assert stages == ["head on activations"] * 2 + ["head with augmentation"] + ["all layers"] * 3

    registry = Registry(version.parent.parent)
    second = learner.publish(registry.root, version.parent.name)
    facts = verify_bundle(second).provenance
    assert "head_epochs=2, augmented_epochs=1, group_rates=0.01,0.1,1" in facts["by_hand"]
    assert f"head {rate / 2:.2e}" in facts["learning_rates"]
    promoted = registry.promoted("photos")
    assert promoted is not None
    assert (promoted.pointer.version, second.name) == (
        1,
        "2",
    )  # nobody said that it is to be promoted


def test_only_the_groups_of_a_step_learn(tmp_path: Path):
    learner = photos.learner(tmp_path)
    activations = learner.precompute()
    learner.fit_unfrozen(1e-3, cycles=1)
    with pytest.raises(BadRequest, match="the backbone before it was trained; precompute"):
        learner.fit_augmented_head(activations, 1e-2, epochs=1)
    activations = learner.precompute()
    body = [parameter.clone() for parameter in learner.bench.network.body.parameters()]
    learner.fit_augmented_head(activations, 1e-2, epochs=1)
    after = learner.bench.network.body.parameters()
    assert all(torch.equal(mine, yours) for mine, yours in zip(body, after, strict=True))


def test_images_that_were_learnt_from_are_not_set_apart_to_judge_by(tmp_path: Path):
    learner = photos.learner(tmp_path, patience=2)
    learner.fit_head(learner.precompute(), 1e-2, epochs=1)
    with pytest.raises(BadRequest, match=r"\d images would be set apart .* read_images\(settings"):
        learner.fit_unfrozen(1e-4, cycles=5, cycle_len=1)
    learner.fit_unfrozen(1e-4, cycles=1, cycle_len=1)


def test_group_rates_of_a_step_replace_the_rates_of_blocks_that_a_family_has(tmp_path: Path):
    learner = photos.learner(tmp_path, layer_decay=0.5, cycles=1, cycle_len=1)
    learner.fit_unfrozen(1e-3, group_rates=(0, 0, 1))
    assert learner.bench.results.facts["by_hand"] == "group_rates=0,0,1, layer_decay=1.0"


def test_a_picture_in_a_notebook_is_shown_as_the_network_sees_it(tmp_path: Path):
    path, levels = tmp_path / "deep.png", np.full((30, 40), 20_000, np.uint16)
    Image.fromarray(levels).save(path)
    shown = looking.answered(path, {"dark": 0.75})
    assert set(np.unique(shown.pixels)) == {78}
    assert shown.caption == ("deep.png", "said dark 0.75")


def test_activations_of_what_is_no_longer_so_are_refused_by_every_step(tmp_path: Path):
    learner = photos.learner(tmp_path)
    stale = learner.precompute()
    with torch.no_grad():
        next(learner.bench.network.body.parameters()).mul_(2)
    for step in (learner.search_head, partial(learner.fit_head, rate=1.0)):
        with pytest.raises(BadRequest, match="precompute them again"):
            step(stale)
    for step in (learner.learning_curve, learner.fit_augmented_head):
        with pytest.raises(BadRequest, match="precompute them again"):
            step(stale, 1.0)
    assert not learner.history


def test_evaluation_answers_the_held_out_images_and_leaves_the_test_part(fitted: Learner):
    evaluation = fitted.evaluate()
    assert evaluation.plain.shape == (fitted.bench.n_valid, 2)
    assert evaluation.tests is None
    assert evaluation.plain_measures.value >= 0.7
    first = fitted.bench.dataset.items[evaluation.rows[0]].path
    for answers, views in ((evaluation.plain, 1), (evaluation.tta, 3)):
        said = fitted.classify(first, views=views)
        assert answers[0].tolist() == pytest.approx(list(said.values()), abs=1e-5)
    assert fitted.augmented().shape == (8, photos.SIZE, photos.SIZE, 3)


def test_without_augmentation_it_learns_from_the_pixels_that_are_served(tmp_path: Path):
    learner = photos.learner(tmp_path, augmentation="none")
    served = learner.bench.decoded.pixels[learner.bench.rows("train")].astype(int)
    differences = [np.abs(served - view).max(axis=(1, 2, 3)).min() for view in learner.augmented()]
    assert max(differences) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sise": 3}, "no setting is called 'sise'"),
        ({"cycles": -1}, "settings: cycles: "),
        ({"size": 64}, "settings: size is an argument of read_images; pass it there"),
        (
            {"backbone": "resnet34"},
            "settings: backbone is an argument of pretrained; pass it there",
        ),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, settings: dict[str, object], message: str):
    with pytest.raises(BadRequest, match=message):
        read_images(tmp_path, settings=settings, cache=tmp_path)


def test_a_wrong_number_of_a_step_is_named(fitted: Learner):
    with pytest.raises(BadRequest, match="settings: cycle_mult: "):
        fitted.fit_unfrozen(1e-3, cycle_mult=0)


def test_a_step_that_would_learn_nothing_says_so(tmp_path: Path):
    learner = photos.learner(tmp_path, 4, cycles=0, augmented_epochs=0)
    with pytest.raises(BadRequest, match="cycles=0: there is nothing to train; pass cycles"):
        learner.fit_unfrozen(1e-3)
    with pytest.raises(BadRequest, match="epochs=0: there is nothing to train; pass epochs"):
        learner.fit_augmented_head(learner.precompute(), 1e-3)


@pytest.mark.parametrize("rate", [slice(1e-5, 1e-3), [1e-4, 1e-3, 1e-2], "1e-3", 0, float("nan")])
def test_an_impossible_rate_is_refused_with_how_layers_get_theirs(tmp_path: Path, rate: Any):
    learner = photos.learner(tmp_path, 4)
    with pytest.raises(BadRequest, match=r"one number above 0.* group_rates=\(0.01, 0.1, 1\) sets"):
        learner.fit_unfrozen(rate)
    assert not learner.history


def test_fitting_again_goes_on_with_what_has_been_learnt(tmp_path: Path):
    """Its activations are those of the backbone as it is, and are known by it in the cache."""
    short = {"cycles": 0, "augmented_epochs": 0, "head_epochs": 1, "label_noise": False}
    untaught = photos.learner(tmp_path / "one", 4, **short).precompute().train
    learner = photos.learner(tmp_path / "two", 4, **short)
    with torch.no_grad():
        next(learner.bench.network.body.parameters()).mul_(2)
    learner.fit()
    fresh = photos.learner(tmp_path / "two", 4, **short).precompute().train
    assert torch.equal(fresh.features, untaught.features)


def test_a_saved_network_is_loaded_bit_for_bit_by_name_or_file(tmp_path: Path):
    learner = photos.learner(tmp_path, 4, pretrained=False)
    file = learner.save("224_lastlayer")
    before = copy_state(learner.bench.network)
    for saved in ("224_lastlayer", file, str(file)):
        with torch.no_grad():
            for parameter in learner.bench.network.parameters():
                parameter.add_(1)
        learner.load(saved)
        after = learner.bench.network.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_network_saved_to_a_relative_folder_is_loaded_from_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    first = photos.learner(tmp_path, 4)
    images = read_images(first.source, photos.SIZE, settings=photos.AS_PYTHON, cache="cache")
    learner = pretrained("test_efficientnet", images, run="runs/one")
    file = learner.save("now")
    assert file == tmp_path / "runs" / "one" / "now.safetensors"
    before = copy_state(learner.bench.network)
    first.load("runs/one/now.safetensors")
    assert all(
        torch.equal(before[name], each) for name, each in copy_state(first.bench.network).items()
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    learner.load(file)


def test_a_file_name_without_a_folder_is_first_looked_for_in_the_runs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    learner = photos.learner(tmp_path, 4)
    before = copy_state(learner.bench.network)
    learner.save("now")
    monkeypatch.chdir(tmp_path)
    Path("now.safetensors").write_bytes(b"of something else")
    with torch.no_grad():
        learner.bench.network.head[-1].bias.add_(1)
    learner.load("now.safetensors")
    after = learner.bench.network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    with pytest.raises(BadRequest, match=r"now\.safetensors: not a saved network"):
        learner.load("./now.safetensors")
    (learner.bench.run / "now.safetensors").rename("then.safetensors")
    learner.load("then.safetensors")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"nowhere\.safetensors: not a saved network: "),
        ("other", r"other\.safetensors: these are weights of another network, or for other labels"),
    ],
)
def test_what_is_no_saved_network_of_this_kind_is_refused(tmp_path: Path, name: str, message: str):
    learner = photos.learner(tmp_path, 4, hidden=())
    learner.save("other")
    wider = photos.learner(tmp_path, 4, hidden=(8,))
    with pytest.raises(BadRequest, match=message):
        wider.load(name)


def test_a_network_for_other_labels_of_the_same_number_is_refused_with_what_to_do(tmp_path: Path):
    learner = photos.learner(tmp_path, 4)
    file = learner.save("now")
    dataset = replace(learner.bench.dataset, labels=("cat", "dog"))
    other = replace(learner, bench=replace(learner.bench, dataset=dataset))
    message = r"for other labels; 'cat' is the first of 4 that .* alone, set weights=\S+now\.safe"
    with pytest.raises(BadRequest, match=message):
        other.load("now")
    before = copy_state(learner.bench.network)
    saved = load_file(file)
    save_file(saved, file)  # as older files are, which do not say
    other.load("now")
    assert all(torch.equal(before[name], saved[name]) for name in before)


def test_images_and_learner_are_shown_in_a_line(tmp_path: Path):
    photos.folder(tmp_path / "data", 4)
    settings = photos.AS_PYTHON | {"valid_fraction": 0.5}
    images = read_images(str(tmp_path / "data"), 16, settings=settings, cache=str(tmp_path / "c"))
    assert repr(images).startswith(f"<{tmp_path / 'data'}: ")
    assert repr(images).endswith("; 16 x 16 pixels>")
    learner = pretrained("test_efficientnet", images, run=str(tmp_path / "run"))
    assert len(repr(learner.search_head(learner.precompute()))) < 200
    assert len(repr(learner.evaluate())) < 300
    assert repr(learner) == "<test_efficientnet for dark, light; 0 epochs so far>"


def test_what_happens_is_printed_unless_it_is_reported_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    photos.folder(tmp_path / "data")
    images = read_images(tmp_path / "data", 16, settings=photos.AS_PYTHON, cache=tmp_path / "cache")
    learner = pretrained("test_efficientnet", images)
    learner.fit_head(learner.precompute(), 1e-2, epochs=1)
    printed = capsys.readouterr().out.splitlines()
    assert "precompute activations" in printed
    assert any(line.startswith("    epoch 1/1  train ") for line in printed)
    assert learner.bench.run.parent == tmp_path / "cache" / "runs"


def test_importing_the_package_loads_no_torch():
    code = "import sys, training; assert not {'torch', 'timm', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(ImportError, match="cannot import name 'fit_everything'"):
        from training import fit_everything  # type: ignore[attr-defined]  # noqa: F401
