"""Streams, health, reflection and metrics."""

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import tiny
from conftest import RunningServer, Start, best, held, in_flight, wait_until
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from unfreeze.v1 import classifier_pb2 as pb

OK, NOT_FOUND, INVALID, EXHAUSTED, INTERNAL = 0, 5, 3, 8, 13


def request(colour: str = "red", id: str = "", **fields: object) -> pb.ClassifyRequest:
    fields = {"model": "colours", "images": [tiny.picture(colour)]} | fields
    return pb.ClassifyRequest(request_id=id, **fields)


def slow(start: Start, root: Path, work: int, **changes: object) -> RunningServer:
    tiny.publish(root, promote=True, work=work)
    return start(plan="1x1x1", **changes)


# Streams


def test_a_stream_answers_in_order(server: RunningServer) -> None:
    colours = ["red", "green", "blue"] * 20
    requests = (request(colour, str(i)) for i, colour in enumerate(colours))
    answers = list(server.classifier.ClassifyStream(requests, timeout=20))
    assert [best(answer.response)[0] for answer in answers] == colours
    assert [answer.request_id for answer in answers] == [str(i) for i in range(60)]


def test_a_failing_request_is_answered_by_its_error_and_the_stream_goes_on(
    server: RunningServer,
) -> None:
    requests = [request(id="a"), request(id="b", model="x"), request(id="c", top_k=9), request()]
    first, unknown, too_many, last = server.classifier.ClassifyStream(iter(requests), timeout=20)
    assert (unknown.error.code, unknown.request_id) == (NOT_FOUND, "b")
    assert (too_many.error.code, too_many.request_id) == (INVALID, "c")
    assert first.HasField("response")
    assert last.HasField("response")


def test_a_stream_says_when_to_send_again_what_a_full_queue_refuses(
    start: Start, root: Path
) -> None:
    tiny.publish(root, promote=True)
    server = start(plan="1x1x1", max_queue=1)
    with held(server) as executor:
        first = server.classifier.Classify.future(request(), timeout=60)
        wait_until(lambda: executor._admission._n_views)
        refused, wrong = server.classifier.ClassifyStream(
            iter([request(), request(model="x")]), timeout=20
        )
    assert (refused.error.code, refused.error.retry_after_ms >= 1) == (EXHAUSTED, True)
    assert (wrong.error.code, wrong.error.retry_after_ms) == (NOT_FOUND, 0)
    assert first.result().version == 1


def test_an_error_of_our_own_is_not_shown_to_callers_and_the_stream_goes_on(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    executor = server.service.models._states["colours"].live.executor
    run = executor._run
    executor._run = lambda images: 1 / 0 if 1 in images[:, 4, 4].argmax(axis=1) else run(images)
    requests = [request(id="a"), request("green", id="b"), request(id="c")]
    first, failed, last = server.classifier.ClassifyStream(iter(requests), timeout=20)
    assert (failed.error.code, failed.request_id) == (INTERNAL, "b")
    assert failed.error.message.startswith("internal error (request id ")
    assert "ZeroDivisionError" in caplog.text
    assert first.HasField("response")
    assert last.HasField("response")


def test_a_stream_reads_no_further_than_eight_requests_ahead(start: Start, root: Path) -> None:
    server = slow(start, root, work=20_000)
    taken: list[int] = []

    def requests() -> Iterator[pb.ClassifyRequest]:
        for i in range(200):
            taken.append(i)
            yield request("red", images=[tiny.noise(size=(400, 400))] * 2)

    stream = server.classifier.ClassifyStream(requests(), timeout=30)
    next(stream)
    assert server.service.models.queue_depth("colours") <= 2 * 8
    stream.cancel()
    wait_until(lambda: server.service.models.queue_depth("colours") == 0)


def test_a_stream_fills_the_batches_of_its_model(start: Start, root: Path) -> None:
    """Eight requests were in flight whatever the plan, so batches of 64 were never full."""
    tiny.publish(root, promote=True)
    server = start(plan="1x2x16")
    with held(server) as executor:
        stream = server.classifier.ClassifyStream(iter([request()] * 100), timeout=60)
        wait_until(lambda: executor._admission._n_requests == 2 * 2 * 16)
    assert len([one for one in stream if one.HasField("response")]) == 100


def test_a_stream_leaves_half_of_the_queue_to_others(start: Start, root: Path) -> None:
    tiny.publish(root, promote=True)
    server = start(plan="1x2x16", max_queue=40)
    with held(server) as executor:
        requests = [request(images=[tiny.picture()] * 2)] * 50
        stream = server.classifier.ClassifyStream(iter(requests), timeout=60)
        wait_until(lambda: not executor.stream_window)
        assert executor._admission._n_views == 40 / 2
        other = server.classifier.Classify.future(request("green"), timeout=60)
    assert best(other.result()) == ["green"]
    assert len([one for one in stream if one.HasField("response")]) == 50


def test_a_stream_that_is_cancelled_leaves_nothing_behind(server: RunningServer) -> None:
    stream = server.classifier.ClassifyStream(iter([request()] * 50), timeout=20)
    next(stream)
    stream.cancel()
    wait_until(lambda: "unfreeze_rpcs_in_flight 0.0" in server.metrics())
    assert best(server.classify(tiny.picture("green"))) == ["green"]


def test_what_was_sent_over_a_stream_is_answered_before_it_ends(start: Start, root: Path) -> None:
    server = slow(start, root, work=0)
    over = threading.Event()

    def requests() -> Iterator[pb.ClassifyRequest]:
        yield from (request(id=str(i)) for i in range(4))
        over.wait()

    with held(server) as executor:
        stream = server.classifier.ClassifyStream(requests(), timeout=60)
        wait_until(lambda: executor.depth == 3)
        server.end()
    assert [next(stream).request_id for _ in range(4)] == ["0", "1", "2", "3"]
    with pytest.raises(grpc.RpcError, match="shutting down"):
        next(stream)
    over.set()


# Health, reflection, metrics


def health(server: RunningServer, name: str) -> str:
    stub = health_pb2_grpc.HealthStub(server.channel)
    status = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20).status
    return health_pb2.HealthCheckResponse.ServingStatus.Name(status)


NAMES = ["", "liveness", "readiness", "unfreeze.v1.Classifier", "colours", "colours-tensor"]


@pytest.mark.parametrize("name", NAMES)
def test_health_answers_for_the_whole_and_each_part(server: RunningServer, name: str) -> None:
    assert health(server, name) == "SERVING"


def test_health_learns_of_new_models_and_knows_no_others(server: RunningServer, root: Path) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        health(server, "later")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    tiny.publish(root, model="later", promote=True)
    server.refresh()
    assert health(server, "later") == "SERVING"


def test_an_unloaded_model_is_not_healthy_until_it_is_loaded(server: RunningServer) -> None:
    server.service.models.operations.unload("colours")
    assert [health(server, name) for name in NAMES[-2:]] == ["NOT_SERVING"] * 2
    assert health(server, "") == "SERVING"
    server.call(server.service.models.operations.load("colours"))
    assert [health(server, name) for name in NAMES[-2:]] == ["SERVING"] * 2


def test_a_model_that_comes_while_the_server_drains_is_not_healthy(
    start: Start, root: Path
) -> None:
    tiny.publish(root, promote=True)
    server = start(poll_seconds=3600)
    server.call(server.service.drain())
    tiny.publish(root, promote=True)
    server.refresh()
    assert server.classify(tiny.picture()).version == 2
    assert health(server, "colours") == "NOT_SERVING"


def test_a_draining_server_says_so_and_still_answers(start: Start, root: Path) -> None:
    tiny.publish(root, promote=True)
    server = start(drain_seconds=0.5)
    assert "unfreeze_ready 1.0" in server.metrics()
    drain = threading.Thread(target=lambda: server.call(server.service.drain()))
    drain.start()
    wait_until(lambda: health(server, "") == "NOT_SERVING")
    assert [health(server, name) for name in NAMES[1:]] == ["SERVING"] + ["NOT_SERVING"] * 4
    assert best(server.classify(tiny.picture("blue"))) == ["blue"]
    drain.join()
    assert "unfreeze_draining 1.0" in server.metrics()
    assert "unfreeze_ready 0.0" in server.metrics()


def test_calls_that_outlast_the_grace_are_counted_in_the_log(
    start: Start, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.publish(root, promote=True)
    server = start(grace_seconds=0.1)
    with held(server):
        answer = server.classifier.Classify.future(request(), timeout=60)
        wait_until(lambda: in_flight(server, 1))
        server.end()
        wait_until(lambda: "calls_cut_off" in caplog.messages)
        assert answer.code() is not grpc.StatusCode.OK
    (record,) = (one for one in caplog.records if one.message == "calls_cut_off")
    assert record.calls == 1


def watch(server: RunningServer, service: str = "") -> grpc.Call:
    """Tells of every change of this health."""
    request = health_pb2.HealthCheckRequest(service=service)
    return health_pb2_grpc.HealthStub(server.channel).Watch(request, timeout=100)


UNKNOWN, SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)


def test_watchers_of_the_health_hear_of_a_model_once_it_is_there(
    server: RunningServer, root: Path
) -> None:
    told = watch(server, "later")
    assert next(told).status == UNKNOWN
    tiny.publish(root, model="later", promote=True)
    assert next(told).status == SERVING


def test_one_watcher_who_goes_takes_no_other_along(server: RunningServer) -> None:
    first, second = watch(server), watch(server)
    assert [next(one).status for one in (first, second)] == [SERVING, SERVING]
    first.cancel()
    assert health(server, "") == "SERVING"  # after which the server knows that the first has gone
    server.end()
    assert next(second).status == NOT_SERVING


def test_those_who_watch_do_not_hold_up_the_end(start: Start) -> None:
    server = start(grace_seconds=300)
    told = watch(server)
    assert next(told).status == SERVING
    server.end()
    assert [one.status for one in told] == [NOT_SERVING]
    wait_until(lambda: server.has_ended)


def services(channel: grpc.Channel) -> set[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=20)
    return {service.name for service in answer.list_services_response.service}


def test_reflection_describes_what_each_listener_has(server: RunningServer) -> None:
    own = {f"grpc.reflection.{one}.ServerReflection" for one in ("v1", "v1alpha")}
    public = {
        "unfreeze.v1.Classifier",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
    } | own
    assert services(server.channel) == public
    private = {"unfreeze.v1.Admin", "inference.GRPCInferenceService"} | own
    assert services(server.admin_channel) == private


def test_reflection_answers_newer_clients_by_its_present_name(server: RunningServer) -> None:
    reflect = server.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = ("grpc.reflection.v1.ServerReflection", "unfreeze.v1.Classifier")
    requests = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=one) for one in asked]
    answers = reflect(iter(requests), timeout=20)
    files = [
        FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])
        for answer in answers
    ]
    assert [(file.package, file.service[0].name) for file in files] == [
        ("grpc.reflection.v1", "ServerReflection"),
        ("unfreeze.v1", "Classifier"),
    ]
    assert "v1alpha" not in str(files[0])


def test_reflection_can_be_switched_off(start: Start) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        services(start(reflection=False).channel)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_metrics_count_what_happened(server: RunningServer) -> None:
    server.classify(tiny.picture(), b"bad", tiny.picture())
    for _ in range(2):
        with pytest.raises(grpc.RpcError):
            server.classify(tiny.picture(), model="x")
    page = server.metrics()
    rpc = 'grpc_method="Classify",grpc_service="unfreeze.v1.Classifier",grpc_type="unary"'
    assert f"grpc_server_started_total{{{rpc}}} 3.0" in page
    assert f'grpc_server_handled_total{{grpc_code="OK",{rpc}}} 1.0' in page
    assert f'grpc_server_handled_total{{grpc_code="NOT_FOUND",{rpc}}} 2.0' in page
    assert f"grpc_server_handling_seconds_count{{{rpc}}} 3.0" in page
    model = 'model="colours",outcome="{}",version="1"'
    assert f"unfreeze_images_total{{{model.format('ok')}}} 2.0" in page
    assert f"unfreeze_images_total{{{model.format('bad_image')}}} 1.0" in page
    assert 'unfreeze_decode_seconds_count{model="colours"} 2.0' in page
    assert 'unfreeze_batch_size_sum{model="colours"} 2.0' in page
    assert 'unfreeze_live_version{model="colours"} 1.0' in page
    labels = 'model="colours",plan="1x2x4",precision="fp32",provider="cpu",version="1"'
    assert f"unfreeze_model_info{{{labels}}} 1.0" in page


def test_names_that_callers_invent_add_no_series(server: RunningServer) -> None:
    before = len(server.metrics().splitlines())
    for i in range(20):
        with pytest.raises(grpc.RpcError):
            server.classify(tiny.picture(), model=f"invented-{i}")
    after = [line for line in server.metrics().splitlines() if "invented" in line]
    assert after == []
    assert len(server.metrics().splitlines()) <= before + 40  # the call itself, with its buckets


def test_a_request_id_comes_back(server: RunningServer) -> None:
    metadata = (("x-request-id", "mine-1"),)
    _, call = server.classifier.Classify.with_call(request(), metadata=metadata)
    assert ("x-request-id", "mine-1") in [tuple(pair) for pair in call.trailing_metadata()]


def test_an_error_of_our_own_is_not_shown_to_callers(
    server: RunningServer, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.service.models._states["colours"].live.executor._run = lambda images: 1 / 0
    with pytest.raises(grpc.RpcError) as caught:
        server.classify(tiny.picture())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details().startswith("internal error (request id ")
    assert "ZeroDivisionError" in caplog.text
