"""What keeps steps cheap does not change what they do."""

import platform
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from training.fit.activations import Activations
from training.fit.batches import ActivationBatches
from training.fit.device import has_fast_bf16
from training.network.depthwise import GradientsInFloat


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 15, 16, 17, 18])
def test_an_epoch_has_as_many_batches_as_it_says(n: int) -> None:
    batches = ActivationBatches(Activations(torch.zeros(n, 3), ""), torch.zeros(n, 2), 8, seed=0)
    sizes = [len(targets) for _, targets in batches.epoch(0)]
    assert len(sizes) == len(batches)
    assert sum(sizes) == n


def test_a_cpu_that_only_emulates_bfloat16_trains_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert not has_fast_bf16(torch.device("cpu"))


@pytest.mark.parametrize(("side", "stride"), [(3, 2), (5, 1), (5, 2)])
def test_depthwise_gradients_in_half_precision_are_those_of_float32(side: int, stride: int) -> None:
    torch.manual_seed(0)
    pixels = torch.randn(2, 8, 9, 9, requires_grad=True)
    weight, bias = torch.randn(8, 1, side, side, requires_grad=True), torch.randn(8)
    bias.requires_grad_()
    told = {"stride": stride, "padding": side // 2, "groups": 8}
    exact = functional.conv2d(pixels, weight, bias, **told)
    expected = torch.autograd.grad(exact.square().sum(), (pixels, weight, bias))
    with torch.autocast("cpu", dtype=torch.bfloat16), GradientsInFloat():
        rounded = functional.conv2d(pixels, weight, bias, **told)
        rounded_sum = rounded.float().square().sum()
    found = torch.autograd.grad(rounded_sum, (pixels, weight, bias))
    assert rounded.dtype is torch.bfloat16
    for one, other in zip((rounded, *found), (exact, *expected), strict=True):
        assert functional.cosine_similarity(one.flatten().float(), other.flatten(), 0) > 0.999
        assert one.float().norm().item() == pytest.approx(other.norm().item(), rel=0.02)


@pytest.mark.parametrize(("groups", "side"), [(1, 5), (2, 5), (8, 3)])
def test_convolutions_that_are_fast_in_half_precision_are_left_alone(
    groups: int, side: int
) -> None:
    torch.manual_seed(0)
    pixels, weight = torch.randn(2, 8, 9, 9), torch.randn(8, 8 // groups, side, side)
    weight.requires_grad_()
    answers = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answers.append(functional.conv2d(pixels, weight, groups=groups))
        with GradientsInFloat():
            answers.append(functional.conv2d(pixels, weight, groups=groups))
    assert torch.equal(*answers)
    assert answers[0].grad_fn is not None
    assert answers[1].grad_fn is not None
    assert answers[0].grad_fn.name() == answers[1].grad_fn.name()


STEPS = """
import resource, sys
import torch
from training.fit.malloc import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for step in range(20):
    if step == 10:  # at first, what is left is not yet in the right places
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pixels = torch.ones(1 << 24)
    features = 2 * pixels
    del pixels, features
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_tensor_takes_the_memory_that_another_has_left() -> None:
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", STEPS, how], text=True))
        for how in ("keep", "give back")
    }
    assert faults["keep"] < 0.2 * faults["give back"]
