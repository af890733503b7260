"""Pretrained networks without their classifier, by the name that torchvision or timm gives them."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import timm
import torchvision
from timm.models import VGG
from torch import nn

from registry.did_you_mean import did_you_mean
from registry.errors import BadRequest, Unavailable
from registry.quoted import quoted
from training.network.weights import installed_weights, load_in_order, read_weights, weights_digest

Triple = tuple[float, float, float]  # of the colours red, green and blue
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

# Our name -> timm's architecture, where the weights come from an installed package.
INSTALLED = {"efficientnet_lite0": "tf_efficientnet_lite0"}

# torchvision's vision transformers, which have no module that ends with features, and timm's name
# for the same network.
INSTEAD = {
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
    "vit_h_14": "vit_huge_patch14_clip_224",
}

# What follows the feature map of torchvision's networks, or helps to train them.
BEHIND = ("avgpool", "dropout", "fc", "aux1", "aux2")


@dataclass(frozen=True)
class Backbone:
    """A feature extractor: normalised [n,3,h,w] -> feature map, in whatever layout it has."""

    name: str
    body: nn.Module
    mean: Triple
    std: Triple
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
        load_in_order(body, read_weights(weights), str(weights))
        origin = str(weights)
    elif name in INSTALLED and pretrained:
        body, mean, std = _build(name, pretrained=False)
        path = installed_weights()
        load_in_order(body, read_weights(path), path.name)
        origin = path.name
    else:
        body, mean, std = _build(name, pretrained=pretrained)
        origin = "library" if pretrained else "random"
    return Backbone(name, body.eval(), mean, std, origin, weights_digest(body))


def check_backbone(name: str, weights: Path | None) -> None:
    """Raises BadRequest if no network is called `name`, or it has no features to train on, or there
    is no file `weights`: what can be known before anything is loaded."""
    if not timm.is_model(INSTALLED.get(name, name)) and name not in _torchvisions():
        raise BadRequest(f"no backbone is called {quoted(name)}{_meant(name)}")
    if name in INSTEAD:
        raise BadRequest(
            f"{name}: this network of torchvision has no features to train on; take timm's of the "
            f"same kind, {INSTEAD[name]}"
        )
    if weights is not None and not weights.is_file():
        raise BadRequest(f"{weights}: no such file of weights")


def _build(name: str, *, pretrained: bool) -> tuple[nn.Module, Triple, Triple]:
    architecture = INSTALLED.get(name, name)
    if timm.is_model(architecture):
        model = _download(
            name,
            lambda: timm.create_model(
                architecture, pretrained=pretrained, num_classes=0, global_pool=""
            ),
        )
        if isinstance(model, VGG):  # its two layers of 4,096 belong to the classifier
            model.add_module("pre_logits", nn.Identity())
        config: Any = model.pretrained_cfg
        return model, tuple(config["mean"]), tuple(config["std"])
    options: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if name == "googlenet":  # its weights come from TensorFlow, and its classifier turns pixels
        mean, std = HALF, HALF  # into what they learnt from
        options |= {} if pretrained else {"init_weights": True}  # unsaid, it warns
    model = _download(name, lambda: torchvision.models.get_model(name, **options))
    return _without_classifier(model), mean, std


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


def _download(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` gives, its errors as ours."""
    try:
        return build()
    except AssertionError as error:  # timm's word for networks that always pool
        raise BadRequest(
            f"{name}: this network has no feature map to train on ({shorten(str(error), 80)}); "
            "take another, for example efficientnet_lite0, resnet34 or convnext_nano"
        ) from error
    except Exception as error:  # each library and each network fails in its own way
        raise Unavailable(
            f"the weights of {name} could not be fetched ({type(error).__name__}: "
            f"{shorten(str(error), 160)}); connect to the network, give a file with "
            "--set weights=FILE, or use efficientnet_lite0, whose weights are installed"
        ) from error


def _without_classifier(model: nn.Module) -> nn.Module:
    layers = OrderedDict(model.named_children())
    if {"features", "norm"} <= set(layers):  # Swin, normalised once more behind its stages
        return nn.Sequential(OrderedDict(features=layers["features"], norm=layers["norm"]))
    for name_of_all in ("features", "layers"):
        if name_of_all in layers:
            return layers[name_of_all]
    if {"stem", "blocks"} <= set(layers):  # MaxViT, whose blocks are a list
        blocks = nn.Sequential(*layers["blocks"].children())
        return nn.Sequential(OrderedDict(stem=layers["stem"], blocks=blocks))
    kept = [(key, layer) for key, layer in layers.items() if key not in BEHIND]
    return nn.Sequential(OrderedDict(kept))
