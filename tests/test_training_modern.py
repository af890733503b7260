"""What has been learnt since 2018: smoothing, other backbones, half precision, compiled code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import photos
import pytest
import torch
from benches import opened, unfrozen
from torch import Tensor, nn

from registry.errors import BadRequest
from training.evaluation.evaluate import predict
from training.export.runtime import open_session
from training.export.to_onnx import TOLERANCE, export
from training.fit import device
from training.fit.activations import Activations, Parts, compute
from training.fit.loss import loss_function
from training.network import compiling
from training.network.saving import NETWORK, load_network
from training.reading_settings import write_setting
from training.recipe import train
from training.settings import Settings
from training.steps import fit_head

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

# The preset in small: its numbers, on a network and images of seconds.
STEPS = (
    *("optimizer", "weight_decay", "learning_rate", "unfrozen_learning_rate", "schedule"),
    *("dropout", "layer_decay", "max_rotate"),
)
SMALL = {name: write_setting(Settings.model_fields[name].default) for name in STEPS}
SMALL |= {"recipe": "modern", "cycle_len": "2", "ema": "0.999", "label_smoothing": "0.1"}

# other backbones: a network of each family, of the smallest that its library has
FAMILIES = {
    "test_resnet": 32,
    "mobilenetv3_small_050": 32,
    "test_convnext": 32,
    "test_vit": 160,
    "alexnet": 64,
    "vgg11": 32,
    "resnext26ts": 32,
    "inception_v3": 96,
    "densenet121": 32,
}


def test_smoothing_is_the_loss_against_targets_that_are_spread():
    logits, targets = torch.randn(6, 4), nn.functional.one_hot(torch.arange(6) % 4, 4).float()
    spread = 0.9 * targets + 0.1 / 4
    smoothed = loss_function("single", label_smoothing=0.1)(logits, targets)
    assert smoothed == pytest.approx(float(loss_function("single")(logits, spread)), abs=1e-6)


def test_an_image_that_counts_half_has_half_to_spread():
    loss, logits, targets = (
        loss_function("single", label_smoothing=0.1),
        torch.randn(1, 4),
        torch.eye(1, 4),
    )
    assert loss(logits, targets / 2).item() == pytest.approx(loss(logits, targets).item() / 2)


def test_several_labels_are_never_smoothed():
    logits, targets = torch.randn(6, 4), torch.eye(6, 4)
    plain, told = loss_function("multi"), loss_function("multi", label_smoothing=0.1)
    assert plain(logits, targets) == told(logits, targets)


def test_the_modern_recipe_trains_and_keeps_the_better_weights(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=16)
    heard = photos.Heard()
    assignment = photos.assignment(tmp_path, data, **SMALL)
    bundle, _ = train(assignment, heard.append)
    assert len(heard.of("epoch_finished")) == 4 + 1 + 2
    assert "log_loss of" in bundle.provenance["ema"]
    assert '"label_smoothing":0.1' in bundle.provenance["settings"]
    assert bundle.metrics["accuracy"] >= 0.75
    searched = json.loads((assignment.stage / "report" / "report.json").read_text())
    assert set(searched["learning_rates"]) == {"head"}  # the other is told, and a search is dear
    assert "unfrozen 5.00e-04" in bundle.provenance["learning_rates"]
    begun = heard.of("stage_started")
    assert [stage.number for stage in begun] == list(range(1, begun[-1].of + 1))


def test_features_in_half_precision_lead_to_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A head that learnt from bfloat16 answers as one that learnt from float32, as far as so few
    images tell: learning from them makes 0.01 to 0.07 of a rounding, whatever dropout draws."""
    monkeypatch.setattr(device, "has_fast_bf16", lambda _: True)
    told = photos.QUICK | {"backbone": "efficientnet_lite0", "size": "64", "optimizer": "adamw"}
    data = photos.folder(tmp_path / "data", per_class=16)
    features, answers = {}, {}
    for half, precision in ((True, "auto"), (False, "float32")):
        bench = opened(tmp_path, data, told | {"precision": precision})
        rows = [bench.rows(part) for part in ("train", "valid")]
        found = [compute(bench.network, bench.decoded, each) for each in rows]
        features[half] = found[1]
        bench.network.freeze_to(2)
        fit_head(bench, Parts(*(Activations(each, "") for each in found)), 0.001)
        pixels = bench.decoded.pixels[rows[1]]
        answers[half] = predict(bench.network, pixels, "single")
    assert not torch.equal(features[True], features[False])
    assert nn.functional.cosine_similarity(features[True], features[False]).min() > 0.99
    assert np.abs(answers[True] - answers[False]).mean() < 0.15
    assert (answers[True].argmax(1) == answers[False].argmax(1)).mean() > 0.8
    assert len(set(answers[True].argmax(1))) == 2


@pytest.mark.parametrize(("backbone", "size"), FAMILIES.items())
def test_every_family_is_fitted_and_exported_with_parity(tmp_path: Path, backbone: str, size: int):
    told = {"backbone": backbone, "size": str(size), "optimizer": "adamw", "layer_decay": "family"}
    bench = unfrozen(tmp_path, **told)
    assert np.isfinite(bench.results.history[-1].train_loss)
    pixels = np.array(bench.decoded.pixels[:7])
    difference, _ = export(bench.network, "single", pixels, {}, tmp_path / "model.onnx")
    assert difference <= TOLERANCE
    answers = open_session(str(tmp_path / "model.onnx")).run(None, {"image": pixels})[0]
    truth = predict(bench.network, pixels, "single")
    np.testing.assert_allclose(answers, truth, atol=TOLERANCE)


def test_a_compiled_training_has_the_same_names_and_its_mean_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Traced as by the compiler, without the minutes in which it makes code of it."""
    traced: list[str] = []

    def trace(graph: Callable[..., Any], inputs: list[Tensor]) -> Callable[..., Any]:
        traced.append(str(inputs[0].shape))
        return graph

    monkeypatch.setattr(compiling, "BACKEND", trace)
    told = {"ema": "0.99", "ema_kept": "always"}
    own, mean = unfrozen(tmp_path), unfrozen(tmp_path, **told)
    assert not traced
    bench = unfrozen(tmp_path, compile="true", **told)
    assert traced
    assert list(bench.network.state_dict()) == list(mean.network.state_dict())
    weights = [one.network.head[-1].weight for one in (own, mean, bench)]
    assert 10 * torch.dist(weights[2], weights[1]) < torch.dist(weights[0], weights[1])
    assert load_network(bench.save(NETWORK))[0].name == "test_efficientnet"


@pytest.mark.parametrize(("device", "language"), [("cpu", r"C\+\+"), ("cuda", "C")])
def test_compiling_without_a_compiler_says_so(
    device: str, language: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(BadRequest, match=f"needs a {language} compiler"):
        compiling.compiled(torch.relu, torch.device(device))
