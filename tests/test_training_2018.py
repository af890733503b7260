"""Whole trainings with what the recipe of 2018 can be told."""

import re
from pathlib import Path

import numpy as np
import photos
import pytest
from benches import opened

from registry.errors import TrainingError
from training.data.dataset import read_dataset
from training.data.decoded import decode
from training.evaluation.evaluate import measure, predict
from training.fit.lr_finder import RateSearch
from training.fit.stage import LAST_GOOD
from training.network.saving import NETWORK, load_network
from training.presets import FASTAI2018
from training.reading_settings import read_settings
from training.recipe import train
from training.steps import fit_unfrozen

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_the_recipe_of_2018_trains_with_snapshots_and_the_best_epoch(tmp_path: Path):
    """In small: its cycles, on a network and images of seconds."""
    data = photos.folder(tmp_path / "data", per_class=12)
    told = {
        name: text
        for name, text in FASTAI2018.items()
        if name not in photos.QUICK or name in ("head_epochs", "augmented_epochs")
    }
    told |= {"recipe": "fastai2018", "cycles": "2", "keep": "best", "snapshots": "true"}
    heard = photos.Heard()
    assignment = photos.assignment(tmp_path, data, **told)
    bundle, _ = train(assignment, heard.append)
    assert len(heard.of("epoch_finished")) == 2 + 3 + (1 + 2)
    assert "by log_loss of" in bundle.provenance["best_epoch"]
    networks = [load_network(assignment.run / f"cycle-{n}.safetensors")[0] for n in (1, 2)]
    first, second = (network.head[-1].weight.detach().numpy() for network in networks)
    assert not np.array_equal(first, second)

    rule = read_settings(assignment.settings).split_rule()
    dataset = read_dataset(data, rule=rule)
    rows = dataset.rows("valid")
    pixels = decode(dataset.items, bundle.image, tmp_path, lambda n: None).pixels[rows]
    answers = [predict(network, pixels, "single") for network in networks]
    mean = measure(np.mean(answers, axis=0), dataset.targets[rows], "single")
    assert bundle.provenance["snapshots"] == (
        f"2 answers averaged: accuracy {mean.value:.4f}, log loss {mean.log_loss:.4f}"
    )


@pytest.mark.parametrize(
    ("backbone", "follow"), [("resnet18", True), ("efficientnet_lite0", False)]
)
def test_unfrozen_as_in_2018_statistics_follow_the_images_in_small_resnets_alone(
    tmp_path: Path, backbone: str, follow: bool
):
    data = photos.folder(tmp_path / "data", per_class=8)
    told = {"backbone": backbone, "freeze_batchnorm": FASTAI2018["freeze_batchnorm"]}
    bench = opened(tmp_path, data, photos.QUICK | told)

    def means() -> list[float]:
        named = bench.network.body.named_buffers()
        return [float(value.sum()) for name, value in named if name.endswith("running_mean")]

    before = means()
    fit_unfrozen(bench, 1e-3)
    assert before
    assert (means() != before) is follow


def test_one_cycle_with_decay_per_cycle_and_averaged_weights_trains(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=12)
    told = {"schedule": "one_cycle", "decay": "per_cycle", "keep": "swa", "cycle_len": "2"}
    told |= {"learning_rate": "0.01"}
    told |= {"freeze_batchnorm": "false", "batch_size": "2", "valid_fraction": "0.1"}
    assignment = photos.assignment(tmp_path, data, **told)
    bundle, _ = train(assignment, lambda event: None)
    assert "the mean over all unfrozen epochs" in bundle.provenance["averaged"]
    assert "head 1.00e-02" in bundle.provenance["learning_rates"]
    assert all(np.isfinite(value) for value in bundle.metrics.values())
    network, _ = load_network(assignment.run / NETWORK)
    assert all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())
    # of the mean's weights the statistics are computed anew: from all of one epoch's batches
    counted = {
        int(n) for name, n in network.body.named_buffers() if name.endswith("batches_tracked")
    }
    assert counted == {int(bundle.metrics["images_train"]) // 2}


def test_a_training_that_diverges_keeps_the_last_good_weights(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=8)
    assignment = photos.assignment(tmp_path, data, learning_rate="1e36", clip_norm="")
    with pytest.raises(
        TrainingError,
        match=r"set a lower learning_rate; the weights before this epoch are in .*good",
    ):
        train(assignment, lambda event: None)
    network, _ = load_network(assignment.run / LAST_GOOD)
    assert all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())


@pytest.mark.parametrize(
    ("told", "advice"),
    [
        ({"unfrozen_learning_rate": "1e36"}, "set a lower unfrozen_learning_rate"),
        ({}, "the learning-rate finder suggested 1.0e+36; set unfrozen_learning_rate to a lower"),
        ({"unfrozen_learning_rate": "0.1"}, "pass a lower rate"),
    ],
)
def test_a_stage_that_diverges_says_where_its_rate_comes_from(
    tmp_path: Path, told: dict[str, str], advice: str
):
    data = photos.folder(tmp_path / "data", per_class=8)
    bench = opened(tmp_path, data, photos.QUICK | told | {"clip_norm": ""})
    if not told:
        bench.results.searches["unfrozen"] = RateSearch([1.0], [1.0], 1e36, "in this test")
    with pytest.raises(TrainingError, match=f"; {re.escape(advice)}.*; the weights before"):
        fit_unfrozen(bench, 1e36)
