"""What the benchmarks' client sends."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import TESTS
from tritonclient.grpc import service_pb2 as pb

sys.path.append(str(TESTS.parent / "benchmarks"))

from bench.senders import METHOD, Send, through_grpc, through_tritonclient

FILES = [np.array([[b"one"]], object), np.array([[b"another"]], object)]
PIXELS = [np.zeros((1, 2, 2, 3), np.uint8), np.ones((1, 2, 2, 3), np.uint8)]
VIEWS = {"tta_views": 5}


class Scribe(grpc.GenericRpcHandler):
    """Keeps what is sent, answers the first request and turns others away."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        assert details.method == METHOD
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        self.messages.append(message)
        if len(self.messages) > 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "full")
        response = pb.ModelInferResponse(model_name="lite0")
        response.outputs.add(name="probabilities", datatype="FP32", shape=[1, 2])
        response.raw_output_contents.append(np.array([0.25, 0.75], np.float32).tobytes())
        return response.SerializeToString()


@pytest.fixture
def scribe() -> Iterator[tuple[Scribe, str]]:
    scribe, server = Scribe(), grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((scribe,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield scribe, f"127.0.0.1:{port}"
    server.stop(None).wait()


def answers(send: Send) -> list[tuple[Any, str]]:
    """To both requests, one after the other."""
    came: Queue[tuple[Any, str]] = Queue()
    found = []
    for i in range(2):
        send(i, lambda *answer: came.put(answer))
        found.append(came.get(timeout=60))
    return found


@pytest.mark.parametrize("through", [through_tritonclient, through_grpc])
def test_answers_and_refusals_reach_whoever_asked(scribe: tuple[Scribe, str], through: Any) -> None:
    (good, ok), refused = answers(through(scribe[1], "lite0", FILES, "BYTES", {}, 60))
    assert (good.tolist(), ok) == ([[0.25, 0.75]], "OK")
    assert refused == (None, "UNAVAILABLE")


@pytest.mark.parametrize(("tensors", "kind"), [(FILES, "BYTES"), (PIXELS, "UINT8")])
@pytest.mark.parametrize("parameters", [{}, VIEWS], ids=["plain", "views"])
def test_what_was_made_once_are_the_bytes_that_tritonclient_sends(
    scribe: tuple[Scribe, str], tensors: Any, kind: str, parameters: dict[str, int]
) -> None:
    for through in (through_tritonclient, through_grpc):
        answers(through(scribe[1], "lite0", tensors, kind, parameters, 60))
    messages = scribe[0].messages
    assert messages[:2] == messages[2:]
