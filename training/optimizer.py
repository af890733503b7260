"""The optimizers: SGD with momentum, as in 2018, or AdamW; a rate for each layer group.

They step by torch's fused kernels, as `torch.optim` does with `fused=True` and with the same bits.
Its classes ask and look up so much at every step that a head's step took 6 % longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.settings import OptimizerSpec

BETAS, EPSILON = (0.9, 0.999), 1e-8  # of AdamW, as Kingma & Ba 2015 have them
# a parameter, and what is remembered of its gradients: their momentum; or, by AdamW, their mean,
# the mean of their squares, and how many there were
Row = tuple[Tensor, ...]


@dataclass(frozen=True)
class Part:
    """Parameters that step alike."""

    group: int  # whose rate is theirs
    decays: bool
    rows: list[Row]


class Optimizer:
    """Steps groups of parameters, each at its own rate; empty groups are frozen ones."""

    def __init__(self, groups: Sequence[list[nn.Parameter]], spec: OptimizerSpec) -> None:
        self.parameters = [parameter for group in groups for parameter in group]
        self._spec = spec
        self._parts = [
            Part(number, decays, [_begin(parameter, spec) for parameter in members])
            for number, group in enumerate(groups)
            for decays, members in zip((True, False), _decayed(group, spec), strict=True)
        ]

    def clear(self) -> None:
        """No parameter has a gradient."""
        for parameter in self.parameters:
            parameter.grad = None

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
        with torch.no_grad():
            if self._spec.clip_norm is not None:
                _clip(self.parameters, self._spec.clip_norm)
            for part in self._parts:
                if decay and part.decays:
                    for parameter, *_ in part.rows:
                        parameter.mul_(1 - decay)
                own_decay = self._spec.weight_decay if decay is None and part.decays else 0.0
                self._move(part, rates[part.group], momentum, own_decay)

    def _move(self, part: Part, rate: float, momentum: float | None, decay: float) -> None:
        rows = [row for row in part.rows if row[0].grad is not None]
        if not rows:
            return
        if self._spec.kind == "sgd":
            _sgd(rows, rate, self._spec.momentum if momentum is None else momentum, decay)
        else:
            _adamw(rows, rate, BETAS[0] if momentum is None else momentum, decay)

    def state_dict(self) -> dict[str, Any]:
        """Momenta, moments and step counts."""
        return {"parts": [[row[1:] for row in part.rows] for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from where the optimizer of the same groups was that gave `state`."""
        for part, found in zip(self._parts, state["parts"], strict=True):
            for row, remembered in zip(part.rows, found, strict=True):
                for tensor, value in zip(row[1:], remembered, strict=True):
                    tensor.copy_(value)


def _decayed(
    group: list[nn.Parameter], spec: OptimizerSpec
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that weight decay is for, and the others: biases, and what normalisation
    scales by, where only matrices and filters decay."""
    decayed = [one for one in group if spec.decay_biases or one.dim() > 1]
    return decayed, [one for one in group if not spec.decay_biases and one.dim() <= 1]


def _begin(parameter: nn.Parameter, spec: OptimizerSpec) -> Row:
    if spec.kind == "sgd":
        return parameter, torch.zeros_like(parameter)
    steps = torch.zeros((), device=parameter.device)  # counted beside the weights
    return parameter, torch.zeros_like(parameter), torch.zeros_like(parameter), steps


def _clip(parameters: Sequence[nn.Parameter], most: float) -> None:
    """The gradients together are no longer than `most`, as by `nn.utils.clip_grad_norm_`."""
    gradients = [one.grad for one in parameters if one.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    share = most / (norm + 1e-6)
    if share.is_cpu and bool(share >= 1):  # on a GPU, who looks has to wait
        return
    torch._foreach_mul_(gradients, share.clamp(max=1))


def _sgd(rows: Sequence[Row], rate: float, momentum: float, decay: float) -> None:
    parameters, momenta = zip(*rows, strict=True)
    torch._fused_sgd_(
        parameters,
        [parameter.grad for parameter in parameters],
        momenta,
        lr=rate,
        momentum=momentum,
        weight_decay=decay,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )


def _adamw(rows: Sequence[Row], rate: float, momentum: float, decay: float) -> None:
    parameters, means, squares, steps = zip(*rows, strict=True)
    torch._foreach_add_(steps, 1)
    torch._fused_adamw_(
        parameters,
        [parameter.grad for parameter in parameters],
        means,
        squares,
        [],
        steps,
        lr=rate,
        beta1=momentum,
        beta2=BETAS[1],
        weight_decay=decay,
        eps=EPSILON,
        amsgrad=False,
        maximize=False,
    )
