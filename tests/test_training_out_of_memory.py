"""Trainings for which memory is short."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from registry.errors import TrainingError
from training.fit.gradients import add_gradients
from training.fit.out_of_memory import BatchSplitter, in_parts, is_out_of_memory

REFUSALS: dict[str, Callable[[], Exception]] = {
    "gpu": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "driver": lambda: RuntimeError("CUDA driver error: out of memory"),
    "cuBLAS": lambda: RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    ),
    "cuDNN": lambda: RuntimeError(
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"
    ),
    "cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 137438953472 bytes. Error code 12 (Cannot allocate memory)"
    ),
}


class Narrow(nn.Module):
    """A network that has room for so many images, and refuses more as PyTorch does, halfway."""

    def __init__(self, room_for: int, refuse: Callable[[], Exception], norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
        if norm:
            self.layers.append(nn.BatchNorm1d(2))
        self.room_for, self.refuse = room_for, refuse
        self.passed: list[int] = []
        self.held: list[weakref.ref[Tensor]] = []

    def forward(self, points: Tensor) -> Tensor:
        answers: Tensor = self.layers(points)
        if len(points) > self.room_for:
            self.held.append(weakref.ref(answers))
            raise self.refuse()
        self.passed.append(len(points))
        return answers


def batch(n: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    targets = nn.functional.one_hot(torch.arange(n) % 2, 2).float()
    return torch.randn(n, 6, generator=draw), targets * torch.linspace(0.5, 1.5, n)[:, None]


def gradients(
    network: Narrow, n: int, splitter: BatchSplitter | None
) -> tuple[float, list[Tensor]]:
    weights = torch.tensor([1.0, 3.0])
    loss = add_gradients(network, nn.CrossEntropyLoss(weight=weights), *batch(n), splitter)
    return loss.item(), [one.grad for one in network.parameters() if one.grad is not None]


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("n", [8, 11])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(kind: str, n: int):
    """With classes and images of different weights too."""
    told: list[str] = []
    narrow = Narrow(3, REFUSALS[kind])
    loss, parts = gradients(narrow, n, BatchSplitter(narrow, told.append))
    whole_loss, whole = gradients(Narrow(n, REFUSALS[kind]), n, None)
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other)
    assert sum(narrow.passed) == n
    assert "out of memory with" in told[-1]


def test_what_was_found_out_is_kept_for_the_next_batch():
    narrow = Narrow(4, REFUSALS["gpu"])
    splitter, told = BatchSplitter(narrow), len(narrow.held)
    for _ in range(3):
        narrow.zero_grad()
        gradients(narrow, 16, splitter)
    assert narrow.passed == [4] * 12
    assert (splitter.most, len(narrow.held) - told) == (4, 2)


def test_a_failed_attempt_holds_no_memory():
    narrow = Narrow(4, REFUSALS["gpu"])
    held_then: list[bool] = []

    def tell(text: str) -> None:
        held_then.append(any(tensor() is not None for tensor in narrow.held))

    gc.disable()  # so that it is the exception that let go, and not the collector
    try:
        gradients(narrow, 16, BatchSplitter(narrow, tell))
    finally:
        gc.enable()
    assert held_then == [False, False]


@pytest.mark.parametrize(("norm", "fewest"), [(True, 2), (False, 1)])
def test_without_room_for_the_fewest_images_it_is_said_what_to_do(norm: bool, fewest: int):
    narrow = Narrow(0, REFUSALS["gpu"], norm)
    message = rf"out of memory with {fewest} images? at once \(CUDA.*set a smaller size or batch_si"
    with pytest.raises(TrainingError, match=message):
        gradients(narrow, 8, BatchSplitter(narrow))


def test_batch_normalisation_never_learns_from_one_image():
    narrow = Narrow(2, REFUSALS["gpu"], norm=True)
    gradients(narrow, 8, BatchSplitter(narrow))
    assert narrow.passed == [2, 2, 2, 2]


def test_answers_are_those_of_the_whole_batch():
    narrow, images = Narrow(3, REFUSALS["cpu"]), batch(10)[0]
    torch.testing.assert_close(
        in_parts(narrow, images, BatchSplitter(narrow)), narrow.layers(images)
    )


def test_another_error_is_no_lack_of_memory():
    narrow = Narrow(1, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot"):
        gradients(narrow, 8, BatchSplitter(narrow))
    assert not is_out_of_memory(ValueError("7"))


def test_a_cpu_says_in_these_words_that_memory_is_short():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
