"""Checks a network before it goes live: it must reproduce its golden answers."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from registry.bundle import FILES, GOLDEN, Bundle
from registry.counted import counted
from registry.errors import BundleError
from registry.golden import read_golden
from registry.images import Float32Array, UInt8Array, prepare
from service.execution.kind import Kind
from service.execution.providers import ActiveProvider
from service.execution.shapes import Run

# For providers that the bundle has no tolerance for: float32 on a CPU, TF32 and FP16 on a GPU.
UNSTATED_TOLERANCES: dict[ActiveProvider, float] = {
    "cpu": 1e-4,
    "openvino": 1e-3,
    "cuda": 5e-2,
    "tensorrt": 5e-2,
}


class NeverEnds(BundleError):
    """A run of the network was ended, because it took too long: it would probably never end."""


def check_golden(folder: Path, bundle: Bundle, kind: Kind, run: Run) -> None:
    """Checks that `run` reproduces the answers that the bundle was published with.

    Raises:
        BundleError: they differ by more than the tolerance.
    """
    where = f"{bundle.model}/{folder.name}"
    golden = read_golden(folder / GOLDEN)
    pixels = [prepare(image, bundle.image) for image in golden.images]
    answers = np.concatenate([_answers(where, run, one[None]) for one in pixels])
    if answers.shape != golden.probabilities.shape:
        raise BundleError(
            f"{where}: answers have shape {answers.shape} and the golden ones "
            f"{golden.probabilities.shape}; publish again"
        )
    file = FILES[kind.precision]
    unstated = UNSTATED_TOLERANCES[kind.provider]
    tolerance = bundle.tolerances.get(f"{file}/{kind.provider}", unstated)
    difference = float(np.abs(answers - golden.probabilities).max())
    if not difference <= tolerance:  # also for NaN
        hint = "" if kind.precision == "fp32" else ", but might with --precision fp32"
        raise BundleError(
            f"{where}: golden answers differ by {difference:.3g} on {kind.provider}, "
            f"the tolerance is {tolerance:.3g} for {file}; it does not go live{hint}"
        )


def warm(folder: Path, run: Run, size: int, batches: Sequence[int], n_runs: int) -> None:
    """Warms the network up: runs every batch size that can occur, on all concurrent runs, so that
    memory is allocated. Largest first, so that TensorRT does not recompile for the others.

    Raises:
        BundleError: the network of the bundle in `folder` fails on a batch, or gives too few or too
            many answers.
    """
    where = f"{folder.parent.name}/{folder.name}"
    with ThreadPoolExecutor(n_runs) as pool:
        for n_images in sorted(batches, reverse=True):
            images = np.zeros((n_images, size, size, 3), np.uint8)
            list(pool.map(lambda images: _answers(where, run, images), [images] * n_runs))


def proving(where: str, run: Run) -> Run:
    """`run`, raising BundleError for the version `where` when it fails."""
    return partial(_answers, where, run)


def _answers(where: str, run: Run, images: UInt8Array) -> Float32Array:
    try:
        answers = run(images)
    except Exception as error:  # ONNX Runtime has a dozen exception types for this
        problem = f"{where}: it cannot run {counted(len(images), 'image')} at a time: {error}"
        kind = NeverEnds if isinstance(error, TimeoutError) else BundleError
        raise kind(problem) from error
    if len(answers) != len(images):
        raise BundleError(
            f"{where}: it gives {counted(len(answers), 'answer')} for "
            f"{counted(len(images), 'image')}"
        )
    return answers
