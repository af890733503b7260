"""Walks through ONNX graphs: what they need from elsewhere, and how names are changed in them."""

from collections.abc import Iterator, Mapping

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

# ONNX's own operators, and those that every ONNX Runtime brings.
KNOWN_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
QUANTIZED = ("Quantize", "QLinear", "Integer", "QGemm", "QAttention")  # parts of operators' names


def nodes_within(body: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """Every node, also those in the branches and loops of others."""
    for node in body.node:
        yield node
        for attribute in node.attribute:
            for inner in _graphs(attribute):
                yield from nodes_within(inner)


def graphs_within(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph itself, and every branch and loop in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in _graphs(attribute):
                yield from graphs_within(inner)


def all_nodes(proto: ModelProto) -> Iterator[NodeProto]:
    """Every node of a model and of its functions."""
    yield from nodes_within(proto.graph)
    for function in proto.functions:
        yield from nodes_within(function)


def all_tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Every constant of a model, also those in branches, loops and functions."""
    for node in all_nodes(proto):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in _graphs(attribute):
                yield from _initializers(inner)
    yield from _initializers(proto.graph)


def foreign_domains(proto: ModelProto) -> dict[str, str]:
    """Domains whose operators the model uses and neither defines nor finds in ONNX Runtime, each
    with the name of one such operator.
    """
    defined = {(function.domain, function.name) for function in proto.functions}
    return {
        node.domain: node.op_type
        for node in all_nodes(proto)
        if node.domain not in KNOWN_DOMAINS and (node.domain, node.op_type) not in defined
    }


def is_quantized(proto: ModelProto) -> bool:
    """Whether some of it is computed in integers, which processors round differently."""
    return any(part in node.op_type for node in all_nodes(proto) for part in QUANTIZED)


def all_names(graph: GraphProto) -> set[str]:
    """Names of all nodes and tensors."""
    names = {value.name for part in graphs_within(graph) for value in (*part.input, *part.output)}
    for node in nodes_within(graph):
        names.update((node.name, *node.input, *node.output))
    for part in graphs_within(graph):
        names.update(tensor.name for tensor in part.initializer)
        names.update(tensor.values.name for tensor in part.sparse_initializer)
    return names


def rename(graph: GraphProto, new: Mapping[str, str]) -> None:
    """Renames tensors wherever they are used; `new` has their new names by the old ones. ONNX
    forbids that a branch reuses a name from around it, so one name means one tensor.
    """
    for node in nodes_within(graph):
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for part in graphs_within(graph):
        sparse = [tensor.values for tensor in part.sparse_initializer]
        for value in (*part.input, *part.output, *part.value_info):
            value.name = new.get(value.name, value.name)
        for tensor in (*part.initializer, *sparse):
            tensor.name = new.get(tensor.name, tensor.name)
        for annotation in part.quantization_annotation:
            annotation.tensor_name = new.get(annotation.tensor_name, annotation.tensor_name)


def _graphs(attribute: AttributeProto) -> Iterator[GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _initializers(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
