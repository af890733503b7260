"""ONNX graphs that are to be in fewer bits: their names, their metadata, and what stays float32."""

from pathlib import Path

import onnx

LAYERS = ("Conv", "Gemm", "MatMul")  # those with weights


def float_nodes(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes that are never in 8 bits.

    They are those up to the first layer with weights, those from the last one on, and those that
    reckon with sizes instead of pixels, as exported padding does: rounded, it is another padding.
    """
    nodes = model.graph.node
    layers = [i for i, node in enumerate(nodes) if node.op_type in LAYERS]
    first, last = (layers[0], layers[-1]) if layers else (len(nodes), 0)
    pixels = {model.graph.input[0].name}
    names = []
    for i, node in enumerate(nodes):
        if node.op_type != "Shape" and pixels & set(node.input):
            pixels |= set(node.output)
            if first < i < last:
                continue
        names.append(node.name)
    return tuple(names)


def with_metadata_of(source: onnx.ModelProto, model: onnx.ModelProto) -> bytes:
    """`model` as bytes, saying of itself what `source` says."""
    del model.metadata_props[:]
    model.metadata_props.extend(source.metadata_props)
    model.producer_name = source.producer_name
    content: bytes = model.SerializeToString()
    return content


def name_nodes(path: Path) -> None:
    """Nodes are left out by their names, so each has one."""
    model = onnx.load(path)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
    onnx.save(model, path)
