"""Messages of more fields than a request needs are refused before they are parsed."""

import pytest
from hypothesis import given
from hypothesis import strategies as some
from tritonclient.grpc import service_pb2 as pb

from registry.errors import BadRequest
from service.message_limits import MAX_FIELDS, Inner, check_fields, inner_of
from unfreeze.v1 import classifier_pb2

CLASSIFY = inner_of(classifier_pb2.ClassifyRequest.DESCRIPTOR)
INFER = inner_of(pb.ModelInferRequest.DESCRIPTOR)
MANY = MAX_FIELDS + 1
NAMES = map(str, range(MANY))

classify = classifier_pb2.ClassifyRequest
infer = pb.ModelInferRequest
tensor = infer.InferInputTensor
contents = pb.InferTensorContents

FINE = {
    "one large image": (CLASSIFY, classify(images=[b"\x1a\0" * MANY])),
    "many images": (CLASSIFY, classify(model="colours", images=[b"an image"] * 10_000)),
    "typed pixels": (
        INFER,
        infer(inputs=[tensor(contents=contents(uint_contents=[200] * 9 * MANY))]),
    ),
    "raw pixels": (INFER, infer(inputs=[tensor()], raw_input_contents=[b"\x2a\0" * MANY])),
}
TOO_MANY = {
    "images": (CLASSIFY, classify(images=[b""] * MANY)),
    "tensors": (INFER, infer(inputs=[tensor()] * MANY)),
    "raw tensors": (INFER, infer(raw_input_contents=[b""] * MANY)),
    "parameters of a tensor": (
        INFER,
        infer(inputs=[tensor(parameters={name: pb.InferParameter() for name in NAMES})]),
    ),
    "images in a tensor": (
        INFER,
        infer(inputs=[tensor(contents=contents(bytes_contents=[b""] * MANY))]),
    ),
    "images in two tensors": (
        INFER,
        infer(
            inputs=[tensor(contents=contents(bytes_contents=[b""] * (MANY // 2))) for _ in range(2)]
        ),
    ),
}
RAW_TOO_MANY = {
    "numbers": b"\x20\x01",
    "numbers of 4 bytes": b"\x7d\0\0\0\0",
    "numbers of 8 bytes": b"\x79" + bytes(8),
    "ends of groups": b"\x7b\x7c",
    "unknown texts": b"\x7a\x01x",
    "long tags": b"\x9a\x80\x80\x80\x00\0",
}


@pytest.mark.parametrize("what", FINE)
def test_what_a_request_needs_is_let_through(what: str) -> None:
    inner, request = FINE[what]
    check_fields(request.SerializeToString(), inner)


def refused(message: bytes, inner: Inner) -> bool:
    try:
        check_fields(message, inner)
    except BadRequest:
        return True
    return False


@pytest.mark.parametrize("what", TOO_MANY)
def test_too_many_of_one_kind_are_refused_however_deep(what: str) -> None:
    inner, request = TOO_MANY[what]
    assert refused(request.SerializeToString(), inner)


@pytest.mark.parametrize("what", RAW_TOO_MANY)
def test_a_field_counts_whatever_its_type(what: str) -> None:
    assert refused(RAW_TOO_MANY[what] * MANY, CLASSIFY)


def test_the_limit_itself_may_be_reached() -> None:
    assert not refused(b"\x1a\0" * MAX_FIELDS, CLASSIFY)
    assert refused(b"\x1a\0" * MAX_FIELDS + b"\x20\x01", CLASSIFY)


@given(some.binary(max_size=200))
def test_what_is_no_message_is_left_to_the_parser(message: bytes) -> None:
    for inner in (CLASSIFY, INFER):
        check_fields(message, inner)


def test_fields_behind_a_message_that_is_none_are_counted_too() -> None:
    """One that is cut short may not hide what the parser gets to see after it."""
    broken = b"\x2a\x02\x0a\x7f"  # a tensor whose name has more bytes than the tensor
    assert refused(broken + b"\x2a\0" * MANY, INFER)
