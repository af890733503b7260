"""Writes what the clients send, and the answers they expect, to files.

NAME.npz: `kind` (the protocol's type), `tensors`, `expected` probabilities [n,classes]; encoded
images are one uint8 buffer with the `lengths` of its parts.
"""

import registry.telemetry_off  # noqa: F401  # before onnxruntime

# isort: split
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from bench.limit import CPU
from registry.images import Float32Array, ImageSpec, UInt8Array, prepare

MEAN = STD = 127.5


def write_inputs(folder: Path, lite0: Path, images: Sequence[bytes]) -> None:
    """images.npz, pixels.npz and floats.npz: the same pictures as files, as uint8 NHWC and as
    normalised float32 NCHW, with the answers of the network `lite0` of our bundle."""
    session = onnxruntime.InferenceSession(lite0, providers=[CPU])
    spec = ImageSpec(size=session.get_inputs()[0].shape[1])
    pixels = np.stack([prepare(image, spec) for image in images])
    expected = np.concatenate([session.run(None, {"image": one[None]})[0] for one in pixels])
    lengths = [len(image) for image in images]
    joined = np.frombuffer(b"".join(images), np.uint8)
    np.savez(
        folder / "images.npz", kind="BYTES", tensors=joined, lengths=lengths, expected=expected
    )
    _save(folder / "pixels.npz", "UINT8", pixels, expected)
    _save(folder / "floats.npz", "FP32", _normalised(pixels), expected)


def write_tiny_inputs(folder: Path, ours: Path, theirs: Path) -> None:
    """tiny-pixels.npz for our bundle of 2x2 pixels, tiny-floats.npz for the peers' 16 numbers."""
    draw = np.random.default_rng(0)
    for name, kind, network in (("pixels", "UINT8", ours), ("floats", "FP32", theirs)):
        session = onnxruntime.InferenceSession(network, providers=[CPU])
        shape = (64, *session.get_inputs()[0].shape[1:])
        tensors = draw.integers(0, 256, shape).astype(np.uint8 if kind == "UINT8" else np.float32)
        expected = session.run(None, {"image": tensors})[0]
        _save(folder / f"tiny-{name}.npz", kind, tensors, expected)


def _normalised(pixels: UInt8Array) -> Float32Array:
    floats = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    return np.ascontiguousarray((floats - np.float32(MEAN)) / np.float32(STD))


def _save(path: Path, kind: str, tensors: np.ndarray, expected: Float32Array) -> None:
    np.savez(path, kind=kind, tensors=tensors, expected=expected)
