"""A file of nested state: tensors stored as such, the rest as JSON, so reading it runs no code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from registry.errors import Conflict
from training.run.tensor_file import write_tensors


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes `state`, nested dicts and lists of tensors and plain values, durably to `path`.

    Raises:
        OSError: it cannot be written, for example because the disk is full; an old file stays.
    """
    tensors: dict[str, Tensor] = {}
    shape = json.dumps(_pack(state, tensors))
    write_tensors(path, tensors, {"state": shape})


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote, tensors on their device and laid out as they were; empty if there
    is no file.

    Raises:
        Conflict: `write_state` did not write this file.
    """
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state: dict[str, Any] = _unpack(json.loads(file.metadata()["state"]), tensors)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise Conflict(f"{path}: no checkpoint ({error}); remove it to begin anew") from error
    return state


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON in which tensors are names; dicts are lists of pairs, for their keys may be numbers."""
    match value:
        case Tensor():
            name = str(len(tensors))
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"tensor": name, "strides": value.stride(), "device": value.device.type}
        case Mapping():
            return {"pairs": [[key, _pack(item, tensors)] for key, item in value.items()]}
        case list() | tuple():
            return [_pack(item, tensors) for item in value]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"{type(value).__name__} cannot be put into a checkpoint")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "pairs" in value:
        return {key: _unpack(item, tensors) for key, item in value["pairs"]}
    # as it was laid out: the same arithmetic in another order of memory may round otherwise
    stored = tensors[value["tensor"]]
    laid_out = torch.empty_strided(
        stored.shape, value["strides"], dtype=stored.dtype, device=value["device"]
    )
    return laid_out.copy_(stored)
