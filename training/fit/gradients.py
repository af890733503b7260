"""The gradient of a batch's loss."""

from collections.abc import Callable

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
) -> float:
    """Adds the gradient of the batch's mean loss to every parameter's; returns the loss.

    Args:
        splitter: where memory is short, splits the batch, each part weighted by its images. So the
            gradient is that of the whole batch, except that batch normalisation which is not frozen
            uses each part's own statistics. Gradients must be clear before.
    """

    def attempt(n_parts: int) -> float:
        if n_parts == 1:
            return _add(loss_of(forward(inputs), targets))
        total = 0.0
        parts = zip(inputs.tensor_split(n_parts), targets.tensor_split(n_parts), strict=True)
        for part, truth in parts:
            total += _add(loss_of(forward(part), truth) * (len(truth) / len(targets)))
        return total

    return splitter.run(attempt, len(targets)) if splitter else attempt(1)


def _add(loss: Tensor) -> float:
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.item())
