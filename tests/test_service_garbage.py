"""What a request leaves in memory when it is refused, fails or is cancelled: nothing of its images.

Python frees at once what nothing refers to. What refers to itself in a circle stays until the
cyclic garbage collector runs, which may be many large requests later.
"""

import gc
import logging
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import tiny
from conftest import RunningServer, held, in_flight, settings, wait_until
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

from unfreeze.v1 import admin_pb2
from unfreeze.v1 import classifier_pb2 as pb

LARGE = 1 << 20  # bytes; every request here is larger
N = 6
BAD = bytes(2 * LARGE)
GOOD = tiny.picture() + BAD
CUT_OFF = tiny.noise(size=(1200, 800))[:-2000]
SECONDS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root: Path = tmp_path_factory.mktemp("registry")
    tiny.publish(root, promote=True)
    tiny.publish(root)
    server = RunningServer(settings(root, poll_seconds=3600))
    yield server
    server.stop()


@contextmanager
def nothing_is_left(server: RunningServer) -> Iterator[None]:
    """What happens in the block leaves no large bytes or message to the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        yield
        wait_until(lambda: in_flight(server, 0))  # and the answers are counted
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = {id(one): one for one in [*gc.garbage, *gc.get_referents(*gc.garbage)]}
        large = [type(one).__name__ for one in found.values() if size(one) > LARGE]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert large == []


def size(one: object) -> int:
    match one:
        case bytes():
            return len(one)
        case Message():
            return one.ByteSize()
        case _:
            return 0


def classify(image: bytes, **fields: Any) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(**({"model": "colours", "images": [image]} | fields))


def infer(image: bytes, model: str = "colours") -> Any:
    tensor = oip.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1, 1])
    content = struct.pack("<I", len(image)) + image
    return oip.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[content])


def expiring(image: bytes) -> Any:
    request = infer(image)
    request.parameters["timeout"].int64_param = 1
    return request


def inference(server: RunningServer) -> Any:
    return oip_grpc.GRPCInferenceServiceStub(server.channel)


def padded(method: str) -> Callable[[RunningServer], object]:
    """A call to a service beside ours, with bytes that are no message."""
    return lambda server: server.channel.unary_unary(method)(b"\xff" + BAD, timeout=SECONDS)


Call = Callable[[RunningServer], object]
REFUSED: dict[str, Call] = {
    "an unknown model": lambda server: server.classify(BAD, model="nobody"),
    "an unknown version": lambda server: server.classify(BAD, version=99),
    "too many views": lambda server: server.classify(BAD, tta_views=1000),
    "a model to promote": lambda server: server.admin.Promote(
        admin_pb2.PromoteRequest(model="m" * len(BAD), version=1), timeout=SECONDS
    ),
    "no message": padded("/unfreeze.v1.Classifier/Classify"),
    "no message for health": padded("/grpc.health.v1.Health/Check"),
    "a bad image of the protocol": lambda server: inference(server).ModelInfer(infer(BAD)),
    "an unknown model of the protocol": lambda server: inference(server).ModelInfer(
        infer(BAD, "nobody")
    ),
    "a type of the protocol": lambda server: inference(server).ModelInfer(
        infer(BAD, "colours-tensor")
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_request_leaves_nothing(server: RunningServer, name: str) -> None:
    with nothing_is_left(server):
        for _ in range(N):
            with pytest.raises(grpc.RpcError):
                REFUSED[name](server)


@pytest.mark.parametrize("image", [BAD, CUT_OFF])
def test_a_bad_image_leaves_nothing(server: RunningServer, image: bytes) -> None:
    with nothing_is_left(server):
        for _ in range(N):
            (result,) = server.classify(image).results
            assert result.error.code


STREAMS: dict[str, Call] = {
    "bad images": lambda server: server.classifier.ClassifyStream(iter([classify(BAD)] * N)),
    "unknown models": lambda server: server.classifier.ClassifyStream(
        iter([classify(BAD, model="nobody")] * N)
    ),
    "bad images of the protocol": lambda server: inference(server).ModelStreamInfer(
        iter([infer(BAD)] * N)
    ),
    "expired": lambda server: inference(server).ModelStreamInfer(iter([expiring(GOOD)] * N)),
    "an error that ends it": lambda server: inference(server).ModelStreamInfer(
        iter([infer(BAD)] * N), metadata=[("triton_grpc_error", "true")]
    ),
    "no message": lambda server: server.channel.stream_stream(
        "/unfreeze.v1.Classifier/ClassifyStream"
    )(iter([b"\xff" + BAD] * N)),
}


@pytest.mark.parametrize("name", STREAMS)
def test_an_error_within_a_stream_leaves_nothing(server: RunningServer, name: str) -> None:
    with nothing_is_left(server):
        for _ in range(N):
            with suppress(grpc.RpcError):
                list(STREAMS[name](server))  # type: ignore[call-overload]


@pytest.mark.parametrize("stream", [False, True])
def test_a_network_that_fails_leaves_nothing(
    server: RunningServer, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)  # what pytest captures, it keeps
    executor = server.service.models.in_memory("colours")[0].executor
    run = executor._run
    executor._run = fail
    try:
        with nothing_is_left(server):
            for _ in range(N):
                if stream:
                    list(inference(server).ModelStreamInfer(iter([infer(GOOD)])))
                else:
                    with pytest.raises(grpc.RpcError):
                        inference(server).ModelInfer(infer(GOOD))
    finally:
        executor._run = run


def fail(images: object) -> Any:
    raise RuntimeError("out of luck")


def test_a_request_that_expires_leaves_nothing(server: RunningServer) -> None:
    with nothing_is_left(server):
        for _ in range(N):
            with pytest.raises(grpc.RpcError, match="Request timeout expired"):
                inference(server).ModelInfer(expiring(GOOD))


def test_a_call_that_is_cancelled_leaves_nothing(server: RunningServer) -> None:
    stub = inference(server)
    with nothing_is_left(server), held(server):
        asked = [stub.ModelInfer.future(infer(GOOD), timeout=SECONDS) for _ in range(N)]
        asked += [server.classifier.Classify.future(classify(GOOD)) for _ in range(N)]
        wait_until(lambda: in_flight(server, 2 * N))
        for one in asked:
            one.cancel()


def test_a_deadline_that_passes_leaves_nothing(server: RunningServer) -> None:
    stub = inference(server)
    with nothing_is_left(server), held(server):
        asked = [stub.ModelInfer.future(infer(GOOD), timeout=0.3) for _ in range(N)]
        for one in asked:
            with pytest.raises(grpc.RpcError):
                one.result()


def test_a_comparison_that_fails_leaves_nothing(server: RunningServer) -> None:
    server.admin.SetCandidate(
        admin_pb2.SetCandidateRequest(
            model="colours", version=2, mode=admin_pb2.CANDIDATE_MODE_SHADOW, percent=100
        ),
        timeout=SECONDS,
    )
    candidate = server.service.models.in_memory("colours")[1].executor
    candidate._run = fail
    failed = 'unfreeze_shadow_images_total{model="colours",outcome="failed",version="2"}'
    with nothing_is_left(server):
        for n in range(N):
            inference(server).ModelInfer(infer(GOOD))
            wait_until(lambda: f"{failed} {n + 1}.0" in server.metrics())  # noqa: B023
