"""The optimizers: SGD with momentum, as in 2018, or AdamW; one learning rate per layer group."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from training.settings import OptimizerSpec


class Optimizer:
    """Steps groups of parameters, each at its own rate; empty groups are frozen ones."""

    def __init__(self, groups: Sequence[list[nn.Parameter]], spec: OptimizerSpec) -> None:
        parts = [_decayed(group, spec) for group in groups]
        options = [
            {"params": members, "lr": 0.0} | ({} if decays else {"weight_decay": 0.0})
            for part in parts
            for decays, members in zip((True, False), part, strict=True)
        ]
        self.parameters = [parameter for group in groups for parameter in group]
        self._decayed = [parameter for decayed, _ in parts for parameter in decayed]
        self._clip_norm = spec.clip_norm
        self._inner: torch.optim.Optimizer
        if spec.kind == "sgd":
            self._inner = torch.optim.SGD(
                options, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=True
            )
        else:  # fused: a pass over the weights instead of ten
            self._inner = torch.optim.AdamW(options, weight_decay=spec.weight_decay, fused=True)

    def clear(self) -> None:
        """Clears all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(
        self,
        rates: Sequence[float],
        *,
        momentum: float | None = None,
        decay: float | None = None,
    ) -> None:
        """Updates the parameters, group i at learning rate `rates[i]`.

        Args:
            momentum: of this step, instead of the usual one (AdamW: its first beta).
            decay: what every weight loses, as a share of it, instead of the optimizer's own decay.
        """
        twice = [rate for rate in rates for _ in range(2)]
        for options, rate in zip(self._inner.param_groups, twice, strict=True):
            options["lr"] = rate
            if momentum is not None:
                _set_momentum(options, momentum)
            if decay is not None:
                options["weight_decay"] = 0.0
        if self._clip_norm is not None:
            _clip(self.parameters, self._clip_norm)
        if decay:
            with torch.no_grad():
                for parameter in self._decayed:
                    parameter.mul_(1 - decay)
        self._inner.step()

    def state_dict(self) -> dict[str, Any]:
        """Momenta, moments and step counts."""
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from where the optimizer of the same groups was that gave `state`."""
        self._inner.load_state_dict(state)


def _decayed(
    group: list[nn.Parameter], spec: OptimizerSpec
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that weight decay is for, and the others: biases, and what normalisation
    scales by, where only matrices and filters decay."""
    decayed = [one for one in group if spec.decay_biases or one.dim() > 1]
    return decayed, [one for one in group if not spec.decay_biases and one.dim() <= 1]


def _clip(parameters: Sequence[nn.Parameter], most: float) -> None:
    """The gradients together are no longer than `most`, as `nn.utils.clip_grad_norm_` has it."""
    norm = nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
    if norm.is_cpu and bool(norm + 1e-6 <= most):  # on a GPU, reading it would synchronise
        return  # torch would multiply all of them by 1
    nn.utils.clip_grads_with_norm_(parameters, most, norm)


def _set_momentum(options: dict[str, Any], momentum: float) -> None:
    if "betas" in options:
        options["betas"] = (momentum, options["betas"][1])
    else:
        options["momentum"] = momentum
