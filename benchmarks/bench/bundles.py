"""Publishes ONNX networks as versions, without training."""

import registry.telemetry_off  # noqa: F401  # before onnxruntime

# isort: split
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime

from bench.limit import CPU
from registry.bundle import GOLDEN, MODEL, Bundle, files_of, seal
from registry.files import sha256_file
from registry.golden import write_golden
from registry.images import ImageSpec, prepare
from registry.store import Registry

AS_IS = "registry-as-is"  # a registry of graphs as they were exported
# FP16, and TF32 on GPUs, round differently from the CPU that computed the golden answers.
TOLERANCES = {f"{MODEL}/cpu": 1e-3, f"{MODEL}/cuda": 5e-2}


def publish(root: Path, name: str, model: onnx.ModelProto, images: Sequence[bytes]) -> None:
    """Publishes `model`, whose input is uint8 [n,s,s,3], as `name` in `root`, and promotes it.

    Args:
        images: encoded; the golden answers are what the network answers for them now.
    """
    size = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    draft = Bundle(
        model=name,
        created_at=datetime.now(UTC),
        task="single",
        labels=tuple(f"class {i}" for i in range(classes)),
        image=ImageSpec(size=size),
        tolerances=TOLERANCES,
        files=dict.fromkeys((MODEL, GOLDEN), "0" * 64),
    )
    onnx.helper.set_model_props(model, draft.onnx_metadata())
    with TemporaryDirectory() as folder:
        stage = Path(folder)
        (stage / MODEL).write_bytes(model.SerializeToString())
        session = onnxruntime.InferenceSession(stage / MODEL, providers=[CPU])
        pixels = np.stack([prepare(image, draft.image) for image in images])
        write_golden(stage / GOLDEN, images, session.run(None, {"image": pixels})[0])
        files = {file: sha256_file(stage / file) for file in sorted(files_of(stage))}
        bundle = draft.model_copy(update={"files": files})
        seal(stage, bundle)
        registry = Registry(root)
        version = registry.publish(stage, bundle)
    registry.promote(name, version, by="benchmark", reason="benchmark")
