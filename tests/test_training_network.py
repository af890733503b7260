"""The network: pixels normalised, layer groups, frozen statistics, saving."""

import hashlib
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from torch import nn

from training.network import backbone as backbones
from training.network.backbone import load_backbone
from training.network.classifier import Network, build_network, channel_axis
from training.network.head import concat_pool
from training.network.layer_groups import split_groups
from training.network.saving import load_network, save_network
from training.network.weights import weights_digest

LABELS = ("a", "b", "c")


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return build(load_backbone("test_efficientnet", pretrained=False))


def build(backbone: backbones.Backbone) -> Network:
    return build_network(
        backbone, 3, size=photos.SIZE, hidden=(16,), dropout=(0.1, 0.2), epsilon=0.01
    )


def digest(module: nn.Module) -> str:
    return hashlib.sha256(weights_digest(module).encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("resnet18", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("shufflenet_v2_x0_5", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_pixels_are_normalised_as_the_weights_were_learnt(
    name: str, mean: tuple[float, ...], std: tuple[float, ...], tmp_path: Path
):
    network = build(load_backbone(name, pretrained=False)).eval()
    save_network(network, tmp_path / "saved", labels=LABELS, size=photos.SIZE, task="single")
    pixels = torch.rand(2, 3, photos.SIZE, photos.SIZE) * 255
    normal = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        expected = concat_pool(network.body(normal), 1)
        for each in (network, load_network(tmp_path / "saved")[0]):
            torch.testing.assert_close(each.features(pixels), expected, rtol=1e-4, atol=1e-4)


def test_groups_partition_the_parameters(network: Network):
    grouped = [id(parameter) for group in network.groups() for parameter in group]
    assert sorted(grouped) == sorted(id(parameter) for parameter in network.parameters())
    assert all(network.groups())


@pytest.mark.parametrize("n", [0, 1, 2])
def test_freezing_to_a_group_freezes_those_before_it(network: Network, n: int):
    network.freeze_to(n)
    learning = [{p.requires_grad for p in group} for group in network.groups()]
    assert learning == [{index >= n} for index in range(3)]
    assert [bool(group) for group in network.learning_groups()] == [i >= n for i in range(3)]


@pytest.mark.parametrize("n_frozen", [0, 1, 2])
def test_frozen_normalisation_keeps_its_statistics_bit_for_bit(network: Network, n_frozen: int):
    network.freeze_to(n_frozen)
    before = {name: value.clone() for name, value in network.body.named_buffers()}
    network.train_unfrozen(freeze_batchnorm=True)
    network(torch.rand(4, 3, photos.SIZE, photos.SIZE) * 255)
    assert all(torch.equal(before[name], value) for name, value in network.body.named_buffers())


def test_frozen_statistics_leave_the_scales_to_learn_with_their_layers(network: Network):
    network.freeze_to(0)
    network.train_unfrozen(freeze_batchnorm=True)
    network(torch.rand(4, 3, photos.SIZE, photos.SIZE) * 255).sum().backward()
    norms = [one for one in network.body.modules() if hasattr(one, "running_mean")]
    assert norms
    assert all(norm.weight.grad is not None and not norm.training for norm in norms)


@pytest.mark.parametrize(("n_frozen", "still"), [(1, ("early",)), (2, ("early", "late"))])
def test_statistics_of_frozen_groups_are_frozen_whatever_the_others_do(
    network: Network, n_frozen: int, still: tuple[str, ...]
):
    network.freeze_to(n_frozen)
    before = {name: value.clone() for name, value in network.body.named_buffers()}
    network.train_unfrozen(freeze_batchnorm=False)
    network(torch.rand(4, 3, photos.SIZE, photos.SIZE) * 255)
    groups = dict(zip(("early", "late"), split_groups(network.body), strict=True))
    moved = {
        name.rpartition(".")[0] + ".weight"  # of the same normalisation
        for name, value in network.body.named_buffers()
        if not torch.equal(before[name], value)
    }
    assert {name for name in groups if moved & groups[name]} == set(groups) - set(still)


def test_unfrozen_normalisation_may_learn_its_statistics(network: Network):
    network.freeze_to(0)
    before = digest(network.body)
    network.train_unfrozen(freeze_batchnorm=False)
    network(torch.rand(4, 3, photos.SIZE, photos.SIZE) * 255)
    assert digest(network.body) != before


@pytest.mark.parametrize(("n_frozen", "learns"), [(0, True), (1, False)])
def test_normalisation_without_scales_learns_as_the_layer_before_it(n_frozen: int, learns: bool):
    early = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False))
    body = nn.Sequential(early, nn.Conv2d(4, 4, 1))
    network = build(backbones.Backbone("own", body, (0.5,) * 3, (0.5,) * 3, "random", ""))
    network.freeze_to(n_frozen)
    network.train_unfrozen(freeze_batchnorm=False)
    assert (early[1].training, early[0].training) == (learns, True)


def test_the_head_takes_twice_the_channels_at_any_size_of_image(network: Network):
    channels = network.head[0].num_features // 2
    widths = (2 * channels, 16, 3)
    linear = widths[0] * widths[1] + widths[1] + widths[1] * widths[2] + widths[2]
    normalisation = 2 * widths[0] + 2 * widths[1]
    assert sum(p.numel() for p in network.head.parameters()) == linear + normalisation
    network.eval()
    with torch.no_grad():
        shapes = [network(torch.zeros(2, 3, side, side)).shape for side in (32, 48, 65)]
    assert set(shapes) == {(2, 3)}


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("vgg11_bn", 512),  # without the two layers of 4,096, whose map is of one place
        ("mobilenetv3_small_050", 1024),  # `num_features` tells what comes before its last layer
        ("resnext26ts", 2048),
        ("inception_v3", 2048),
        ("densenet121", 1024),
        ("swin_t", 768),  # channels last
    ],
)
def test_the_head_of_every_family_takes_its_channels_and_not_its_places(name: str, channels: int):
    network = build_network(
        load_backbone(name, pretrained=False), 3, size=96, hidden=(), dropout=(0.0,)
    ).eval()
    assert network.head[0].num_features == 2 * channels
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 128, 128)).shape == (1, 3)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((2, 512, 7, 7), 1), ((2, 512, 1, 1), 1), ((2, 7, 7, 768), 3), ((2, 1, 1, 768), 3)],
)
def test_channels_are_told_from_places_by_the_two_axes_of_one_length(
    shape: tuple[int, ...], axis: int
):
    assert channel_axis(shape) == axis


def test_tokens_have_their_channels_last():
    assert channel_axis((2, 197, 192)) == 2


def test_a_saved_network_comes_back_bit_for_bit(network: Network, tmp_path: Path):
    path = tmp_path / "network.safetensors"
    save_network(network, path, labels=LABELS, size=photos.SIZE, task="single")
    loaded, task = load_network(path)
    pixels = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (2, 3, 32, 32))).float()
    with torch.no_grad():
        assert torch.equal(loaded(pixels), network.eval()(pixels))
    assert (task, digest(loaded)) == ("single", digest(network))
