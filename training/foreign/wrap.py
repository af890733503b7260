"""The graph around a foreign graph: pixels to its input, its output to probabilities.

    image uint8 [n,s,s,3] -> [BGR] -> [NCHW] -> float32 -> (x - mean) / std -> its own type
    its output -> float32 -> [n,classes] -> softmax or sigmoid -> probabilities

The foreign nodes and weights stay as they are; only tensors whose names the contract needs are
renamed. Every operator here is the same in all opsets from 7 on.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from registry.bundle import Bundle
from registry.images import Float32Array, UInt8Array
from training.foreign.graph import all_names, rename
from training.foreign.model import CHANNELS, Foreign

Activation = Literal["Softmax", "Sigmoid", "Identity"]

IMAGE, PROBABILITIES = "image", "probabilities"
DTYPES: dict[int, type] = {TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}


@dataclass(frozen=True)
class Pixels:
    """What a network was trained to see: (value / scale - mean) / std, value in 0..255."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)  # one, or one a channel, in the network's own order
    std: tuple[float, ...] = (1.0,)
    bgr: bool = False

    def apply(self, foreign: Foreign, images: UInt8Array) -> np.ndarray:
        """[n,s,s,3] as the foreign model takes them, in NumPy: the other witness of `wrap`."""
        seen = images[..., ::-1] if self.bgr else images
        if foreign.dtype != TensorProto.UINT8:
            values = (seen / self.scale - np.array(self.mean)) / np.array(self.std)
            seen = values.astype(DTYPES.get(foreign.dtype, np.float32))
        seen = seen.transpose(0, 3, 1, 2) if foreign.layout == "nchw" else seen
        return np.ascontiguousarray(seen)


def wrap(foreign: Foreign, pixels: Pixels, activation: Activation, bundle: Bundle) -> bytes:
    """The model to the contract of `registry/bundle.py`, as this bundle describes it."""
    proto = ModelProto()
    proto.CopyFrom(foreign.proto)
    graph = proto.graph
    names = all_names(graph)
    new = {name: _unused(name, names) for name in (IMAGE, PROBABILITIES) if name in names}
    rename(graph, new)
    names |= {IMAGE, PROBABILITIES, *new.values()}
    before = _before(foreign, pixels, new.get(foreign.input, foreign.input), names)
    after = _after(activation, new.get(foreign.output, foreign.output), names)
    nodes = [*before.nodes, *graph.node, *after.nodes]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend(before.constants)
    batch = bundle.fixed_batch or foreign.batch or None
    _describe(graph, batch, bundle.image.size, len(bundle.labels))
    proto.ir_version = max(proto.ir_version, 4)  # before, constants had to be inputs as well
    proto.producer_name, proto.producer_version = "unfreeze", ""
    stated = {prop.key: prop.value for prop in proto.metadata_props}
    helper.set_model_props(proto, stated | bundle.onnx_metadata())
    content: bytes = proto.SerializeToString()
    return content


def _describe(graph: GraphProto, batch: int | str | None, size: int, n_classes: int) -> None:
    image, answers = [batch, size, size, 3], [batch, n_classes]
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, image))
    graph.output.append(helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, answers))


def _before(foreign: Foreign, pixels: Pixels, target: str, names: set[str]) -> "_Chain":
    """From IMAGE to the foreign input; transposed first, while a pixel is a byte."""
    chain = _Chain(IMAGE, names)
    if pixels.bgr:
        chain.then("Gather", np.array([2, 1, 0]), axis=3)
    if foreign.layout == "nchw":
        chain.then("Transpose", perm=[0, 3, 1, 2])
    if foreign.dtype != TensorProto.UINT8:
        chain.then("Cast", to=TensorProto.FLOAT)
        chain.then("Sub", _shaped(foreign, np.array(pixels.mean) * pixels.scale))
        chain.then("Mul", _shaped(foreign, 1 / (np.array(pixels.std) * pixels.scale)))
        chain.then("Cast", to=foreign.dtype)
    chain.then("Identity", output=target)
    return chain


def _after(activation: Activation, source: str, names: set[str]) -> "_Chain":
    """From the foreign output to PROBABILITIES; on [n,c] every opset has the same Softmax."""
    chain = _Chain(source, names)
    chain.then("Cast", to=TensorProto.FLOAT)
    chain.then("Flatten", axis=1)
    if activation == "Softmax":
        chain.then("Softmax", output=PROBABILITIES, axis=1)
    else:
        chain.then(activation, output=PROBABILITIES)
    return chain


class _Chain:
    """Nodes that each take what the one before gives, with names that nothing else has."""

    def __init__(self, begin: str, names: set[str]) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._last = begin
        self._names = names

    def then(
        self,
        op: str,
        constant: np.ndarray | None = None,
        *,
        output: str = "",
        **attributes: int | list[int],
    ) -> None:
        inputs = [self._last]
        if constant is not None:
            self.constants.append(numpy_helper.from_array(constant, self._new(f"{op}_by")))
            inputs.append(self.constants[-1].name)
        self._last = output or self._new(f"{op}_out")
        node = helper.make_node(op, inputs, [self._last], self._new(op))
        node.attribute.extend(helper.make_attribute(name, to) for name, to in attributes.items())
        self.nodes.append(node)

    def _new(self, name: str) -> str:
        unused = _unused(f"unfreeze/{name.lower()}", self._names)
        self._names.add(unused)
        return unused


def _shaped(foreign: Foreign, values: np.ndarray) -> Float32Array:
    """One value, or one a channel, so that it broadcasts over images."""
    shape = [1, 1, 1, 1]
    shape[CHANNELS[foreign.layout]] = len(values)
    return values.reshape(shape).astype(np.float32)


def _unused(name: str, names: set[str]) -> str:
    number = 0
    unused = name
    while unused in names:
        number += 1
        unused = f"{name}_{number}"
    return unused
