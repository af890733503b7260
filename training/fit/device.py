"""Where training runs, and in what precision."""

import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor

from training.network.depthwise import GradientsInFloat
from training.settings import Precision


def pick_device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def unused_gpu(devices: Path = Path("/dev")) -> str:
    """Why training is on the CPU of a machine with an NVIDIA GPU, in words of PyTorch; empty: it is
    not, or there is no such GPU."""
    if torch.cuda.is_available() or not any(devices.glob("nvidia[0-9]*")):
        return ""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # `is_available` does not say why
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0]
    return "none is visible"


def page_locked(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of a tensor on the CPU, in memory from which a GPU takes it without anybody waiting;
    for any other device the tensor itself."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`. A GPU has it by the time it comes to use it; to wait for that would
    be to wait for all that it has yet to do."""
    return page_locked(tensor, device).to(device, non_blocking=True)


def has_fast_bf16(device: torch.device) -> bool:
    """True when the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        # by default it says yes of those that emulate it too, at a fraction of float32's speed
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capable: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if platform.machine().lower() in ("x86_64", "amd64"):  # oneDNN emulates it on older AVX-512
        capable = capable and torch.cpu._is_avx512_bf16_supported()
    return capable


def is_half(device: torch.device, precision: Precision) -> bool:
    """True when the backbone works in bf16: where the device is fast at it, unless float32 is
    asked for."""
    return precision == "auto" and has_fast_bf16(device)


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """bf16 if `is_half` says so, else float32: forward passes run within it, and their backward
    passes follow."""
    if not is_half(device, precision):
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
        if device.type == "cpu":
            stack.enter_context(GradientsInFloat())
        yield
