"""Sharpness-aware minimisation: steps down the gradient at the worst point nearby."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.fit.gradients import Forward, Loss, add_gradients
from training.fit.out_of_memory import BatchSplitter


@dataclass(frozen=True)
class Sam:
    """Radius and frequency of the perturbation (Foret et al. 2021, arXiv 2010.01412)."""

    network: nn.Module
    rho: float  # L2 distance, over all weights together
    every: int = 1  # perturb in one of this many steps


def sharpen(
    sam: Sam,
    parameters: Sequence[nn.Parameter],
    forward: Forward,
    loss_of: Loss,
    inputs: Tensor,
    targets: Tensor,
    splitter: BatchSplitter | None = None,
) -> None:
    """Replaces the gradients of `parameters` by those of the batch's loss at the worst point
    nearby, found along their current gradients; weights and statistics stay as they were."""
    with climbed(parameters, sam.rho), still_statistics(sam.network):
        for parameter in parameters:
            parameter.grad = None
        add_gradients(forward, loss_of, inputs, targets, splitter)


@contextmanager
def climbed(parameters: Sequence[nn.Parameter], rho: float) -> Iterator[None]:
    """Within it, the parameters are moved up their gradients by `rho` (eq. 2); afterwards they are
    exactly as before."""
    moved: list[Tensor] = [one for one in parameters if one.grad is not None]
    gradients = [one.grad for one in moved if one.grad is not None]
    before = [one.detach().clone() for one in moved]
    norm = float(nn.utils.get_total_norm(gradients))
    with torch.no_grad():
        if norm > 0:
            torch._foreach_add_(moved, gradients, alpha=rho / norm)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(moved, before)


@contextmanager
def still_statistics(network: nn.Module) -> Iterator[None]:
    """Within it, batch normalisation does not update its running statistics, as the perturbed
    weights are temporary."""
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
