"""Folding changes how a step is computed, and nothing else."""

import pytest
import timm
import torch
from timm.layers import StdConv2d
from torch import Tensor, nn

from training.network.folding import find_pairs, folded

PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def body_of(name: str) -> nn.Module:
    """Random weights, and statistics unlike those that leave everything as it is."""
    torch.manual_seed(0)
    body = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in (
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
                (module.weight.data, 0.5),
                (module.bias.data, -0.5),
            ):
                assert tensor is not None
                nn.init.uniform_(tensor, low, low + 1)
    return body.eval()


def gradients(body: nn.Module) -> dict[str, Tensor]:
    body.zero_grad()
    body(PIXELS).square().mean().backward()
    return {name: value.grad for name, value in body.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "mobilenetv3_small_050"])
def test_outputs_and_gradients_are_the_same_up_to_rounding(name: str) -> None:
    body = body_of(name)
    answer, expected = body(PIXELS), gradients(body)
    with folded(body, PIXELS[:1]) as n:
        assert n == sum(isinstance(module, nn.BatchNorm2d) for module in body.modules())
        torch.testing.assert_close(body(PIXELS), answer, rtol=1e-3, atol=1e-4)
        found = gradients(body)
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        largest = expected[key].abs().max().item()
        torch.testing.assert_close(gradient, expected[key], rtol=1e-2, atol=1e-3 * largest)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_weights_that_do_not_learn_are_multiplied_once_and_answer_the_same_to_the_bit(
    name: str, half: bool
) -> None:
    body = body_of(name)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=half)
    with folded(body, PIXELS[:1]), torch.inference_mode(), autocast:
        expected = body(PIXELS)
    with folded(body, PIXELS[:1], learns=False), torch.inference_mode(), autocast:
        first = body(PIXELS)
        for module in body.modules():  # what is not read again cannot be multiplied again
            if isinstance(module, nn.BatchNorm2d):
                module.running_var = None
        second = body(PIXELS)
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)


def test_afterwards_everything_is_as_it_was() -> None:
    body = body_of("resnet18").train()
    before = {name: value.clone() for name, value in body.state_dict().items()}
    with folded(body, PIXELS[:1]):
        assert body.state_dict().keys() == before.keys()
    assert all(module.training for module in body.modules())
    assert all("forward" not in vars(module) for module in body.modules())
    for name, value in body.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_normalisation_in_training_mode_still_follows_its_inputs() -> None:
    body = body_of("resnet18")
    norm = body.get_submodule("bn1")
    with folded(body, PIXELS[:1]):
        norm.train()
        before = norm.running_mean.clone()  # type: ignore[operator]
        body(PIXELS)
    assert not torch.equal(norm.running_mean, before)  # type: ignore[arg-type]


class TwoReaders(nn.Module):
    """What the convolution gives is normalised, and also added: folding would change the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.convolution(pixels)
        total: Tensor = features + self.norm(features)
        return total


def test_a_convolution_that_something_else_reads_is_left_alone() -> None:
    assert find_pairs(TwoReaders(), PIXELS) == []


class TwiceUsed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norms = (
            nn.Conv2d(3, 3, 1),
            nn.ModuleList(map(nn.BatchNorm2d, [3, 3])),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        for norm in self.norms:
            pixels = norm(self.convolution(pixels))
        return pixels


def test_a_convolution_used_twice_is_left_alone() -> None:
    assert find_pairs(TwiceUsed(), PIXELS) == []


def test_a_convolution_that_standardises_its_weights_is_left_alone() -> None:
    assert find_pairs(nn.Sequential(StdConv2d(3, 4, 1), nn.BatchNorm2d(4)), PIXELS) == []


def test_what_others_do_instead_of_a_layer_they_do_again_afterwards():
    """As processes that share their statistics do, while activations are computed."""
    body = timm.create_model("resnet18").eval()
    norm = body.bn1
    own = norm.forward
    vars(norm)["forward"] = theirs = lambda features: own(features)
    with folded(body, torch.zeros(2, 3, 64, 64)):
        assert norm.forward is not theirs
    assert norm.forward is theirs
