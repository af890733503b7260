"""Where the network looked is where what it learnt to tell apart is."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.evaluation.evaluate import predict
from training.evaluation.gradcam import heat_maps, overlay
from training.network.backbone import Backbone, load_backbone
from training.network.classifier import Network, build_network

SIZE, PATCH = 32, 8
CORNERS = {
    "top left": (0, 0),
    "top right": (0, 24),
    "bottom left": (24, 0),
    "bottom right": (24, 24),
}


class ChannelsLast(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.permute(0, 2, 3, 1)


class Tokens(nn.Module):
    """A row of places behind one token that is none, as a ViT has it."""

    def forward(self, features: Tensor) -> Tensor:
        tokens = features.flatten(2).transpose(1, 2)
        return torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)


def images(n: int, corner: tuple[int, int], seed: int) -> np.ndarray:
    """Noise; the odd ones have a red patch in a corner, no brighter than the rest."""
    pixels = np.random.default_rng(seed).integers(60, 180, (n, SIZE, SIZE, 3), dtype=np.uint8)
    top, left = corner
    pixels[1::2, top : top + PATCH, left : left + PATCH] = (200, 80, 80)
    return pixels


def sees_red(*layout: nn.Module) -> Network:
    """Its first channel is how much redder than the rest a place is, its second how bright; the
    second class is said where the first channel is high anywhere."""
    body = nn.Sequential(nn.Conv2d(3, 2, 4, stride=4), nn.ReLU(), *layout)
    body.num_features = 2
    body.num_prefix_tokens = int(any(isinstance(one, Tokens) for one in layout))
    backbone = Backbone("sees red", body, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "made", "")
    network = build_network(backbone, 2, size=SIZE, hidden=(), dropout=(0.0,)).eval()
    colours = torch.tensor([[1, -0.5, -0.5], [0.1, 0.1, 0.1]]) / 16
    with torch.no_grad():
        body[0].weight.copy_(colours[..., None, None].expand(2, 3, 4, 4))
        body[0].bias.copy_(torch.tensor([-0.2, 0.5]))
        network.head[2].weight.copy_(torch.tensor([[-4.0, 0, 0, 0], [4, 0, 0, 0]]))
        network.head[2].bias.copy_(torch.tensor([1.0, -1]))
    return network


def stands_out(heat: np.ndarray, corner: tuple[int, int]) -> bool:
    """The hottest place is in the corner, which is five times as hot as the rest."""
    top, left = corner
    within = np.zeros_like(heat, dtype=bool)
    within[top : top + PATCH, left : left + PATCH] = True
    peak = np.unravel_index(heat.argmax(), heat.shape)
    return bool(within[peak] and heat[within].mean() > 5 * heat[~within].mean())


@pytest.mark.parametrize(
    "layout",
    [(), (ChannelsLast(),), (Tokens(),)],
    ids=["channels first", "channels last", "tokens"],
)
def test_the_corner_that_decides_is_highlighted(layout: tuple[nn.Module, ...]):
    network = sees_red(*layout)
    for name, corner in CORNERS.items():
        shown = images(8, corner, seed=1)
        answers = predict(network, shown, "single")
        heats = heat_maps(network, shown[1::2], [1] * 4, "single")
        assert heats is not None
        assert (answers.argmax(1) == np.arange(8) % 2).all(), name
        assert heats.shape == (4, SIZE, SIZE)
        assert heats.max() == 1
        assert all(stands_out(heat, corner) for heat in heats), name


def test_the_network_is_left_bit_for_bit_as_it_was():
    network = sees_red()
    network.freeze_to(1)
    network.head.train()
    network.body.eval()
    network.head[2].weight.grad = torch.ones_like(network.head[2].weight)
    before = [*network.state_dict().values(), *(p.grad for p in network.parameters())]
    before = [None if value is None else value.clone() for value in before]
    modes = [module.training for module in network.modules()]
    learns = [parameter.requires_grad for parameter in network.parameters()]
    random = torch.get_rng_state()
    assert heat_maps(network, images(3, (0, 0), seed=0), [0, 1, 1], "single") is not None
    after = [*network.state_dict().values(), *(p.grad for p in network.parameters())]
    same = [a is b is None or torch.equal(a, b) for a, b in zip(after, before, strict=True)]
    assert all(same)
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == learns
    assert torch.equal(torch.get_rng_state(), random)


def test_what_spoke_for_a_class_spoke_against_the_other():
    heats = heat_maps(sees_red(), images(4, (0, 0), seed=0)[1::2], [0, 1], "single")
    assert heats is not None
    assert heats[0, :PATCH, :PATCH].mean() < 0.2 < heats[0, PATCH:, PATCH:].mean()
    assert stands_out(heats[1], (0, 0))


def test_what_is_added_to_every_logit_changes_no_map():
    """Nor any probability: a map of one logit alone would show, or hide, what decides nothing."""
    network, shown = sees_red(), images(4, (0, 24), seed=3)
    before = heat_maps(network, shown, [0, 1, 0, 1], "single")
    with torch.no_grad():
        network.head[2].weight[:, 1] += 7  # how bright it is at most
        network.head[2].weight[:, 2] -= 9  # how red it is on average
    after = heat_maps(network, shown, [0, 1, 0, 1], "single")
    assert before is not None
    assert after is not None
    np.testing.assert_allclose(after, before, atol=1e-3)


def test_a_class_is_shown_against_those_it_competes_with():
    """A third class looks for red, too, but is never likely: it does not count."""
    network = sees_red()
    head = nn.Linear(4, 3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[-4.0, 0, 0, 0], [4, 0, 0, 0], [4, 0, 0, 0]]))
        head.bias.copy_(torch.tensor([1.0, -1, -30]))
    network.head[2] = head
    shown = images(2, (24, 0), seed=4)[1:]
    alone = heat_maps(sees_red(), shown, [1], "single")
    among = heat_maps(network, shown, [1], "single")
    assert alone is not None
    assert among is not None
    np.testing.assert_allclose(among, alone, atol=1e-3)


def test_of_several_labels_each_is_shown_by_itself():
    network, shown = sees_red(), images(2, (24, 24), seed=5)[1:]
    with torch.no_grad():
        network.head[2].weight[0] = torch.tensor([4.0, 0, 0, 0])  # both labels mean red
    heats = [heat_maps(network, shown, [k], "multi") for k in (0, 1)]
    assert all(heat is not None and stands_out(heat[0], (24, 24)) for heat in heats)
    together = heat_maps(network, shown, [1], "single")
    assert together is not None
    assert together.max() == 0, "they are equally likely everywhere"


def test_an_image_that_is_the_same_everywhere_has_no_heat():
    plain = np.full((1, SIZE, SIZE, 3), (200, 80, 80), np.uint8)
    heats = [heat_maps(sees_red(), plain, [k], "single") for k in (0, 1)]
    assert all(heat is not None and heat.max() == 0 for heat in heats)


def test_each_image_has_its_own_map_whatever_is_beside_it():
    network = sees_red()
    shown = images(4, (0, 24), seed=2)
    together, alone = (
        heat_maps(network, shown, [1] * 4, "single"),
        heat_maps(network, shown[1:2], [1], "single"),
    )
    assert together is not None
    assert alone is not None
    np.testing.assert_allclose(together[1], alone[0], atol=1e-5)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "test_convnext"])
def test_networks_of_timm_have_maps(name: str):
    backbone = load_backbone(name, pretrained=False)
    network = build_network(backbone, 3, size=160, hidden=(), dropout=(0.0,)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (1, 160, 160, 3), dtype=np.uint8)
    heats = [heat_maps(network, pixels, [k], "single") for k in range(3)]
    assert all(heat is not None and heat.shape == (1, 160, 160) for heat in heats)
    assert any(heat is not None and heat.max() == 1 for heat in heats)


def test_tokens_that_are_no_square_have_no_map():
    network = sees_red(Tokens())
    network.body.num_prefix_tokens = 0
    assert heat_maps(network, images(2, (0, 0), seed=0), [0, 1], "single") is None


def test_a_feature_map_of_one_place_is_no_map():
    network = sees_red(nn.MaxPool2d(8))
    assert heat_maps(network, images(2, (0, 0), seed=0), [0, 1], "single") is None


def test_an_overlay_is_brightest_where_the_heat_is():
    grey = np.full((SIZE, SIZE, 3), 120, np.uint8)
    heat = np.zeros((SIZE, SIZE), np.float32)
    heat[:8, :8] = 1
    seen = overlay(grey, heat)
    assert seen.dtype == np.uint8
    assert seen[:8, :8].mean() > 1.5 * seen[8:, 8:].mean()
