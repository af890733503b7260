"""Foreign classifiers of a few nodes, that give four times the mean of each channel.

path = foreign.write(tmp_path / "net.onnx", takes="float[n,8,8,3] x")
With LOGITS they answer as tiny.answer does.
"""

from pathlib import Path

import onnx

FLAGS = ("--mean", "0", "--std", "0.25")
LOGITS = ("--logits", *FLAGS)
TAKES, GIVES = "float[n,3,8,8] x", "float[n,3] y"
POOLED = "m = GlobalAveragePool(x) f = Flatten(m)"
BODY = f"{POOLED} y = Identity(f)"


def model(
    body: str = BODY,
    *,
    takes: str = TAKES,
    gives: str = GIVES,
    opset: int = 13,
    ir: int = 8,
    domains: str = "",
    weights: str = "",
    functions: str = "",
) -> onnx.ModelProto:
    """A graph in ONNX's own textual form."""
    head = f'<ir_version: {ir}, opset_import: ["" : {opset}{domains}]>'
    net = f"net ({takes}) => ({gives}) <{weights}> {{ {body} }}"
    return onnx.parser.parse_model(f"{head} {net} {functions}")


def write(path: Path, body: str = BODY, **how: object) -> Path:
    """`path` holds `model(…)`."""
    path.write_bytes(model(body, **how).SerializeToString())  # type: ignore[arg-type]
    return path
