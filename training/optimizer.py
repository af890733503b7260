"""The optimizers: SGD with momentum, as in 2018, or AdamW; a rate for each layer group."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from training.settings import OptimizerSpec


class Optimizer:
    """Steps groups of parameters, each at its own rate; empty groups are frozen ones."""

    def __init__(self, groups: Sequence[list[nn.Parameter]], spec: OptimizerSpec) -> None:
        options = [{"params": group, "lr": 0.0} for group in groups]
        self._groups = groups
        self._clip_norm = spec.clip_norm
        self._inner: torch.optim.Optimizer
        if spec.kind == "sgd":
            self._inner = torch.optim.SGD(
                options, momentum=spec.momentum, weight_decay=spec.weight_decay
            )
        else:
            self._inner = torch.optim.AdamW(options, weight_decay=spec.weight_decay)

    def clear(self) -> None:
        """No parameter has a gradient."""
        self._inner.zero_grad()

    def step(
        self,
        rates: Sequence[float],
        *,
        momentum: float | None = None,
        decay: float | None = None,
    ) -> None:
        """The parameters have moved down their gradients, group i at `rates[i]`.

        Args:
            momentum: of this step, instead of the usual one (AdamW: its first beta).
            decay: what every weight loses, as a share of it, instead of the optimizer's own decay.
        """
        for options, rate in zip(self._inner.param_groups, rates, strict=True):
            options["lr"] = rate
            if momentum is not None:
                _set_momentum(options, momentum)
            if decay is not None:
                options["weight_decay"] = 0.0
        parameters = [parameter for group in self._groups for parameter in group]
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self._clip_norm)
        if decay:
            with torch.no_grad():
                for parameter in parameters:
                    parameter.mul_(1 - decay)
        self._inner.step()

    def state_dict(self) -> dict[str, Any]:
        """Momenta, moments and step counts."""
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from where the optimizer of the same groups was that gave `state`."""
        self._inner.load_state_dict(state)


def _set_momentum(options: dict[str, Any], momentum: float) -> None:
    if "betas" in options:
        options["betas"] = (momentum, options["betas"][1])
    else:
        options["momentum"] = momentum
