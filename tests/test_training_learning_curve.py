"""How many images does it take?"""

import json
import math
import re
from pathlib import Path

import numpy as np
import photos
import pytest
import torch

from registry.errors import TrainingError
from training.evaluation.learning_curve import curve_sizes, describe_curve, stratified_order
from training.fit.keeping import copy_state
from training.fit.lr_finder import RateSearch
from training.recipe import train

quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def one_hot(*counts: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    classes = np.repeat(np.arange(len(counts)), counts)
    return np.eye(len(counts), dtype=np.float32)[classes]


def test_every_beginning_has_the_classes_in_their_shares():
    targets = one_hot(600, 80, 3)
    order = stratified_order(targets, "single", np.random.default_rng(0))
    assert sorted(order) == list(range(683))
    for size in (3, 85, 171, 342):
        found = targets[order[:size]].sum(axis=0)
        expected = np.array([600, 80, 3]) * size / 683
        assert np.abs(found - expected).max() <= 2
        assert found.min() >= 1


def test_other_draws_have_other_images():
    targets = one_hot(40, 40)
    first, second = (
        set(stratified_order(targets, "single", np.random.default_rng([42, draw]))[:20])
        for draw in range(2)
    )
    assert first != second


def test_several_labels_are_drawn_plainly_at_random():
    targets = np.ones((10, 3), np.float32)
    order = stratified_order(targets, "multi", np.random.default_rng(0))
    assert sorted(order) == list(range(10))
    assert list(order) != list(range(10))


@pytest.mark.parametrize(
    ("n_images", "n_classes", "sizes"),
    [(1968, 2, [246, 492, 984, 1968]), (20, 3, [10, 20]), (14, 7, []), (9, 2, [4, 9])],
)
def test_sizes_too_small_to_tell_anything_are_left_out(
    n_images: int, n_classes: int, sizes: list[int]
):
    assert curve_sizes(n_images, n_classes) == sizes


def test_it_is_reported_with_its_spread_and_without_a_promise():
    told = describe_curve({10: [0.5, 0.6], 20: [0.8, 0.7], 5: [0.4, 0.4]})
    assert "trained on 5 images 0.400 ± 0.000, 10 images 0.550 ± 0.071, 20 images 0.750" in told
    assert told.endswith("from 10 to 20 images, changed it by +0.200")
    assert "±" not in describe_curve({10: [0.5], 20: [0.8]})


def test_drawing_it_leaves_network_and_random_numbers_as_they_were(tmp_path: Path):
    learner = photos.learner(tmp_path, per_class=40)
    activations = learner.precompute()
    before = {name: value.clone() for name, value in learner.bench.network.state_dict().items()}
    generator = torch.get_rng_state()
    curve = learner.learning_curve(activations, 0.1, draws=2)
    after = learner.bench.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(generator, torch.get_rng_state())
    assert [len(values) for values in curve.values()] == [2] * len(curve) != []
    assert np.mean(curve[max(curve)]) >= np.mean(curve[min(curve)]) - 0.2


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_it_learns_with_balanced_classes_too(tmp_path: Path, balance: str):
    learner = photos.learner(tmp_path, per_class=20, balance=balance)
    curve = learner.learning_curve(learner.precompute(), 0.1, draws=1)
    assert all(math.isfinite(values[0]) for values in curve.values())
    assert curve


@quiet
def test_the_report_shows_it_when_a_setting_asks(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=20)
    told = {"learning_curve": "2", "cycles": "0", "augmented_epochs": "0"}
    heard = photos.Heard()
    assignment = photos.assignment(tmp_path, data, **told)
    bundle, _ = train(assignment, heard.append)
    report = assignment.stage / "report"
    points = json.loads((report / "report.json").read_text())["learning_curve"]
    n_train = int(bundle.metrics["images_train"])
    assert points[-1]["images"] == n_train
    assert [len(point["values"]) for point in points] == [2] * len(points)
    assert (report / "learning_curve.png").is_file()
    assert "Learning curve" in (report / "index.html").read_text()
    assert f"from {round(n_train / 2)} to {n_train} images" in bundle.provenance["learning_curve"]
    stages = heard.of("stage_started")
    assert {stage.of for stage in stages} == {len(stages)}


@pytest.mark.parametrize(
    ("learning_rate", "rate", "advice"),
    [
        (1e36, 1e36, "set a lower learning_rate"),
        (
            None,
            1e36,
            "the learning-rate finder suggested 1.0e+36; set learning_rate to a lower rate",
        ),
        (None, 2e36, "pass a lower rate"),
    ],
)
def test_one_that_diverges_says_what_to_lower_and_leaves_the_network_as_it_was(
    tmp_path: Path, learning_rate: float | None, rate: float, advice: str
):
    learner = photos.learner(tmp_path, learning_rate=learning_rate, clip_norm=None)
    learner.bench.results.searches["head"] = RateSearch([1.0], [1.0], 1e36, "in this test")
    before = copy_state(learner.bench.network)
    with pytest.raises(TrainingError, match=f"learning rate of .*; {re.escape(advice)}$"):
        learner.learning_curve(learner.precompute(), rate, draws=1)
    after = copy_state(learner.bench.network)
    assert all(torch.equal(before[name], after[name]) for name in before)
