"""Backbones by any name: their weights, where they are cut, and which are refused."""

from pathlib import Path

import photos
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from registry.errors import BadRequest, Unavailable
from training.network import backbone as backbones
from training.network.backbone import load_backbone
from training.network.classifier import build_network
from training.network.layer_groups import split_groups
from training.network.saving import save_network
from training.network.weights import weights_digest


def test_the_installed_weights_are_those_of_imagenet():
    backbone = load_backbone("efficientnet_lite0")
    assert backbone.weights == "efficientnet-lite0-57934424.pth"
    assert (backbone.mean, backbone.std) == ((0.5,) * 3, (0.5,) * 3)
    assert backbone.digest == load_backbone("efficientnet_lite0").digest


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


def test_torchvisions_swin_keeps_the_normalisation_behind_its_stages():
    whole = backbones.torchvision.models.swin_t().eval()
    body = load_backbone("swin_t", pretrained=False).body.eval()
    body.load_state_dict(whole.state_dict(), strict=False)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(body(pixels), whole.norm(whole.features(pixels)))


@pytest.mark.parametrize("name", ["inception_next_atto", "efficientvit_b0"])
def test_a_network_that_always_pools_is_refused_in_its_own_words(name: str):
    with pytest.raises(BadRequest, match=r"no feature map to train on .Cannot disable pooling"):
        load_backbone(name, pretrained=False)


@pytest.mark.parametrize(("name", "other"), backbones.INSTEAD.items())
def test_a_network_that_does_not_end_with_features_is_refused_with_one_that_does(
    name: str, other: str
):
    told = f"{name}: .* has no features to train on; take timm's of the same kind, {other}"
    with pytest.raises(BadRequest, match=told):
        load_backbone(name, pretrained=False)
    assert backbones.timm.is_model(other)


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


@pytest.mark.parametrize("reason", ["no route to host", "", "first line\nsecond " + 99 * "more "])
def test_weights_that_cannot_be_fetched_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, reason: str
):
    def unreachable(*_: object, **__: object) -> nn.Module:
        raise OSError(reason)

    monkeypatch.setattr(backbones.timm, "create_model", unreachable)
    message = f"weights of resnet34 .*fetched .OSError: {reason[:10]}.*use efficientnet_lite0"
    with pytest.raises(Unavailable, match=message):
        load_backbone("resnet34")


def test_weights_come_from_a_file_without_pickle(tmp_path: Path):
    torch.manual_seed(1)
    source = load_backbone("test_efficientnet", pretrained=False)
    save_file(dict(source.body.state_dict()), tmp_path / "weights.safetensors")
    loaded = load_backbone("test_efficientnet", weights=tmp_path / "weights.safetensors")
    assert loaded.digest == source.digest


def test_a_training_can_begin_with_what_an_earlier_one_has_learnt(tmp_path: Path):
    """Of other classes, perhaps: the head is made anew."""
    source = load_backbone("test_efficientnet", pretrained=False)
    network = build_network(source, 3, size=photos.SIZE, hidden=(), dropout=(0.0,))
    save_network(
        network,
        tmp_path / "network.safetensors",
        labels=("a", "b", "c"),
        size=photos.SIZE,
        task="single",
    )
    begun = load_backbone("test_efficientnet", weights=tmp_path / "network.safetensors")
    assert begun.digest == weights_digest(network.body)
    with pytest.raises(BadRequest, match="these are weights of another network"):
        load_backbone("resnet18", weights=tmp_path / "network.safetensors")


def test_weights_of_another_network_are_refused(tmp_path: Path):
    save_file({"a": torch.zeros(3), "b": torch.zeros(4)}, tmp_path / "other.safetensors")
    with pytest.raises(BadRequest, match="these are weights of another network"):
        load_backbone("test_efficientnet", weights=tmp_path / "other.safetensors")


def test_weights_of_another_network_whose_layers_are_called_the_same_are_refused(tmp_path: Path):
    deeper = backbones.timm.create_model("resnet26", pretrained=False)  # of bottlenecks
    save_file(deeper.state_dict(), tmp_path / "deeper.safetensors")
    with pytest.raises(BadRequest, match=r"conv1.weight .*these are weights of another network"):
        load_backbone("resnet18", weights=tmp_path / "deeper.safetensors")


def test_weights_from_before_batches_were_counted_are_read(tmp_path: Path):
    """As PyTorch wrote them before 0.4.1."""
    whole = backbones.timm.create_model("test_resnet", pretrained=False).state_dict()
    old = {name: value for name, value in whole.items() if "num_batches_tracked" not in name}
    assert len(old) < len(whole)
    torch.save(old, tmp_path / "old.pth")
    body = load_backbone("test_resnet", weights=tmp_path / "old.pth").body.state_dict()
    assert all(torch.equal(body[name], whole[name]) for name in body)


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
        ("inception_v3", "Mixed_6c"),  # its blocks have no numbers
        ("vgg11_bn", "features.15"),  # not before features.12, the normalisation of features.11
        ("swin_t", "features.4"),
    ],
)
def test_a_network_is_cut_before_the_middle_one_of_its_stages(name: str, late: str):
    body = load_backbone(name, pretrained=False).body
    names = [each for each, _ in body.named_parameters()]
    cut = next(place for place, each in enumerate(names) if each.startswith(f"{late}."))
    assert split_groups(body) == (set(names[:cut]), set(names[cut:]))
