"""Misbehaving clients. Each function does one bad thing, and raises if the server does not respond
as it should; returns the number of images that were answered with an error of their own."""

import asyncio
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as oip

from load.good import TIMEOUT_S, any_picture, has_aged
from load.truth import BAD, SPEC, pictures
from unfreeze.v1 import classifier_pb2 as pb
from unfreeze.v1 import classifier_pb2_grpc as pb_grpc

Code = grpc.StatusCode
CLASSIFY = "/unfreeze.v1.Classifier/Classify"
INFER = "/inference.GRPCInferenceService/ModelInfer"
# HTTP/2's connection preface, with empty settings.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
# Announces an HTTP/2 frame of 16,384 bytes of headers, which never comes.
HALF_A_FRAME = b"\x00\x40\x00\x01\x04\x00\x00\x00\x01" + b"\x82"
HOLD_S = 2.0
NOT_AN_IMAGE = "zeros for an image"
SIZE = SPEC.size
MAX_MESSAGE_MB = 4  # what a server under this load accepts
# So large that memory grows visibly if refused requests stay in it; the rest of a message fits too.
LARGE_BYTES = (MAX_MESSAGE_MB << 20) - (1 << 19)
INVALID_ARGUMENT = 3


class Unexpected(Exception):
    """The server accepted something invalid, or refused it in the wrong way."""


class Bad:
    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.aio.insecure_channel(
            address, [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        )
        self.stub = pb_grpc.ClassifierStub(self.channel)

    async def close(self) -> None:
        await self.channel.close()

    async def malformed(self) -> int:
        """A request that must be refused as a whole, with the code that says why."""
        method, refused = random.choice([(CLASSIFY, REFUSED), (INFER, REFUSED_BY_PROTOCOL)])
        name = random.choice(list(refused))
        make, codes = refused[name]
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(method)
        try:
            await call(make(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            # while still sending a message refused long ago, the connection may reach its max age
            if error.code() not in codes and not has_aged(error):
                raise Unexpected(f"{name}: {error.code()}: {error.details()}") from error
            return int(name == NOT_AN_IMAGE)  # this one reached the decoder, which counts it
        raise Unexpected(f"{name} was accepted")

    async def bad_images(self) -> int:
        """Sends unusable images with a good one among them; each must get its own result."""
        images = random.sample(list(UNUSABLE.values()), 3)
        place = random.randrange(4)
        images.insert(place, pictures()[any_picture()].encoded)
        request = pb.ClassifyRequest(model=BAD, images=images)
        results = (await self.stub.Classify(request, timeout=TIMEOUT_S)).results
        codes = [result.error.code for result in results]
        wanted = [0 if i == place else INVALID_ARGUMENT for i in range(4)]
        if codes != wanted:
            raise Unexpected(f"codes {codes} and not {wanted}: {results}")
        return 3

    async def cancelling(self) -> int:
        """Cancels a request shortly after sending it."""
        call = self.stub.Classify(large_request(), timeout=TIMEOUT_S)
        await asyncio.sleep(random.uniform(0, 0.02))
        call.cancel()
        return 0

    async def impatient(self) -> int:
        """Sets too short a deadline; a busy server rejects the request at once."""
        try:
            await self.stub.Classify(large_request(), timeout=random.uniform(0.0001, 0.01))
        except grpc.RpcError as error:
            expected = (Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED)
            if error.code() not in expected and not has_aged(error):
                raise Unexpected(f"{error.code()}: {error.details()}") from error
        return 0

    async def slow_reader(self) -> int:
        """Sends many requests over a stream, reads an answer now and then, and leaves."""
        requests = (large_request() for _ in range(50))
        stream = self.stub.ClassifyStream(requests, timeout=TIMEOUT_S)
        for _ in range(3):
            await asyncio.sleep(random.uniform(0.1, 0.5))
            if await stream.read() is grpc.aio.EOF:
                break
        stream.cancel()
        return 0

    async def half_open(self) -> int:
        """Sends half a frame, then nothing; or not even HTTP/2."""
        host, port = self.address.split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(random.choice([PREFACE + HALF_A_FRAME, random.randbytes(200), b""]))
        await asyncio.sleep(random.uniform(0, HOLD_S))
        writer.transport.abort()
        return 0


def large_request() -> pb.ClassifyRequest:
    images = [pictures()[any_picture()].encoded for _ in range(8)]
    return pb.ClassifyRequest(model=BAD, images=images, tta_views=2)


def bomb() -> bytes:
    """A decompression bomb: a PNG of a few bytes that claims 40,000 x 40,000 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


def _request(**fields: Any) -> bytes:
    one: dict[str, Any] = {"model": BAD, "images": [pictures()[0].encoded]}
    return pb.ClassifyRequest(**(one | fields)).SerializeToString()


def _infer(
    model: str = f"{BAD}-tensor",
    datatype: str = "UINT8",
    shape: Sequence[int] = (1, SIZE, SIZE, 3),
    content: bytes = bytes(SIZE * SIZE * 3),
    n_inputs: int = 1,
) -> bytes:
    tensor = oip.ModelInferRequest.InferInputTensor(name="image", datatype=datatype, shape=shape)
    request = oip.ModelInferRequest(model_name=model, inputs=[tensor] * n_inputs)
    request.raw_input_contents.append(content)
    return bytes(request.SerializeToString())


UNUSABLE = {
    "bomb": bomb(),
    "truncated": pictures()[4].encoded[:-2000],
    "empty": b"",
    "text": b"GIF89a, or so they say",
    "random": random.Random(0).randbytes(5000),
    "large": bytes(LARGE_BYTES),
    "half a PNG": pictures()[3].encoded[: len(pictures()[3].encoded) // 2],
}
Refusals = dict[str, tuple[Callable[[], bytes], set[grpc.StatusCode]]]
REFUSED: Refusals = {
    "garbage": (lambda: b"\xff" + random.randbytes(3000), {Code.INVALID_ARGUMENT}),
    "a huge message": (lambda: bytes((MAX_MESSAGE_MB << 20) + 100), {Code.RESOURCE_EXHAUSTED}),
    "no images": (lambda: _request(images=[]), {Code.INVALID_ARGUMENT}),
    "no model": (lambda: _request(model=""), {Code.NOT_FOUND, Code.INVALID_ARGUMENT}),
    "an unknown model": (
        lambda: _request(model=f"m{random.random()}"),
        {Code.NOT_FOUND},
    ),
    "a large image for an unknown model": (
        lambda: _request(model=f"m{random.random()}", images=[bytes(LARGE_BYTES)]),
        {Code.NOT_FOUND},
    ),
    "a path": (lambda: _request(model="../../etc"), {Code.NOT_FOUND, Code.INVALID_ARGUMENT}),
    "an unknown version": (lambda: _request(version=99), {Code.NOT_FOUND}),
    "too many images": (
        lambda: _request(images=[b"x"] * 1000),
        {Code.INVALID_ARGUMENT},
    ),
    "too many views": (lambda: _request(tta_views=1000), {Code.INVALID_ARGUMENT}),
    "no labels": (lambda: _request(top_k=0), {Code.INVALID_ARGUMENT}),
}
REFUSED_BY_PROTOCOL: Refusals = {
    "garbage": (lambda: b"\xff" + random.randbytes(3000), {Code.INVALID_ARGUMENT}),
    "a huge message": (lambda: bytes((MAX_MESSAGE_MB << 20) + 100), {Code.RESOURCE_EXHAUSTED}),
    "an unknown model": (lambda: _infer(model=f"m{random.random()}"), {Code.NOT_FOUND}),
    "another type": (lambda: _infer(datatype="FP32"), {Code.INVALID_ARGUMENT}),
    "another shape": (lambda: _infer(shape=(1, 7, 9, 3)), {Code.INVALID_ARGUMENT}),
    "a shape that overflows": (lambda: _infer(shape=(1 << 62, 8, 8, 3)), {Code.INVALID_ARGUMENT}),
    "fewer bytes than its shape": (lambda: _infer(content=b"x"), {Code.INVALID_ARGUMENT}),
    "an input twice": (lambda: _infer(n_inputs=2), {Code.INVALID_ARGUMENT}),
    "no input": (lambda: _infer(n_inputs=0), {Code.INVALID_ARGUMENT}),
    NOT_AN_IMAGE: (
        lambda: _infer(BAD, "BYTES", (1, 1), struct.pack("<I", LARGE_BYTES) + bytes(LARGE_BYTES)),
        {Code.INVALID_ARGUMENT},
    ),
}
