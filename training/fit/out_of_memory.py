"""When memory is short, batches are split (gradient accumulation)."""

import gc
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from registry.counted import counted
from registry.errors import TrainingError
from training.distributed.parallel import ALONE, World

T = TypeVar("T")

# From the CPU's allocator, and from a GPU's driver and libraries, which allocate on their own.
SAID_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "_STATUS_ALLOC_FAILED",  # of cuBLAS
    "_ALLOCATION_FAILED",  # of cuDNN from 9 on
)


class BatchSplitter:
    """Splits batches into parts that fit into memory, whose size is found by trial and error.

    Part of a checkpoint: dropout draws other numbers for parts than for a whole batch.
    """

    def __init__(self, network: nn.Module, note: Callable[[str], None] = lambda text: None) -> None:
        self._network = network
        self._note = note
        self.most: int | None = None  # images in a part; None: all batches have gone through whole

    def run(self, attempt: Callable[[int], T], n: int) -> T:
        """Calls `attempt` for a batch of `n` images with the number of parts to split it into; if
        memory runs out, retries with twice as many.

        Gradients of failed attempts are discarded, so there must be none before.

        Raises:
            TrainingError: even the smallest possible part does not fit.
        """
        while True:
            n_parts = self._parts(n)
            try:
                return attempt(n_parts)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
            # Out here the exception is gone, and with it its frames and the tensors they held.
            self._halve(math.ceil(n / n_parts), reason)

    def state_dict(self) -> dict[str, Any]:
        return {"most": self.most}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.most = state["most"]

    def _parts(self, n: int) -> int:
        """How many parts, whose sizes differ by one image at most."""
        return 1 if self.most is None else max(1, min(math.ceil(n / self.most), n // self._fewest))

    @property
    def _fewest(self) -> int:
        """Batch normalisation cannot learn from a single image."""
        norms = (one for one in self._network.modules() if isinstance(one, _BatchNorm))
        return 2 if any(norm.training for norm in norms) else 1

    def _halve(self, failed: int, reason: str) -> None:
        for parameter in self._network.parameters():
            parameter.grad = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        world: World | Any = getattr(self._network, "world", ALONE)
        if failed // 2 < self._fewest or world.size > 1:
            others = " in one of several processes" if world.size > 1 else ""
            raise TrainingError(
                f"out of memory with {counted(failed, 'image')} at once{others} ({reason}); set a "
                "smaller size or batch_size, or use a smaller backbone"
            )
        self.most = failed // 2
        self._note(
            f"out of memory with {counted(failed, 'image')} at once; batches are split into parts "
            f"of at most {self.most}, with gradients accumulated over the whole batch"
        )


def in_parts(run: Callable[[Tensor], Tensor], images: Tensor, splitter: BatchSplitter) -> Tensor:
    """`run(images)`, split where memory is short; only if images do not affect one another."""

    def attempt(n_parts: int) -> Tensor:
        return torch.cat([run(part) for part in images.tensor_split(n_parts)])

    return splitter.run(attempt, len(images))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether smaller batches could help."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(said in str(error) for said in SAID_OF_MEMORY)
