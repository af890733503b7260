"""The forward and backward pass compiled, for trainings that are longer than compiling takes."""

import shutil
from collections.abc import Callable

import torch
from torch import Tensor

from registry.errors import BadRequest

BACKEND = "inductor"
# Inductor writes C++ for a CPU; for a GPU Triton has what launches its kernels compiled from C.
COMPILERS = {"cpu": ("C++", ("g++", "clang++", "c++")), "cuda": ("C", ("gcc", "clang"))}


def compiled(function: Callable[[Tensor], Tensor], device: torch.device) -> Callable[..., Tensor]:
    """`function` compiled when it is first called, for each mode and shape that it meets.

    A function, and not the module that it belongs to: a compiled module would be another one, with
    other names of its weights (`_orig_mod.`), and who follows the first would follow nothing.

    Raises:
        BadRequest: there is no compiler for it.
    """
    language, compilers = COMPILERS[device.type]
    if not any(map(shutil.which, compilers)):
        raise BadRequest(
            f"compile=true needs a {language} compiler ({', '.join(compilers)}) and none is "
            "installed; install one, or leave compile out"
        )
    return torch.compile(function, backend=BACKEND)
