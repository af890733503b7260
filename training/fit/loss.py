"""What is learnt by: cross-entropy of one label, or of each of several."""

from torch import Tensor, nn

from registry.bundle import Task


def loss_function(
    task: Task, weights: Tensor | None = None, *, label_smoothing: float = 0
) -> nn.Module:
    """Mean loss of logits against targets, both [n,classes].

    Args:
        weights: [classes], how much an image of the class counts; in a multi-label task, how much
            more it counts that a label is there than that it is not.
        label_smoothing: of a single label's 1, what is spread over all classes (Szegedy et al.
            2016, arXiv 1512.00567, section 7); several labels are never smoothed.
    """
    if task == "multi":
        return nn.BCEWithLogitsLoss(pos_weight=weights)
    return _Smoothed(weights, label_smoothing) if label_smoothing else nn.CrossEntropyLoss(weights)


class _Smoothed(nn.Module):
    """An image that counts less has less to spread; torch's own smoothing spreads 1 of each."""

    def __init__(self, weights: Tensor | None, share: float) -> None:
        super().__init__()
        self._loss = nn.CrossEntropyLoss(weights)
        self._share = share

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        spread = targets.mean(dim=1, keepdim=True).expand_as(targets)
        loss: Tensor = self._loss(logits, targets.lerp(spread, self._share))
        return loss
