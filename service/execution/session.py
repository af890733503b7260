"""The only file of the service that uses ONNX Runtime."""

import registry.telemetry_off  # noqa: F401  # before onnxruntime

# isort: split
import functools
import logging
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort

from registry.bundle import Bundle, Precision
from registry.errors import BundleError, Unavailable
from registry.images import Float32Array, UInt8Array
from service.execution.contract import check_contract
from service.execution.providers import (
    ARENAS,
    EXECUTION_PROVIDERS,
    FALLBACKS,
    INSTALL,
    ActiveProvider,
    Placement,
    provider_options,
)

log = logging.getLogger(__name__)

# An ONNX graph of one node, `y = Conv(x)` with the weight 2. Running it needs a driver, kernels for
# this very device and, on a GPU, cuDNN, which is not loaded any sooner.
PROBE = bytes.fromhex(
    "08073a670a0f0a01780a01771201792204436f6e76120570726f62652a1308010801080108011001"
    "2204000000404201775a1b0a017812160a14080112100a0208010a0208010a0208010a020801621b"
    "0a017912160a14080112100a0208010a0208010a0208010a02080142040a00100d"
)
# Providers with memory of their own: images are copied to buffers there that are reused.
DEVICES: dict[ActiveProvider, str] = {"cuda": "cuda", "tensorrt": "cuda"}


class Session:
    """A loaded network. `run` may be called from several threads at once."""

    def __init__(
        self,
        model: Path,
        bundle: Bundle,
        *,
        placement: Placement,
        threads: int,
        precision: Precision = "fp32",
    ) -> None:
        """Opens `model` and checks it against the manifest of its bundle.

        Raises:
            Unavailable: the provider did not come up; there is no silent fallback.
            BundleError: not an ONNX graph, or not the one that the manifest describes.
        """
        where = f"{bundle.model}/{model.parent.name}"
        self._session = _open(model, where, placement, precision, threads)
        check_contract(self._session, bundle, where, model.name)
        device = DEVICES.get(placement.provider)
        self._bound = Bound(self._session, device, len(bundle.labels)) if device else None
        self._arenas = ARENAS[placement.provider]
        self._usual = ort.RunOptions()  # reused, or every run would create one
        own = EXECUTION_PROVIDERS[placement.provider]
        # nodes assigned to other providers: by provider, how many of each operator
        self.elsewhere = {name: it for name, it in _nodes(self._session).items() if name != own}

    def run(self, images: UInt8Array) -> Float32Array:  # [n,s,s,3] -> [n,classes]
        if self._bound:
            return self._bound.run(images, self._usual)
        return self._run(images, self._usual)

    def run_and_shrink(self, images: UInt8Array) -> Float32Array:
        """As `run`, then shrinks the memory arenas to what is in use."""
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", self._arenas)
        return self._run(images, options)

    def end_runs(self) -> None:
        """Ends the runs in progress before their next node; they and all later ones fail."""
        self._usual.terminate = True

    def _run(self, images: UInt8Array, options: Any) -> Float32Array:
        answers = self._session.run(["probabilities"], {"image": images}, options)
        probabilities: Float32Array = answers[0]
        return probabilities


class Bound:
    """Runs with preallocated input and output buffers on the device (I/O binding).

    There is a pair of buffers per shape and concurrent run; they are kept and reused.
    """

    def __init__(self, session: Any, device: str, n_classes: int) -> None:
        self._session = session
        self._device = device
        self._n_classes = n_classes
        self._free: dict[tuple[int, ...], list[tuple[Any, Any, Any]]] = {}
        self._lock = threading.Lock()

    def run(self, images: UInt8Array, options: Any = None) -> Float32Array:
        with self._lock:
            free = self._free.setdefault(images.shape, [])
            bound = free.pop() if free else None
        binding, image, probabilities = bound or self._bind(images.shape)
        image.update_inplace(images)
        self._session.run_with_iobinding(binding, options)
        answers = np.array(probabilities.numpy())  # a copy: on a CPU, `numpy` is the buffer itself
        with self._lock:
            free.append((binding, image, probabilities))
        return answers

    def _bind(self, shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
        place = ort.OrtValue.ortvalue_from_shape_and_type
        image = place(shape, np.uint8, self._device)
        probabilities = place((shape[0], self._n_classes), np.float32, self._device)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("image", image)
        binding.bind_ortvalue_output("probabilities", probabilities)
        return binding, image, probabilities


def choose_provider(requested: Literal["auto"] | ActiveProvider) -> ActiveProvider:
    """The provider that this server uses, after running a tiny graph on it.

    Raises:
        Unavailable: the installed ONNX Runtime does not have it, or it does not come up here.
    """
    if requested in ("auto", *DEVICES):
        ort.preload_dlls()  # pip installs CUDA's libraries where the system does not look
    offered = ort.get_available_providers()
    chosen: ActiveProvider
    if requested == "auto":
        chosen = "cuda" if EXECUTION_PROVIDERS["cuda"] in offered else "cpu"
    else:
        chosen = requested
    if EXECUTION_PROVIDERS[chosen] not in offered:
        raise Unavailable(
            f"provider {chosen} is not in the installed onnxruntime {ort.__version__} "
            f"(it has {', '.join(offered)}); {INSTALL[chosen]}, or use --provider cpu"
        )
    _probe(chosen)
    log.info("provider_chosen", extra={"provider": chosen, "asked": requested})
    return chosen


def _probe(provider: ActiveProvider) -> None:
    try:
        session = _open(PROBE, "first graph", Placement(provider), "fp32", threads=1)
        session.run(None, {"x": np.ones((1, 1, 1, 1), np.float32)})
    except Unavailable:
        raise
    except Exception as error:  # ONNX Runtime has a dozen exception types for this
        raise Unavailable(f"provider {provider} did not come up: {error}") from error


def _open(
    model: Path | bytes, where: str, placement: Placement, precision: Precision, threads: int
) -> Any:
    names = (placement.provider, *FALLBACKS[placement.provider])
    providers = [
        (EXECUTION_PROVIDERS[name], provider_options(name, placement, precision, threads))
        for name in names
    ]
    what = model.name if isinstance(model, Path) else "it"
    try:
        session = ort.InferenceSession(
            str(model) if isinstance(model, Path) else model,
            _options(threads),
            providers=providers,
            enable_fallback=0,  # which would print, and fall back to the CPU
        )
    except Exception as error:  # ONNX Runtime has a dozen exception types for this
        raise BundleError(f"{where}: ONNX Runtime cannot open {what}: {error}") from error
    if session.get_providers()[0] != EXECUTION_PROVIDERS[placement.provider]:
        raise Unavailable(
            f"{where}: provider {placement.provider} did not come up (active: "
            f"{', '.join(session.get_providers())}); check the driver and its libraries: ONNX "
            "Runtime names the missing one on stderr"
        )
    return session


def _nodes(session: Any) -> dict[str, dict[str, int]]:
    """By provider, how many nodes of each operator it was assigned."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for part in session.get_provider_graph_assignment_info():
        found[part.ep_name].update(node.op_type for node in part.get_nodes())
    return {name: dict(kinds) for name, kinds in found.items()}


def _options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # no lines of its own: they are not JSON, quote the graph, and say no more than its exceptions
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    _share_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    # weights come and go with their network; in the shared arena they would fragment it
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    # spinning threads would take the cores from decoding
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


@functools.cache
def _share_memory() -> None:
    """Makes all networks of this process share one CPU memory arena.

    With an arena per network, ONNX Runtime's default, memory grew from swap to swap.
    """
    info = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    # no limit, otherwise ONNX Runtime's defaults
    ort.create_and_register_allocator(info, ort.OrtArenaCfg(0, -1, -1, -1))
