"""A foreign graph without the arithmetic on sizes that its exporter could not know.

TorchScript's exporter computes the padding of a "same" convolution from the image's size in every
run, in a dozen nodes, and pads in a node of its own. With EfficientNet-Lite0 that was a sixth of
the time of an image. Here the size is a constant, and so is what follows from it.
"""

from dataclasses import replace
from importlib.metadata import version

from onnx import ModelProto

from training.foreign.graph import all_nodes, is_quantized
from training.foreign.model import CHANNELS, Foreign

MAX_BYTES = 2**30  # several copies of the weights are in memory meanwhile


def simplify(foreign: Foreign) -> Foreign | None:
    """The same model with fewer nodes; None if it has as many, is quantized, as those patterns are
    what a runtime looks for, or is too large. Any exception may come of graphs that onnxslim does
    not know, and some come out wrong: the result has to be proven.
    """
    if is_quantized(foreign.proto) or foreign.proto.ByteSize() > MAX_BYTES:
        return None
    import onnxslim  # takes half a second

    proto = onnxslim.slim(_of_one_size(foreign))
    return replace(foreign, proto=proto) if n_nodes(proto) < n_nodes(foreign.proto) else None


def described(before: Foreign, after: Foreign) -> str:
    """What became of the graph, for the provenance."""
    counts = f"{n_nodes(before.proto)} nodes became {n_nodes(after.proto)}"
    return f"onnxslim {version('onnxslim')}: {counts}"


def n_nodes(proto: ModelProto) -> int:
    """Of the graph and those inside it."""
    return sum(1 for _ in all_nodes(proto))


def _of_one_size(foreign: Foreign) -> ModelProto:
    """A copy whose input has the size of the images, and whose batch is as it was."""
    proto = ModelProto()
    proto.CopyFrom(foreign.proto)
    (source,) = (value for value in proto.graph.input if value.name == foreign.input)
    shape = source.type.tensor_type.shape
    if len(shape.dim) != 4:  # it states none
        shape.Clear()
        for _ in range(4):
            shape.dim.add()
    channels = CHANNELS[foreign.layout]
    for axis in range(1, 4):
        shape.dim[axis].dim_value = 3 if axis == channels else foreign.size
    if not isinstance(foreign.batch, int):
        shape.dim[0].dim_param = foreign.batch or "n"
    return proto
