"""The gradient of a batch's loss."""

from collections.abc import Callable

from torch import Tensor

Forward = Callable[[Tensor], Tensor]  # inputs of a batch -> logits [b,classes]
Loss = Callable[[Tensor, Tensor], Tensor]  # logits and targets, [b,classes] each -> mean loss


def add_gradients(forward: Forward, loss_of: Loss, inputs: Tensor, targets: Tensor) -> float:
    """The gradient of the batch's mean loss is added to that of every parameter; gives the loss."""
    loss = loss_of(forward(inputs), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.item())
