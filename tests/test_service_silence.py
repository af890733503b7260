"""What is sent in the place of a message, to any service: garbage, an end, or nothing at all."""

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import tiny
from conftest import RunningServer, Start, wait_until

from service import streams
from unfreeze.v1 import classifier_pb2 as pb

CLASSIFY = "unfreeze.v1.Classifier/Classify"
CHECK, WATCH = "grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"
REFLECT = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
ONE_MESSAGE = [CLASSIFY, CHECK, WATCH, "inference.GRPCInferenceService/ModelInfer"]
STREAMS = ["unfreeze.v1.Classifier/ClassifyStream", REFLECT]
ADMIN = ["unfreeze.v1.Admin/ListJobs", "unfreeze.v1.Admin/WatchJob", REFLECT]

REQUEST = pb.ClassifyRequest(model="colours", images=[tiny.picture()])


def call(channel: grpc.Channel, method: str, messages: Iterator[bytes]) -> grpc.Call:
    return channel.stream_stream(f"/{method}")(messages, timeout=100)


def refused(answers: grpc.Call) -> tuple[str, str]:
    """The status of a call that fails, and its message."""
    with pytest.raises(grpc.RpcError) as caught:
        list(answers)
    return caught.value.code().name, caught.value.details()


# Garbage


@pytest.mark.parametrize("method", ONE_MESSAGE + STREAMS)
def test_what_is_no_message_is_a_bad_request(
    server: RunningServer, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, message = refused(call(server.channel, method, iter([b"\xff not protobuf"])))
    assert status == "INVALID_ARGUMENT"
    assert f"not a valid request for {method}" in message
    assert caplog.records == []


@pytest.mark.parametrize("method", ADMIN)
def test_what_is_no_message_is_a_bad_request_to_administration_too(
    server: RunningServer, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    answers = call(server.admin_channel, method, iter([b"\xff not protobuf"]))
    assert refused(answers)[0] == "INVALID_ARGUMENT"
    assert caplog.records == []


# Nothing


@pytest.mark.parametrize("method", ONE_MESSAGE)
def test_a_call_that_ends_without_its_message_is_a_bad_request(
    server: RunningServer, method: str
) -> None:
    told = refused(call(server.channel, method, iter(())))
    assert told == ("INVALID_ARGUMENT", "the call ended without a message")


def test_a_watch_of_a_job_that_ends_without_its_message_is_a_bad_request(
    server: RunningServer,
) -> None:
    answers = call(server.admin_channel, "unfreeze.v1.Admin/WatchJob", iter(()))
    assert refused(answers)[0] == "INVALID_ARGUMENT"


# Going


@pytest.mark.parametrize("method", [CLASSIFY, STREAMS[0]])
def test_a_caller_who_goes_before_the_message_has_not_sent_a_bad_request(
    server: RunningServer, method: str
) -> None:
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait()
        yield from ()

    tasks = len(asyncio.all_tasks(server._loop))
    for _ in range(20):
        caller = call(server.channel, method, nothing())
        wait_until(lambda: len(asyncio.all_tasks(server._loop)) > tasks)
        caller.cancel()
        wait_until(lambda: len(asyncio.all_tasks(server._loop)) == tasks)
    over.set()
    codes = re.findall(r'grpc_server_handled_total{grpc_code="(\w+)".* [1-9]', server.metrics())
    # where the news is late, on a busy machine, some stay what they were
    assert "CANCELLED" in codes


# Silence


def test_a_silent_stream_does_not_hold_up_the_end(start: Start, root: Path) -> None:
    tiny.publish(root, promote=True)
    server = start(grace_seconds=300)
    silent = threading.Event()

    def requests() -> Iterator[pb.ClassifyRequest]:
        yield pb.ClassifyRequest(request_id="first")
        silent.wait()

    stream = server.classifier.ClassifyStream(requests(), timeout=200)
    assert next(stream).request_id == "first"
    server.end()
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "this server is shutting down; send the rest to another one"
    silent.set()
    wait_until(lambda: server.has_ended)


@pytest.mark.parametrize("method", [*ONE_MESSAGE, REFLECT])
def test_a_call_that_says_nothing_does_not_hold_up_the_end(
    start: Start, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(streams, "ON_ITS_WAY_S", 0.05)
    server, over = start(grace_seconds=300), threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait()
        yield from ()

    answers = call(server.channel, method, nothing())
    assert refused(call(server.channel, CHECK, iter(())))[0] == "INVALID_ARGUMENT"  # it is there
    server.end()
    assert refused(answers)[0] == "UNAVAILABLE"
    wait_until(lambda: server.has_ended)
    over.set()


def test_a_message_on_its_way_when_the_end_begins_is_answered(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "ON_ITS_WAY_S", 60.0)
    tiny.publish(root, promote=True)
    server, sent = start(grace_seconds=300), threading.Event()

    def slowly() -> Iterator[bytes]:
        sent.wait()
        yield REQUEST.SerializeToString()

    answers = call(server.channel, CLASSIFY, slowly())
    incoming = server.service._calls._incoming
    wait_until(lambda: incoming._of_others._waiting)
    server.end()
    wait_until(lambda: incoming._of_streams._ended)
    sent.set()
    assert len(list(answers)) == 1
