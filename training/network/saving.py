"""A network as a file: its weights and what it takes to build it again, in safetensors."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from registry.bundle import Task
from registry.errors import BadRequest
from training.network.backbone import load_backbone
from training.network.classifier import Network, build_network
from training.network.head import reorder_outputs
from training.run.tensor_file import write_tensors

NETWORK = "network.safetensors"  # in the folder of a training
DIGITS = 16  # of an image's SHA-256 by which a saved network knows what it has learnt from
LEARNT = "learnt"  # the tensor of these


def save_network(
    network: Network,
    path: Path,
    *,
    labels: Sequence[str],
    size: int,
    task: Task,
    learnt: Collection[str] = (),
) -> None:
    """`path` holds the weights, what they are for, and what is needed to build the network again;
    no pickle.

    Args:
        learnt: the images that it has learnt from, by SHA-256, besides `network.learnt_before`.

    Raises:
        OSError: it cannot be written, as when the disk is full; what was there stays.
    """
    hidden = [layer.out_features for layer in network.head if isinstance(layer, nn.Linear)][:-1]
    shape = {
        "backbone": network.name,
        "classes": len(labels),
        "labels": list(labels),
        "size": size,
        "hidden": hidden,
        "epsilon": network.head[0].eps,
        "task": task,
    }
    tensors = {name: one.cpu().contiguous() for name, one in network.state_dict().items()}
    if known := network.learnt_before | {sha256[:DIGITS] for sha256 in learnt}:
        tensors[LEARNT] = _packed(known)
    write_tensors(path, tensors, {"network": json.dumps(shape)})


def load_network(path: Path) -> tuple[Network, Task]:
    """What `save_network` saved, in evaluation mode, bit for bit; and its task."""
    with safe_open(path, framework="pt") as file:
        shape = json.loads(file.metadata()["network"])
    backbone = load_backbone(shape["backbone"], pretrained=False)
    dropout = [0.0] * (len(shape["hidden"]) + 1)
    network = build_network(
        backbone,
        shape["classes"],
        size=shape["size"],
        hidden=shape["hidden"],
        dropout=dropout,
        epsilon=shape.get("epsilon", 1e-5),
    )
    network.load_state_dict(_weights_in(path))
    task: Task = "multi" if shape["task"] == "multi" else "single"
    return network.eval(), task


def images_learnt(path: Path) -> frozenset[str]:
    """The images that the weights in `path` have learnt from, by the first `DIGITS` of their
    SHA-256; none if it does not say, as a file from elsewhere."""
    try:
        with safe_open(path, framework="pt") as file:
            if LEARNT in file.keys():  # noqa: SIM118
                return _unpacked(file.get_tensor(LEARNT))
            shape = json.loads((file.metadata() or {}).get("network", "{}"))
    except (OSError, SafetensorError, ValueError):
        return frozenset()
    # earlier files list them in their header, which has a longest length
    return frozenset((shape.get("learnt") if isinstance(shape, dict) else None) or ())


def _packed(digits: Collection[str]) -> Tensor:
    """[n,8] bytes, in order."""
    numbers = bytearray(bytes.fromhex("".join(sorted(digits))))
    return torch.frombuffer(numbers, dtype=torch.uint8).view(-1, DIGITS // 2)


def _unpacked(numbers: Tensor) -> frozenset[str]:
    digits = numbers.numpy().tobytes().hex()
    return frozenset(digits[at : at + DIGITS] for at in range(0, len(digits), DIGITS))


def _weights_in(path: Path) -> dict[str, Tensor]:
    """The network's own tensors."""
    return {name: tensor for name, tensor in load_file(path).items() if name != LEARNT}


def restore(network: Network, path: Path, labels: Sequence[str]) -> None:
    """The network, which is for `labels`, has the weights that `save_network` wrote to `path`, bit
    for bit. Labels that were saved in another order, as a retraining's can be, are matched by name.

    Raises:
        BadRequest: there are none, or they are of another network or for other labels.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shape = json.loads((file.metadata() or {}).get("network", "{}"))
        saved = _weights_in(path)
    except (OSError, SafetensorError) as error:
        raise BadRequest(f"{path}: not a saved network: {error}") from error
    saved_labels = shape.get("labels", list(labels))  # older files do not say
    unshared = sorted(set(labels) ^ set(saved_labels))
    if unshared:
        raise BadRequest(
            f"{path}: this network is for other labels; {unshared[0]!r} is the first of "
            f"{len(unshared)} that only one of the two has. To begin with its backbone alone, set "
            f"weights={path}"
        )
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    differing = sorted(
        name
        for name in shapes.keys() | saved.keys()
        if name not in saved or shapes.get(name) != saved[name].shape
    )
    if differing:
        raise BadRequest(
            f"{path}: these are weights of another network, or for other labels; {differing[0]} is "
            f"the first of {len(differing)} that differ"
        )
    network.load_state_dict(reorder_outputs(network.head, saved, saved_labels, labels))
