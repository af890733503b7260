"""An exponential moving average of a network's weights."""

import torch
from torch import nn

from training.fit.keeping import State, copy_state

MEAN = "mean."  # before the names of the averaged tensors in a checkpoint


class Ema:
    """Averages a network's weights while it is trained (Polyak & Juditsky 1992).

    Parameters and floating-point buffers are averaged; counters are the network's own. The average
    starts as the network is, and follows it faster at first: `decay` is reached after about
    10·decay/(1-decay) steps; before that, roughly the last ninth of the steps counts.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network = network
        self._decay = decay
        self._n_steps = 0
        self._mean = copy_state(network)

    def update(self) -> None:
        """To be called after each step of the optimizer."""
        self._n_steps += 1
        share = 1 - warm_decay(self._n_steps, self._decay)
        means, values = [], []
        for name, tensor in self._network.state_dict().items():
            if tensor.is_floating_point():
                means.append(self._mean[name])
                values.append(tensor)
            else:
                self._mean[name].copy_(tensor)
        with torch.no_grad():
            torch._foreach_lerp_(means, values, share)

    def mean(self) -> State:
        """The average as a network's state; a copy."""
        return {name: tensor.clone() for name, tensor in self._mean.items()}

    def state_dict(self) -> State:
        """All that is needed to resume, as tensors."""
        return {MEAN + name: tensor for name, tensor in self.mean().items()} | {
            "steps": torch.tensor(self._n_steps)
        }

    def load_state_dict(self, state: State) -> None:
        """Resumes from what `state_dict` gave.

        Raises:
            KeyError: it is of another network.
        """
        for name, tensor in self._mean.items():
            tensor.copy_(state[MEAN + name])
        self._n_steps = int(state["steps"])


def warm_decay(step: int, decay: float) -> float:
    """The decay at `step`, counted from 1: (1 + step) / (10 + step) until that reaches `decay`
    (TensorFlow's `ExponentialMovingAverage`, `num_updates`)."""
    return min(decay, (1 + step) / (10 + step))
