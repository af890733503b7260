"""The mean of the weights: how it follows them, and whether it takes their place."""

from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from benches import little, unfrozen
from torch import nn

from training.fit import choosing
from training.fit.ema import Ema, warm_decay
from training.fit.keeping import copy_state
from training.steps import fit_head, precompute_parts

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def walk(network: nn.Module, ema: Ema, n_steps: int, seed: int = 0) -> None:
    """As training does: the weights change, then the mean follows."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(n_steps):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draw))
        network(torch.randn(5, 3, generator=draw))
        ema.update()


def test_the_mean_follows_the_formula():
    network, decay = little(), 0.6
    ema, expected = Ema(network, decay), network[0].weight.detach().clone().double()
    for step in range(1, 9):
        walk(network, ema, 1, seed=step)
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * network[0].weight.detach().double()
    torch.testing.assert_close(ema.mean()["0.weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_the_mean_of_few_steps_has_forgotten_where_it_began():
    forgotten = np.prod([warm_decay(step, 0.9999) for step in range(1, 101)])
    assert forgotten < 1e-8
    assert np.prod([0.9999] * 100) > 0.98


def test_statistics_are_averaged_and_counters_are_the_networks_own():
    network = little()
    ema = Ema(network, 0.9)
    walk(network, ema, 5)
    mean = ema.mean()
    assert not torch.equal(mean["1.running_mean"], network[1].running_mean)
    assert mean["1.num_batches_tracked"] == network[1].num_batches_tracked == 5


def test_what_does_not_move_stays_bit_for_bit():
    network = little()
    ema, before = Ema(network, 0.9), copy_state(network)
    for _ in range(5):
        ema.update()
    assert all(torch.equal(before[name], tensor) for name, tensor in ema.mean().items())


def test_a_mean_goes_on_from_its_state_as_if_never_interrupted():
    network = little()
    ema = Ema(network, 0.9)
    walk(network, ema, 3)
    weights, saved = copy_state(network), ema.state_dict()
    walk(network, ema, 4, seed=1)
    again = little()
    again.load_state_dict(weights)
    resumed = Ema(again, 0.9)
    resumed.load_state_dict(saved)
    walk(again, resumed, 4, seed=1)
    assert all(torch.equal(ema.mean()[name], tensor) for name, tensor in resumed.mean().items())


def test_a_mean_that_is_always_kept_spares_no_images(tmp_path: Path):
    own = unfrozen(tmp_path)
    mean = unfrozen(tmp_path, ema="0.99", ema_kept="always")
    compared = unfrozen(tmp_path, ema="0.99", judge_share="0.3")
    assert mean.results.facts["ema"].endswith("without a comparison: as the settings say")
    assert own.n_train == mean.n_train == compared.n_train + len(compared.selection_rows)
    first, second = (bench.network.head[-1].weight for bench in (own, mean))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ({}, None),
        ({"keep": "swa"}, "mean of the weights of all unfrozen epochs"),
        ({"keep": "best"}, "weights of epoch 1 of all layers"),
        ({"patience": "9"}, None),
        ({"ema": "0.9", "ema_kept": "always"}, "exponential moving average of the weights"),
        (
            {"keep": "swa", "ema": "0.9", "ema_kept": "always"},
            "exponential moving average of the weights",
        ),
    ],
)
def test_it_is_known_which_weights_the_network_has_until_it_learns_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, str], kept: str | None
):
    values = iter([0.5, 0.7])
    monkeypatch.setattr(choosing, "judge", lambda bench: next(values))
    bench = unfrozen(tmp_path, cycle_len="2", judge_share="0.3", **told)
    assert bench.results.facts.get("kept") == kept
    assert ("averaged" in bench.results.facts) == str(kept).startswith("mean of")
    fit_head(bench, precompute_parts(bench, "weights", tmp_path), 0.01)
    assert "kept" not in bench.results.facts


@pytest.mark.parametrize(
    ("judge_by", "kept"), [("log_loss", "weights themselves"), ("metric", "moving average")]
)
def test_the_better_weights_are_kept_in_the_stated_direction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge_by: str, kept: str
):
    """Of two values in the order own, mean, the mean's is the higher one."""
    values = iter([0.5, 0.7])
    monkeypatch.setattr(choosing, "judge", lambda bench: next(values))
    bench = unfrozen(tmp_path, ema="0.99", judge_share="0.3", judge_by=judge_by)
    assert bench.results.facts["ema"].startswith(f"kept the {kept}")


def test_too_few_images_to_spare_any_are_not_compared(tmp_path: Path):
    data = photos.folder(tmp_path / "data" / "train", per_class=1).parent
    photos.photo(data / "valid" / "dark" / "other.png", 50, seed=99)
    bench = unfrozen(tmp_path, data, ema="0.99")
    assert (
        "moving average of the weights without a comparison: too few images"
        in bench.results.facts["ema"]
    )
