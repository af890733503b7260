"""How fast each layer learns, and a rate for AdamW."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from benches import little, unfrozen
from torch import Tensor, nn

from training.fit.lr_finder import find_rate, suggest
from training.fit.optimizer import Optimizer
from training.fit.rates import rate_groups, resolved_decay, split_blocks
from training.network.backbone import load_backbone
from training.network.classifier import Network, build_network
from training.settings import OptimizerSpec

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

NAMES = [
    "efficientnet_lite0",
    "resnet18",
    "test_convnext",
    "test_vit",
    "shufflenet_v2_x0_5",
    "alexnet",
]


def easy(n_batches: int = 6) -> list[tuple[Tensor, Tensor]]:
    """Two clouds of points that nothing confuses."""
    draw = torch.Generator().manual_seed(0)
    targets = nn.functional.one_hot(torch.arange(16) % 2, 2).float()
    return [
        (torch.randn(16, 3, generator=draw) + 4 * targets[:, :1], targets) for _ in range(n_batches)
    ]


class Again:
    """The same batches in every epoch."""

    n_images = 96

    def __len__(self) -> int:
        return 6

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from easy()


def test_the_search_for_adamw_suggests_what_moves_weights_little_by_little():
    suggestions = {}
    for kind in ("sgd", "adamw"):
        network, spec = little().train(), OptimizerSpec(kind=kind)
        groups, loss = [list(network.parameters())], nn.CrossEntropyLoss()
        found = find_rate(network, network, groups, [1.0], Again(), loss, spec=spec)
        suggestions[kind] = found.suggestion
    assert suggestions["sgd"] > suggestions["adamw"] == 3e-3
    assert "change slowly" in found.reason


def test_a_suggestion_below_the_most_is_left_alone():
    rates = [10.0 ** (place / 5 - 5) for place in range(20)]
    losses = [0.5] * 12 + [0.9] * 8
    assert suggest(rates, losses, most=3e-3) == suggest(rates, losses)


def empty(name: str) -> Network:
    size = 160 if name == "test_vit" else 64
    backbone = load_backbone(name, pretrained=False)
    return build_network(backbone, 2, size=size, hidden=(), dropout=(0.0,))


@pytest.mark.parametrize("name", NAMES)
def test_blocks_partition_the_parameters_and_the_later_learns_more(name: str):
    network = empty(name)
    found = rate_groups(network, (0.1, 0.3, 1), 0.5)
    grouped = [id(parameter) for group in found.groups for parameter in group]
    assert sorted(grouped) == sorted(id(parameter) for parameter in network.parameters())
    assert len(found.groups) > 5
    assert found.shares == [0.5**place for place in reversed(range(len(found.groups)))]
    stem, head = next(iter(network.body.parameters())), network.head[-1].weight
    assert any(parameter is stem for parameter in found.groups[0])
    assert any(parameter is head for parameter in found.groups[-1])


def test_the_blocks_of_a_network_are_those_of_its_library():
    blocks = split_blocks(load_backbone("test_vit", pretrained=False).body)
    assert {name.split(".")[0] for name in blocks[0]} == {"cls_token", "pos_embed", "patch_embed"}
    assert [names[0].split(".")[1] for names in blocks[1:]] == list("012345")
    assert "norm.weight" in blocks[-1]


@pytest.mark.parametrize(
    ("name", "decay"),
    [
        ("convnext_nano", 0.8),
        ("vit_tiny_patch16_224", 0.7),
        ("swin_t", 0.7),
        ("resnet34", 1),
        ("efficientnet_lite0", 1),
        ("mobilevit_s", 1),
    ],
)
def test_families_decay_as_they_are_fine_tuned(name: str, decay: float):
    assert resolved_decay(name, "family") == decay
    assert resolved_decay(name, 0.5) == 0.5


@pytest.mark.parametrize(("name", "decay"), [("resnet18", 1.0), ("resnet18", "family")])
def test_without_decay_there_are_three_groups(name: str, decay: Literal["family"] | float):
    network = empty(name)
    found = rate_groups(network, (0.1, 0.3, 1), decay)
    assert (len(found.groups), found.shares) == (3, [0.1, 0.3, 1])


def test_frozen_blocks_keep_their_place_and_learn_nothing():
    network = empty("test_convnext")
    network.freeze_to(1)
    found = rate_groups(network, (0.1, 0.3, 1), "family")
    learning = [bool(group) for group in found.groups]
    assert learning == sorted(learning)
    assert not learning[0]
    assert found.shares[-1] == 1


def test_biases_and_scales_can_be_spared_from_decay():
    layer = nn.Linear(2, 2)
    nn.init.ones_(layer.weight)
    nn.init.ones_(layer.bias)
    spec = OptimizerSpec(kind="adamw", weight_decay=0.5, decay_biases=False)
    for decay, left in ((None, 1 - 0.1 * 0.5), (0.2, 0.95 * 0.8)):
        optimizer = Optimizer([list(layer.parameters())], spec)
        (0 * layer(torch.ones(1, 2)).sum()).backward()
        optimizer.step([0.1], decay=decay)
        assert layer.bias.tolist() == [1, 1]
        assert layer.weight.flatten().tolist() == pytest.approx([left] * 4)


def test_a_transformer_learns_layer_by_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[Sequence[float]] = []
    step = Optimizer.step

    def recording(self: Optimizer, rates: Sequence[float], **more: float | None) -> None:
        seen.append(rates)
        step(self, rates, **more)

    monkeypatch.setattr(Optimizer, "step", recording)
    told = {"backbone": "test_vit", "size": "160", "layer_decay": "family", "decay_biases": "false"}
    bench = unfrozen(tmp_path, **told)
    assert np.isfinite(bench.results.history[-1].train_loss)
    blocks = len(split_blocks(bench.network.body))
    for rates in seen:
        ratios = [low / high for low, high in pairwise(rates)]
        assert ratios == pytest.approx([0.7] * blocks, rel=1e-12)
    assert len(seen) == len(bench.image_batches())
