"""Converts the Open Inference Protocol's tensors to a model's input, and its answers to tensors.

Numbers are little-endian in row-major order; every element of BYTES has a four-byte length prefix.
"""

import asyncio
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from registry.counted import counted
from registry.errors import BadRequest
from registry.images import Float32Array, UInt8Array
from registry.quoted import quoted
from service.models.trial import Content, ends
from service.predict import top

INPUT = "image"
OUTPUT = "probabilities"
SHARED_MEMORY = "shared_memory_region"
# Converting typed contents and writing classes as text block the event loop, so they yield to other
# calls after this many (some 5 ms).
NUMBERS_AT_ONCE = 1 << 16
CLASSES_AT_ONCE = 1 << 12
LENGTH = struct.Struct("<I")
SHOWN = 10  # most dimensions to read and show of a shape; a valid one has at most four
# What each of a model's two names takes, for the error when a request sends something else.
TAKES = {
    "BYTES": "encoded images; send pixels to the name that ends in -tensor",
    "UINT8": "RGB pixels from 0 to 255, which the network normalises itself",
}

Tensor = Any  # the stubs of tritonclient come without types
Request = Any
OutputTensor = pb.ModelInferResponse.InferOutputTensor


async def read_pixels(request: Request, size: int, max_images: int) -> UInt8Array:
    """The one input of `NAME-tensor`: [n,size,size,3]. A view of raw contents, so read-only.

    Raises:
        BadRequest: the tensor is something else, or its size does not match its shape.
    """
    tensor, shape = _read_input(request, "UINT8", (size, size, 3), max_images)
    raw = _read_raw(request, tensor)
    values = _contents(tensor, "uint_contents") if raw is None else raw
    n_bytes = shape[0] * size * size * 3
    if len(values) != n_bytes:
        raise BadRequest(
            f"input byte size mismatch for input {INPUT!r}: its shape {list(shape)} needs "
            f"{n_bytes} bytes, got {len(values)}"
        )
    pixels = await _read_numbers(values) if raw is None else np.frombuffer(raw, np.uint8)
    return pixels.reshape(shape)


def read_images(request: Request, max_images: int) -> Sequence[bytes]:
    """The one input of `NAME`: encoded images, BYTES [n,1].

    Raises:
        BadRequest: the tensor is something else, or its number of elements does not match its
            shape.
    """
    tensor, (n_images, _) = _read_input(request, "BYTES", (1,), max_images)
    raw = _read_raw(request, tensor)
    if raw is not None:
        return split_elements(raw, n_images)
    images = _contents(tensor, "bytes_contents")
    if len(images) != n_images:
        raise BadRequest(
            f"{counted(len(images), 'element')} for {counted(n_images, 'image')} in input {INPUT!r}"
        )
    return list(images)


def hashed_content(request: Request, max_images: int) -> Content:
    """The content that decides whether a candidate answers: the encoded images, or all pixels as
    one sequence. Empty for an invalid request, which is reported when it is answered."""
    try:
        if not request.inputs or request.inputs[0].datatype != "UINT8":
            return read_images(request, max_images)
        tensor = request.inputs[0]
        raw = _read_raw(request, tensor)
        if raw is not None:
            return [raw]
        head, tail = ends(_contents(tensor, "uint_contents"))  # no more is hashed
        return [_small_numbers([*head, *tail]).data]
    except BadRequest:
        return ()


def split_elements(raw: bytes, n_elements: int) -> list[bytes]:
    """The elements of a BYTES tensor. No more are looked at than there should be.

    Raises:
        BadRequest: there are fewer or more of them, or one has no end.
    """
    elements: list[bytes] = []
    at = 0
    for i in range(n_elements):
        begin = at + LENGTH.size
        if begin > len(raw):
            raise BadRequest(f"input {INPUT!r} ends after {i} elements; expected {n_elements}")
        at = begin + LENGTH.unpack_from(raw, begin - LENGTH.size)[0]
        if at > len(raw):
            raise BadRequest(
                f"element {i} of input {INPUT!r} has a length prefix of {at - begin} bytes, but "
                f"only {len(raw) - begin} are left"
            )
        elements.append(raw[begin:at])
    if at != len(raw):
        raise BadRequest(
            f"unexpected bytes after the {n_elements} elements of input {INPUT!r}: {len(raw) - at}"
        )
    return elements


def join_elements(elements: Sequence[bytes]) -> bytes:
    """The elements as the content of a BYTES tensor."""
    return b"".join(LENGTH.pack(len(element)) + element for element in elements)


def probabilities_output(answers: Sequence[Float32Array]) -> tuple[Tensor, bytes]:
    """The output tensor and its bytes, from one answer [classes] per image."""
    shape = (len(answers), len(answers[0]))
    tensor = OutputTensor(name=OUTPUT, datatype="FP32", shape=shape)
    return tensor, b"".join([answer.tobytes() for answer in answers])


async def classification_output(
    answers: Sequence[Float32Array], k: int, labels: Sequence[str]
) -> tuple[Tensor, bytes]:
    """The output in Triton's classification format: BYTES [n,k] of `probability:index:label`."""
    k = min(k, len(labels))
    elements: list[bytes] = []
    yield_at = CLASSES_AT_ONCE
    for answer in answers:
        if len(elements) >= yield_at:
            await asyncio.sleep(0)
            yield_at = len(elements) + CLASSES_AT_ONCE
        elements += [f"{answer[i]:f}:{i}:{labels[i]}".encode() for i in top(answer, k)]
    tensor = OutputTensor(name=OUTPUT, datatype="BYTES", shape=(len(answers), k))
    return tensor, join_elements(elements)


def _read_input(
    request: Request, datatype: str, dims: tuple[int, ...], max_images: int
) -> tuple[Tensor, tuple[int, ...]]:
    """The only input and its shape, if they are what the model takes."""
    inputs = request.inputs
    if len(inputs) != 1 or inputs[0].name != INPUT:
        _explain_inputs([tensor.name for tensor in inputs[:2]])  # two suffice to say what is wrong
    tensor = inputs[0]
    if tensor.datatype != datatype:
        raise BadRequest(
            f"inference input {INPUT!r} data-type is {quoted(tensor.datatype, 20)}, but the model "
            f"expects {datatype!r} ({TAKES[datatype]})"
        )
    if tensor.parameters and SHARED_MEMORY in tensor.parameters:
        raise BadRequest("shared memory is not supported; send the content of the tensor")
    shape = tuple(tensor.shape[:SHOWN])
    if shape[1:] != dims:
        expected = ",".join(map(str, (-1, *dims)))
        raise BadRequest(
            f"unexpected shape for input {INPUT!r}: expected [{expected}], got {shape}"
        )
    if not 1 <= shape[0] <= max_images:
        raise BadRequest(
            f"inference request batch-size must be >= 1 and <= {max_images}, got {shape[0]}"
        )
    return tensor, shape


def _explain_inputs(names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise BadRequest(f"input {quoted(names[0])} is given more than once")
    if unknown := [name for name in names if name != INPUT]:
        raise BadRequest(f"unexpected inference input {quoted(unknown[0])}; expected {INPUT!r}")
    raise BadRequest(f"expected 1 inputs but got 0 inputs; missing {INPUT!r}")


def _read_raw(request: Request, tensor: Tensor) -> bytes | None:
    """The bytes of the only input, or None where it has typed contents instead."""
    raw = request.raw_input_contents
    if not raw:
        if not tensor.HasField("contents"):
            raise BadRequest(f"input {INPUT!r} has neither raw_input_contents nor contents")
        return None
    if tensor.HasField("contents"):
        raise BadRequest("contents must not be specified when using raw_input_contents")
    if len(raw) != 1:
        raise BadRequest(f"expected 1 raw_input_contents, one for each input, got {len(raw)}")
    content: bytes = raw[0]
    return content


def _contents(tensor: Tensor, expected: str) -> Sequence[Any]:
    """The typed contents, which must be in the datatype's field and in no other."""
    if strays := [
        field.name for field, _ in tensor.contents.ListFields() if field.name != expected
    ]:
        raise BadRequest(
            f"unexpected {strays[0]} for input {INPUT!r} of data-type {tensor.datatype}; "
            f"use {expected}"
        )
    values: Sequence[Any] = getattr(tensor.contents, expected)
    return values


async def _read_numbers(values: Sequence[int]) -> UInt8Array:
    pixels = np.empty(len(values), np.uint8)
    for begin in range(0, len(values), NUMBERS_AT_ONCE):
        if begin:
            await asyncio.sleep(0)
        end = begin + NUMBERS_AT_ONCE
        pixels[begin:end] = _small_numbers(values[begin:end])
    return pixels


def _small_numbers(values: Sequence[int]) -> UInt8Array:
    numbers = np.array(values, np.uint32)
    if numbers.size and numbers.max() > 255:
        raise BadRequest(f"a value of input {INPUT!r} is {numbers.max()}, above 255")
    return numbers.astype(np.uint8)
