"""What a network consists of: its layers, in the order in which an image passes them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.network.classifier import Network, evaluating


@dataclass(frozen=True)
class Layer:
    name: str
    kind: str
    output: tuple[int, ...]  # shape, for one image
    n_parameters: int
    learns: bool  # at the end of the training


def summarise(network: Network, size: int) -> list[Layer]:
    """Every layer that an image of `size` passes and that has parameters or no layers of its own;
    the network is as it was."""
    layers: list[Layer] = []
    names = {module: name for name, module in network.named_modules()}

    def seen(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            parameters = list(module.parameters(recurse=False))
            layers.append(
                Layer(
                    names[module],
                    type(module).__name__,
                    tuple(output.shape[1:]),
                    sum(parameter.numel() for parameter in parameters),
                    any(parameter.requires_grad for parameter in parameters),
                )
            )

    leaves = [
        module
        for module in network.modules()
        if not list(module.children()) or list(module.parameters(recurse=False))
    ]
    hooks = [module.register_forward_hook(seen) for module in leaves]
    try:
        with evaluating(network):
            network(torch.zeros(1, 3, size, size, device=network.device))
    finally:
        for hook in hooks:
            hook.remove()
    return layers
