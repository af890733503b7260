"""Measures, and the proof that what is exported is what was trained."""

from pathlib import Path

import numpy as np
import onnx
import photos
import pytest
import tiny
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor, nn

from registry.errors import Conflict, TrainingError
from registry.images import UInt8Array
from registry.store import Registry
from registry.tta import TtaSpec, tta_views
from training.data.dataset import read_dataset
from training.data.decoded import decode
from training.evaluation.evaluate import confusions, flips, measure, predict, predict_rows
from training.evaluation.per_class import score_interval
from training.export import to_onnx as exporting
from training.export.publishing import publish
from training.export.runtime import open_session
from training.export.to_onnx import TOLERANCE, check_parity, export
from training.network.backbone import load_backbone
from training.network.classifier import Network, build_network
from training.settings import Settings


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    backbone = load_backbone("test_efficientnet", pretrained=False)
    return build_network(backbone, 3, size=photos.SIZE, hidden=(), dropout=(0.5,)).eval()


@pytest.fixture(scope="module")
def pixels() -> UInt8Array:
    shape = (9, photos.SIZE, photos.SIZE, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_the_exported_model_answers_as_torch_does_in_any_batch(
    network: Network, pixels: UInt8Array, tmp_path: Path
):
    path = tmp_path / "model.onnx"
    difference, exporter = export(network, "single", pixels, {"unfreeze.task": "single"}, path)
    session = open_session(str(path))
    answers = session.run(["probabilities"], {"image": pixels})[0]
    assert difference <= TOLERANCE
    assert exporter in ("dynamo", "torchscript")
    np.testing.assert_allclose(answers, predict(network, pixels, "single"), atol=TOLERANCE)
    assert {prop.key: prop.value for prop in onnx.load(path).metadata_props} == {
        "unfreeze.task": "single"
    }


class Fickle(nn.Module):
    """Answers otherwise each time: no export of it can be right."""

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.dropout(features[:, :3], 0.5, training=True)


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_fails_parity_is_not_written(
    network: Network, pixels: UInt8Array, tmp_path: Path
):
    torch.manual_seed(0)
    backbone = load_backbone("test_efficientnet", pretrained=False)
    fickle = build_network(backbone, 3, size=photos.SIZE, hidden=(), dropout=(0.5,))
    fickle.head = nn.Sequential(Fickle())
    with pytest.raises(TrainingError, match="the exported model is not the trained one: dynamo: "):
        export(fickle, "single", pixels, {}, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [([1.0, 2.0], "dynamo"), ([2.0, 1.0], "torchscript"), ([1.0], "torchscript")],
    ids=["the first is faster", "the second is faster", "the first fails"],
)
def test_the_fastest_exporter_that_passes_parity_is_kept(
    network: Network,
    pixels: UInt8Array,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: list[float],
    kept: str,
):
    export(network, "single", pixels, {}, tmp_path / "made.onnx")
    made, times = (tmp_path / "made.onnx").read_bytes(), iter(seconds)
    first = made if len(seconds) == 2 else b"no model"
    made_by = {"dynamo": lambda *_: first, "torchscript": lambda *_: made}
    monkeypatch.setattr(exporting, "EXPORTERS", made_by)
    monkeypatch.setattr(exporting, "_seconds_per_image", lambda *_: next(times))
    assert export(network, "single", pixels, {}, tmp_path / "model.onnx")[1] == kept


def test_parity_is_checked_in_every_batch(network: Network, pixels: UInt8Array, tmp_path: Path):
    export(network, "single", pixels, {}, tmp_path / "model.onnx")
    truth = predict(network, pixels, "single")
    truth[6] += 2 * TOLERANCE
    with pytest.raises(TrainingError, match=r"differ by 2\.0e-04, allowed 1e-04"):
        check_parity((tmp_path / "model.onnx").read_bytes(), pixels, truth)


def test_measures_are_those_of_scikit_learn():
    draw = np.random.default_rng(0)
    answers = draw.dirichlet([1, 1, 1], size=101).astype(np.float32)
    truth = draw.integers(0, 3, 101)
    measures = measure(answers, np.eye(3, dtype=np.float32)[truth], "single")
    assert measures.value == accuracy_score(truth, answers.argmax(axis=1))
    exact = answers.astype(float) / answers.astype(float).sum(axis=1, keepdims=True)
    assert measures.log_loss == pytest.approx(log_loss(truth, exact), abs=1e-6)
    assert confusions(answers, np.eye(3)[truth]).sum() == 101


def test_flips_are_counted_both_ways():
    targets = np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]
    plain = np.eye(2, dtype=np.float32)[[0, 1, 1, 0]]
    tta = np.eye(2, dtype=np.float32)[[0, 0, 0, 1]]
    assert flips(plain, tta, targets, "single") == (2, 1)
    assert flips(plain, plain, targets, "single") == (0, 0)


def test_multi_label_answers_are_measured_by_f2():
    targets = np.array([[1, 0, 1], [0, 1, 0]], dtype=np.float32)
    assert measure(targets, targets, "multi").value == 1
    assert measure(1 - targets, targets, "multi").value == 0


def test_of_several_labels_the_share_that_is_rightly_said_or_not_is_measured_too():
    """fastai's accuracy_multi, or accuracy_thresh."""
    targets = np.array([[1, 0, 1], [0, 1, 0]], dtype=np.float32)
    answers = np.array([[0.9, 0.6, 0.2], [0.1, 0.6, 0.4]], dtype=np.float32)
    limits = (0.5, 0.5, 0.3)
    assert measure(answers, targets, "multi").label_accuracy == pytest.approx(4 / 6)
    assert measure(answers, targets, "multi", limits).label_accuracy == pytest.approx(3 / 6)
    assert measure(answers, targets, "single").label_accuracy is None


def test_to_say_nothing_of_an_image_without_labels_is_right():
    targets = np.array([[1, 0], [0, 0]], dtype=np.float32)
    assert measure(targets, targets, "multi").value == 1
    assert score_interval(targets, targets, "multi", (0.5, 0.5))[1] == 1
    assert measure(np.ones_like(targets), targets, "multi").value < 0.5


def test_views_are_averaged_as_a_server_does(network: Network, tmp_path: Path):
    dataset = read_dataset(photos.folder(tmp_path / "data", per_class=4))
    spec = Settings(size=photos.SIZE).image_spec()
    decoded = decode(dataset.items, spec, tmp_path, lambda n: None)
    rows, tta = dataset.rows("valid"), TtaSpec(symmetries="dihedral")
    answers = predict_rows(
        lambda pixels: predict(network, pixels, "single"),
        dataset,
        decoded,
        rows,
        tta=tta,
        n_views=4,
    )
    for row, answer in zip(rows, answers, strict=True):
        views = tta_views(decoded.pixels[row], dataset.items[row].path.read_bytes(), tta, 4)
        expected = predict(network, views, "single").mean(axis=0)
        np.testing.assert_allclose(answer, expected, atol=1e-6)


def test_two_first_versions_at_once_are_both_published_and_one_is_promoted(tmp_path: Path):
    registry = Registry(tmp_path / "models")
    bundles = [tiny.stage(tmp_path / name) for name in ("a", "b", "c")]
    told = {"pointer": 0, "by": "notebook"}
    assert publish(registry, tmp_path / "a", bundles[0], promote=False, **told) == (1, True)
    assert publish(registry, tmp_path / "b", bundles[1], promote=False, **told) == (2, False)
    with pytest.raises(Conflict, match="another version was promoted in the meantime"):
        publish(registry, tmp_path / "c", bundles[2], promote=True, **told)
