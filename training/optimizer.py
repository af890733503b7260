"""The optimizers: SGD with momentum, as in 2018, or AdamW; a rate for each layer group."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

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

    def step(self, loss: Tensor, rates: Sequence[float]) -> None:
        """The parameters have moved down the gradient of `loss`, group i at `rates[i]`."""
        for options, rate in zip(self._inner.param_groups, rates, strict=True):
            options["lr"] = rate
        self._inner.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_([p for group in self._groups for p in group], self._clip_norm)
        self._inner.step()
