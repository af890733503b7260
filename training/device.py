"""Where training runs, and in what precision."""

import platform
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


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


def autocast(device: torch.device, *, backward: bool) -> AbstractContextManager[Any]:
    """bf16 where it pays, float32 elsewhere.

    On a CPU a forward pass is faster in bf16, but forward and backward together were slower than in
    float32 (EfficientNet-Lite0 at 128: 53 against 78 images/s), so `backward=True` does not use it.
    """
    if not has_fast_bf16(device) or (backward and device.type == "cpu"):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
