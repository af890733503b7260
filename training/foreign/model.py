"""A foreign ONNX classifier as its file describes it, or the reason why it cannot be used."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, ValueInfoProto

from registry.errors import BadRequest
from training.foreign.external import merge_external
from training.foreign.graph import foreign_domains

Layout = Literal["nchw", "nhwc"]

MAX_BYTES = 2**31 - 2**20  # protobuf ends at 2 GiB, and the wrapping needs a little
OLDEST_OPSET = 7  # from here on shapes broadcast as in NumPy, and ONNX Runtime promises to run it
CHANNELS: dict[Layout, int] = {"nchw": 1, "nhwc": 3}  # the axis
INPUTS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT8)
OUTPUTS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True)
class Foreign:
    """What a file says of the model in it."""

    path: Path
    proto: ModelProto
    input: str
    dtype: int  # of the input, a TensorProto.DataType
    layout: Layout
    size: int
    batch: int | str  # the only number of images that it takes, or what it calls any number
    output: str
    weights: tuple[Path, ...] = ()  # other files that its weights came from


def read_foreign(
    path: Path, *, output: str | None, layout: Layout | None, size: int | None
) -> Foreign:
    """The classifier in `path`; what is None is taken from its graph.

    Raises:
        BadRequest: it is none, the graph leaves something open or contradicts what is given, or it
            needs what a server would not have.
    """
    proto = _parse(path)
    weights = merge_external(proto, path, MAX_BYTES)
    _check_domains(proto, path)
    _check_opset(proto, path)
    source = _input(proto, path)
    kind = source.type.tensor_type
    if kind.elem_type not in INPUTS:
        raise BadRequest(
            f"{path}: input {_described(source)} is not of a type that pixels can become; "
            f"it must be one of {', '.join(map(_type_name, INPUTS))}"
        )
    dims = _dims(source) or [""] * 4
    if len(dims) != 4:
        raise BadRequest(
            f"{path}: input {_described(source)} does not take images: it must have four "
            "dimensions, [n,3,size,size] or [n,size,size,3]"
        )
    layout = _layout(dims, layout, f"{path}: input {_described(source)}")
    return Foreign(
        path=path,
        proto=proto,
        input=source.name,
        dtype=kind.elem_type,
        layout=layout,
        size=_size(dims, layout, size, f"{path}: input {_described(source)}"),
        batch=dims[0],
        output=_output(proto, output, path),
        weights=weights,
    )


def _parse(path: Path) -> ModelProto:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadRequest(
                f"{path}: {path.stat().st_size / 2**30:.1f} GiB, and an ONNX file ends at 2 GiB; "
                "export the model in float16"
            )
        proto = onnx.load_from_string(path.read_bytes())
    except OSError as error:
        raise BadRequest(f"{path}: cannot be read: {error.strerror}") from error
    except (DecodeError, ValueError) as error:
        raise BadRequest(f"{path}: not an ONNX model: {error}") from error
    if not proto.graph.node:
        raise BadRequest(f"{path}: not an ONNX model, or one whose graph is empty")
    return proto


def _check_domains(proto: ModelProto, path: Path) -> None:
    if domains := foreign_domains(proto):
        named = ", ".join(f"{domain} ({op})" for domain, op in sorted(domains.items()))
        raise BadRequest(
            f"{path}: uses operators of its own, which no server has: {named}; export it with "
            "ONNX's own operators"
        )


def _check_opset(proto: ModelProto, path: Path) -> None:
    versions = [one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")]
    opset = versions[0] if versions else 0
    if opset < OLDEST_OPSET:
        raise BadRequest(
            f"{path}: opset {opset} is older than {OLDEST_OPSET}; export it again, or convert it "
            "with onnx.version_converter"
        )


def _input(proto: ModelProto, path: Path) -> ValueInfoProto:
    # before IR version 4 weights were listed among the inputs, and they still may be
    weights = {tensor.name for tensor in proto.graph.initializer}
    weights |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    if len(inputs) != 1:
        named = ", ".join(map(_described, inputs)) or "none"
        raise BadRequest(
            f"{path}: a classifier takes the image alone, and this takes {len(inputs)} inputs: "
            f"{named}; export it without the others"
        )
    return inputs[0]


def _output(proto: ModelProto, requested: str | None, path: Path) -> str:
    outputs = {value.name: value for value in proto.graph.output}
    named = ", ".join(map(_described, outputs.values()))
    if requested is None and len(outputs) != 1:
        raise BadRequest(f"{path}: has {len(outputs)} outputs; choose one with --output: {named}")
    name = requested if requested is not None else next(iter(outputs))
    if name not in outputs:
        raise BadRequest(f"{path}: has no output {name!r}; it has {named}")
    if outputs[name].type.tensor_type.elem_type not in OUTPUTS:
        raise BadRequest(
            f"{path}: output {_described(outputs[name])} does not hold scores; they must be of "
            f"one of {', '.join(map(_type_name, OUTPUTS))}"
        )
    return name


def _layout(dims: Sequence[int | str], requested: Layout | None, where: str) -> Layout:
    fitting: list[Layout] = [one for one, axis in CHANNELS.items() if dims[axis] == 3]
    possible: list[Layout] = [one for one, axis in CHANNELS.items() if not _is_other(dims[axis], 3)]
    if requested and requested not in possible:
        raise BadRequest(f"{where} does not have three channels in the layout {requested}")
    if not possible:
        raise BadRequest(f"{where} does not have three channels; images are RGB")
    if requested or len(fitting) == 1:
        return requested or fitting[0]
    raise BadRequest(f"{where} does not tell where the channels are; say --layout nchw or nhwc")


def _size(dims: Sequence[int | str], layout: Layout, requested: int | None, where: str) -> int:
    high, wide = dims[2:4] if layout == "nchw" else dims[1:3]
    stated = {side for side in (high, wide) if isinstance(side, int)}
    if len(stated) == 2:
        raise BadRequest(f"{where} is not square; images are prepared as squares")
    if requested is None and not stated:
        raise BadRequest(f"{where} leaves the size open; say --size, as in --size 224")
    if requested is not None and stated - {requested}:
        raise BadRequest(
            f"{where} takes {stated.pop()} pixels a side, not the {requested} of --size"
        )
    return requested if requested is not None else stated.pop()


def _is_other(dim: int | str, value: int) -> bool:
    return isinstance(dim, int) and dim != value


def _dims(value: ValueInfoProto) -> list[int | str]:
    """Each dimension's number, or the name of what may vary; some exporters write -1 for it."""
    shape = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.dim_value > 0 else _text(dim.dim_param) for dim in shape]


def _text(name: str | bytes) -> str:
    """protobuf gives bytes where a damaged file has no UTF-8."""
    return name if isinstance(name, str) else ""


def _described(value: ValueInfoProto) -> str:
    if not value.type.HasField("tensor_type"):
        return f"{value.name} ({value.type.WhichOneof('value')})"
    dims = ",".join(str(dim) or "?" for dim in _dims(value))
    return f"{value.name} ({_type_name(value.type.tensor_type.elem_type)} [{dims}])"


def _type_name(elem_type: int) -> str:
    names = {number: name.lower() for name, number in TensorProto.DataType.items()}
    return names.get(elem_type, f"type {elem_type}")
