"""Trainings that are killed, and go on as if nothing had happened."""

from itertools import count
from pathlib import Path
from typing import Literal

import photos
import pytest
import torch
from torch import nn

from registry.errors import Conflict
from registry.jobs import CHECKPOINT
from training.checkpoint import Checkpoint, read_state, write_state
from training.fit import Tally
from training.network import NETWORK
from training.optimizer import Optimizer
from training.recipe import train
from training.settings import OptimizerSpec

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Killed(BaseException):
    """What nothing catches, as nothing catches a kill."""


def test_a_training_that_dies_again_and_again_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In the midst of epochs and between them, after every fifth checkpoint that it wrote."""
    data = photos.folder(tmp_path / "data", per_class=20)
    told = {"ema": "0.9", "ema_kept": "always", "checkpoint_seconds": "0", "optimizer": "adamw"}
    told |= {"sizes": "24,32", "cycle_len": "2", "augmented_epochs": "2", "head_epochs": "2"}
    told |= {"policy": "trivial", "erasing": "0.5", "mixup": "0.4", "cutmix": "1"}
    straight = photos.assignment(tmp_path, data, **told)
    train(straight, lambda event: None)
    save, written = Checkpoint.save, count()

    def save_and_die(self: Checkpoint, tally: Tally) -> None:
        save(self, tally)
        if next(written) % 5 == 4:
            raise Killed

    monkeypatch.setattr(Checkpoint, "save", save_and_die)
    broken = straight.model_copy(update={"run": tmp_path / "broken"})
    heard, deaths = photos.Heard(), 0
    while not heard.of("scored"):
        try:
            train(broken, heard.append)
        except Killed:
            deaths += 1
    assert deaths >= 4
    assert sum("goes on after" in event.text for event in heard.of("note")) == deaths
    assert (broken.run / NETWORK).read_bytes() == (straight.run / NETWORK).read_bytes()


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path):
    laid_out = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    state = {"a": [{"b": laid_out, 3: torch.tensor(5)}, None, float("inf"), 0.1, "text", True]}
    write_state(tmp_path / CHECKPOINT, state)
    ((first, *others),) = read_state(tmp_path / CHECKPOINT).values()
    assert torch.equal(first["b"], laid_out)
    assert first["b"].stride() == laid_out.stride()
    assert first[3] == 5
    assert others == state["a"][1:]
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_what_cannot_be_told_without_code_is_not_written(tmp_path: Path):
    with pytest.raises(TypeError, match="Linear cannot be put into a checkpoint"):
        write_state(tmp_path / CHECKPOINT, {"network": nn.Linear(1, 1)})
    assert not list(tmp_path.iterdir())


def opened(path: Path, every_s: float = 0, **key: str) -> Checkpoint:
    checkpoint = Checkpoint()
    checkpoint.open(path, key, every_s)
    return checkpoint


def test_another_training_is_not_gone_on_with(tmp_path: Path):
    checkpoint = opened(tmp_path / CHECKPOINT, settings="size=32", images="abc")
    checkpoint.begin("head")
    checkpoint.save(checkpoint.enter({}))
    with pytest.raises(Conflict, match=r"has a training that is not over, with other images; go"):
        opened(tmp_path / CHECKPOINT, settings="size=32", images="abd")


def test_a_damaged_checkpoint_says_what_to_do(tmp_path: Path):
    (tmp_path / CHECKPOINT).write_bytes(b"half a")
    with pytest.raises(Conflict, match=r"no checkpoint .*; remove it to begin anew"):
        opened(tmp_path / CHECKPOINT)


def test_stages_that_are_over_are_passed_once(tmp_path: Path):
    checkpoint = opened(tmp_path / CHECKPOINT)
    assert checkpoint.begin("search")
    assert checkpoint.begin("head")
    checkpoint.save(Tally(2, 5))
    later = opened(tmp_path / CHECKPOINT)
    assert not later.begin("search")
    assert later.begin("head")
    assert later.enter({}) == Tally(2, 5)
    assert later.begin("search")
    assert later.enter({}) == Tally()


def descend(parameter: nn.Parameter, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.clear()
        (parameter**4).sum().backward()
        optimizer.step([0.0, 0.01], momentum=0.9 - step / 10)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_an_optimizer_goes_on_bit_for_bit(tmp_path: Path, kind: Literal["sgd", "adamw"]):
    straight, broken = (nn.Parameter(torch.arange(4.0)) for _ in range(2))
    first, second, third = (
        Optimizer([[], [each]], OptimizerSpec(kind=kind)) for each in (straight, broken, broken)
    )
    descend(straight, first, range(6))
    descend(broken, second, range(3))
    write_state(tmp_path / CHECKPOINT, second.state_dict())
    third.load_state_dict(read_state(tmp_path / CHECKPOINT))
    descend(broken, third, range(3, 6))
    assert torch.equal(straight, broken)
