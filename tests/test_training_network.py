"""The network: weights by any name, groups, frozen statistics, saving."""

import hashlib
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from registry.errors import BadRequest, Unavailable
from training import backbone as backbones
from training.backbone import load_backbone
from training.head import concat_pool, make_head
from training.layer_groups import split_groups
from training.network import Network, build_network
from training.saving import load_network, save_network
from training.weights import weights_digest


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


def test_the_installed_weights_are_those_of_imagenet():
    backbone = load_backbone("efficientnet_lite0")
    assert backbone.weights == "efficientnet-lite0-57934424.pth"
    assert (backbone.mean, backbone.std) == ((0.5,) * 3, (0.5,) * 3)
    assert backbone.digest == load_backbone("efficientnet_lite0").digest


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
    save_network(network, tmp_path / "saved", n_classes=3, size=photos.SIZE, task="single")
    pixels = torch.rand(2, 3, photos.SIZE, photos.SIZE) * 255
    normal = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        expected = concat_pool(network.body(normal), 1)
        for each in (network, load_network(tmp_path / "saved")[0]):
            torch.testing.assert_close(each.features(pixels), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "test_convnext", "test_vit", "shufflenet_v2_x0_5", "squeezenet1_0"),
        *("mnasnet0_5", "googlenet", "maxvit_t"),
    ],
)
def test_networks_of_timm_and_torchvision_go_through_the_same_code(name: str):
    backbone = load_backbone(name, pretrained=False)
    size = {"test_vit": 160, "maxvit_t": 224}.get(name, 64)
    network = build_network(backbone, 2, size=size, hidden=(8,), dropout=(0.0, 0.0))
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 2)


def test_weights_come_from_a_file_without_pickle(tmp_path: Path):
    torch.manual_seed(1)
    source = load_backbone("test_efficientnet", pretrained=False)
    save_file(dict(source.body.state_dict()), tmp_path / "weights.safetensors")
    loaded = load_backbone("test_efficientnet", weights=tmp_path / "weights.safetensors")
    assert loaded.digest == source.digest


def test_a_training_can_begin_with_what_an_earlier_one_has_learnt(network: Network, tmp_path: Path):
    """Of other classes, perhaps: the head is made anew."""
    save_network(
        network, tmp_path / "network.safetensors", n_classes=3, size=photos.SIZE, task="single"
    )
    begun = load_backbone("test_efficientnet", weights=tmp_path / "network.safetensors")
    assert begun.digest == weights_digest(network.body)
    with pytest.raises(BadRequest, match="these are weights of another network"):
        load_backbone("resnet18", weights=tmp_path / "network.safetensors")


def test_weights_of_another_network_are_refused(tmp_path: Path):
    save_file({"a": torch.zeros(3), "b": torch.zeros(4)}, tmp_path / "other.safetensors")
    with pytest.raises(BadRequest, match="these are weights of another network"):
        load_backbone("test_efficientnet", weights=tmp_path / "other.safetensors")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path):
    torch.save({"weight": Bomb(tmp_path / "sentinel")}, tmp_path / "evil.pt")
    with pytest.raises(BadRequest, match="not a file of weights"):
        load_backbone("test_efficientnet", weights=tmp_path / "evil.pt")
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize(("name", "other"), backbones.INSTEAD.items())
def test_a_network_that_does_not_end_with_features_is_refused_with_one_that_does(
    name: str, other: str
):
    told = f"{name}: .* has no features to train on; take timm's of the same kind, {other}"
    with pytest.raises(BadRequest, match=told):
        load_backbone(name, pretrained=False)
    assert backbones.timm.is_model(other)


def test_googlenet_is_torchvisions_up_to_its_features_and_sees_the_pixels_that_it_learnt_from():
    """Its pretrained weights come with `transform_input`, which is not part of the body."""
    whole = backbones.torchvision.models.googlenet(init_weights=True, transform_input=True).eval()
    backbone = load_backbone("googlenet", pretrained=False)
    backbone.body.load_state_dict(whole.state_dict(), strict=False)
    pixels = torch.rand(1, 3, 64, 64)
    seen = (pixels - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    ours = (pixels - torch.tensor(backbone.mean).view(3, 1, 1)) / torch.tensor(backbone.std).view(
        3, 1, 1
    )
    found: list[torch.Tensor] = []
    whole.inception5b.register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        whole(seen)
        torch.testing.assert_close(backbone.body.eval()(ours), found[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet35", "did you mean resnet.*"),
        ("ResNet50", "did you mean resnet50 or .*"),
        ("efficientnet-b0.ra_in1k", "did you mean efficientnet_b0 or .*"),
        ("my own", "give a name of timm or torchvision, for example .*"),
    ],
)
def test_an_unknown_backbone_is_named(name: str, told: str):
    with pytest.raises(BadRequest, match=f"no backbone is called {name!r}; {told}"):
        load_backbone(name)


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: object, **__: object) -> nn.Module:
        raise OSError("no route to host")

    monkeypatch.setattr(backbones.timm, "create_model", unreachable)
    message = "weights of resnet34 could not be fetched .*no route to host.*use efficientnet_lite0"
    with pytest.raises(Unavailable, match=message):
        load_backbone("resnet34")


def test_groups_partition_the_parameters(network: Network):
    grouped = [id(parameter) for group in network.groups() for parameter in group]
    assert sorted(grouped) == sorted(id(parameter) for parameter in network.parameters())
    assert all(network.groups())


@pytest.mark.parametrize(
    ("name", "late"),
    [
        ("resnet18", "layer3"),
        ("resnet18d", "layer3"),  # its stem is numbered, too
        ("test_convnext", "stages.2"),
        ("efficientnet_lite0", "blocks.3"),
        ("densenet121", "features.denseblock3"),
        ("squeezenet1_0", "7"),
        ("regnet_y_400mf", "trunk_output.block3"),
        ("googlenet", "inception4a"),
    ],
)
def test_a_network_is_cut_before_the_middle_one_of_its_stages(name: str, late: str):
    body = load_backbone(name, pretrained=False).body
    names = [each for each, _ in body.named_parameters()]
    cut = next(place for place, each in enumerate(names) if each.startswith(f"{late}."))
    assert split_groups(body) == (set(names[:cut]), set(names[cut:]))


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


def test_pooling_is_the_maximum_beside_the_mean():
    features = torch.arange(16.0).reshape(1, 2, 2, 4)
    pooled = concat_pool(features, channel_axis=1)
    assert pooled.tolist() == [[7.0, 15.0, 3.5, 11.5]]
    assert torch.equal(pooled, concat_pool(features.permute(0, 2, 3, 1), channel_axis=3))


def test_the_head_is_that_of_2018():
    head = make_head(10, 3, (5,), (0.25, 0.5))
    kinds = [type(layer).__name__ for layer in head]
    assert kinds == ["BatchNorm1d", "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]
    assert [len(list(make_head(10, 3, (), (0.5,)))), head[1].p, head[5].p] == [3, 0.25, 0.5]
    torch.manual_seed(0)
    wide = make_head(400, 3, (500,), (0.25, 0.5))[2]  # He et al. 2015: kaiming_normal
    assert wide.weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    assert not wide.bias.any()


def test_a_feature_that_hardly_ever_answers_does_not_drown_the_others():
    """A hundred images at next to nothing, then one at 1."""
    features = torch.full((100, 1), 1e-4)
    for epsilon, largest in ((1e-5, 316), (0.01, 10)):
        norm = make_head(1, 2, (), (0.0,), epsilon)[0]
        norm.momentum = None
        norm.train()(features)
        assert norm.eval()(torch.ones(1, 1)).item() == pytest.approx(largest, rel=0.01)
    assert make_head(4, 2, (3,), (0.0, 0.0), 0.01)[4].eps == 1e-5


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


def test_a_saved_network_comes_back_bit_for_bit(network: Network, tmp_path: Path):
    path = tmp_path / "network.safetensors"
    save_network(network, path, n_classes=3, size=photos.SIZE, task="single")
    loaded, task = load_network(path)
    pixels = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (2, 3, 32, 32))).float()
    with torch.no_grad():
        assert torch.equal(loaded(pixels), network.eval()(pixels))
    assert (task, digest(loaded)) == ("single", digest(network))
