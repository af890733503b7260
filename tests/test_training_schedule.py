"""Schedules beside the formulas of the 2018 library, written out a second time."""

import numpy as np
import pytest
import torch
from torch import nn

from training.fit.optimizer import Optimizer
from training.fit.schedule import (
    constant,
    cosine_cycle_momenta,
    cosine_cycles,
    decays,
    one_cycle_momenta,
    one_cycles,
)
from training.settings import OptimizerSpec


def rate_of_2018(step: int, n: int, div: float, tail: float) -> float:
    """`use_clr_beta`'s share of the highest rate in a cycle of `n` steps."""
    rise = int(n * (1 - tail / 100) / 2)
    if step > 2 * rise:
        return (1 - 0.99 * (step - 2 * rise) / (n - 2 * rise)) / div
    done = 1 - (step - rise) / rise if step > rise else step / rise
    return (1 + done * (div - 1)) / div


def momentum_of_2018(step: int, n: int, high: float, low: float, tail: float) -> float:
    rise = int(n * (1 - tail / 100) / 2)
    if step > 2 * rise:
        return high
    done = 1 - (step - rise) / rise if step > rise else step / rise
    return high + done * (low - high)


@pytest.mark.parametrize(("n", "div", "tail"), [(100, 10, 10), (37, 20, 25), (8, 4, 0)])
def test_one_cycle_and_its_momentum_follow_the_formula_of_2018(n: int, div: float, tail: float):
    rates = one_cycles(n, [1, 1], div, tail)
    momenta = one_cycle_momenta(n, [1, 1], (0.95, 0.85), tail)
    expected = [rate_of_2018(step % n, n, div, tail) for step in range(2 * n)]
    np.testing.assert_allclose(rates, expected, atol=1e-12, rtol=0)
    expected = [momentum_of_2018(step % n, n, 0.95, 0.85, tail) for step in range(2 * n)]
    np.testing.assert_allclose(momenta, expected, atol=1e-12, rtol=0)
    assert momenta[rates.argmax()] == momenta.min()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_one_cycle_of_few_steps_is_finite(n: int):
    rates = one_cycles(n, [1])
    assert len(rates) == n
    assert np.isfinite(rates).all()
    assert (rates > 0).all()


def test_no_cycles_are_no_steps():
    assert len(one_cycles(5, [])) == len(decays(5, [], 0.1, per_cycle=True)) == 0
    assert constant(5, 2).tolist() == [1.0] * 10


def test_decay_per_cycle_shrinks_with_the_root_of_its_steps():
    taken_off = decays(10, [1, 4], 0.3, per_cycle=True)
    np.testing.assert_allclose(taken_off[:10], 0.3 / 10**0.5)
    np.testing.assert_allclose(taken_off[10:], 0.3 / 40**0.5)
    assert set(decays(10, [1, 4], 0.3, per_cycle=False)) == {0.3}


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_where_no_gradient_is_weights_only_decay_whatever_the_rate(kind: str):
    parameter = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = Optimizer([[parameter]], OptimizerSpec(kind=kind, weight_decay=0.9))
    for decay in decays(2, [1, 2], 0.1, per_cycle=True):
        optimizer.clear()
        (0 * parameter.sum()).backward()
        optimizer.step([123.0], decay=float(decay))
    expected = (1 - 0.1 / 2**0.5) ** 2 * (1 - 0.1 / 4**0.5) ** 4
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12)


def test_momentum_can_change_with_each_step():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = Optimizer([[parameter]], OptimizerSpec(weight_decay=0.0, clip_norm=None))
    for momentum in (0.5, 0.25):  # steps of 1, and of 1 + 0.25
        optimizer.clear()
        (-parameter.sum()).backward()
        optimizer.step([1.0], momentum=momentum)
    assert parameter.item() == pytest.approx(2.25)


@pytest.mark.parametrize(("n", "rise"), [(100, 0.25), (37, 0.3), (8, 0.5)])
def test_a_cosine_cycle_is_the_one_cycle_of_torch(n: int, rise: float):
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=n, pct_start=rise)
    options, rates, momenta = optimizer.param_groups[0], [], []
    for step in range(n):
        rates.append(options["lr"])
        momenta.append(options["betas"][0])
        optimizer.step()
        if step < n - 1:
            cycle.step()
    np.testing.assert_allclose(cosine_cycles(n, [1], 25, rise), rates, rtol=0, atol=1e-12)
    ours = cosine_cycle_momenta(n, [1], (0.95, 0.85), rise)
    np.testing.assert_allclose(ours, momenta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_cosine_cycle_of_few_steps_is_made_of_numbers(n: int):
    shares = cosine_cycles(n, [1, 1])
    assert len(shares) == 2 * n
    assert ((shares >= 0) & (shares <= 1)).all()
