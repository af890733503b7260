"""Which weights of a stage are kept: the last, the best, or the mean over all epochs (SWA)."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from training.settings import Keep

State = dict[str, Tensor]

KEPT = "kept"  # among a bench's facts: which weights the network has, if not the last epoch's

# What the best epoch is chosen by, and which direction is better.
DIRECTIONS: dict[str, Literal["lower", "higher"]] = {"log_loss": "lower", "metric": "higher"}

# of a keeper, in a checkpoint
REMEMBERED = (
    "at_cycle_ends",
    "best_epoch",
    "_best",
    "_kept",
    "_n_averaged",
    "_idle_cycles",
    "_better_in_cycle",
)


@dataclass
class Keeper:
    """Evaluates a network after each epoch of a stage, and keeps the weights that are asked for.

    Early stopping: the stage ends after `patience` cycles in a row without a new best epoch; 0:
    never early.
    """

    network: nn.Module
    keep: Keep
    cycle_ends: Sequence[int]  # epochs, counted from 1
    judge: Callable[[], float]  # on images neither trained on nor held out
    direction: Literal["lower", "higher"] = "lower"
    patience: int = 0
    snapshots: bool = False
    at_cycle_ends: list[State] = field(default_factory=list)
    best_epoch: int = 0
    _best: float = math.inf
    _kept: State = field(default_factory=dict)
    _n_averaged: int = 0
    _idle_cycles: int = 0
    _better_in_cycle: bool = False

    def goes_on(self, epoch: int) -> bool:
        """Evaluates the network after `epoch`, counted from 1; whether to train on."""
        if self.keep == "swa":
            self._n_averaged += 1
            self._kept = blend(self._kept, copy_state(self.network), 1 / self._n_averaged)
        if self.keep == "best" or self.patience:
            self._compare(epoch)
        if epoch not in self.cycle_ends:
            return True
        if self.snapshots:
            self.at_cycle_ends.append(copy_state(self.network))
        self._idle_cycles = 0 if self._better_in_cycle else self._idle_cycles + 1
        self._better_in_cycle = False
        return not self.patience or self._idle_cycles < self.patience

    def _compare(self, epoch: int) -> None:
        value = self.judge() if self.direction == "lower" else -self.judge()
        if value < self._best:
            self._best, self.best_epoch, self._better_in_cycle = value, epoch, True
            if self.keep == "best":
                self._kept = copy_state(self.network)

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in REMEMBERED}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restores the keeper to the epoch at which `state` was taken."""
        for name in REMEMBERED:
            setattr(self, name, state[name])

    def restore(self) -> None:
        """Loads the kept weights into the network. Averaged ones need new batch statistics."""
        if self._kept:
            self.network.load_state_dict(self._kept)


def copy_state(network: nn.Module) -> State:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def copy_changing(network: nn.Module) -> State:
    """Of what training changes: the parameters that learn, and all buffers. With a frozen backbone
    the other parameters are most of the network."""
    return {
        name: tensor.detach().clone()
        for name, tensor in network.state_dict(keep_vars=True).items()
        if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
    }


def blend(mean: State, state: State, share: float) -> State:
    """`mean` moved towards `state` by `share`; `state` if it is empty. Integers are `state`'s."""
    return {
        name: torch.lerp(mean[name], tensor, share)
        if mean and tensor.is_floating_point()
        else tensor
        for name, tensor in state.items()
    }


def recompute_statistics(
    network: nn.Module, forward: Callable[[Tensor], Tensor], inputs: Iterable[Tensor]
) -> None:
    """Sets the statistics of batch normalisation in training mode to their mean over `inputs`;
    frozen layers keep theirs (Izmailov et al. 2018, SWA, section 3.2)."""
    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches instead of a running one
    with torch.no_grad():
        for batch in inputs:
            forward(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
