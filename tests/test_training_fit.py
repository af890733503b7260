"""Schedules, the rate search, and fitting."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from registry.errors import TrainingError
from training.fit.epoch import Epoch, Stage, Tally, train_epoch
from training.fit.loss import loss_function
from training.fit.lr_finder import LOWEST, RateSearch, find_rate, suggest
from training.fit.optimizer import Optimizer
from training.fit.passes import validate_head
from training.fit.plan import Plan
from training.fit.schedule import Shares, cosine_restarts, restart_epochs
from training.network.weights import weights_digest
from training.settings import OptimizerSpec, Settings


class TwoClouds:
    """Batches of points around (-1, …) and (1, …), the same in every epoch."""

    n_images = 64

    def __len__(self) -> int:
        return 4

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        draw = torch.Generator().manual_seed(0)
        for _ in range(4):
            classes = torch.arange(16) % 2
            points = torch.randn(16, 6, generator=draw) + (2.0 * classes - 1)[:, None]
            yield points, nn.functional.one_hot(classes, 2).float()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)
    )


def fitted(
    model: nn.Sequential, shares: Shares, rates: tuple[float, float] = (0.01, 0.1)
) -> list[Epoch]:
    n_epochs = len(shares) // 4
    plan = Plan(shares, None, None, (n_epochs,))
    stage = Stage("test", model, nn.CrossEntropyLoss(), TwoClouds(), rates, plan)
    groups = [list(model[0].parameters()), list(model[4].parameters())]
    optimizer = Optimizer(groups, OptimizerSpec(weight_decay=0.0))
    tallies = [Tally(number) for number in range(n_epochs)]
    for tally in tallies:
        train_epoch(stage, optimizer, tally)
    return [tally.row("test", 0.0, 1.0) for tally in tallies]


def search(model: nn.Module, **changes: float) -> RateSearch:
    spec = OptimizerSpec(**changes)
    groups = [list(model.parameters())]
    return find_rate(
        model, model, groups, [1.0], TwoClouds(), nn.CrossEntropyLoss(), spec=spec, max_steps=60
    )


@pytest.mark.parametrize(
    ("cycles", "cycle_len", "cycle_mult", "total"),
    [(3, 1, 2, 7), (1, 1, 1, 1), (2, 3, 1, 6), (2, 2, 3, 8), (0, 1, 2, 0)],
)
def test_restarts_lengthen_by_their_factor(
    cycles: int, cycle_len: int, cycle_mult: int, total: int
):
    assert sum(restart_epochs(cycles, cycle_len, cycle_mult)) == total


def test_rates_follow_the_formula_of_2018():
    n_batches, shares = 25, cosine_restarts(25, [1, 2])
    for step, share in enumerate(shares):
        place, length = (step, n_batches) if step < n_batches else (step - n_batches, 2 * n_batches)
        formula = 0.01 if step < n_batches / 20 else (np.cos(np.pi * place / length) + 1) / 2
        assert abs(share - formula) <= 1e-12


def test_groups_keep_their_ratio_at_each_step(monkeypatch: pytest.MonkeyPatch):
    seen: list[Sequence[float]] = []
    step = Optimizer.step

    def recording(self: Optimizer, rates: Sequence[float], **more: float | None) -> None:
        seen.append(rates)
        step(self, rates, **more)

    monkeypatch.setattr(Optimizer, "step", recording)
    shares = cosine_restarts(4, [1, 2])
    fitted(network(), shares, rates=(0.01, 0.1))
    np.testing.assert_allclose([high for _, high in seen], 0.1 * shares, rtol=0, atol=1e-12)
    assert all(high == pytest.approx(10 * low, rel=1e-12) for low, high in seen)


def test_each_group_steps_at_its_own_rate():
    still, moving = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = Optimizer([[still], [], [moving]], OptimizerSpec(weight_decay=0.0))
    (still + 2 * moving).sum().backward()
    optimizer.step([0.0, 1.0, 0.1])
    assert (still.item(), moving.item()) == (1.0, pytest.approx(0.8))


def test_gradients_are_clipped_together():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = Optimizer([[parameter]], OptimizerSpec(weight_decay=0.0, clip_norm=0.5))
    (1000 * parameter.sum()).backward()
    optimizer.step([1.0])
    assert parameter.item() == pytest.approx(-0.5)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_an_optimizer_steps_as_that_of_torch_bit_for_bit(kind: Literal["sgd", "adamw"]):
    ours, theirs = nn.Linear(40, 30), nn.Linear(40, 30)
    theirs.load_state_dict(ours.state_dict())
    optimizer = Optimizer([list(ours.parameters())], OptimizerSpec(kind, 0.9, 0.1, clip_norm=0.5))
    parameters = list(theirs.parameters())
    reference: torch.optim.Optimizer
    if kind == "sgd":
        reference = torch.optim.SGD(parameters, 0.1, 0.9, weight_decay=0.1, fused=True)
    else:
        reference = torch.optim.AdamW(parameters, 0.1, weight_decay=0.1, fused=True)
    for scale in (100.0, 0.01, 1.0, 1e-6):  # gradients that are clipped, and others
        inputs = scale * torch.randn(8, 40)
        for model in (ours, theirs):
            model.zero_grad()
            model(inputs).square().mean().backward()
        nn.utils.clip_grad_norm_(parameters, 0.5)
        reference.step()
        optimizer.step([0.1])
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_what_has_no_gradient_stays_as_it_is():
    idle, moving = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = Optimizer([[idle, moving]], OptimizerSpec(kind="adamw", weight_decay=0.5))
    moving.sum().backward()
    optimizer.step([0.1])
    assert (idle.item(), moving.item()) == (1.0, pytest.approx(0.85))


def test_weight_decay_of_adamw_is_decoupled():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = Optimizer([[parameter]], OptimizerSpec(kind="adamw", weight_decay=0.5))
    (0 * parameter.sum()).backward()
    optimizer.step([0.1])
    assert parameter.item() == pytest.approx(1 - 0.1 * 0.5)


def test_fitting_lowers_the_loss():
    history = fitted(network(), cosine_restarts(4, [10]))
    assert len(history) == 10
    assert history[-1].train_loss < 0.5 * history[0].train_loss


def test_a_loss_that_is_no_number_stops_with_where_and_at_which_rate():
    with pytest.raises(
        TrainingError, match=r"test: the loss became (nan|inf) in batch .* 1\.0e\+38"
    ):
        fitted(network(), np.ones(400), rates=(1e38, 1e38))


def test_the_search_leaves_everything_bit_for_bit_as_it_was():
    model = network().train()
    digest, generator = weights_digest(model), torch.get_rng_state()
    search(model)
    assert weights_digest(model) == digest
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


def test_the_search_suggests_a_rate_that_trains():
    found = search(network().train())
    assert 1e-4 < found.suggestion < 1
    assert "a tenth of" in found.reason
    assert found.losses[-1] > min(found.losses)


def search_of(values: Sequence[float]) -> RateSearch:
    """What is found where the batches' losses are these, whatever the rate."""
    model, losses = network().train(), iter(values)
    return find_rate(
        model,
        model,
        [list(model.parameters())],
        [1.0],
        TwoClouds(),
        lambda logits, targets: 0 * logits.sum() + next(losses),
        spec=OptimizerSpec(),
    )


def test_the_search_raises_the_rate_and_smooths_the_loss_as_in_2018():
    values = np.random.default_rng(0).uniform(0.9, 1.1, 100)
    found, mean, smooth = search_of(values), 0.0, []
    for number, value in enumerate(values, start=1):
        mean = 0.98 * mean + 0.02 * value
        smooth.append(mean / (1 - 0.98**number))
    np.testing.assert_allclose(found.rates, np.geomspace(1e-5, 10, 100), rtol=1e-9)
    np.testing.assert_allclose(found.losses, smooth, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "n_rates"),
    [
        ([1.0] * 20 + [1000.0] * 80, 21),
        ([1.0] * 2 + [1000.0] * 98, 100),  # before the eleventh step no loss is the best
        ([1.0] * 15 + [float("nan")] * 85, 15),
    ],
)
def test_the_search_stops_at_four_times_the_best_loss_or_at_no_number(
    values: list[float], n_rates: int
):
    assert len(search_of(values).rates) == n_rates


def test_an_epochs_loss_is_the_mean_over_its_images():
    tally = Tally()
    tally.add(1.0, n_images=3, seconds=0.5)
    tally.add(5.0, n_images=1, seconds=1.5)
    epoch = tally.row("test", valid_loss=0.5, metric_value=0.9)
    assert (epoch.train_loss, epoch.images_per_second) == (2.0, 2.0)


RATES = [10.0 ** (place / 5 - 5) for place in range(30)]


def test_a_loss_that_clearly_falls_suggests_a_tenth_of_where_it_is_lowest():
    losses = [0.9] * 10 + [0.9 - 0.05 * place for place in range(10)] + [0.46, 0.47, *[3.0] * 8]
    suggestion, reason = suggest(RATES, losses)
    assert suggestion == pytest.approx(RATES[19] / 10)
    assert reason.startswith(f"a tenth of {RATES[19]:.1e}, where the loss is lowest, 0.450")


def test_a_loss_that_does_not_clearly_fall_suggests_a_hundredth_of_where_it_begins_to_rise():
    """As was seen after unfreezing: a tenth of that made the network worse."""
    losses = [0.917] * 18 + [0.914, 0.93, 0.95, *[6.66] * 9]
    suggestion, reason = suggest(RATES, losses)
    assert suggestion == pytest.approx(RATES[20] / 100)
    assert reason.startswith("the loss does not clearly fall (0.917 in the first steps, 0.914 at b")


def test_a_suggestion_is_never_more_than_a_tenth_of_where_the_loss_is_lowest():
    losses = [0.9] * 10 + [0.85] + [0.9] * 19  # of which the place is chance, and the rest is flat
    suggestion, reason = suggest(RATES, losses)
    assert suggestion == pytest.approx(RATES[10] / 10)
    assert "does not clearly fall" in reason


def test_a_loss_that_is_nothing_from_the_start_has_not_fallen():
    losses = [0.0, 0.004, 0.003] + [0.002] * 7 + [0.001] * 15 + [0.4] * 5
    assert "does not clearly fall" in suggest(RATES, losses)[1]


def test_a_loss_that_diverges_at_once_suggests_the_lowest_rate():
    assert suggest([LOWEST, 2 * LOWEST], [1.0, 9.0])[0] == LOWEST


def test_the_loss_of_answers_that_are_sure_and_right_is_nothing_and_not_less():
    certain = nn.Module()
    certain.head = nn.Identity()
    targets = np.eye(2, dtype=np.float32)
    bench: Any = SimpleNamespace(
        network=certain,
        device="cpu",
        settings=Settings(),
        dataset=SimpleNamespace(task="single", targets=targets, rows=lambda part: [0, 1]),
        loss=lambda: loss_function("single"),
    )
    loss, accuracy = validate_head(bench, torch.from_numpy(1e4 * targets))
    assert (f"{loss:.4f}", accuracy) == ("0.0000", 1)
