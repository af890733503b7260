"""Dropout as torch's, drawn faster."""

import pytest
import torch
from torch import nn

from training.network.dropout import Dropout, draw_mask


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_so_many_are_dropped_and_the_others_make_up_for_it(share: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(share)(torch.ones(1000, 1000))
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(1 - share, abs=0.002)
    assert kept.float().mean(0).std() < 0.02  # and evenly
    assert dropped[kept].unique().tolist() == pytest.approx([1 / (1 - share)], rel=1e-3)
    assert dropped.double().mean().item() == pytest.approx(1, rel=0.01)


def test_each_is_drawn_on_its_own() -> None:
    """Four are decided by one number drawn."""
    torch.manual_seed(0)
    mask = draw_mask(torch.Size([250_000, 4]), 2**15).float()
    assert torch.corrcoef(mask.T).fill_diagonal_(0).abs().max() < 0.01


def test_what_is_dropped_has_no_gradient_and_the_rest_is_scaled_alike() -> None:
    features = torch.rand(3, 5, requires_grad=True)
    dropped = Dropout(0.5)(features)
    dropped.sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad * features, dropped)


def test_the_same_seed_drops_the_same() -> None:
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(Dropout(0.5)(torch.ones(7, 9)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_without_a_share_or_when_evaluating_nothing_is_drawn() -> None:
    before = torch.get_rng_state()
    features = torch.rand(4, 4, generator=torch.Generator())
    assert Dropout(0.0)(features) is features
    assert Dropout(0.5).eval()(features) is features
    assert torch.equal(torch.get_rng_state(), before)


def test_almost_nothing_may_be_kept() -> None:
    largest = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)).item()
    assert Dropout(largest)(torch.ones(100)).isfinite().all()
    assert isinstance(Dropout(0.5), nn.Dropout)  # for whoever looks for it among the layers
