"""The backbone's features of every image, cached: this makes a head cheap to train."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from registry.counted import counted
from registry.errors import BadRequest
from registry.images import UInt8Array
from training.data.cache_eviction import make_room, mark_used
from training.data.dataset import Rows
from training.data.decoded import Decoded
from training.data.prefetch import read_each
from training.fit.device import is_half, send
from training.fit.out_of_memory import BatchSplitter, in_parts
from training.network.classifier import Network, evaluating
from training.network.folding import folded
from training.network.weights import weights_digest
from training.run.tensor_file import write_tensors

BATCH = 32  # the fastest on a CPU; a GPU is busy enough with it too


@dataclass(frozen=True)
class Activations:
    """Pooled features of some rows of a data set, [n,d] float32; a value, not a mode."""

    features: Tensor
    key: str

    def __repr__(self) -> str:
        """One line, which a notebook shows for the last value of a cell."""
        n_images, n_numbers = self.features.shape
        return f"<{n_numbers} features of each of {counted(n_images, 'image')}>"


@dataclass(frozen=True)
class Parts:
    """Activations of the training and the held-out images."""

    train: Activations
    valid: Activations
    apart: Activations | None = None  # of images set apart, if label errors are looked for


def activations_key(network: Network, digest: str, decoded: Decoded, rows: Rows) -> str:
    """SHA-256 over all that the features depend on: image contents, their order and preprocessing
    (`decoded.key`), the rows, the precision, and the backbone: the `digest` of its weights, and its
    name and normalisation, as weights alone do not determine the computation.
    """
    half = is_half(network.device, network.precision)
    precision = f"{network.device.type} {'bf16' if half else 'f32'}"
    normalisation = [network.mean.flatten().tolist(), network.std.flatten().tolist()]
    backbone = f"{network.name} {digest} {normalisation}"
    key = hashlib.sha256(f"pooled-4 {decoded.key} {backbone} {precision} ".encode())
    key.update(rows.astype(np.int64).tobytes())
    return key.hexdigest()


def check_current(activations: Activations, network: Network, decoded: Decoded, rows: Rows) -> None:
    """Raises BadRequest unless they are the current network's activations for `rows`."""
    now = weights_digest(network.body)
    if activations.key != activations_key(network, now, decoded, rows):
        raise BadRequest(
            "these activations are of other images, or of the backbone before it was trained; "
            "precompute them again"
        )


def precompute(
    network: Network,
    digest: str,
    decoded: Decoded,
    rows: Rows,
    cache: Path,
    advance: Callable[[int], None] = lambda n: None,
    note: Callable[[str], None] = lambda text: None,
) -> Activations:
    """Features of `rows`, from the cache when nothing they depend on has changed.

    A damaged cache file is replaced.

    Args:
        digest: of the backbone's weights.
        note: called with what was evicted from the cache.
    """
    key = activations_key(network, digest, decoded, rows)
    path = cache / f"activations-{key}.safetensors"
    found = _read(path)
    everywhere = network.world.all(found is not None)  # else all have to divide the work
    if found is not None and everywhere:
        return Activations(found, key)
    features = compute_folded(network, decoded, rows, advance)
    make_room(cache, features.nbytes, note)
    write_tensors(path, {"features": features})
    return Activations(features, key)


def _read(path: Path) -> Tensor | None:
    """None: there is no such file, or it was damaged and is no longer there."""
    try:
        with path.open("rb") as file:
            mark_used(file)
            return load_file(path)["features"]
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, OSError):
        path.unlink(missing_ok=True)
        return None


def compute_folded(
    network: Network,
    decoded: Decoded,
    rows: Rows,
    advance: Callable[[int], None] = lambda n: None,
) -> Tensor:
    """As `compute`, but faster on a CPU, with batch normalisation folded into the weights. Not to
    be called within `folded`."""
    if network.device.type != "cpu":
        return compute(network, decoded, rows, advance)
    side = decoded.spec.size
    with folded(network.body, torch.zeros(2, 3, side, side), learns=False):
        return compute(network, decoded, rows, advance)


def compute(
    network: Network,
    decoded: Decoded,
    rows: Rows,
    advance: Callable[[int], None] = lambda n: None,
) -> Tensor:
    """Features of `rows`, [n,d] float32 on the CPU, with the network in evaluation mode."""
    batches, size, splitter = [], BATCH * network.world.size, BatchSplitter(network)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    with evaluating(network), network.autocast():
        for read in read_each(decoded, parts, network.device):
            pixels = to_device(read, network.device)
            batches.append(in_parts(lambda p: network.features(p).float().cpu(), pixels, splitter))
            advance(len(pixels))
    return torch.cat(batches).clone()


def to_device(pixels: UInt8Array | Tensor, device: torch.device) -> Tensor:
    """uint8 [n,s,s,3] -> float32 [n,3,s,s] in 0…255, laid out channels-last.

    Transferred as uint8: a quarter of the bytes of float32.
    """
    return send(torch.as_tensor(pixels), device).permute(0, 3, 1, 2).float()
