"""Prepares everything that a comparison needs, once, in its work folder:

lite0.onnx, tiny.onnx          the peers' networks
registry/, registry-one/       our bundles; the second one holds lite0 alone
registry-as-is/                lite0, its graph not simplified: for the limit
registry-gpu/                  lite0 (dynamo) and lite0-fp16, where ONNX Runtime offers CUDA
NAME.npz                       what clients send and expect, see `inputs.py`
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from bench.bundles import AS_IS, publish
from bench.inputs import write_inputs, write_tiny_inputs
from bench.networks import CLASSES, SIZE, export_lite0, linear
from bench.photographs import jpegs
from registry.bundle import MODEL
from registry.images import ImageSpec, prepare
from training.export.quantize import quantize
from training.export.variants import to_fp16
from training.foreign.__main__ import main as import_model

N_IMAGES, N_IMAGES_QUICK = 64, 4
QUICK_SIZE, QUICK_CLASSES = 32, 10
TINY_SIZE, TINY_CLASSES = 2, 16
DONE = "prepared"


def prepare_work(work: Path, *, quick: bool, gpu: bool) -> None:
    """Fills `work`; a folder that was prepared before is left as it is.

    Args:
        quick: a network of one matrix product instead of EfficientNet-Lite0.

    Raises:
        SystemExit: an earlier version prepared it, without all that is needed now.
    """
    if (work / DONE).exists():
        if not (work / AS_IS).exists():
            raise SystemExit(f"{work} is of an earlier version; remove it, or give another --work")
        return
    print(f"preparing {work}", flush=True)
    work.mkdir(parents=True, exist_ok=True)
    pictures = jpegs(N_IMAGES_QUICK if quick else N_IMAGES)
    if quick:
        network = linear((QUICK_SIZE, QUICK_SIZE, 3), QUICK_CLASSES)
        for registry in ("registry", "registry-one", AS_IS):
            publish(work / registry, "lite0", network, pictures)
    else:
        _lite0(work, pictures)
    onnx.save(linear((TINY_CLASSES,), TINY_CLASSES, TensorProto.FLOAT), work / "tiny.onnx")
    network = linear((TINY_SIZE, TINY_SIZE, 3), TINY_CLASSES)
    publish(work / "registry", "tiny", network, pictures[:2])
    served = work / "registry" / "lite0" / "1" / MODEL
    if gpu:
        # TorchScript leaves arithmetic on shapes in it, for which a GPU would wait for the CPU
        dynamo = work / "registry" / "lite0-dynamo" / "1" / MODEL
        _fp16(work, served if quick else dynamo, pictures)
    write_inputs(work, served, pictures)
    write_tiny_inputs(work, work / "registry" / "tiny" / "1" / MODEL, work / "tiny.onnx")
    (work / DONE).touch()


def _lite0(work: Path, pictures: list[bytes]) -> None:
    """The bundles of EfficientNet-Lite0, made as a user would: with `unfreeze import`."""
    exports = {"torchscript": work / "lite0.onnx", "dynamo": work / "dynamo.onnx"}
    export_lite0(exports)
    labels, golden = work / "labels.txt", work / "golden.jpg"
    labels.write_text("\n".join(f"class {i}" for i in range(CLASSES)))
    golden.write_bytes(pictures[0])
    imports: tuple[tuple[str, str, str, list[str]], ...] = (
        ("registry", "lite0", "torchscript", []),
        ("registry-one", "lite0", "torchscript", []),
        (AS_IS, "lite0", "torchscript", ["--as-is"]),
        ("registry", "lite0-dynamo", "dynamo", []),
    )
    for registry, name, exporter, more in imports:
        flags = ["--name", name, "--registry", str(work / registry), "--labels", str(labels)]
        flags += ["--mean", "0.5", "--std", "0.5", "--probabilities", "--golden", str(golden)]
        flags += more
        if code := import_model([str(exports[exporter]), *flags]):
            raise SystemExit(code)
    _int8(work, pictures)


def _int8(work: Path, pictures: list[bytes]) -> None:
    path, spec = work / "int8.onnx", ImageSpec(size=SIZE)
    pixels = np.stack([prepare(one, spec) for one in pictures])
    quantize(work / "registry" / "lite0-dynamo" / "1" / MODEL, pixels, path)
    publish(work / "registry", "lite0-int8", onnx.load(path), pictures[:2])


def _fp16(work: Path, served: Path, pictures: list[bytes]) -> None:
    path = work / "fp16.onnx"
    to_fp16(served, np.empty((0, SIZE, SIZE, 3), np.uint8), path)
    for name, file in (("lite0", served), ("lite0-fp16", path)):
        publish(work / "registry-gpu", name, onnx.load(file), pictures[:2])
