"""Static int8 quantisation of an ONNX model, its ranges calibrated on images.

Weights are signed and have a scale for each channel; activations are unsigned and have one for each
tensor (QDQ, which every provider understands). Pixels, normalisation, first and last layer stay in
float32, and so do the layers that lose most of the signal, as long as the answers ask for it.
"""

import registry.telemetry_off  # noqa: F401  # before onnxruntime

# isort: split
import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    qdq_loss_debug,
    quant_pre_process,
    quantize_static,
)

from registry.images import Float32Array, UInt8Array
from training.export.onnx_graphs import LAYERS, float_nodes, name_nodes, with_metadata_of
from training.export.runtime import answer_all

RANGE_IMAGES = 128
TRIAL_IMAGES = 128
COMPARED_IMAGES = 2  # every tensor of the network is held in memory for each
STRIDE = 8  # images whose tensors a histogram holds in memory
CLOSE = 0.02  # mean shift of an answer's probability that asks for no more layers in float32
ROUNDS = 3
LAYERS_A_ROUND = 2

Ranges = Literal["minmax", "entropy"]
CALIBRATION: dict[Ranges, tuple[CalibrationMethod, dict[str, object]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "entropy": (
        CalibrationMethod.Entropy,
        {"CalibTensorRangeSymmetric": False, "CalibStridedMinMax": STRIDE},
    ),
}


@dataclass(frozen=True)
class Attempt:
    """An int8 model, its nodes that stay in float32, and how far its outputs shift."""

    path: Path
    ranges: Ranges
    kept: tuple[str, ...]
    shift: float

    def __str__(self) -> str:
        return f"ranges by {self.ranges}, {len(self.kept)} nodes in float32"


def quantize(model: Path, images: UInt8Array, path: Path) -> str:
    """Writes the ONNX model `model` in 8 bits to `path`; returns how it was made, for people.

    The range of a tensor is its lowest and highest value. While answers shift by more than `CLOSE`,
    up to six layers are left in float32; if that is not enough, ranges are chosen by entropy, which
    takes three times as long. The closest of all attempts is kept.

    Args:
        images: prepared ones, [n,s,s,3], which the model may have learnt from; at most
            RANGE_IMAGES are for ranges, and up to TRIAL_IMAGES others to compare answers on.
    """
    n_ranges = min(RANGE_IMAGES, -(-len(images) // 2))
    trial = images[n_ranges : n_ranges + TRIAL_IMAGES] if n_ranges < len(images) else images
    with tempfile.TemporaryDirectory() as folder, _quiet():
        attempts = _Attempts(Path(folder), model, images[:n_ranges], trial)
        best = attempt = attempts.make("minmax", float_nodes(onnx.load(attempts.model)))
        for _ in range(ROUNDS):
            if best.shift > CLOSE:
                attempt = attempts.make("minmax", (*attempt.kept, *attempts.worst_layers(attempt)))
                best = min(best, attempt, key=lambda one: one.shift)
        if best.shift > CLOSE:
            attempt = attempts.make("entropy", best.kept)
            best = min(best, attempt, key=lambda one: one.shift)
        path.write_bytes(with_metadata_of(onnx.load(model), onnx.load(best.path)))
    return str(best)


def shift(answers: Float32Array, truth: Float32Array) -> float:
    """Mean over images of the probability mass that moved between classes."""
    return float(np.abs(answers - truth).sum(axis=1).mean() / 2)


class _Attempts:
    """Makes the attempts, in a folder; holds what they have in common."""

    def __init__(self, folder: Path, model: Path, images: UInt8Array, trial: UInt8Array) -> None:
        self._folder = folder
        self._images = images
        self._trial = trial
        self._n_attempts = 0
        self.model = folder / "prepared.onnx"
        quant_pre_process(str(model), str(self.model), skip_symbolic_shape=True)
        name_nodes(self.model)
        self._truth = answer_all(self.model, trial)

    def make(self, ranges: Ranges, kept: tuple[str, ...]) -> Attempt:
        self._n_attempts += 1
        path = self._folder / f"{self._n_attempts}.onnx"
        method, options = CALIBRATION[ranges]
        quantize_static(
            self.model,
            path,
            _Reader(self._images, self.model),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            calibrate_method=method,
            nodes_to_exclude=list(kept),
            extra_options=dict(options),
            calibration_cache_path=self._folder / f"{ranges}.json",  # the next one is quick
        )
        off = shift(answer_all(path, self._trial), self._truth)
        return Attempt(path, ranges, kept, off)

    def worst_layers(self, attempt: Attempt) -> list[str]:
        """Names of the layers, not yet in float32, that lose most of the signal they are given."""
        errors = self._signal_db(attempt.path)
        model = onnx.load(self.model)
        users = {name: node for node in model.graph.node for name in node.input}
        losses: dict[str, float] = {}
        for node in model.graph.node:
            after = node.output[0]
            if after not in errors and after in users:  # the activation has been merged with it
                after = users[after].output[0]
            before = [errors[name] for name in node.input if name in errors]
            if node.op_type in LAYERS and before and after in errors:
                losses[node.name] = min(before) - errors[after]
        left = sorted(set(losses) - set(attempt.kept), key=lambda name: -losses[name])
        return left[:LAYERS_A_ROUND]

    def _signal_db(self, path: Path) -> dict[str, float]:
        """Of each tensor, how far its signal is above the noise that 8 bits brought so far."""
        found = []
        for model in (path, self.model):
            shown = self._folder / "shown.onnx"
            qdq_loss_debug.modify_model_output_intermediate_tensors(model, shown)
            reader = _Reader(self._trial[:COMPARED_IMAGES], self.model)
            found.append(qdq_loss_debug.collect_activations(str(shown), reader))
        pairs = qdq_loss_debug.create_activation_matching(*found)
        both = {name: pair for name, pair in pairs.items() if pair.get("float")}
        errors = qdq_loss_debug.compute_activation_error(both)
        return {name: float(error["xmodel_err"]) for name, error in errors.items()}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Images as ONNX Runtime's calibration asks for them, a batch at a time."""

    def __init__(self, images: UInt8Array, model: Path) -> None:
        batch = onnx.load(model).graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
        missing = -len(images) % batch
        full = np.concatenate([images, images[np.arange(missing) % len(images)]])
        self._batches = full.reshape(-1, batch, *images.shape[1:])
        self.set_range(0, len(self))

    def __len__(self) -> int:
        return len(self._batches) // STRIDE * STRIDE or len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, UInt8Array] | None:
        batch = next(self._left, None)
        return None if batch is None else {"image": batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses what the quantiser prints and logs: it is of no use, and a retraining's standard
    output is for its events alone."""
    root = logging.getLogger()
    handlers, disabled = root.handlers[:], root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
