"""Settings reach what they are the settings of."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from benches import opened
from sklearn.metrics import log_loss
from torch import nn

from training.bench import Bench
from training.data.items import Layout, SplitRule
from training.data.strong_augmentation import Stronger
from training.evaluation.evaluate import predict
from training.fit.choosing import judge, make_keeper
from training.fit.loss import loss_function
from training.fit.optimizer import Optimizer
from training.fit.plan import plan_cycles
from training.fit.schedule import one_cycle_momenta, one_cycles
from training.reading_settings import read_settings
from training.settings import OptimizerSpec
from training.steps import fit_unfrozen, make_sam

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def bench_of(tmp_path: Path, **told: str) -> Bench:
    return opened(tmp_path, photos.folder(tmp_path / "data"), photos.QUICK | told)


def test_settings_say_how_files_are_read_and_drawn():
    told = {"images": "train", "suffix": ".jpg", "header": "false", "label_separator": "|"}
    told |= {"group": "patient", "test": "later", "split": "blocks", "valid_fraction": "0.25"}
    settings = read_settings(told | {"seed": "7", "fold": "2", "label_columns": "rust, scab"})
    columns = ("rust", "scab")
    assert settings.layout() == Layout("train", ".jpg", False, "|", columns, "patient", "later")
    assert settings.split_rule() == SplitRule("blocks", 0.25, 7, 2)
    assert read_settings(told | {"task": "single"}).layout().separator == ""


def test_settings_say_how_the_optimizer_steps():
    told = {"optimizer": "adamw", "momentum": "0.8", "weight_decay": "0.3", "clip_norm": "2"}
    spec = read_settings(told | {"decay_biases": "false"}).optimizer_spec()
    assert spec == OptimizerSpec("adamw", 0.8, 0.3, decay_biases=False, clip_norm=2)


def test_the_head_is_as_wide_and_drops_as_much_as_is_set(tmp_path: Path):
    bench = bench_of(tmp_path, hidden="8,4", dropout="0.1,0.2,0.3", epsilon="0.5")
    head = bench.network.head
    widths = [layer.out_features for layer in head if isinstance(layer, nn.Linear)]
    dropouts = [layer.p for layer in head if isinstance(layer, nn.Dropout)]
    assert (widths, dropouts, head[0].eps) == ([8, 4, 2], [0.1, 0.2, 0.3], 0.5)


def test_settings_say_what_training_sees_of_an_image(tmp_path: Path):
    told = {"augmentation": "flips", "max_rotate": "3", "max_zoom": "1.3", "batch_size": "5"}
    told |= {"train_crop": "googlenet", "policy": "rand", "erasing": "0.1", "mixup": "0.2"}
    bench = bench_of(tmp_path, **told, cutmix="0.3", seed="9")
    met = bench.image_batches()
    assert (met.augmentation, met.max_rotate, met.max_zoom, met.crop) == (
        "flips",
        3,
        1.3,
        "googlenet",
    )
    assert (met.size, met.batch_size, met.seed) == (photos.SIZE, 5, 9)
    assert met.stronger == Stronger("rand", 0.1, 0.2, 0.3)
    assert bench.settings.tta_spec().max_zoom == 1.3


def test_labels_are_smoothed_in_training_alone(tmp_path: Path):
    bench = bench_of(tmp_path, label_smoothing="0.2")
    logits, targets = torch.randn(4, 2), bench.targets("valid")[:4]
    smoothed = loss_function("single", label_smoothing=0.2)
    assert bench.training_loss()(logits, targets) == smoothed(logits, targets)
    assert bench.loss()(logits, targets) == loss_function("single")(logits, targets)


def test_settings_say_what_is_kept_of_the_unfrozen_epochs(tmp_path: Path):
    told = {"keep": "best", "judge_by": "metric", "patience": "4", "snapshots": "true"}
    told |= {"cycles": "6", "judge_share": "0.3"}
    bench = bench_of(tmp_path, **told, sam="0.05", sam_every="2")
    keeper = make_keeper(bench, plan_cycles(bench.settings, 5, [1, 2]))
    assert (keeper.keep, keeper.direction, keeper.patience) == ("best", "higher", 4)
    assert (keeper.snapshots, keeper.cycle_ends) == (True, (1, 3))
    sam = make_sam(bench)
    assert sam is not None
    assert (sam.rho, sam.every) == (0.05, 2)


@pytest.mark.parametrize(
    "told",
    [
        {"keep": "best", "cycles": "0"},
        {"patience": "2", "cycles": "0"},
        {"patience": "2", "cycles": "3"},
        {"patience": "1", "cycles": "4", "sizes": "16,32", "size_epochs": "2,2"},
        {"thresholds": "fitted"},
    ],
)
def test_no_images_are_set_apart_for_what_is_never_judged(tmp_path: Path, told: dict[str, str]):
    """No epochs of all layers are, and no thresholds where an image has one label; and patience
    that cannot end a training before its last cycle decides nothing."""
    bench = opened(tmp_path, photos.folder(tmp_path / "data", 3), photos.QUICK | told)
    assert not len(bench.selection_rows)
    assert bench.n_train == len(bench.dataset.rows("train"))


def test_images_set_apart_judge_and_no_others(tmp_path: Path):
    bench = bench_of(tmp_path, keep="best", judge_share="0.4")
    pixels = bench.decoded.pixels[bench.selection_rows]
    answers = predict(bench.network, pixels, "single").astype(float)
    answers /= answers.sum(axis=1, keepdims=True)
    truth = bench.dataset.targets[bench.selection_rows].argmax(axis=1)
    assert judge(bench) == pytest.approx(log_loss(truth, answers), abs=0.01)


def test_a_stage_that_gets_no_better_ends_by_the_rule_of_patience(tmp_path: Path):
    """At next to no rate the first epoch is the best: one cycle for it, two to be patient."""
    told = {"patience": "2", "judge_share": "0.4", "dropout": "0"}
    bench = bench_of(tmp_path, **told, cycles="6", cycle_mult="1")
    fit_unfrozen(bench, 1e-30)
    assert len(bench.results.history) == 3
    assert bench.results.facts["best_epoch"].endswith("; it is not kept, because keep=last")


def test_momentum_and_decay_of_the_plan_reach_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told = {"schedule": "one_cycle", "cycle_momenta": "0.9,0.7", "cycle_div": "5"}
    bench = bench_of(tmp_path, **told, decay="decoupled", weight_decay="0.01", cycle_len="2")
    seen: list[tuple[float, float | None, float | None]] = []
    step = Optimizer.step

    def recording(self: Optimizer, rates: Sequence[float], **more: float | None) -> None:
        seen.append((rates[-1], more["momentum"], more["decay"]))
        step(self, rates, **more)

    monkeypatch.setattr(Optimizer, "step", recording)
    fit_unfrozen(bench, 0.1)
    rates, momenta, decays = np.array(seen).T
    n = len(bench.image_batches())
    np.testing.assert_allclose(rates, 0.1 * one_cycles(n, [2], div=5), rtol=1e-12)
    np.testing.assert_allclose(momenta, one_cycle_momenta(n, [2], (0.9, 0.7)), rtol=1e-12)
    assert set(decays) == {0.01}
