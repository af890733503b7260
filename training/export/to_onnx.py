"""Exports the trained network to ONNX, by the contract of `registry/bundle.py`, and verifies that
the two agree.
"""

import io
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from registry.bundle import Task
from registry.errors import TrainingError
from registry.images import Float32Array, UInt8Array
from training.evaluation.evaluate import predict
from training.export.runtime import PARITY_BATCHES, open_session
from training.network.classifier import Network, to_probabilities

OPSET = 20
TIMED_RUNS = 10
TOLERANCE = 1e-4  # largest difference in any probability between ONNX on the CPU and torch


class Servable(nn.Module):
    """The module to export: uint8 [n,s,s,3] -> probabilities [n,classes], end to end."""

    def __init__(self, network: Network, task: Task) -> None:
        super().__init__()
        self.network = network
        self.task = task

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2).to(torch.float32)
        return to_probabilities(self.network(pixels), self.task)


def export(
    network: Network, task: Task, pixels: UInt8Array, metadata: Mapping[str, str], path: Path
) -> tuple[float, str]:
    """Writes the ONNX model to `path`, by the exporter with the fastest model that passes parity.

    Args:
        pixels: at least seven prepared images, [n,s,s,3].

    Returns:
        The largest difference from torch over the parity batches, and the exporter's name.

    Raises:
        TrainingError: no exporter passes parity; nothing is written.
    """
    servable = Servable(network.cpu().eval(), task).eval()
    truth = predict(network, pixels, task)
    passed, problems = [], []
    for name, run in EXPORTERS.items():
        try:
            model = run(servable, torch.from_numpy(pixels[:2].copy()))
            difference = check_parity(model, pixels, truth)
        except Exception as error:  # an exporter can fail in any way; the other may still do
            problems.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]:.200}")
            continue
        passed.append((_seconds_per_image(model, pixels[:1]), name, model, difference))
    if not passed:
        raise TrainingError(f"the exported model is not the trained one: {'; '.join(problems)}")
    _, name, model, difference = min(passed, key=lambda candidate: candidate[0])
    path.write_bytes(_with_metadata(model, metadata))
    return difference, name


def check_parity(model: bytes, pixels: UInt8Array, truth: Float32Array) -> float:
    """The largest difference in any probability, over batches of 1, 2 and 7.

    Raises:
        TrainingError: it is above `TOLERANCE`.
    """
    session = open_session(model)
    difference = 0.0
    for n in PARITY_BATCHES:
        answers = session.run(["probabilities"], {"image": pixels[:n]})[0]
        difference = max(difference, float(np.abs(answers - truth[:n]).max()))
    if not difference <= TOLERANCE:
        raise TrainingError(f"probabilities differ by {difference:.1e}, allowed {TOLERANCE:.0e}")
    return difference


def _by_dynamo(servable: nn.Module, example: Tensor) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations, not ours
        program = torch.onnx.export(
            servable,
            (example,),
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("n", min=1, max=4096)},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _by_torchscript(servable: nn.Module, example: Tensor) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            servable,
            (example,),
            content,  # type: ignore[arg-type]
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_axes={"image": {0: "n"}, "probabilities": {0: "n"}},
            opset_version=OPSET,
            dynamo=False,
        )
    return content.getvalue()


EXPORTERS = {"dynamo": _by_dynamo, "torchscript": _by_torchscript}


def _seconds_per_image(model: bytes, image: UInt8Array) -> float:
    session = open_session(model)
    times = []
    for _ in range(TIMED_RUNS):
        began = time.perf_counter()
        session.run(None, {"image": image})
        times.append(time.perf_counter() - began)
    return sorted(times)[TIMED_RUNS // 2]


def _with_metadata(model: bytes, metadata: Mapping[str, str]) -> bytes:
    proto = onnx.load_from_string(model)
    proto.producer_name = "unfreeze"
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    return content
