"""What comes after the backbone: pooling, and the layers that learn from nothing.

As the 2018 library has it: average and maximum pooling side by side, then batch normalisation,
dropout and a linear layer, once or several times.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from training.network.dropout import Dropout


def concat_pool(features: Tensor, channel_axis: int) -> Tensor:
    """Maximum and mean over all places: [n,…] with channels at `channel_axis` -> [n,2·channels].

    The 2018 library's AdaptiveConcatPool2d; plain reductions, because adaptive modules export
    badly to ONNX.
    """
    places = [axis for axis in range(1, features.dim()) if axis != channel_axis]
    return torch.cat([features.amax(places), features.mean(places)], dim=1)


def make_head(
    n_features: int,
    n_classes: int,
    hidden: Sequence[int],
    dropout: Sequence[float],
    epsilon: float = 1e-5,
) -> nn.Sequential:
    """(BatchNorm, Dropout, Linear, ReLU) for each hidden width, then BatchNorm, Dropout, Linear.

    Args:
        epsilon: what the first normalisation adds to each feature's variance. Many features of a
            pretrained backbone hardly ever answer to images of another kind, and one that does for
            once is divided by the root of next to nothing.
    """
    widths = [n_features, *hidden, n_classes]
    layers: list[nn.Module] = []
    for wide, narrow, share in zip(widths, widths[1:], dropout, strict=False):
        linear = nn.Linear(wide, narrow)
        nn.init.kaiming_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        norm = nn.BatchNorm1d(wide, eps=1e-5 if layers else epsilon)
        layers += [norm, Dropout(share), linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def reorder_outputs(
    head: nn.Sequential, tensors: Mapping[str, Tensor], labels: Sequence[str], order: Sequence[str]
) -> dict[str, Tensor]:
    """The tensors of a network with this head, whose outputs are for `labels`, with its outputs in
    another order: `order` has the same labels."""
    places = [labels.index(label) for label in order]
    last = len(head) - 1
    outputs = (f"head.{last}.weight", f"head.{last}.bias")
    return {name: tensor[places] if name in outputs else tensor for name, tensor in tensors.items()}
