"""The classifier: a backbone, average and maximum pooling side by side, and a head."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from registry.bundle import Task
from registry.errors import BadRequest
from training.distributed.parallel import ALONE, World
from training.fit.device import autocast
from training.network.backbone import Backbone
from training.network.head import concat_pool, make_head
from training.network.layer_groups import split_groups
from training.settings import Precision


class Network(nn.Module):
    """RGB pixels [n,3,s,s] in 0…255 -> logits [n,classes]."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, head: nn.Sequential, channel_axis: int) -> None:
        super().__init__()
        self.name = backbone.name
        self.body = backbone.body
        self.head: nn.Sequential = head
        self.channel_axis = channel_axis
        self.world = ALONE  # see `divided`
        self.precision: Precision = "auto"  # of `autocast`
        self.learnt_before: frozenset[str] = frozenset()  # see training/learnt_before.py
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1) * 255)
        early, late = split_groups(backbone.body)
        parameters = dict(backbone.body.named_parameters())
        self._body_groups = [
            [parameter for name, parameter in parameters.items() if name in group]
            for group in (early, late)
        ]

    def features(self, pixels: Tensor) -> Tensor:
        """[n,3,s,s] in 0…255 -> pooled features [n,2·channels], maximum first."""
        world = self.world.dividing(pixels)
        maps = world.call(self.body, (world.share(pixels) - self.mean) / self.std)
        return world.gather(concat_pool(maps, self.channel_axis), pixels)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def autocast(self) -> AbstractContextManager[None]:
        """Within it, `features` are computed in the network's precision, else in float32."""
        return autocast(self.device, self.precision)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(pixels))
        return logits

    def groups(self) -> list[list[nn.Parameter]]:
        """Every parameter in exactly one of: early backbone, late backbone, head."""
        return [*self._body_groups, list(self.head.parameters())]

    def learning_groups(self) -> list[list[nn.Parameter]]:
        """The three groups, those that are frozen left empty."""
        return [
            [parameter for parameter in group if parameter.requires_grad] for group in self.groups()
        ]

    def freeze_to(self, n: int) -> None:
        """The first `n` of the three layer groups do not learn, the others do."""
        for index, group in enumerate(self.groups()):
            for parameter in group:
                parameter.requires_grad_(index >= n)

    def train_unfrozen(self, *, freeze_batchnorm: bool) -> None:
        """Training mode, in which normalisation layers that are frozen keep their statistics.

        To be called before each epoch: `train()` alone would let frozen statistics drift.
        """
        self.train()
        learns = next(self.body.parameters()).requires_grad
        for module in self.body.modules():
            if own := list(module.parameters(recurse=False)):
                learns = any(parameter.requires_grad for parameter in own)
            # one without scales learns as the layer before it does
            if hasattr(module, "running_mean") and (freeze_batchnorm or not learns):
                module.eval()
        if not any(parameter.requires_grad for parameter in self.body.parameters()):
            self.body.eval()


@contextmanager
def divided(network: Network, world: World) -> Iterator[None]:
    """Within it, the backbone's work is divided among the processes of `world`, which must all make
    the same calls; afterwards each works alone."""
    network.world = world
    try:
        yield
    finally:
        network.world = ALONE
    world.barrier()


def build_network(
    backbone: Backbone,
    n_classes: int,
    *,
    size: int,
    hidden: Sequence[int],
    dropout: Sequence[float],
    epsilon: float = 1e-5,
) -> Network:
    """A network with a new head, initialised from torch's global generator.

    Raises:
        BadRequest: the backbone does not take images of this size.
    """
    features = try_size(backbone.name, backbone.body, size)
    axis = channel_axis(features.shape)
    head = make_head(2 * features.shape[axis], n_classes, hidden, dropout, epsilon)
    # convolutions are up to twice as fast with channels last, on CPUs and GPUs alike
    return Network(backbone, head, axis).to(memory_format=torch.channels_last)


def channel_axis(shape: Sequence[int]) -> int:
    """Which axis of a feature map has the channels, if the image was square: of [n,c,h,w] the
    first, of [n,h,w,c] the last, known by the other two, which are of one length; of tokens [n,t,c]
    the last."""
    channels_first = len(shape) == 4 and shape[2] == shape[3]
    return 1 if channels_first else len(shape) - 1


def try_size(name: str, body: nn.Module, size: int) -> Tensor:
    """The body's features of two black images [2,3,size,size]; `name` is for the error.

    Raises:
        BadRequest: it does not take images of this size.
    """
    device = next(body.parameters()).device
    try:
        with evaluating(body):
            features: Tensor = body(torch.zeros(2, 3, size, size, device=device))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise BadRequest(
            f"{name} does not take {size} x {size} pixels: {str(error).splitlines()[0]}; "
            "try another --size"
        ) from error
    if not isinstance(features, Tensor):
        raise BadRequest(f"{name} returns several feature maps, and a head needs one")
    return features


def to_probabilities(logits: Tensor, task: Task) -> Tensor:
    return logits.sigmoid() if task == "multi" else logits.softmax(dim=1)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training
