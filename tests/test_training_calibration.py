"""Probabilities that can be believed."""

import numpy as np
import photos
import pytest
import torch
from torch import Tensor

from registry.bundle import Task
from registry.images import Float32Array
from training.backbone import load_backbone
from training.calibration import (
    at_temperature,
    cool,
    fit_temperature,
    measure_reliability,
    reliability,
)
from training.evaluate import predict
from training.network import build_network, loss_function, to_probabilities

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
    logits = 2 * torch.eye(2).repeat(10, 1)
    assert 0.4 < fit_temperature(logits, torch.eye(2).repeat(10, 1), "single") < 1


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
    before = predict(network, pixels, "single", torch.device("cpu"))
    cool(network, 2.5)
    after = predict(network, pixels, "single", torch.device("cpu"))
    np.testing.assert_allclose(after, at_temperature(before, 2.5, "single"), atol=1e-5)
    assert (after.argmax(1) == before.argmax(1)).all()
    assert (after.max(1) < before.max(1)).all()


def test_every_answer_is_in_one_bin_and_empty_ones_are_left_out():
    said = np.array([[0.9, 0.1], [0.95, 0.05], [0.4, 0.6], [1.0, 0.0]], dtype=np.float32)
    truth = np.eye(2, dtype=np.float32)[[0, 1, 1, 0]]
    bins = reliability(said, truth, "single")
    assert [each.n for each in bins] == [1, 1, 2]
    assert bins[1].confidence == pytest.approx(0.9)
    assert (bins[2].confidence, bins[2].accuracy) == (pytest.approx(0.975), 0.5)
    assert all(each.low < each.confidence <= each.high for each in bins)


def test_each_label_of_a_multi_label_answer_counts():
    said = np.array([[0.9, 0.1], [0.95, 0.05]], dtype=np.float32)
    truth: Float32Array = np.array([[1, 0], [1, 1]], dtype=np.float32)
    bins = reliability(said, truth, "multi")
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
