"""What a report says of the network, of its images and of its losses."""

import numpy as np
import photos
import pytest
import torch

from registry.images import ImageSpec
from training.data.decoded import Decoded
from training.evaluation.overfitting import overfitting
from training.fit.batches import ImageBatches
from training.fit.epoch import Epoch
from training.network.backbone import load_backbone
from training.network.classifier import build_network
from training.network.summary import summarise
from training.report.galleries import galleries
from training.report.preview import augmented


def test_a_summary_names_every_layer_with_its_shape_and_whether_it_learns():
    backbone = load_backbone("test_efficientnet", pretrained=False)
    network = build_network(backbone, 3, size=photos.SIZE, hidden=(16,), dropout=(0.1, 0.2))
    network.freeze_to(2)
    network.train()
    layers = summarise(network, photos.SIZE)
    counted = sum(layer.n_parameters for layer in layers)
    assert counted == sum(parameter.numel() for parameter in network.parameters())
    assert (layers[-1].kind, layers[-1].output) == ("Linear", (3,))
    assert {layer.name.split(".")[0] for layer in layers if layer.learns} == {"head"}
    assert all(module.training for module in network.modules())


def test_the_preview_is_what_the_network_meets_first():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    batches = ImageBatches(
        decoded=Decoded(pixels, ImageSpec(size=8), "key"),
        rows=np.arange(12),
        targets=torch.zeros(12, 2),
        size=8,
        augmentation="side_on",
        max_zoom=1.1,
        max_rotate=10,
        batch_size=10,
        seed=0,
        device=torch.device("cpu"),
    )
    met, _ = next(batches.epoch(0))
    shown = torch.from_numpy(augmented(batches)).permute(0, 3, 1, 2)
    assert shown.shape == (8, 3, 8, 8)
    assert torch.equal(shown.float(), met[:8].round())


def epochs(*losses: tuple[float, float]) -> list[Epoch]:
    return [Epoch("all layers", train, valid, 0.5, 1.0, 1.0) for train, valid in losses]


def test_overfitting_is_flagged_with_what_shows_it():
    told = overfitting(epochs((0.9, 0.8), (0.6, 0.5), (0.3, 0.6)))
    assert told is not None
    assert told.epoch == 2
    assert told.text == (
        "all layers: overfitting since epoch 2: the held-out loss rose from 0.500 to 0.600, and "
        "the training loss fell from 0.600 to 0.300"
    )


def test_overfitting_is_looked_for_where_the_training_was_last_though_it_was_so_called_before():
    """As in a notebook that fits twice."""
    first, second = epochs((0.9, 0.2)), epochs((0.8, 0.3), (0.5, 0.6))
    between = [Epoch("head on activations", 0.8, 0.8, 0.5, 1.0, 1.0)]
    told = overfitting([*first, *between, *second])
    assert told is not None
    assert told.epoch == 3


@pytest.mark.parametrize(
    "losses",
    [
        [],
        [(0.9, 0.8), (0.6, 0.5)],
        [(0.9, 0.8), (0.6, 0.5), (0.5, 0.51)],
        [(0.9, 0.001), (0.1, 0.009)],  # nothing was wrong, and nothing is
        [(0.6, 0.5), (0.7, 0.9)],  # both rise: a rate too high, and no overfitting
    ],
)
def test_a_held_out_loss_that_falls_or_wobbles_is_no_overfitting(losses: list[tuple[float, float]]):
    assert overfitting(epochs(*losses)) is None


def test_galleries_are_ordered_by_what_their_names_say():
    answers = np.array(
        [[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.48, 0.47, 0.05], [0.4, 0.3, 0.3]], np.float32
    )
    found = galleries(answers, np.eye(3, dtype=np.float32)[[0, 2, 0, 1]])
    assert found["most_correct"].tolist() == [0, 2]
    assert found["most_incorrect"].tolist() == [1, 3]
    assert found["most_uncertain"][0] == 2
    assert found["most_entropy"][0] == 3
    assert "most_entropy" not in galleries(answers[:, :2], answers[:, :2])
