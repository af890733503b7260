"""What several processes compute together, and the way back for gradients."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from registry.errors import Unavailable
from training.network.folding import forwards_restored, own_activation


@contextmanager
def explained() -> Iterator[None]:
    """Within it, a failure between processes raises an error that says what has happened.

    Raises:
        Unavailable: another process has ended or stopped answering.
    """
    try:
        yield
    except RuntimeError as error:
        raise Unavailable(
            "another process of this training has ended or stopped answering "
            f"({str(error).splitlines()[0]}); its own message says why"
        ) from error


def all_reduce(tensor: Tensor) -> Tensor:
    """Sums `tensor` over all processes, in place."""
    with explained():
        dist.all_reduce(tensor)
    return tensor


def gather(part: Tensor, start: int, n: int) -> Tensor:
    """Every process's `part`, [m,…], at its place in [n,…]; they may be of unequal length."""
    gathered: Tensor = _Gather.apply(part, start, n)
    return gathered


def with_summed_gradients(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters, to compute with: their gradients are summed over all processes, in one
    all-reduce."""
    tensors = _SummedGradients.apply(*parameters.values())
    return dict(zip(parameters, tensors, strict=True))


class _Gather(torch.autograd.Function):
    """All processes go on alike from here, so each has the whole gradient already."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, start: int, n: int) -> Tensor:
        ctx.place = slice(start, start + len(part))
        whole = part.new_zeros(n, *part.shape[1:])
        whole[ctx.place] = part
        return all_reduce(whole)  # of numbers and zeros, so nothing is rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.place], None, None


class _SummedGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> tuple[Tensor, ...]:
        return tuple(parameter.view_as(parameter) for parameter in parameters)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        flat = all_reduce(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
        return tuple(
            piece.view(gradient.shape) for piece, gradient in zip(pieces, gradients, strict=True)
        )


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return all_reduce(tensor.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce(gradient.clone())


# Batch normalisation


@contextmanager
def synchronised_statistics(body: nn.Module) -> Iterator[None]:
    """Within it, normalisations in training mode have the statistics of all processes' shares."""
    norms = [one for one in body.modules() if isinstance(one, _BatchNorm) and one.training]
    with forwards_restored(norms):
        for norm in norms:
            vars(norm)["forward"] = _normalising(norm)
        yield


def _normalising(norm: _BatchNorm) -> Callable[[Tensor], Tensor]:
    def forward(features: Tensor) -> Tensor:
        return own_activation(norm, _normalise(norm, features))

    return forward


def _normalise(norm: _BatchNorm, features: Tensor) -> Tensor:
    """[n,channels,…]; Ioffe & Szegedy 2015, algorithm 1, over the batch of all processes.

    Mean and variance one after the other: the mean of squares would lose what the variance is.
    """
    axes = [axis for axis in range(features.dim()) if axis != 1]
    shape = [1, -1] + [1] * (features.dim() - 2)
    values = features.float()
    n_here = float(features.numel() // features.shape[1])
    # filled on the device: `torch.tensor` would copy the number there, and wait for it
    n = all_reduce(torch.full((), n_here, device=features.device))
    mean = _sum(values.sum(axes)) / n
    centred = values - mean.view(shape)
    variance = _sum(centred.square().sum(axes)) / n
    _follow(norm, mean.detach(), variance.detach() * n / (n - 1))
    scale = torch.rsqrt(variance + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    normal = centred * scale.view(shape)
    return (normal + norm.bias.view(shape) if norm.affine else normal).to(features.dtype)


def _sum(tensor: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(tensor)
    return total


def _follow(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Updates the running statistics as `norm` itself would."""
    if norm.running_mean is None or norm.running_var is None:
        return
    share = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if share is None:
            share = 1 / float(norm.num_batches_tracked)
    with torch.no_grad():
        norm.running_mean.lerp_(mean, share or 0.0)
        norm.running_var.lerp_(variance, share or 0.0)


# Random numbers


@contextmanager
def own_random_numbers(rank: int, device: torch.device) -> Iterator[None]:
    """What is drawn within is this process's own; afterwards all processes draw alike again, and
    as one process would if nothing was drawn."""
    generator = (
        torch.cuda.default_generators[torch.cuda.current_device()]
        if device.type == "cuda"
        else torch.default_generator
    )
    before = generator.get_state()
    if rank:
        seed = hashlib.sha256(before.numpy().tobytes()).digest()[:6]
        generator.manual_seed(int.from_bytes(seed) + rank)
    begun = generator.get_state()
    yield
    drew = not torch.equal(generator.get_state(), begun)
    generator.set_state(before)
    if drew:
        torch.rand((), device=device)
