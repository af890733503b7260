"""ONNX Runtime, and the only file that knows of it."""

import registry.telemetry_off  # noqa: F401  # before onnxruntime

# isort: split
import logging
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort

from registry.bundle import Bundle
from registry.errors import BundleError, Unavailable
from registry.images import Float32Array, UInt8Array

log = logging.getLogger(__name__)

ActiveProvider = Literal["cpu", "cuda", "tensorrt"]

EXECUTION_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# For the nodes that the first one cannot take; ONNX Runtime itself always ends with the CPU.
BEHIND = {"cpu": [], "cuda": ["cpu"], "tensorrt": ["cuda", "cpu"]}
# An exhaustive search per new shape costs minutes.
OPTIONS: dict[str, dict[str, str]] = {"cuda": {"cudnn_conv_algo_search": "HEURISTIC"}}

# An ONNX graph of one node, `y = Identity(x)`: the cheapest way to learn if a provider comes up.
PROBE = bytes.fromhex(
    "08073a3b0a100a017812017922084964656e74697479120570726f62655a0f0a0178120a0a080801"
    "12040a020801620f0a0179120a0a08080112040a02080142040a00100d"
)


class Session:
    """A loaded network. `run` may be called from several threads at once."""

    def __init__(
        self, model: Path, bundle: Bundle, *, provider: ActiveProvider, threads: int
    ) -> None:
        """Opens `model` and holds it against the manifest of its bundle.

        Raises:
            Unavailable: the provider did not come up; there is no silent fall-back.
            BundleError: not a graph, or not the one that the manifest describes.
        """
        where = f"{bundle.model}/{model.parent.name}"
        self.provider = provider
        self._session = _open(str(model), where, provider, threads)
        _check_contract(self._session, bundle, where)

    def run(self, images: UInt8Array) -> Float32Array:  # [n,s,s,3] -> [n,classes]
        probabilities: Float32Array = self._session.run(["probabilities"], {"image": images})[0]
        return probabilities


def choose_provider(asked: Literal["auto", "cpu", "cuda", "tensorrt"]) -> ActiveProvider:
    """The provider that this server uses, after it has run a first graph.

    Raises:
        Unavailable: it is not in the installed ONNX Runtime, or does not come up here.
    """
    offered = ort.get_available_providers()
    chosen: ActiveProvider
    if asked == "auto":
        chosen = "cuda" if EXECUTION_PROVIDERS["cuda"] in offered else "cpu"
    else:
        chosen = asked
    if EXECUTION_PROVIDERS[chosen] not in offered:
        raise Unavailable(
            f"provider {chosen} is not in the installed onnxruntime {ort.__version__} "
            f"(it has {', '.join(offered)}); install unfreeze[gpu], or choose --provider cpu"
        )
    _probe(chosen)
    log.info("provider_chosen", extra={"provider": chosen, "asked": asked})
    return chosen


def _probe(provider: ActiveProvider) -> None:
    try:
        _open(PROBE, "first graph", provider, threads=1)
    except BundleError as error:
        raise Unavailable(f"provider {provider} did not come up: {error}") from error


def _open(model: str | bytes, where: str, provider: ActiveProvider, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; a warning is not JSON
    # Threads that wait for work by spinning would take the cores from decoding.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    names = [provider, *BEHIND[provider]]
    providers = [(EXECUTION_PROVIDERS[name], OPTIONS.get(name, {})) for name in names]
    try:
        session = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # the runtime has a dozen kinds, all meaning this
        raise BundleError(f"{where}: ONNX Runtime cannot open model.onnx: {error}") from error
    if session.get_providers()[0] != EXECUTION_PROVIDERS[provider]:
        raise Unavailable(
            f"{where}: provider {provider} did not come up (active: "
            f"{', '.join(session.get_providers())}); check the driver and its libraries"
        )
    return session


def _check_contract(session: Any, bundle: Bundle, where: str) -> None:
    size, classes = bundle.image.size, len(bundle.labels)
    inputs = [(one.name, one.type, one.shape[1:]) for one in session.get_inputs()]
    outputs = [(one.name, one.type) for one in session.get_outputs()]
    width = session.get_outputs()[0].shape[-1:]
    if inputs != [("image", "tensor(uint8)", [size, size, 3])]:
        raise BundleError(f"{where}: input is {inputs}, not image uint8 [n,{size},{size},3]")
    # an exporter may leave the width open; the golden answers will tell
    if outputs != [("probabilities", "tensor(float)")] or width not in ([classes], [None]):
        raise BundleError(
            f"{where}: output is {outputs} of width {width}, not probabilities float32 "
            f"[n,{classes}]"
        )
    stated = session.get_modelmeta().custom_metadata_map
    for key, value in bundle.onnx_metadata().items():
        if stated.get(key) != value:
            raise BundleError(
                f"{where}: model.onnx says {key} is {stated.get(key)!r:.200} and bundle.json says "
                f"{value!r:.200}; publish again"
            )
