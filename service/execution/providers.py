"""ONNX Runtime's execution providers: their names, options and preferred precisions."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from registry.bundle import Precision

ActiveProvider = Literal["cpu", "openvino", "cuda", "tensorrt"]

EXECUTION_PROVIDERS: dict[ActiveProvider, str] = {
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# For nodes that the provider does not support; ONNX Runtime itself always falls back to the CPU.
FALLBACKS: dict[ActiveProvider, tuple[ActiveProvider, ...]] = {
    "cpu": (),
    "openvino": ("cpu",),
    "cuda": ("cpu",),
    "tensorrt": ("cuda", "cpu"),
}
INSTALL: dict[ActiveProvider, str] = {
    "cpu": "install unfreeze[cpu]",
    "openvino": "install onnxruntime-openvino instead of onnxruntime",
    "cuda": "install unfreeze[gpu]",
    "tensorrt": "install unfreeze[gpu], and TensorRT 10 on LD_LIBRARY_PATH",
}
PREFERRED: dict[ActiveProvider, Precision] = {
    "cpu": "int8",
    "openvino": "int8",
    "cuda": "fp16",
    "tensorrt": "fp16",
}
GPUS = ("cuda", "tensorrt")
# The memory arenas of its networks, as ONNX Runtime names them.
ARENAS: dict[ActiveProvider, str] = {
    "cpu": "cpu:0",
    "openvino": "cpu:0",
    "cuda": "cpu:0;gpu:0",
    "tensorrt": "cpu:0",  # its own memory may be no arena, and then a run would fail
}
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Placement:
    """Where networks run, and what they may use there."""

    provider: ActiveProvider
    gpu_memory_mb: int | None = None  # per network; None: no limit
    # TensorRT's cache of compiled engines, with its timing cache in the folder above; None: none
    engines: Path | None = None

    def of(self, digest: str, processors: str) -> "Placement":
        """The same with an engine cache for just this network on these processors: TensorRT
        identifies a network by the names in it, not by its weights, so it would run a new version
        on the engine of the one before. Unknown processors: no engine cache.

        Args:
            digest: SHA-256 of the network's file.
        """
        if not (self.engines and processors):
            return replace(self, engines=None)
        place = hashlib.sha256(processors.encode()).hexdigest()
        return replace(self, engines=self.engines / place[:16] / digest[:16])


def provider_options(
    name: ActiveProvider, placement: Placement, precision: Precision, threads: int
) -> dict[str, str]:
    """The options of provider `name` for a network."""
    match name:
        case "cpu":
            return {}
        case "openvino":
            return {"device_type": "CPU", "num_of_threads": str(threads)}
        case "cuda":
            return _cuda(placement)
        case "tensorrt":
            return _tensorrt(placement, precision)


def _cuda(placement: Placement) -> dict[str, str]:
    options = {
        "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search takes minutes per new shape
        "arena_extend_strategy": "kSameAsRequested",  # the other one doubles the arena
    }
    if placement.gpu_memory_mb:
        options["gpu_mem_limit"] = str(placement.gpu_memory_mb * MEGABYTE)
    return options


def _tensorrt(placement: Placement, precision: Precision) -> dict[str, str]:
    options = {"trt_fp16_enable": "1" if precision == "fp16" else "0"}
    if placement.gpu_memory_mb:
        options["trt_max_workspace_size"] = str(placement.gpu_memory_mb * MEGABYTE)
    if placement.engines:  # compiling an engine takes minutes
        placement.engines.mkdir(parents=True, exist_ok=True)
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(placement.engines),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(placement.engines.parent),
        }
    return options
