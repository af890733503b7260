"""How each class does, with what chance leaves open."""

import tracemalloc

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from training.evaluation.evaluate import measure
from training.evaluation.intervals import mean_interval, sign_test, wilson
from training.evaluation.per_class import (
    confused_pairs,
    per_class,
    predicted_labels,
    score_interval,
    taken_for,
)


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (8, 10), (527, 596)])
def test_intervals_are_those_of_wilson(hits: int, n: int):
    known = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((known.low, known.high), abs=1e-9)


def test_of_nothing_the_interval_is_everything():
    assert wilson(0, 0) == (0, 1)
    assert mean_interval(np.ones(1, np.float32)) == (0, 1)


@pytest.mark.parametrize(
    ("gained", "lost", "expected"),
    [(0, 0, 1), (3, 3, 1), (0, 9, 2 / 2**9), (8, 1, 2 * (1 + 9) / 2**9)],
)
def test_chance_is_that_of_a_fair_coin(gained: int, lost: int, expected: float):
    assert sign_test(gained, lost) == sign_test(lost, gained) == pytest.approx(expected)


def random_answers(several: bool) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    answers = random.dirichlet(np.ones(4), 60).astype(np.float32)
    one_hot = np.eye(4, dtype=np.float32)[random.integers(0, 4, 60)]
    targets = (random.random((60, 4)) < 0.3).astype(np.float32) if several else one_hot
    return answers, targets


@pytest.mark.parametrize(("task", "beta"), [("single", 1), ("multi", 2)])
def test_figures_of_a_class_are_those_of_scikit_learn(task: str, beta: int):
    answers, targets = random_answers(several=task == "multi")
    limits = (0.2, 0.3, 0.4, 0.1)
    said = predicted_labels(answers, task, limits)
    known = precision_recall_fscore_support(targets, said, beta=beta, average=None)
    figures = per_class(answers, targets, "abcd", task, limits)
    assert [one.f for one in figures] == sorted(known[2])
    for one in figures:
        place = "abcd".index(one.label)
        told = (one.precision, one.recall, one.f, one.n)
        assert told == pytest.approx([column[place] for column in known])
        assert one.threshold == (limits[place] if task == "multi" else None)
        assert one.recall_interval[0] < one.recall < one.recall_interval[1]


def test_a_class_without_images_comes_last_and_nothing_is_claimed_of_it():
    answers = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1]], np.float32)
    targets = np.eye(3, dtype=np.float32)[[0, 1]]
    *_, last = per_class(answers, targets, ("a", "b", "unseen"), "single")
    assert (last.label, last.precision, last.recall, last.f) == ("unseen", None, None, None)


def test_pairs_are_counted_and_the_most_frequent_come_first():
    targets = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 2]]
    answers = np.eye(3, dtype=np.float32)[[1, 1, 0, 2, 2]]
    wrong = taken_for(predicted_labels(answers, "single", 0.5), targets)
    first, second = confused_pairs(wrong, targets, "abc")
    assert (first.true, first.said, first.count) == ("a", "b", 2)
    assert first.share == pytest.approx(2 / 3)
    assert (second.true, second.said, second.count) == ("b", "c", 1)


@pytest.mark.parametrize("several", [False, True])
def test_pairs_are_counted_in_less_memory_than_a_number_for_each_answer_takes(several: bool):
    """Of a thousand classes and 50,000 images that would be 400 MB, twice."""
    random = np.random.default_rng(0)
    truth, answered = random.integers(0, 50, (2, 20_000))
    answered = np.where(random.random(20_000) < 0.9, truth, answered)
    targets, said = np.eye(50, dtype=np.float32)[truth], np.eye(50, dtype=bool)[answered]
    if several:
        targets[:, 7] = 1
    tracemalloc.start()
    wrong = taken_for(said, targets)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8 * said.size
    for i, j in ((1, 2), (2, 1), (7, 3), (3, 7), (4, 4)):
        assert wrong[i, j] == ((targets[:, i] > 0) & said[:, j] & (targets[:, j] == 0)).sum()


@pytest.mark.parametrize("task", ["single", "multi"])
def test_the_interval_of_the_score_is_around_it(task: str):
    answers, targets = random_answers(several=task == "multi")
    low, high = score_interval(answers, targets, task, 0.3)
    value = measure(answers, targets, task, 0.3).value
    assert low < value < high
    assert high - low < 0.3
