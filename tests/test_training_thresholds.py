"""Thresholds of a multi-label task, fitted off what is scored."""

import json
from pathlib import Path

import numpy as np
import photos
import pytest
import tiny
import torch
from benches import opened
from sklearn.metrics import fbeta_score

from registry.bundle import read_bundle
from registry.errors import BadRequest
from training import pretrained, read_images
from training.data.dataset import Rows
from training.evaluation.evaluate import measure, predict, right
from training.evaluation.thresholds import CANDIDATES, fit_thresholds
from training.evaluation_steps import choose_thresholds
from training.reading_settings import read_settings
from training.recipe import train


@pytest.mark.parametrize("beta", [0.5, 1, 2])
def test_each_label_gets_the_threshold_of_its_best_f_score(beta: float):
    draw = np.random.default_rng(0)
    targets = (draw.random((200, 3)) < [0.1, 0.5, 0.8]).astype(np.float32)
    answers = (0.6 * draw.random((200, 3)) + 0.3 * targets).astype(np.float32)
    for label, threshold in enumerate(fit_thresholds(answers, targets, beta)):
        scores = [
            fbeta_score(targets[:, label], answers[:, label] >= other, beta=beta)
            for other in CANDIDATES
        ]
        mine = fbeta_score(targets[:, label], answers[:, label] >= threshold, beta=beta)
        assert mine == pytest.approx(max(scores), abs=1e-12)


def test_equal_thresholds_and_labels_without_images_stay_near_a_half():
    answers = np.array([[0.9, 0.2], [0.1, 0.3]], dtype=np.float32)
    targets = np.array([[1, 0], [0, 0]], dtype=np.float32)
    assert fit_thresholds(answers, targets) == (0.5, 0.5)


def test_thresholds_decide_what_is_right():
    answers = np.array([[0.3, 0.6]], dtype=np.float32)
    targets = np.array([[1, 0]], dtype=np.float32)
    assert right(answers, targets, "multi", (0.25, 0.75)).tolist() == [True]
    assert measure(answers, targets, "multi", (0.25, 0.75)).value == 1
    assert measure(answers, targets, "multi").value == 0


def two_labels(tmp_path: Path) -> Path:
    """A table of dark and light photographs, every second of which is even."""
    photos.folder(tmp_path / "images", per_class=12)
    rows = [
        f"{path.relative_to(tmp_path)},{path.parent.name}{' even' if index % 2 else ''}"
        for index, path in enumerate(sorted((tmp_path / "images").rglob("*.*")))
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    return tmp_path / "labels.csv"


def test_thresholds_are_fitted_on_images_neither_learnt_from_nor_scored(tmp_path: Path):
    told = photos.QUICK | {"thresholds": "fitted", "judge_share": "0.4"}
    bench = opened(tmp_path, two_labels(tmp_path), told)
    torch.nn.init.normal_(bench.network.head[-1].weight, std=20)  # not a half throughout

    def fitted(rows: Rows) -> tuple[float, ...]:
        answers = predict(bench.network, bench.decoded.pixels[rows], "multi")
        return fit_thresholds(answers, bench.dataset.targets[rows])

    choose_thresholds(bench)
    others = [*bench.rows("train"), *bench.rows("valid")]
    assert bench.label_thresholds == fitted(bench.selection_rows)
    assert bench.label_thresholds not in (fitted(bench.rows("valid")), fitted(bench.rows("train")))
    assert not set(bench.selection_rows) & set(others)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_fitted_thresholds_travel_with_the_bundle_and_score_it(tmp_path: Path):
    told = {"cycles": "0", "thresholds": "fitted", "judge_share": "0.4"}
    assignment = photos.assignment(tmp_path, two_labels(tmp_path), **told)
    bundle, scored = train(assignment, lambda event: None)
    assert len(bundle.thresholds) == 3
    assert set(bundle.thresholds) != {0.5}
    assert scored.candidate.value == pytest.approx(bundle.metrics["f2"])
    assert "images set apart" in bundle.provenance["thresholds"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_notebook_evaluates_with_the_thresholds_that_it_publishes(tmp_path: Path):
    told = photos.AS_PYTHON | {"thresholds": "fitted", "judge_share": 0.4}
    cache = tmp_path / "cache"
    images = read_images(
        two_labels(tmp_path), 32, settings=told, cache=cache, tell=lambda event: None
    )
    learner = pretrained("test_efficientnet", images, run=tmp_path / "run", tell=lambda event: None)
    torch.nn.init.normal_(learner.bench.network.head[-1].weight, std=20)  # not a half throughout
    evaluated = learner.evaluate().plain_measures
    thresholds = learner.bench.label_thresholds
    assert set(thresholds) != {0.5}
    bundle = read_bundle(learner.publish(tmp_path / "models", "photos"))
    assert bundle.thresholds == thresholds
    assert bundle.metrics["f2"] == pytest.approx(evaluated.value)
    # beside a version whose labels have another order, they are fitted and published in that one
    known = bundle.labels[::-1]
    tiny.publish(
        tmp_path / "models", model="turned", promote=True, labels=known, bias=[0.0] * len(known)
    )
    turned = read_bundle(learner.publish(tmp_path / "models", "turned"))
    assert (turned.labels, turned.thresholds) == (known, thresholds[::-1])
    assert turned.metrics["f2"] == pytest.approx(evaluated.value)
    assert learner.bench.label_thresholds == thresholds


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_training_fits_and_reports_the_f_score_of_its_setting(tmp_path: Path):
    told = {"cycles": "0", "thresholds": "fitted", "judge_share": "0.4", "beta": "0.5"}
    assignment = photos.assignment(tmp_path, two_labels(tmp_path), **told)
    bundle, scored = train(assignment, lambda event: None)
    assert scored.candidate.metric == "f0.5"
    assert scored.candidate.value == bundle.metrics["f0.5"]
    assert "f2" not in bundle.metrics
    assert bundle.provenance["thresholds"].startswith("fitted for F0.5 on ")
    assert json.loads(bundle.provenance["settings"])["beta"] == 0.5
    figures = json.loads((assignment.stage / "report" / "report.json").read_text())
    low, high = figures["plain"]["interval"]
    assert low <= figures["plain"]["value"] <= high
    assert "F0.5" in (assignment.stage / "report" / "index.html").read_text()


@pytest.mark.parametrize("beta", ["0", "-1", "nan", "1e9"])
def test_an_impossible_beta_is_refused_by_name(beta: str):
    with pytest.raises(BadRequest, match="beta"):
        read_settings({"beta": beta})
