"""A backbone's stages by the names of its parameters, and where it is cut into layer groups."""

import re
from collections import Counter
from itertools import accumulate

from torch import nn


def split_groups(body: nn.Module) -> tuple[set[str], set[str]]:
    """Names of the early and of the late parameters, which learn at different rates.

    Stages whose names differ only in their number are a family. The cut is before the middle stage
    of the largest family: layer3 of a ResNet (where the 2018 library cut), stage 3 of 4 of a
    ConvNeXt, block 4 of 7 of an EfficientNet. A layer and the batch normalisation behind it stay
    together.
    """
    stages = stages_of(body)
    names = [name for _, members in stages for name in members]
    families: dict[str, list[int]] = {}
    for place, (family, _) in enumerate(stages):
        if family is not None:
            families.setdefault(family, []).append(place)
    if families:
        largest = max(families.values(), key=lambda those: sum(len(stages[at][1]) for at in those))
        cut = largest[len(largest) // 2]
    else:  # before the stage that has the middle parameter
        ends = accumulate(len(members) for _, members in stages)
        cut = next(place for place, end in enumerate(ends) if end > len(names) // 2)
    while cut + 1 < len(stages) and _is_normalisation(body, stages[cut][1]):
        cut += 1  # it belongs to the layer before it
    late_stages = stages[cut:]
    late = {name for _, members in late_stages for name in members}
    return set(names) - late, late


def _is_normalisation(body: nn.Module, names: list[str]) -> bool:
    """Whether these parameters are all of one layer, which scales and shifts channels."""
    layers = {name.rpartition(".")[0] for name in names}
    return len(layers) == 1 and hasattr(body.get_submodule(layers.pop()), "running_mean")


def stages_of(body: nn.Module) -> list[tuple[str | None, list[str]]]:
    """The stages in order: the family of each, None if it is alone, and its parameters."""
    members: dict[str, list[str]] = {}
    for name, _ in body.named_parameters():
        members.setdefault(_stage(name), []).append(name)
    families = Counter(map(_family, members))
    return [
        (_family(stage) if families[_family(stage)] > 1 else None, names)
        for stage, names in members.items()
    ]


def _stage(parameter: str) -> str:
    found = re.match(
        r"(layer|inception|features\.[a-z]+|trunk_output\.block)\d+|\w+\.\d+|\w+", parameter
    )
    return found.group() if found else parameter


def _family(stage: str) -> str:
    """A number alone makes no family: conv1 and bn1 end in a digit too, but are one of a kind."""
    return stage.rstrip("0123456789") if stage[-1].isdigit() else f"{stage} alone"
