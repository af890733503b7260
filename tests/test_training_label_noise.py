"""Labels that are doubted: wrong ones are planted, and have to be found."""

import csv
from pathlib import Path

import numpy as np
import photos
import pytest

from registry.images import Float32Array
from training.data.dataset import Dataset
from training.data.items import Item
from training.evaluation import label_noise
from training.evaluation.label_noise import (
    FOLDS,
    confident_classes,
    find_suspects,
    joint,
    out_of_fold,
)
from training.evaluation.suspects import LabelNoise, write_suspects
from training.evaluation_steps import check_labels
from training.steps import precompute_parts

LABELS = ("a", "b", "c", "d")


def features(truth: np.ndarray[tuple[int, ...], np.dtype[np.int64]], seed: int) -> Float32Array:
    """[n,16]: a cloud for each class, clearly apart."""
    random = np.random.default_rng(seed)
    middles = 3 * random.normal(size=(len(LABELS), 16))
    return (middles[truth] + random.normal(size=(len(truth), 16))).astype(np.float32)


def planted(n: int, share: float, seed: int = 0) -> tuple[Float32Array, Float32Array, set[int]]:
    """Features, targets of which some are wrong, and the rows of those."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, len(LABELS), n)
    wrong = random.permutation(n)[: round(n * share)]
    given = truth.copy()
    given[wrong] = (truth[wrong] + random.integers(1, len(LABELS), len(wrong))) % len(LABELS)
    return features(truth, seed), np.eye(len(LABELS), dtype=np.float32)[given], set(wrong.tolist())


def single(x: Float32Array, targets: Float32Array, groups: list[str] | None = None) -> LabelNoise:
    n = len(targets)
    return find_suspects(
        x, targets, np.arange(n), groups or list(map(str, range(n))), LABELS, "single", 0
    )


@pytest.mark.parametrize("seed", range(3))
def test_planted_wrong_labels_are_found_and_few_others(seed: int):
    x, targets, wrong = planted(600, 0.05, seed)
    found = single(x, targets)
    suspected = {each.row for each in found.suspects}
    assert len(suspected & wrong) / len(wrong) >= 0.9
    assert len(suspected & wrong) / len(suspected) >= 0.9
    first = {each.row for each in found.suspects[: found.expected]}
    assert len(first & wrong) / len(first) >= 0.95
    assert found.expected == pytest.approx(30, abs=5)


def test_clean_labels_are_hardly_doubted():
    x, targets, _ = planted(600, 0)
    found = single(x, targets)
    assert len(found.suspects) <= 3
    assert found.expected <= 3


def test_a_suspect_says_what_it_is_called_and_what_it_seems_to_be():
    truth = np.arange(200) % len(LABELS)
    targets = np.eye(len(LABELS), dtype=np.float32)[truth]
    targets[[0, 4, 8]] = np.eye(len(LABELS))[2]  # of class a, called c
    found = single(features(truth, 0), targets)
    assert {each.row for each in found.suspects[:3]} == {0, 4, 8}
    assert {(each.given, each.suggested) for each in found.suspects[:3]} == {("c", "a")}
    assert all(each.confidence < 0.2 and each.margin < -0.6 for each in found.suspects[:3])
    worst = found.confusions[0]
    assert (worst.given, worst.suggested, worst.images) == ("c", "a", 3)
    assert worst.share == pytest.approx(3 / 53, abs=0.02)


def test_what_is_never_parted_cannot_vouch_for_each_other():
    """Five equal images with the same wrong label: one in another fold would teach the head it."""
    truth = np.arange(200) % len(LABELS)
    x, given = features(truth, 0), truth.copy()
    equal = np.arange(0, 40, 8)
    x[equal], given[equal] = x[0] + 9, 1
    targets = np.eye(len(LABELS), dtype=np.float32)[given]
    groups = ["equal" if row in equal else str(row) for row in range(200)]
    parted, together = (
        {each.row for each in single(x, targets, kept).suspects} & set(equal.tolist())
        for kept in (None, groups)
    )
    assert not parted
    assert together == set(equal.tolist())


def test_each_label_of_a_multi_label_task_is_doubted_by_itself():
    truth = np.arange(400) % len(LABELS)
    targets = np.eye(len(LABELS), dtype=np.float32)[truth]
    targets[:, 3] = 1 - targets[:, 0]  # d: everything but a
    planted_rows = [1, 5, 9, 13]  # b, and so d
    targets[planted_rows, 3] = 0
    rows = np.arange(400) + 1000
    groups = [str(row) for row in rows]
    found = find_suspects(features(truth, 0), targets, rows, groups, LABELS, "multi", 0)
    about_d = [each for each in found.suspects if each.suggested == "d"]
    assert [each.row - 1000 for each in sorted(about_d, key=lambda each: each.row)] == planted_rows
    assert {each.given for each in about_d} == {"not d"}
    assert (found.images, found.unknown) == (400, ())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("most", ["MOST_ANSWERS", "MOST_FEATURES"])
def test_more_labels_than_time_or_memory_allow_are_left_alone_and_it_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: str
):
    bench = photos.learner(tmp_path).bench
    activations = precompute_parts(bench, "weights", tmp_path)
    check_labels(bench, activations)
    assert bench.results.label_noise
    bench.results.label_noise = None
    monkeypatch.setattr(label_noise, most, 24 * 2 - 1)
    check_labels(bench, activations)
    assert not bench.results.label_noise
    assert bench.results.facts["label_noise"].startswith(
        "labels were not checked for errors: 24 images with "
    )


def test_nothing_is_said_of_classes_with_fewer_images_than_folds():
    x, targets, _ = planted(100, 0)
    rare = np.flatnonzero(targets[:, 3])
    few = np.concatenate([np.flatnonzero(targets[:, 3] == 0), rare[: FOLDS - 1]])
    found = single(x[few], targets[few])
    assert found.unknown == ("d",)
    assert found.images == len(few) - (FOLDS - 1)
    nothing = single(x[:3], targets[:3])
    assert (nothing.images, nothing.suspects, nothing.unknown) == (0, (), LABELS)


def test_heads_that_know_nothing_do_not_doubt():
    x, targets, _ = planted(400, 0)
    found = single(np.random.default_rng(1).permutation(x), targets)
    assert (found.images, found.suspects, found.unknown) == (0, (), LABELS)


def test_heads_that_agree_with_few_labels_doubt_none():
    x, targets, _ = planted(600, 0.6)
    assert single(x, targets).images == 0


def test_every_image_is_answered_by_a_head_that_has_not_seen_its_group():
    """Features that only tell the group: known groups would be answered perfectly."""
    groups = np.repeat(np.arange(40), 5)
    given = np.random.default_rng(0).integers(0, 2, 40)[groups]
    answers = out_of_fold(np.eye(40, dtype=np.float32)[groups], given, groups, seed=0)
    assert (answers.argmax(axis=1) == given).mean() < 0.7
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6)


def test_the_joint_counts_as_the_paper_does():
    answers = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7], [0.95, 0.05]])
    given = np.array([0, 0, 0, 1, 1, 1])
    # usual confidence: 0.6 of class 0, 0.55 of class 1
    confident = confident_classes(answers, given)
    assert confident.tolist() == [0, 0, 1, 1, 1, 0]
    np.testing.assert_allclose(joint(given, confident, 2), [[2 / 3, 1 / 3], [1 / 3, 2 / 3]])


def test_whoever_is_sure_of_nothing_is_not_counted():
    answers = np.array([[0.6, 0.4], [0.9, 0.1], [0.4, 0.6], [0.1, 0.9]])
    confident = confident_classes(answers, np.array([0, 0, 1, 1]))
    assert confident.tolist() == [-1, 0, -1, 1]


def test_suspects_are_a_table_by_file(tmp_path: Path):
    x, targets, _ = planted(200, 0.05)
    items = tuple(Item(tmp_path / f"{row}.png", ("a",), "train") for row in range(200))
    found = single(x, targets)
    write_suspects(tmp_path / "label_issues.csv", Dataset(tmp_path, items, LABELS, "single"), found)
    with (tmp_path / "label_issues.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["file"] for line in lines] == [f"{each.row}.png" for each in found.suspects]
    margins = [float(line["margin"]) for line in lines]
    assert margins == sorted(margins)
    assert set(lines[0]) == {"file", "given", "suggested", "confidence", "margin"}
