"""The forward and backward pass compiled, for trainings that are longer than compiling takes."""

import shutil
from collections.abc import Callable

import torch
from torch import Tensor

from registry.errors import BadRequest

BACKEND = "inductor"
COMPILERS = ("g++", "clang++", "c++")


def compiled(function: Callable[[Tensor], Tensor], device: torch.device) -> Callable[..., Tensor]:
    """`function` compiled when it is first called, for each mode and shape that it meets.

    A function, and not the module that it belongs to: a compiled module would be another one, with
    other names of its weights (`_orig_mod.`), and who follows the first would follow nothing.

    Raises:
        BadRequest: there is no compiler for code on the CPU.
    """
    if device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise BadRequest(
            f"compile=true needs a C++ compiler ({', '.join(COMPILERS)}) and none is installed; "
            "install one, or leave compile out"
        )
    return torch.compile(function, backend=BACKEND)
