"""Probabilities that can be believed."""

import csv
import json
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from torch import Tensor

from registry.bundle import Bundle, Task, read_bundle
from registry.images import Float32Array, prepare
from registry.jobs import Assignment
from training import pretrained, read_images
from training.data.dataset import Dataset
from training.data.inner_split import set_apart_for_calibration, set_apart_for_selection
from training.data.items import Item
from training.evaluation.calibration import (
    at_temperature,
    divide_logits,
    fit_temperature,
    measure_reliability,
)
from training.evaluation.evaluate import predict
from training.export.runtime import answering
from training.fit.loss import loss_function
from training.network.backbone import load_backbone
from training.network.classifier import build_network, to_probabilities
from training.network.saving import NETWORK, load_network
from training.network.weights import weights_digest
from training.recipe import train

quietly = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
TASKS: tuple[Task, Task] = ("single", "multi")


def answers(task: Task, n: int, temperature: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that are too sure by a factor of `temperature`, and what is true, [n,4] each."""
    generator = torch.Generator().manual_seed(seed)
    honest = 2 * torch.randn(n, 4, generator=generator)
    if task == "multi":
        return honest * temperature, torch.bernoulli(honest.sigmoid(), generator=generator)
    drawn = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    return honest * temperature, torch.eye(4)[drawn]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(task: Task, temperature: float):
    logits, targets = answers(task, 4000, temperature)
    assert fit_temperature(logits, targets, task) == pytest.approx(temperature, rel=0.1)


def test_a_few_images_that_are_all_answered_rightly_do_not_make_every_answer_certain():
    logits = torch.eye(2).repeat(10, 1)
    assert 0.2 < fit_temperature(logits, torch.eye(2).repeat(10, 1), "single") < 1


@pytest.mark.parametrize("task", TASKS)
def test_answers_as_sure_as_they_are_right_are_mostly_left_alone(task: Task):
    found = [fit_temperature(*answers(task, 200, 1, seed), task) for seed in range(40)]
    assert sum(each == 1 for each in found) >= 34  # 38 are expected


def test_each_label_of_an_image_says_how_sure_answers_may_be():
    """Four labels each of 100 images tell what 400 images would, not what 100 would."""
    found = [fit_temperature(*answers("multi", 100, 1.3, seed), "multi") for seed in range(6)]
    assert found == pytest.approx([1.3] * 6, rel=0.2)


@pytest.mark.parametrize("task", TASKS)
def test_unseen_answers_are_believed_more_when_calibrated(task: Task):
    seen, unseen = answers(task, 300, 3, seed=1), answers(task, 2000, 3, seed=2)
    temperature = fit_temperature(*seen, task)
    targets = unseen[1].numpy()
    before, after = (
        measure_reliability(to_probabilities(unseen[0] / each, task).numpy(), targets, task)
        for each in (1, temperature)
    )
    assert after.log_loss < before.log_loss
    assert after.error < before.error / 2
    assert after.adaptive_error < before.adaptive_error / 2


@pytest.mark.parametrize("task", TASKS)
def test_answers_come_back_from_their_temperature(task: Task):
    logits, _ = answers(task, 200, 1)
    cooled = to_probabilities(logits / 1.7, task).numpy()
    expected = to_probabilities(logits, task).numpy()
    np.testing.assert_allclose(at_temperature(cooled, 1 / 1.7, task), expected, atol=1e-5)


def test_a_cooled_network_says_the_same_less_surely():
    torch.manual_seed(0)
    backbone = load_backbone("test_efficientnet", pretrained=False)
    network = build_network(backbone, 3, size=photos.SIZE, hidden=(8,), dropout=(0.0, 0.0))
    pixels = np.random.default_rng(0).integers(0, 255, (9, photos.SIZE, photos.SIZE, 3), np.uint8)
    before = predict(network, pixels, "single")
    divide_logits(network, 2.5)
    after = predict(network, pixels, "single")
    np.testing.assert_allclose(after, at_temperature(before, 2.5, "single"), atol=1e-5)
    assert (after.argmax(1) == before.argmax(1)).all()
    assert (after.max(1) < before.max(1)).all()


def test_every_answer_is_in_one_bin_and_empty_ones_are_left_out():
    said = np.array([[0.9, 0.1], [0.95, 0.05], [0.4, 0.6], [1.0, 0.0]], dtype=np.float32)
    truth = np.eye(2, dtype=np.float32)[[0, 1, 1, 0]]
    bins = measure_reliability(said, truth, "single").bins
    assert [each.n for each in bins] == [1, 1, 2]
    assert bins[1].confidence == pytest.approx(0.9)
    assert (bins[2].confidence, bins[2].accuracy) == (pytest.approx(0.975), 0.5)
    assert all(each.low < each.confidence <= each.high for each in bins)


def test_each_label_of_a_multi_label_answer_counts():
    said = np.array([[0.9, 0.1], [0.95, 0.05]], dtype=np.float32)
    truth: Float32Array = np.array([[1, 0], [1, 1]], dtype=np.float32)
    bins = measure_reliability(said, truth, "multi").bins
    assert [(each.n, each.accuracy) for each in bins] == [(1, 1.0), (1, 0.0), (1, 1.0), (1, 1.0)]


@pytest.mark.parametrize("task", TASKS)
def test_log_loss_is_that_of_the_logits(task: Task):
    logits, targets = answers(task, 500, 1)
    measured = measure_reliability(
        to_probabilities(logits, task).numpy(), targets.numpy(), task
    ).log_loss
    assert measured == pytest.approx(float(loss_function(task)(logits, targets)), abs=1e-5)


def test_errors_are_distances_between_confidence_and_the_share_that_is_right():
    said = np.tile(np.array([[0.8, 0.2]], dtype=np.float32), (10, 1))
    truth = np.eye(2, dtype=np.float32)[[0] * 5 + [1] * 5]
    measured = measure_reliability(said, truth, "single")
    assert measured.error == pytest.approx(0.3)
    assert measured.adaptive_error == pytest.approx(0.3)


def photographs(n: int, group_of: int = 1) -> Dataset:
    items = tuple(
        Item(
            Path(f"{row}.png"),
            ("ab"[row // group_of % 2],),
            "valid" if row // group_of % 5 == 0 else "train",
            sha256=str(row),
            group=str(row // group_of),
        )
        for row in range(n)
    )
    return Dataset(Path(), items, ("a", "b"), "single")


def test_what_calibrates_is_neither_learnt_from_nor_judges_nor_is_held_out():
    dataset = photographs(1000)
    learnt, judged = set_apart_for_selection(dataset, 0.1, seed=42)
    still_learnt, spared = set_apart_for_calibration(dataset, learnt, 0.1, seed=42)
    assert sorted([*still_learnt, *spared, *judged]) == dataset.rows("train").tolist()
    assert 40 < len(spared) < 110


def test_groups_calibrate_together():
    dataset = photographs(1000, group_of=4)
    learnt, spared = (
        {dataset.items[row].group for row in rows}
        for rows in set_apart_for_calibration(dataset, dataset.rows("train"), 0.1, seed=42)
    )
    assert spared
    assert not learnt & spared


def test_what_calibrates_stays_so_while_data_grows():
    def spared(n: int) -> set[int]:
        dataset = photographs(n)
        return set(
            set_apart_for_calibration(dataset, dataset.rows("train"), 0.1, seed=42)[1].tolist()
        )

    assert spared(500) == {row for row in spared(1000) if row < 500}


def test_too_few_images_to_calibrate_by_are_all_learnt_from():
    dataset = photographs(150)
    learnt, spared = set_apart_for_calibration(dataset, dataset.rows("train"), 0.1, seed=42)
    assert (len(learnt), len(spared)) == (120, 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Assignment, Bundle]:
    tmp_path = tmp_path_factory.mktemp("trained")
    told = {"calibrate": "true", "calibrate_share": "0.4", "cycles": "0", "augmented_epochs": "0"}
    told |= {"head_epochs": "60", "dropout": "0"}  # learnt by heart: far too sure
    data = photos.folder(tmp_path / "data", per_class=60, classes={"dark": 100, "light": 108})
    assignment = photos.assignment(tmp_path, data, **told)
    heard = photos.Heard()
    bundle, _ = train(assignment, heard.append)
    assert "calibrate" in {event.stage for event in heard.of("stage_started")}
    return assignment, bundle


Trained = tuple[Assignment, Bundle]


@quietly
def test_what_is_served_is_what_was_calibrated(trained: Trained):
    assignment, bundle = trained
    network, task = load_network(assignment.run / NETWORK)
    files = sorted(assignment.data.rglob("*.*"))[:20]
    pixels = np.stack([prepare(path.read_bytes(), bundle.image) for path in files])
    served = answering(assignment.stage / "model.onnx")(pixels)
    calibrated = predict(network, pixels, task)
    np.testing.assert_allclose(served, calibrated, atol=1e-5)
    temperature = bundle.metrics["temperature"]
    assert temperature > 1.2
    divide_logits(network, 1 / temperature)
    raw = predict(network, pixels, task)
    assert np.abs(served - raw).max() > 1e-3
    np.testing.assert_allclose(served, at_temperature(raw, temperature, task), atol=1e-5)


@quietly
def test_a_calibrated_bundle_says_how_far_to_believe_it(trained: Trained):
    assignment, bundle = trained
    figures = json.loads((assignment.stage / "report" / "report.json").read_text())
    told = figures["calibration"]
    assert told["temperature"] == bundle.metrics["temperature"]
    assert told["error"] == bundle.metrics["calibration_error"]
    assert told["log_loss"] == pytest.approx(bundle.metrics["log_loss"], abs=1e-6)
    assert sum(each["n"] for each in told["before"]["bins"]) == figures["images"]["valid"]
    images = figures["images"]
    assert images["train"] == bundle.metrics["images_train"]
    assert images["valid"] == bundle.metrics["images_valid"]
    assert images["calibrate"] >= 20
    assert (images["judge"], sum(images.values())) == (0, 120)
    assert f"temperature {told['temperature']:.3f}" in bundle.provenance["calibration"]
    sets = figures["conformal"]["sets"]
    assert [(each["method"], each["alpha"]) for each in sets[:2]] == [("lac", 0.1), ("lac", 0.05)]
    assert "neither trained on nor held out" in figures["conformal"]["from"]
    assert 1 - sets[0]["score"] == pytest.approx(bundle.metrics["least_probability_0.1"])
    assert set(sets[0]["coverage_of_class"]) == {"dark", "light"}


@quietly
def test_without_calibration_sets_are_cross_fitted_within_the_held_out_images(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=75)
    told = {"cycles": "0", "augmented_epochs": "0", "valid_fraction": "0.8", "split": "stratified"}
    assignment = photos.assignment(tmp_path, data, **told)
    train(assignment, lambda event: None)
    figures = json.loads((assignment.stage / "report" / "report.json").read_text())
    told = figures["conformal"]
    assert told["from"].startswith("Cross-fitted within the 120 held-out images")
    assert [each["images"] for each in told["sets"]] == [120] * 6
    low, high = told["sets"][0]["coverage_interval"]
    assert low <= told["sets"][0]["coverage"] <= high
    assert told["alone"] is None
    assert told["from"] in (assignment.stage / "report" / "index.html").read_text()


@quietly
def test_labels_are_doubted_in_every_training(trained: Trained):
    assignment, bundle = trained
    figures = json.loads((assignment.stage / "report" / "report.json").read_text())
    noise = figures["label_noise"]
    assert noise["images"] == 120  # also those that are set apart
    told = bundle.provenance["label_noise"]
    assert f"of 120 images about {noise['expected']} may be wrong" in told
    with (assignment.stage / "report" / "label_issues.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["file"] for line in lines[:50]] == [each["file"] for each in noise["suspects"]]
    assert all((assignment.data / line["file"]).is_file() for line in lines)


@quietly
def test_a_network_that_is_published_twice_is_cooled_once(tmp_path: Path):
    """What is published is; the network at hand is left as it learnt."""
    data = photos.folder(tmp_path / "data", per_class=60, classes={"dark": 100, "light": 108})
    told = photos.AS_PYTHON | {"calibrate": True, "calibrate_share": 0.4, "dropout": (0.0,)}
    images = read_images(data, photos.SIZE, settings=told, cache=tmp_path, tell=lambda event: None)
    learner = pretrained("test_efficientnet", images, run=tmp_path, tell=lambda event: None)
    activations = learner.precompute()
    learner.fit_head(activations, learner.search_head(activations).suggestion, epochs=60)
    learnt = weights_digest(learner.bench.network)
    first, second = (read_bundle(learner.publish(tmp_path, "photos")).metrics for _ in range(2))
    assert first["temperature"] > 1.2
    assert second == first
    assert weights_digest(learner.bench.network) == learnt


@quietly
def test_too_few_images_to_calibrate_by_leave_the_temperature_alone(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=12)
    told = {"calibrate": "true", "cycles": "0", "augmented_epochs": "0"}
    assignment = photos.assignment(tmp_path, data, **told)
    bundle, _ = train(assignment, lambda event: None)
    assert bundle.provenance["calibration"] == "left out: it needs 20 images; raise calibrate_share"
    assert "temperature" not in bundle.metrics
    report = (assignment.stage / "report" / "index.html").read_text()
    assert "without calibrate=true they need 100 held-out images" in report
    assert bundle.metrics["calibration_error"] > 0
    assert bundle.metrics["images_train"] + bundle.metrics["images_valid"] == 24


@quietly
def test_all_labels_of_a_multi_label_task_share_a_temperature(tmp_path: Path):
    photos.folder(tmp_path / "images", per_class=45)
    rows = [
        f"{path.relative_to(tmp_path)},{path.parent.name}{' even' if index % 2 else ''}"
        for index, path in enumerate(sorted((tmp_path / "images").rglob("*.*")))
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    told = {"calibrate": "true", "calibrate_share": "0.5", "cycles": "0", "augmented_epochs": "0"}
    told |= {"head_epochs": "60", "dropout": "0"}
    assignment = photos.assignment(tmp_path, tmp_path / "labels.csv", **told)
    bundle, _ = train(assignment, lambda event: None)
    figures = json.loads((assignment.stage / "report" / "report.json").read_text())
    assert bundle.metrics["temperature"] != 1
    assert figures["conformal"] is None
    told = figures["calibration"]
    assert told["log_loss"] < told["before"]["log_loss"]
