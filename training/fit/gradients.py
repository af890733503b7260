"""The gradient of a batch's loss."""

from collections.abc import Callable

import torch
from torch import Tensor

from training.fit.out_of_memory import BatchSplitter

Forward = Callable[[Tensor], Tensor]  # inputs of a batch -> logits [b,classes]
Loss = Callable[[Tensor, Tensor], Tensor]  # logits and targets, [b,classes] each -> mean loss


def add_gradients(
    forward: Forward,
    loss_of: Loss,
    inputs: Tensor,
    targets: Tensor,
    splitter: BatchSplitter | None = None,
) -> Tensor:
    """Adds the gradient of the batch's mean loss to every parameter's; returns that loss,
    float64 [], on its device: to read it is to wait until a GPU has computed it.

    Args:
        splitter: where memory is short, splits the batch, each part weighted by its images. So the
            gradient is that of the whole batch, except that batch normalisation which is not frozen
            uses each part's own statistics. Gradients must be clear before.
    """

    def attempt(n_parts: int) -> Tensor:
        if n_parts == 1:
            return _add(loss_of(forward(inputs), targets))
        total = torch.zeros((), dtype=torch.float64, device=inputs.device)
        parts = zip(inputs.tensor_split(n_parts), targets.tensor_split(n_parts), strict=True)
        for part, truth in parts:
            total += _add(loss_of(forward(part), truth) * (len(truth) / len(targets)))
        return total

    return splitter.run(attempt, len(targets)) if splitter else attempt(1)


def _add(loss: Tensor) -> Tensor:
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach().double()
