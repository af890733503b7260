"""Which weights are kept, and when a stage ends before its time."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from registry.errors import DataError
from training.data.dataset import Dataset
from training.data.inner_split import set_apart_for_selection
from training.data.items import Item
from training.fit.keeping import (
    DIRECTIONS,
    Keep,
    Keeper,
    copy_changing,
    copy_state,
    recompute_statistics,
)


def keeper(model: nn.Linear, values: list[float], keep: Keep = "best", **more: object) -> Keeper:
    judged: Iterator[float] = iter(values)
    ends = range(1, len(values) + 1)
    return Keeper(model, keep, ends, lambda: next(judged), **more)  # type: ignore[arg-type]


def run(watched: Keeper, model: nn.Linear, epochs: int) -> int:
    """After epoch n every weight is n; gives how many epochs there were."""
    for epoch in range(1, epochs + 1):
        nn.init.constant_(model.weight, epoch)
        if not watched.goes_on(epoch):
            return epoch
    return epochs


@pytest.mark.parametrize(("judge_by", "best"), [("log_loss", 2), ("metric", 3)])
def test_the_best_epoch_is_kept_in_the_stated_direction(judge_by: str, best: int):
    model = nn.Linear(1, 1)
    watched = keeper(model, [0.5, 0.1, 0.9, 0.4], direction=DIRECTIONS[judge_by])
    assert run(watched, model, 4) == 4
    watched.restore()
    assert (watched.best_epoch, model.weight.item()) == (best, best)


def test_equal_epochs_leave_the_earlier_one():
    model = nn.Linear(1, 1)
    watched = keeper(model, [0.5, 0.5])
    run(watched, model, 2)
    assert watched.best_epoch == 1


@pytest.mark.parametrize(("patience", "epochs"), [(0, 6), (1, 3), (2, 6)])
def test_until_overfitting_is_cycles_in_a_row_without_a_better_epoch(patience: int, epochs: int):
    model = nn.Linear(1, 1)
    watched = keeper(model, [0.5, 0.4, 0.45, 0.3, 0.35, 0.36], patience=patience)
    assert run(watched, model, 6) == epochs


def test_patience_waits_for_the_end_of_a_cycle():
    model = nn.Linear(1, 1)
    watched = keeper(model, [0.4, 0.9, 0.8, 0.7, 0.6])
    watched.patience, watched.cycle_ends = 1, (1, 3, 7)
    assert run(watched, model, 7) == 3


def test_last_keeps_what_is_there_and_judges_nothing():
    model = nn.Linear(1, 1)
    watched = keeper(model, [], keep="last")
    run(watched, model, 3)
    watched.restore()
    assert model.weight.item() == 3


def test_swa_is_the_mean_of_the_epochs():
    model = nn.Linear(1, 1)
    watched = keeper(model, [], keep="swa")
    run(watched, model, 4)
    watched.restore()
    assert model.weight.item() == pytest.approx(2.5)


def test_snapshots_are_taken_at_cycle_ends():
    model = nn.Linear(1, 1)
    watched = keeper(model, [], keep="last", snapshots=True)
    watched.cycle_ends = (1, 3, 7)
    run(watched, model, 7)
    assert [state["weight"].item() for state in watched.at_cycle_ends] == [1, 3, 7]


def test_averaged_weights_get_the_statistics_of_their_inputs():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    batches = [torch.randn(16, 2) * 3 + 5 for _ in range(4)]
    recompute_statistics(model.train(), model, batches)
    norm = model[0]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, torch.cat(batches).mean(0), atol=1e-5)
    assert norm.momentum == 0.1


def test_frozen_statistics_are_not_recomputed():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2)).train()
    model[0].eval()
    before = copy_state(model[0])
    recompute_statistics(model, model, [torch.randn(8, 2) + 9])
    assert all(torch.equal(before[name], value) for name, value in model[0].state_dict().items())


def photographs(n: int, group_of: int = 1) -> Dataset:
    items = tuple(
        Item(
            Path(f"{n}.png"),
            ("ab"[row % 2],),
            "valid" if row % 5 == 0 else "train",
            sha256=f"{row // group_of}",
        )
        for row in range(n)
    )
    return Dataset(Path(), items, ("a", "b"), "single")


def test_what_judges_is_of_the_training_part_and_is_not_learnt_from():
    dataset = photographs(400)
    learnt, judged = set_apart_for_selection(dataset, 0.1, seed=42)
    assert sorted([*learnt, *judged]) == dataset.rows("train").tolist()
    assert 10 < len(judged) < 60
    assert not set(judged) & set(dataset.rows("valid"))


def test_equal_images_judge_together():
    dataset = photographs(400, group_of=4)
    learnt, judged = (
        {dataset.items[row].sha256 for row in rows}
        for rows in set_apart_for_selection(dataset, 0.2, seed=1)
    )
    assert not learnt & judged


def test_equal_images_judge_together_though_they_are_in_two_groups():
    """As they are drawn together: a photograph that two folders have, for example."""
    once = photographs(200).items
    here, there = (
        tuple(replace(item, group=f"{folder} {item.sha256}") for item in once) for folder in "ab"
    )
    dataset = Dataset(Path(), here + there, ("a", "b"), "single")
    learnt, judged = (
        {dataset.items[row].sha256 for row in rows}
        for rows in set_apart_for_selection(dataset, 0.5, seed=1)
    )
    assert not learnt & judged


def test_a_class_of_one_image_is_learnt_from():
    one = Item(Path(), ("c",), "train", sha256="c")
    items = (*photographs(40).items, one)
    learnt, judged = set_apart_for_selection(
        Dataset(Path(), items, ("a", "b", "c"), "single"), 0.9, seed=0
    )
    assert 40 in learnt
    assert len(judged) > len(learnt)


def test_too_few_images_to_set_some_apart_are_an_error():
    items = tuple(Item(Path(), (label,), "train", sha256=label) for label in "abc")
    with pytest.raises(DataError, match=r"too few training images \(3\) to set some apart"):
        set_apart_for_selection(Dataset(Path(), items, ("a", "b", "c"), "single"), 0.9, seed=0)


def test_what_training_changes_is_copied_without_what_is_frozen():
    """As in the head's stage, where the frozen backbone is nearly all of the network."""
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    network[0].requires_grad_(False)
    before, good = copy_state(network), copy_changing(network)
    assert set(before) - set(good) == {"0.weight", "0.bias"}
    network(torch.rand(4, 2)).sum().backward()
    torch.optim.SGD([one for one in network.parameters() if one.requires_grad], 1.0).step()
    changed = network.state_dict()
    assert {name for name in before if not torch.equal(before[name], changed[name])} <= set(good)
    assert not torch.equal(before["1.running_mean"], changed["1.running_mean"])
    network.load_state_dict(good, strict=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
