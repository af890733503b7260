"""Which parameters learn at which rate: three groups, or layer by layer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from timm.models import group_parameters
from torch import nn

from training.network.classifier import Network
from training.network.layer_groups import stages_of

# What families are fine-tuned with: ConvNeXt (arXiv 2201.03545, table 6) 0.7 to 0.9, transformers
# (BEiT, arXiv 2106.08254; MAE, 2111.06377) 0.65 to 0.75.
FAMILIES = {
    r"(test_)?convnext": 0.8,
    r"(test_)?(vit|deit|beit|eva|swin)": 0.7,
}


@dataclass(frozen=True)
class RateGroups:
    """Parameters that learn, each in one group, from the first layer to the head."""

    groups: list[list[nn.Parameter]]
    shares: list[float]  # each group's rate, where the head's is 1


def rate_groups(
    network: Network, group_rates: Sequence[float], layer_decay: float | Literal["family"]
) -> RateGroups:
    """Early backbone, late backbone and head at `group_rates`; or if `layer_decay` is less than 1,
    each block of the backbone at so much less than the next (Clark et al. 2020, ELECTRA).

    Args:
        layer_decay: "family": what the backbone's family is fine-tuned with, by its name; 1 for
            most.
    """
    decay = resolved_decay(network.name, layer_decay)
    if decay == 1:
        return RateGroups(network.learning_groups(), list(group_rates))
    parameters = dict(network.body.named_parameters())
    blocks = [[parameters[name] for name in names] for names in split_blocks(network.body)]
    groups = [*blocks, list(network.head.parameters())]
    shares = [decay ** (len(blocks) - place) for place in range(len(groups))]
    return RateGroups([[one for one in group if one.requires_grad] for group in groups], shares)


def resolved_decay(backbone: str, layer_decay: float | Literal["family"]) -> float:
    """By how much each block of a network of this name learns less than the next; 1: no less."""
    if layer_decay != "family":
        return layer_decay
    decays = (decay for family, decay in FAMILIES.items() if re.match(family, backbone))
    return next(decays, 1.0)


def split_blocks(body: nn.Module) -> list[list[str]]:
    """Names of the parameters of each block, the stem first.

    As timm says for its networks; else by the numbers in the names. What comes before the first
    block or between two, such as a normalisation, goes with the one before.
    """
    matcher: Any = getattr(body, "group_matcher", None)
    if matcher:
        found = group_parameters(body, matcher(coarse=False))
        return [found[number] for number in sorted(found)]
    blocks: list[list[str]] = []
    for family, names in stages_of(body):
        if family is not None or not blocks:
            blocks.append(names)
        else:
            blocks[-1] += names
    return blocks
