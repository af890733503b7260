"""Depthwise convolutions in bfloat16 on a CPU, whose gradients are computed in float32.

oneDNN has fast kernels for all that a convolution does in bfloat16, but for the gradients of those
depthwise ones that have a stride or more than 3 x 3 weights: there a plain loop steps in, which was
up to 80 times as slow as float32 and made a training step of EfficientNet-Lite0 slower in all.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]


class GradientsInFloat(TorchFunctionMode):
    """Within it, such convolutions answer in bfloat16 and learn in float32; others are as ever."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        call = _convolve if func is torch.conv2d else func
        return call(*args, **(kwargs or {}))


def _convolve(
    pixels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """As `torch.conv2d`, which is what it replaces."""
    depthwise = groups == weight.shape[0] == pixels.shape[1] > 1
    slow = _pair(stride) != (1, 1) or max(weight.shape[2:]) > 3
    if not (depthwise and slow) or isinstance(padding, str) or not torch.is_grad_enabled():
        return torch.conv2d(pixels, weight, bias, stride, padding, dilation, groups)
    geometry = (_pair(stride), _pair(padding), _pair(dilation), False, (0, 0), groups)
    answer: Tensor = _Depthwise.apply(pixels.bfloat16(), weight, bias, geometry)
    return answer


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class _Depthwise(torch.autograd.Function):
    """Pixels in bfloat16, weight and bias in float32 -> features in bfloat16."""

    @staticmethod
    def forward(
        ctx: Any,
        pixels: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: tuple[Any, ...],
    ) -> Tensor:
        ctx.save_for_backward(pixels, weight)
        ctx.geometry = geometry
        ctx.bias_shape = None if bias is None else list(bias.shape)
        bias = None if bias is None else bias.bfloat16()
        answer: Tensor = torch.ops.aten.convolution(pixels, weight.bfloat16(), bias, *geometry)
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pixels, weight = ctx.saved_tensors
        of_pixels, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradients[0].float(),
            pixels.float(),
            weight,
            ctx.bias_shape,
            *ctx.geometry,
            list(ctx.needs_input_grad[:3]),
        )
        of_pixels = None if of_pixels is None else of_pixels.bfloat16()
        return of_pixels, of_weight, of_bias, None
