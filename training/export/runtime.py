"""ONNX Runtime on the CPU, for what is to be published: proofs, golden answers, evaluation.

Knows nothing of torch, so that a foreign model can be imported without it.
"""

import registry.telemetry_off  # noqa: F401  # before onnxruntime

# isort: split
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from registry.images import Float32Array, UInt8Array

RUNTIME = f"onnxruntime {onnxruntime.__version__}"
PARITY_BATCHES = (1, 2, 7)  # 1 and n take different paths through many a runtime; 7 divides nothing
BATCH = 16  # images that `answer_all` has answered at a time

Answer = Callable[[UInt8Array], Float32Array]  # pixels [n,s,s,3] -> probabilities [n,classes]


def open_session(model: bytes | str) -> onnxruntime.InferenceSession:
    """A CPU session that stays off the cores when it has nothing to do."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; warnings are about foreign shapes
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def answering(model: bytes | Path) -> Answer:
    """A function that has the ONNX model of a bundle answer: pixels -> probabilities.

    Where the model takes one number of images only, it is given that many at a time, the last few
    filled up with black ones.
    """
    session = open_session(model if isinstance(model, bytes) else str(model))
    fixed = session.get_inputs()[0].shape[0]

    def run(pixels: UInt8Array) -> Float32Array:
        probabilities: Float32Array = session.run(["probabilities"], {"image": pixels})[0]
        return probabilities

    def run_by_the_batch(pixels: UInt8Array) -> Float32Array:
        missing = -len(pixels) % fixed
        full = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])
        batches = [run(full[start : start + fixed]) for start in range(0, len(full), fixed)]
        return np.concatenate(batches)[: len(pixels)]

    return run_by_the_batch if isinstance(fixed, int) else run


def answer_all(model: Path, images: UInt8Array) -> Float32Array:
    """Probabilities of all images, [n,classes], by the ONNX model at `model`."""
    answer = answering(model)
    parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    return np.concatenate([answer(np.ascontiguousarray(part)) for part in parts])
