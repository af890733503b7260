"""Sharpness-aware minimisation: gradients of the worst place nearby."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benches import little, unfrozen
from torch import nn

from training.fit import epoch as fit
from training.fit.gradients import add_gradients
from training.fit.keeping import copy_state
from training.fit.sam import Sam, climbed, sharpen

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_the_gradient_is_that_of_the_worst_place_nearby():
    """Of w², at w + rho up the hill: 2(w + rho)."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)
    inputs, targets = torch.ones(1, 1), torch.zeros(1, 1)
    loss = nn.MSELoss()
    add_gradients(layer, loss, inputs, targets)
    sharpen(Sam(layer, rho=0.5), [layer.weight], layer, loss, inputs, targets)
    assert layer.weight.grad is not None
    assert layer.weight.grad.item() == pytest.approx(2 * 3.5)
    assert layer.weight.item() == 3.0


def test_the_climb_is_as_far_as_it_says_and_leaves_no_trace():
    torch.manual_seed(0)
    network = little().train()
    before, inputs = copy_state(network), torch.randn(8, 3)
    targets = nn.functional.one_hot(torch.arange(8) % 2, 2).float()
    parameters, loss = list(network.parameters()), nn.CrossEntropyLoss()
    add_gradients(network, loss, inputs, targets)
    statistics = copy_state(network[1])
    with climbed(parameters, 0.05):
        moved = [now - before[name] for name, now in network.named_parameters()]
        assert nn.utils.get_total_norm(moved) == pytest.approx(0.05, rel=1e-4)
    sharpen(Sam(network, 0.05), parameters, network, loss, inputs, targets)
    weights = dict(network.named_parameters())
    assert all(torch.equal(before[name], weight) for name, weight in weights.items())
    assert torch.equal(network[1].running_mean, statistics["running_mean"])
    assert network[1].momentum == 0.1


def test_sharpness_is_looked_at_in_every_nth_step_and_changes_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    looks: list[float] = []

    def counting(sam: Sam, *more: Any) -> None:
        looks.append(sam.rho)
        sharpen(sam, *more)

    monkeypatch.setattr(fit, "sharpen", counting)
    plain, sharp = unfrozen(tmp_path), unfrozen(tmp_path, sam="0.05", sam_every="2")
    assert looks == [0.05] * ((len(sharp.image_batches()) + 1) // 2)
    first, second = (bench.network.head[-1].weight for bench in (plain, sharp))
    assert not torch.equal(first, second)
    assert np.isfinite(sharp.results.history[-1].train_loss)
