"""Reduced-precision variants of a model, and the decision whether they are worth having."""

import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.transformers.float16 import convert_float_to_float16

from registry.bundle import FILES, Reduced, Task, Variant
from registry.counted import counted
from registry.images import Float32Array, UInt8Array
from training.bench import Bench
from training.evaluation.evaluate import BETA, THRESHOLD, Evaluation, Thresholds, measure
from training.export.bundling import Exported
from training.export.golden import evenly, golden_pixels
from training.export.onnx_graphs import with_metadata_of
from training.export.publishing import with_variants
from training.export.quantize import RANGE_IMAGES, TRIAL_IMAGES, quantize, shift
from training.export.runtime import answer_all

MOST_POINTS = 0.5  # that the metric may lose
LEAST_SPEEDUP = 1.05  # less is within the noise of the measurement
MOST_SHIFT_FP16 = 0.005  # mean shift of the probabilities; rounding alone shifts them by less
TIMED_RUNS = 30
SHOWN_IMAGES = RANGE_IMAGES + TRIAL_IMAGES  # training images for a quantiser
PROOF_IMAGES = 1000  # held-out images that a variant is evaluated on

# A variant's outputs differ between processors more than those of float32 do.
TOLERANCE_FACTOR, TOLERANCE_MARGIN = 2.0, 0.02
CPU, GPU = "CPUExecutionProvider", "CUDAExecutionProvider"
# as a server runs it; CUDA's default tries every algorithm of every convolution at first
SERVED = {GPU: {"cudnn_conv_algo_search": "HEURISTIC"}}
GPU_IMAGES = 16  # per batch; with a single image, launch overhead dominates
PROVIDERS = ("cpu", "openvino", "cuda", "tensorrt")


@dataclass(frozen=True)
class Made:
    """What became of a variant: its manifest entry, or None if it was rejected, and why."""

    precision: Reduced
    variant: Variant | None
    outcome: str


@dataclass(frozen=True)
class Proof:
    """Held-out images, [n,s,s,3], their targets, and the original model's outputs."""

    pixels: UInt8Array
    targets: Float32Array
    answers: Float32Array
    task: Task
    thresholds: Thresholds = THRESHOLD  # of the labels, as they will be served
    beta: float = BETA  # of the F score of multi-label answers


def add_variants(bench: Bench, exported: Exported, evaluation: Evaluation) -> Exported:
    """Adds those reduced-precision variants of the model that cost next to nothing.

    Held-out images decide; training images serve only to calibrate the activation ranges.
    """
    bench.stages.begin("reduced precision", 0)
    learnt, rows = bench.dataset.rows("train"), evaluation.rows
    chosen = np.random.default_rng(bench.settings.seed).permutation(len(learnt))[:SHOWN_IMAGES]
    shown = np.array(bench.decoded.pixels[np.sort(learnt[chosen])])
    places = evenly(len(rows), PROOF_IMAGES)
    proof = Proof(
        np.array(bench.decoded.pixels[rows[places]]),
        bench.dataset.targets[rows[places]],
        evaluation.plain[places],
        bench.dataset.task,
        bench.label_thresholds,
        bench.settings.beta,
    )
    variants, tolerated, outcomes = {}, dict(exported.draft.tolerances), {}
    for precision in bench.settings.variants:
        path = exported.path.with_name(FILES[precision])
        made = make_variant(precision, exported.path, shown, proof, path)
        bench.stages.note(made.outcome)
        outcomes[f"variant_{precision}"] = made.outcome
        if made.variant:
            variants[precision] = made.variant
            tolerated |= tolerances(exported.path, path, golden_pixels(bench))
    draft = with_variants(exported.draft, variants, tolerated)
    return replace(exported, draft=draft, outcomes=outcomes)


def make_variant(
    precision: Reduced, model: Path, images: UInt8Array, proof: Proof, path: Path
) -> Made:
    """Writes `model` in reduced precision to `path`, if that costs next to nothing.

    Args:
        images: training images, [n,s,s,3], to calibrate the ranges of int8.
    """
    try:
        how = MAKERS[precision](model, images, path)
        made = _judge(precision, model, path, proof, how)
    except Exception as error:  # a network that cannot be converted is served as it is
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]:.200}"
        made = Made(precision, None, f"{precision} was refused: {reason}")
    if made.variant is None:
        path.unlink(missing_ok=True)
    return made


def tolerances(model: Path, path: Path, golden: UInt8Array) -> dict[str, float]:
    """By file and provider, how far a server's outputs may be from those of `model`."""
    differences = np.abs(answer_all(path, golden) - answer_all(model, golden))
    tolerance = TOLERANCE_FACTOR * float(differences.max()) + TOLERANCE_MARGIN
    return {f"{path.name}/{provider}": tolerance for provider in PROVIDERS}


def _judge(precision: Reduced, model: Path, path: Path, proof: Proof, how: str) -> Made:
    answers = answer_all(path, proof.pixels)
    before = measure(proof.answers, proof.targets, proof.task, proof.thresholds, proof.beta)
    after = measure(answers, proof.targets, proof.task, proof.thresholds, proof.beta)
    points = round(100 * (after.value - before.value), 6)
    off = shift(answers, proof.answers)
    speedup, speed = _speed(precision, model, path, proof.pixels)
    facts = (
        f"{before.metric} {points:+.2f} points on {counted(len(answers), 'image')}, outputs shift "
        f"{off:.3f}, {speed} ({how})"
    )
    if not points >= -MOST_POINTS:
        return Made(precision, None, f"{precision} was refused: {facts}; allowed -{MOST_POINTS}")
    if precision == "fp16" and not off <= MOST_SHIFT_FP16:
        return Made(precision, None, f"{precision} was refused: {facts}; allowed {MOST_SHIFT_FP16}")
    if speedup is not None and speedup < LEAST_SPEEDUP:
        return Made(precision, None, f"{precision} was refused: {facts}; {LEAST_SPEEDUP} is needed")
    variant = Variant(
        metric=before.metric, metric_change=points, images=len(answers), speedup=speedup
    )
    return Made(precision, variant, f"{precision}: {facts}")


def _speed(
    precision: Reduced, model: Path, path: Path, images: UInt8Array
) -> tuple[float | None, str]:
    """The variant's speedup over `model` where it is meant to run, int8 on a CPU and fp16 on a GPU,
    also in words; None if there is no GPU to measure it on."""
    if precision == "int8":
        speedup = measure_speedup(model, path, images[:1])
        return speedup, f"{speedup:.2f} times as fast on one thread"
    if not has_gpu(path):
        return None, "speed not measured: no GPU here"
    speedup = measure_speedup(model, path, images[:GPU_IMAGES], GPU)
    return speedup, f"{speedup:.2f} times as fast on the GPU"


def has_gpu(model: Path) -> bool:
    """Whether torch has a GPU and ONNX Runtime loads `model` on it: with a library missing, it
    would silently fall back to the CPU."""
    if not (torch.cuda.is_available() and GPU in onnxruntime.get_available_providers()):
        return False
    with redirect_stdout(sys.stderr):  # where it says what it misses; the other one has our events
        onnxruntime.preload_dlls()  # PyTorch loads most of what pip installed, but not cuRAND
    return GPU in _one_thread(model, GPU).get_providers()


def measure_speedup(model: Path, path: Path, images: UInt8Array, provider: str = CPU) -> float:
    """How many times faster than `model` the one at `path` is, with all images in a batch, on one
    CPU thread or on a GPU."""
    # thread time ignores other load; on a GPU, a thread waits most of the time
    clock = time.thread_time if provider == CPU else time.perf_counter
    sessions = [_one_thread(one, provider) for one in (model, path)]
    fastest = [float("inf"), float("inf")]
    for _ in range(TIMED_RUNS):  # alternating
        for which, session in enumerate(sessions):
            began = clock()
            session.run(None, {"image": images})
            fastest[which] = min(fastest[which], clock() - began)
    return fastest[0] / fastest[1]


def _one_thread(model: Path, provider: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    chosen = (provider, SERVED.get(provider, {}))
    return onnxruntime.InferenceSession(str(model), options, providers=[chosen], enable_fallback=0)


def to_fp16(model: Path, images: UInt8Array, path: Path) -> str:
    """Converts `model` to float16, except its inputs and outputs, and writes it to `path`.

    `images` are not used.
    """
    source = onnx.load(model)
    halved = convert_float_to_float16(onnx.load(model), keep_io_types=True)
    path.write_bytes(with_metadata_of(source, halved))
    return "converted"


MAKERS: dict[Reduced, Callable[[Path, UInt8Array, Path], str]] = {
    "int8": quantize,
    "fp16": to_fp16,
}
