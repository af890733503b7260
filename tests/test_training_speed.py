"""What keeps steps cheap does not change what they do."""

import pytest
import torch

from training.activations import Activations
from training.batches import ActivationBatches
from training.device import has_fast_bf16


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
