"""A tiny real classifier, made without torch: it names the mean colour of an image.

version = tiny.publish(root, promote=True)                # answers "red" for a red image
other = tiny.publish(root, bias=(0.0, 0.0, 5.0))          # leans to "blue": tell-apart-able
tiny.answer(pixels, bias=(0.0, 0.0, 5.0))                 # what that version says, in NumPy
"""

import io
import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from registry.bundle import (
    FILES,
    GOLDEN,
    MODEL,
    Bundle,
    Reduced,
    Task,
    Variant,
    files_of,
    read_bundle,
    seal,
)
from registry.files import sha256_file
from registry.golden import write_golden
from registry.images import Float32Array, ImageSpec, UInt8Array, prepare
from registry.store import Registry
from registry.tta import TtaSpec

MODEL_NAME = "colours"
LABELS = ("red", "green", "blue")
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
SIZE = 8
SHARPNESS = 4.0
TOLERANCE = 1e-5
NO_BIAS = (0.0, 0.0, 0.0)


def encode(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    """The image as a file."""
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def picture(colour: str = "red", size: tuple[int, int] = (32, 24), format: str = "JPEG") -> bytes:
    """A file of one colour."""
    return encode(Image.new("RGB", size, COLOURS[colour]), format)


def noise(seed: int = 0, size: tuple[int, int] = (40, 30), format: str = "PNG") -> bytes:
    """A file whose every pixel differs."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), format)


def answer(
    images: UInt8Array, bias: Sequence[float] = NO_BIAS, task: Task = "single"
) -> Float32Array:
    """What the model with this bias says of prepared images: [n,s,s,3] -> [n,classes].

    A fourth class and those after it go by red, green and blue again.
    """
    means = images.astype(np.float64).mean(axis=(1, 2))[:, np.arange(len(bias)) % 3]
    logits = SHARPNESS * means / 255 + np.array(bias)
    if task == "multi":
        return (1 / (1 + np.exp(-logits))).astype(np.float32)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def onnx_model(
    bias: Sequence[float], *, task: Task, size: int, metadata: dict[str, str], work: int
) -> onnx.ModelProto:
    """The graph of `answer`; `work` rounds of idle multiplication make it slow on purpose."""
    constants: dict[str, np.ndarray] = {
        "axes": np.array([1, 2], dtype=np.int64),
        "scale": np.array(SHARPNESS / 255, dtype=np.float32),
        "bias": np.array(bias, dtype=np.float32),
        "channels": np.arange(len(bias), dtype=np.int64) % 3,
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("Gather", ["means", "channels"], ["by_class"], axis=1),
        helper.make_node("Mul", ["by_class", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["logits"]),
    ]
    if work:
        slow, more = _work(work)
        nodes, constants = nodes + slow, constants | more
    final = "Softmax" if task == "single" else "Sigmoid"
    nodes.append(helper.make_node(final, ["tired" if work else "logits"], ["probabilities"]))
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", size, size, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(bias)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, metadata)
    return model


def _work(rounds: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """A loop that squares a matrix `rounds` times and adds nothing to the logits."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "matrix"], ["product"]),
            helper.make_node("Tanh", ["product"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [64, 64]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [64, 64]),
        ],
    )
    nodes = [
        helper.make_node("ReduceMean", ["logits"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "matrix"], ["begin"]),
        helper.make_node("Loop", ["rounds", "yes", "begin"], ["end"], body=body),
        helper.make_node("ReduceMean", ["end"], ["end_mean"], keepdims=0),
        helper.make_node("Mul", ["end_mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["logits", "zero"], ["tired"]),
    ]
    return nodes, {
        "matrix": np.full((64, 64), 0.03, dtype=np.float32),
        "rounds": np.array(rounds, dtype=np.int64),
        "yes": np.array(True),
        "nothing": np.array(0, dtype=np.float32),
    }


def stage(
    folder: Path,
    *,
    model: str = MODEL_NAME,
    bias: Sequence[float] = NO_BIAS,
    labels: Sequence[str] = LABELS,
    task: Task = "single",
    size: int = SIZE,
    tta: TtaSpec | None = None,
    metrics: dict[str, float] | None = None,
    provenance: dict[str, str] | None = None,
    golden_shift: float = 0.0,
    work: int = 0,
) -> Bundle:
    """`folder` is a complete sealed bundle; gives its manifest.

    Args:
        golden_shift: added to the golden answers; other than 0, no server takes the version.
        work: makes a prediction slow; 1,000 are some 5 ms on one core.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draft = Bundle(
        model=model,
        created_at=datetime.now(UTC),
        task=task,
        labels=tuple(labels),
        image=ImageSpec(size=size),
        tta=tta or TtaSpec(),
        thresholds=(0.5,) * len(labels) if task == "multi" else (),
        tolerances={f"{MODEL}/cpu": TOLERANCE},
        metrics=metrics or {"accuracy": 0.5},
        provenance=provenance or {"backbone": "mean-colour"},
        files={MODEL: "0" * 64, GOLDEN: "0" * 64},
    )
    graph = onnx_model(bias, task=task, size=size, metadata=draft.onnx_metadata(), work=work)
    (folder / MODEL).write_bytes(graph.SerializeToString())
    images = [picture("red"), picture("green", format="PNG"), noise(1)]
    prepared = np.stack([prepare(image, draft.image) for image in images])
    write_golden(folder / GOLDEN, images, answer(prepared, bias, task) + np.float32(golden_shift))
    files = {name: sha256_file(folder / name) for name in sorted(files_of(folder))}
    bundle = draft.model_copy(update={"files": files})
    seal(folder, bundle)
    return bundle


def add_variant(
    folder: Path, precision: Reduced, *, bias: Sequence[float], tolerance: float
) -> None:
    """The bundle in `folder` has a variant too, which answers with another bias."""
    bundle = read_bundle(folder)
    file = FILES[precision]
    graph = onnx_model(
        bias, task=bundle.task, size=bundle.image.size, metadata=bundle.onnx_metadata(), work=0
    )
    (folder / file).write_bytes(graph.SerializeToString())
    variant = Variant(metric="accuracy", metric_change=-0.1, images=100, speedup=1.9)
    _reseal(
        folder,
        variants=bundle.variants | {precision: variant},
        tolerances=bundle.tolerances | {f"{file}/cpu": tolerance},
    )


def fix_batch(folder: Path, n_images: int) -> None:
    """The bundle in `folder` takes so many images in every run, no more and no fewer."""
    graph = onnx.load(folder / MODEL)
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = n_images
    onnx.save(graph, folder / MODEL)
    _reseal(folder, fixed_batch=n_images)


def _reseal(folder: Path, **changes: object) -> None:
    known = read_bundle(folder).model_dump(exclude={"schema_version"}) | changes
    known["files"] = {name: sha256_file(folder / name) for name in sorted(files_of(folder))}
    seal(folder, Bundle.model_validate(known))


def publish(
    root: Path,
    *,
    model: str = MODEL_NAME,
    bias: Sequence[float] = NO_BIAS,
    promote: bool = False,
    labels: Sequence[str] = LABELS,
    task: Task = "single",
    size: int = SIZE,
    tta: TtaSpec | None = None,
    metrics: dict[str, float] | None = None,
    provenance: dict[str, str] | None = None,
    golden_shift: float = 0.0,
    work: int = 0,
) -> int:
    """The number of a new version of `model` in the registry `root`, promoted when asked."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-"))
    try:
        bundle = stage(
            folder,
            model=model,
            bias=bias,
            labels=labels,
            task=task,
            size=size,
            tta=tta,
            metrics=metrics,
            provenance=provenance,
            golden_shift=golden_shift,
            work=work,
        )
        registry = Registry(root)
        version = registry.publish(folder, bundle)
    finally:
        shutil.rmtree(folder)
    if promote:
        registry.promote(model, version, by="test", reason="a test")
    return version
