"""Where training runs, and in what precision."""

import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from training.depthwise import GradientsInFloat


def pick_device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_fast_bf16(device: torch.device) -> bool:
    """True when the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capable: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if platform.machine().lower() in ("x86_64", "amd64"):  # oneDNN emulates it on older AVX-512
        capable = capable and torch.cpu._is_avx512_bf16_supported()
    return capable


@contextmanager
def autocast(device: torch.device) -> Iterator[None]:
    """bf16 where the device is fast at it, float32 elsewhere: forward passes run within it, and
    their backward passes follow."""
    if not has_fast_bf16(device):
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
        if device.type == "cpu":
            stack.enter_context(GradientsInFloat())
        yield
