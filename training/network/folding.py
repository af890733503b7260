"""Frozen batch normalisation as part of the convolution before it, while both still learn.

In evaluation mode a normalisation multiplies and adds numbers that do not depend on the images, so
it can be done to the convolution's few weights instead of to all its outputs. Outputs and gradients
are the same up to rounding, and a training step no longer reads and writes every feature map for
it. What exporters do for inference, this does for learning.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm

PLAIN = (nn.Conv2d, Conv2dSame)  # others may change their weights first, such as standardise them
Pair = tuple[nn.Conv2d, _BatchNorm]


@contextmanager
def folded(body: nn.Module, sample: Tensor, *, learns: bool = True) -> Iterator[int]:
    """Within it, normalisations in evaluation mode cost next to nothing; yields how many.

    Those in training mode work as ever. Names, parameters and buffers stay as they are.

    Args:
        sample: an input [n,…], to find out what follows what.
        learns: False: weights and statistics do not change, and are multiplied (and converted, if
            autocast would do so) in the first pass only, which must be in the mode of all others.
    """
    pairs = find_pairs(body, sample)
    with forwards_restored([module for pair in pairs for module in pair]):
        for convolution, norm in pairs:
            _fold(convolution, norm, learns)
        yield len(pairs)


@contextmanager
def forwards_restored(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Within it, the modules may be given a `forward` of their own; afterwards each has the one
    that it had, its class's or somebody else's."""
    before = [vars(module).get("forward") for module in modules]
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            vars(module).pop("forward", None)
            if forward is not None:
                vars(module)["forward"] = forward


def find_pairs(body: nn.Module, sample: Tensor) -> list[Pair]:
    """Convolutions whose outputs one batch normalisation reads, and nothing else.

    What reads what is read off the graph that autograd records of one pass in evaluation mode.
    """
    convolutions: dict[Node, nn.Conv2d] = {}
    norms: dict[Node, _BatchNorm] = {}
    hooks = []
    for module in body.modules():
        if type(module) in PLAIN:
            hooks.append(module.register_forward_hook(_recorder(convolutions)))
        elif isinstance(module, _BatchNorm) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(_recorder(norms)))
    modes = [(module, module.training) for module in body.modules()]
    try:
        with torch.enable_grad():
            output = body.eval()(sample.detach().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    readers = _count_readers(output.grad_fn)
    used: Counter[nn.Module] = Counter([*convolutions.values(), *norms.values()])
    return [
        (convolutions[node], norm)
        for node, norm in norms.items()
        if node in convolutions and readers[node] == used[convolutions[node]] == used[norm] == 1
    ]


def _recorder(found: dict[Node, Any]) -> Callable[..., None]:
    """A hook that notes which node of the graph made a module's output, or its input."""

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | None = None) -> None:
        node = (inputs[0] if output is None else output).grad_fn
        if node is not None:
            found[node] = module

    return record


def _count_readers(last: Node | None) -> Counter[Node]:
    """How many nodes read what each node made."""
    readers: Counter[Node] = Counter()
    waiting = [last] if last else []
    while waiting:
        for before, _ in waiting.pop().next_functions:
            if before is not None:
                readers[before] += 1
                if readers[before] == 1:
                    waiting.append(before)
    return readers


def _fold(convolution: nn.Conv2d, norm: _BatchNorm, learns: bool) -> None:
    """`convolution` does the work of both while `norm` is in evaluation mode."""
    convolve, normalise, own = convolution.forward, norm.forward, convolution._parameters
    kept: tuple[Tensor, Tensor] | None = None

    def forward(pixels: Tensor) -> Tensor:
        nonlocal kept
        if norm.training:
            return convolve(pixels)
        weight, bias = own["weight"], own["bias"]
        assert weight is not None
        both = kept or _both_in_one(weight, bias, norm)
        if not learns:
            both = kept = _converted(both[0]), _converted(both[1])
        own["weight"], own["bias"] = both  # type: ignore[assignment]
        try:
            return convolve(pixels)
        finally:
            own["weight"], own["bias"] = weight, bias

    def activate(features: Tensor) -> Tensor:
        return normalise(features) if norm.training else own_activation(norm, features)

    vars(convolution)["forward"], vars(norm)["forward"] = forward, activate


def _both_in_one(weight: Tensor, bias: Tensor | None, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does the normalisation's work as well."""
    scale, shift = _scale_and_shift(norm)
    return weight * scale.view(-1, 1, 1, 1), shift if bias is None else bias * scale + shift


def _converted(tensor: Tensor) -> Tensor:
    """As autocast would give it to the convolution."""
    kind = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else tensor


def own_activation(norm: _BatchNorm, features: Tensor) -> Tensor:
    """What timm's normalisations do to `features` once these are normal; others do nothing."""
    for name in ("drop", "act"):
        features = getattr(norm, name, nn.Identity())(features)
    return features


def _scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """What `norm` multiplies each channel with, and adds to it, in evaluation mode."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None  # as `find_pairs` chose it
    assert variance is not None
    scale = torch.rsqrt(variance + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias
