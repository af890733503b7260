"""What a port takes on: connections, calls of a connection, messages."""

import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tiny
from conftest import Start, best, wait_until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from service import listener, streams
from service.server import MIN_STREAMS
from unfreeze.v1 import classifier_pb2, classifier_pb2_grpc

OF_ITS_OWN = [("grpc.use_local_subchannel_pool", 1)]  # a connection
REQUEST = classifier_pb2.ClassifyRequest(model="colours", images=[tiny.picture("red")])
SERVING = health_pb2.HealthCheckResponse.SERVING


def status(channel: grpc.Channel, timeout: float = 20) -> str:
    """Of a request over this channel."""
    try:
        stub = classifier_pb2_grpc.ClassifierStub(channel)
        assert best(stub.Classify(REQUEST, timeout=timeout)) == ["red"]
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def test_connections_take_half_of_the_files_and_there_is_room_again_when_one_ends(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (6, 6))
    tiny.publish(root, promote=True)
    address = start().address
    first, *others = (grpc.insecure_channel(address, OF_ITS_OWN) for _ in range(4))
    assert [status(one) for one in (first, *others)] == ["OK", "OK", "OK", "UNAVAILABLE"]
    first.close()
    wait_until(lambda: status(others[-1]) == "OK")
    for one in others:
        one.close()


def test_one_connection_cannot_fill_the_memory_with_calls_that_say_nothing(
    start: Start, root: Path
) -> None:
    tiny.publish(root, promote=True)
    server, over = start(max_rpcs=1), threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait()
        yield from ()

    with grpc.insecure_channel(server.address, OF_ITS_OWN) as greedy:
        classify = greedy.stream_unary("/unfreeze.v1.Classifier/Classify")
        silent = [classify.future(nothing(), timeout=60) for _ in range(MIN_STREAMS)]
        wait_until(lambda: status(greedy, timeout=0.5) == "DEADLINE_EXCEEDED")
        assert status(server.channel) == "OK"
        over.set()
        assert {one.code() for one in silent} == {grpc.StatusCode.INVALID_ARGUMENT}


def test_of_too_many_calls_that_say_nothing_the_oldest_makes_room(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MOST_WAITING", 3)
    tiny.publish(root, promote=True)
    server, over = start(), threading.Event()
    waiting = server.service._calls._incoming._of_others._waiting

    def nothing() -> Iterator[bytes]:
        over.wait()
        yield from ()

    classify = server.channel.stream_unary("/unfreeze.v1.Classifier/Classify")
    silent = []
    for n_waiting in (1, 2, 3):
        silent.append(classify.future(nothing(), timeout=60))
        wait_until(lambda: len(waiting) == n_waiting)  # noqa: B023
    assert status(server.channel) == "OK"
    assert silent[0].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "this one has waited longest" in silent[0].details()
    assert not any(one.done() for one in silent[1:])
    assert 'unfreeze_rejected_total{reason="silent"} 1.0' in server.metrics()
    over.set()


def test_who_watches_too_much_is_refused_and_keeps_no_other_from_watching(start: Start) -> None:
    server, request = start(max_rpcs=20), health_pb2.HealthCheckRequest()
    with grpc.insecure_channel(server.address, OF_ITS_OWN) as greedy:
        stub = health_pb2_grpc.HealthStub(greedy)
        watches = [stub.Watch(request, timeout=60) for _ in range(20)]
        assert {next(one).status for one in watches} == {SERVING}
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.Watch(request, timeout=60))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "20 streams of health and reflection are open" in caught.value.details()
        assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
        assert 'unfreeze_rejected_total{reason="streams"} 1.0' in server.metrics()
        other = health_pb2_grpc.HealthStub(server.channel)
        assert next(other.Watch(request, timeout=60)).status == SERVING
    wait_until(lambda: server.service._calls._open_streams._n_open == 0)


def test_calls_that_come_while_the_event_loop_is_behind_are_answered_and_not_cancelled(
    start: Start, root: Path
) -> None:
    tiny.publish(root, promote=True)
    server, over = start(), threading.Event()
    channels = [grpc.insecure_channel(server.address, OF_ITS_OWN) for _ in range(4)]
    stubs = [classifier_pb2_grpc.ClassifierStub(one) for one in channels]
    assert {status(one) for one in channels} == {"OK"}
    server.call_soon(over.wait)
    calls = [stubs[i % 4].Classify.future(REQUEST, timeout=60) for i in range(3000)]
    over.set()
    codes = {one.code() for one in calls}
    assert grpc.StatusCode.OK in codes
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    for one in channels:
        one.close()


def test_a_message_is_not_unpacked_beyond_the_limit(start: Start, root: Path) -> None:
    tiny.publish(root, promote=True)
    server = start(max_message_mb=1)
    bomb: Any = pb.ModelInferRequest(model_name="colours", raw_input_contents=[bytes(100 << 20)])
    stub = pb_grpc.GRPCInferenceServiceStub(server.channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(bomb, timeout=20, compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert status(server.channel) == "OK"


def test_a_connection_that_says_nothing_is_closed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "SPEAK_WITHIN_MS", 50)
    server = start()
    with socket.create_connection(("127.0.0.1", server.service.port), timeout=60) as silent:
        while silent.recv(999):  # settings, until the end
            pass


def test_clients_may_ping_while_they_have_nothing_to_say(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "PING_EVERY_MS", 10)
    address, states = start().address, list[grpc.ChannelConnectivity]()
    options = [("grpc.keepalive_time_ms", 1000), ("grpc.http2.max_pings_without_data", 0)]
    options += [("grpc.keepalive_permit_without_calls", 1), *OF_ITS_OWN]
    with (
        grpc.insecure_channel(address, options) as idle,
        grpc.insecure_channel(address, options) as waiting,
    ):
        idle.subscribe(states.append, try_to_connect=True)
        stub = health_pb2_grpc.HealthStub(waiting)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Watch(health_pb2.HealthCheckRequest(), timeout=5))  # the third was too many
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert states[-1] is grpc.ChannelConnectivity.READY
