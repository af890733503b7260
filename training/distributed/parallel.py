"""Several processes train one network: `torchrun --nproc-per-node N -m training …`.

Every process follows the same recipe with the same random numbers, and holds all of the network.
Only the backbone's work is divided: each process takes its share of a batch through it, then all
have the features of the whole batch, so that the head, its batch statistics and the loss are those
of one process. On the way back each adds its share to the backbone's gradients. A batch of fewer
images than processes goes through whole in each of them. What is left of a difference from one
process is the order in which numbers are added up: see `ROUNDING`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.func import functional_call

from training.distributed.collectives import (
    all_reduce,
    explained,
    gather,
    own_random_numbers,
    synchronised_statistics,
    with_summed_gradients,
)

T = TypeVar("T")
# What is learnt in float32 in a short training by SGD differs from one process by this much at
# most, absolutely or as a share of it (1.5e-6 was seen). Where the device has bf16, features are
# rounded to one part in 256, and all that comes of them differs by more. Rounding grows with every
# step, so long trainings agree in what they can do more than in their weights; and where AdamW
# meets gradients that are nothing but rounding, it makes whole steps of them.
ROUNDING = 1e-4
# For processes that hang; one that ends is noticed at once. The others wait while one decodes.
PATIENCE = timedelta(hours=1)


@dataclass(frozen=True)
class World:
    """Which process this is of how many. Alone, nothing is divided and nobody waits."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reports, writes and publishes."""
        return self.rank == 0

    # Divided

    def dividing(self, batch: Tensor) -> "World":
        """The processes among which a batch is divided. If it has fewer images than there are
        processes, each takes all of it: not every network takes an empty batch, and a process
        without images would draw no random numbers."""
        return self if self.size == 1 or len(batch) >= self.size else ALONE

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch [n,…]; parts differ by one image at most."""
        if self.size == 1:
            return batch
        start, stop = self._bounds(batch)
        return batch[start:stop]

    def call(self, module: nn.Module, share: Tensor) -> Tensor:
        """`module(share)`; batch statistics are those of all shares together, and gradients of the
        parameters will be."""
        if self.size == 1:
            alone: Tensor = module(share)
            return alone
        learning = {
            name: parameter
            for name, parameter in module.named_parameters()
            if parameter.requires_grad and torch.is_grad_enabled()
        }
        with own_random_numbers(self.rank, share.device), synchronised_statistics(module):
            common = with_summed_gradients(learning) if learning else {}
            answer: Tensor = functional_call(module, common, (share,)) if common else module(share)
        return answer

    def gather(self, part: Tensor, batch: Tensor) -> Tensor:
        """What all processes made of their shares of `batch`, in its order: [m,…] -> [n,…]."""
        return part if self.size == 1 else gather(part, self._bounds(batch)[0], len(batch))

    def _bounds(self, batch: Tensor) -> tuple[int, int]:
        n = len(batch)
        return self.rank * n // self.size, (self.rank + 1) * n // self.size

    # Agreed on

    def main_first(self, do: Callable[[], T]) -> T:
        """`do()`, by the main process before the others, who find in a cache what it has left."""
        if self.is_main:
            done = do()
        self.barrier()
        return done if self.is_main else do()

    def barrier(self) -> None:
        """Returns once all processes have come here."""
        if self.size > 1:
            all_reduce(torch.zeros(()))

    def broadcast(self, value: T) -> T:
        """The main process's `value`."""
        if self.size == 1:
            return value
        values = [value]
        with explained():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def all(self, true: bool) -> bool:
        """Whether `true` holds in every process."""
        return true if self.size == 1 else int(all_reduce(torch.tensor(int(true)))) == self.size

    def broadcast_state(self, module: nn.Module) -> None:
        """Copies the main process's module to all others, bit for bit."""
        if self.size > 1:
            with explained(), torch.no_grad():
                for tensor in module.state_dict().values():
                    dist.broadcast(tensor, src=0)


ALONE = World()


@contextmanager
def joined() -> Iterator[World]:
    """The processes that torchrun has started, or this one alone.

    They are connected by NCCL where each has a GPU of its own, else by gloo.
    """
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    n_gpus, backend = torch.cuda.device_count(), "gloo"
    if n_gpus:
        torch.cuda.set_device(dist.get_node_local_rank() % n_gpus)
    if n_gpus >= int(os.environ["LOCAL_WORLD_SIZE"]):
        backend = "cpu:gloo,cuda:nccl"
    with explained():
        store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
        # the store of torchrun keeps the addresses of processes that it has started before
        attempt = PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
        dist.init_process_group(
            backend, timeout=PATIENCE, store=attempt, rank=rank, world_size=size
        )
    yield World(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()


def launch_name() -> str:
    """Names the torchrun that started this process: the same in all its processes of a machine, and
    when it starts them again. Empty: none did."""
    if not dist.is_torchelastic_launched():
        return ""
    parent = os.getppid()
    started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    return f"torchrun-{parent}-{started}"
