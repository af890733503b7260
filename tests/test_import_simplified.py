"""Foreign graphs are simplified where that changes no answer."""

from pathlib import Path

import foreign_graphs as foreign
import numpy as np
import onnx
import pytest
import tiny
import torch
from conftest import ImportOnnx
from foreign_graphs import LOGITS
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from registry.store import Registry
from training.export.runtime import answering
from training.foreign.model import read_foreign
from training.foreign.simplify import simplify

SAME = {"Shape", "Pad"}  # nodes that a "same" convolution needs while the image's size is open


@pytest.fixture
def padded(tmp_path: Path) -> Path:
    """TorchScript's export of a network that pads by what its input's size is."""
    torch.manual_seed(0)
    network = nn.Sequential(
        Conv2dSame(3, 4, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    network.append(nn.Linear(4, len(tiny.LABELS)))
    path = tmp_path / "padded.onnx"
    torch.onnx.export(
        network.eval(),
        (torch.rand(2, 3, 8, 8),),
        path,
        dynamo=False,
        opset_version=13,
        input_names=["pixels"],
        dynamic_axes={"pixels": {0: "n"}},
    )
    return path


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's older exporter
def test_arithmetic_on_sizes_that_are_fixed_is_done_once(
    padded: Path, root: Path, import_onnx: ImportOnnx
):
    assert [import_onnx(padded, *LOGITS, *more)[0] for more in ((), ("--as-is",))] == [0, 0]
    simple, original = (root / "net" / str(version) / "model.onnx" for version in (1, 2))
    assert not SAME & operators(simple)
    assert operators(original) >= SAME
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_allclose(answering(simple)(pixels), answering(original)(pixels), atol=1e-6)
    told = [Registry(root).bundle("net", version).provenance for version in (1, 2)]
    assert told[0]["simplified"].startswith("onnxslim ")
    assert "simplified" not in told[1]
    assert told[0]["backbone"] != told[1]["backbone"]  # another plan may be better


def test_a_graph_that_comes_out_wrong_is_left_as_it_is(
    tmp_path: Path, root: Path, import_onnx: ImportOnnx
):
    """Of a constant that is a single number, onnxslim makes one in double precision."""
    body = "f = Cast<to=1>(x) m = ReduceMean<axes=[1,2], keepdims=0>(f)"
    body += " s = Constant<value_float=0.0156862745>() y = Mul(m, s)"
    path = foreign.write(tmp_path / "net.onnx", body, takes="uint8[n,8,8,3] x")
    code, _, said = import_onnx(path, "--logits")
    assert code == 0
    assert "note: its graph is not simplified: " in said
    assert "simplified" not in Registry(root).bundle("net", 1).provenance


def test_a_quantized_graph_keeps_the_patterns_that_runtimes_look_for(tmp_path: Path):
    body = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) " + foreign.BODY.replace(
        "(x)", "(d)"
    )
    weights = "float s = {0.01}, uint8 z = {0}"
    path = foreign.write(tmp_path / "net.onnx", body, weights=weights)
    assert simplify(read_foreign(path, output=None, layout=None, size=None)) is None
