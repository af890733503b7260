"""What is too much, and what comes too late: limits, deadlines, cancellations, priorities."""

import struct
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import tiny
from conftest import RunningServer, Start, best, held, in_flight, wait_until
from tritonclient.grpc import service_pb2 as triton_pb
from tritonclient.grpc import service_pb2_grpc as triton_grpc

from unfreeze.v1 import admin_pb2 as admin_pb
from unfreeze.v1 import classifier_pb2 as pb


def request(colour: str = "red", **fields: object) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(model="colours", images=[tiny.picture(colour)], **fields)


def slow(start: Start, root: Path, work: int, **changes: object) -> RunningServer:
    tiny.publish(root, promote=True, work=work)
    return start(plan="1x1x1", **changes)


def test_a_full_queue_turns_requests_away_at_once(start: Start, root: Path) -> None:
    server = slow(start, root, work=0, max_queue=2)
    with held(server):
        first = [server.classifier.Classify.future(request(), timeout=60) for _ in range(2)]
        wait_until(lambda: in_flight(server, 2))
        with pytest.raises(grpc.RpcError) as caught:
            server.classify(tiny.picture())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2 views of images are in flight and the limit is 2" in caught.value.details()
    assert int(dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1
    assert [answer.result().version for answer in first] == [1, 1]
    assert best(server.classify(tiny.picture())) == ["red"]
    assert 'unfreeze_rejected_total{reason="queue_full"} 1.0' in server.metrics()


def test_a_call_is_refused_before_its_message_is_read_when_no_model_has_room(
    start: Start, root: Path
) -> None:
    server = slow(start, root, work=200, max_queue=1)
    classify = server.channel.unary_unary("/unfreeze.v1.Classifier/Classify")
    with held(server):
        first = server.classifier.Classify.future(request(), timeout=60)
        wait_until(lambda: in_flight(server, 1))
        with pytest.raises(grpc.RpcError) as caught:
            classify(b"\xff not protobuf", timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "1 view of an image is in flight and the limit is 1" in caught.value.details()
    assert 'unfreeze_rejected_total{reason="queue_full"} 1.0' in server.metrics()
    stub = triton_grpc.GRPCInferenceServiceStub(server.channel)
    told = stub.ModelStatistics(triton_pb.ModelStatisticsRequest(name="colours"), timeout=20)
    assert told.model_stats[0].inference_stats.fail.count == 1
    assert first.result().version == 1
    with pytest.raises(grpc.RpcError, match="not a valid request"):
        classify(b"\xff not protobuf", timeout=20)


def test_a_full_model_does_not_refuse_what_is_for_another(start: Start, root: Path) -> None:
    tiny.publish(root, model="other", promote=True, work=200)
    server = slow(start, root, work=200, max_queue=1)
    with held(server):
        first = server.classifier.Classify.future(request(), timeout=60)
        wait_until(lambda: in_flight(server, 1))
        assert best(server.classify(tiny.picture("blue"), model="other")) == ["blue"]
    assert first.result().version == 1


def test_a_full_version_does_not_refuse_what_is_for_another(start: Start, root: Path) -> None:
    server = slow(start, root, work=200, max_queue=1)
    tiny.publish(root, work=200)
    server.classify(tiny.picture(), version=2)
    with held(server):
        first = server.classifier.Classify.future(request(), timeout=60)
        wait_until(lambda: in_flight(server, 1))
        assert server.classify(tiny.picture(), version=2).version == 2
        with pytest.raises(grpc.RpcError, match="no promoted version of a model 'unknown'"):
            server.classify(tiny.picture(), model="unknown")
    assert first.result().version == 1


def test_a_flood_is_refused_unread_after_a_promotion_too(start: Start, root: Path) -> None:
    """The version before, which a rollback returns to, is in memory then, and idle."""
    server = slow(start, root, work=200, max_queue=1)
    tiny.publish(root, promote=True, work=200)
    server.refresh()
    with held(server):
        first = server.classifier.Classify.future(request(), timeout=60)
        wait_until(lambda: in_flight(server, 1))
        with pytest.raises(grpc.RpcError, match="Exceeds maximum queue size"):
            server.classify(tiny.picture(), model="unknown")
    assert first.result().version == 2


def test_a_full_version_does_not_refuse_what_its_candidate_may_answer(
    start: Start, root: Path
) -> None:
    """Also if that is the version before, which nobody else means."""
    server = slow(start, root, work=200, max_queue=1)
    tiny.publish(root, promote=True, work=200)
    server.refresh()
    split = admin_pb.SetCandidateRequest(
        model=tiny.MODEL_NAME, version=1, mode=admin_pb.CANDIDATE_MODE_SPLIT, percent=100
    )
    server.admin.SetCandidate(split, timeout=20)
    with held(server):
        first = server.classifier.Classify.future(request(version=2), timeout=60)
        wait_until(lambda: in_flight(server, 1))
        assert server.classify(tiny.picture()).version == 1
    assert first.result().version == 2


def test_a_full_model_refuses_before_it_looks_at_the_images(start: Start, root: Path) -> None:
    tiny.publish(root, model="other", promote=True, work=200)
    server = slow(start, root, work=200, max_queue=1)
    stub = triton_grpc.GRPCInferenceServiceStub(server.channel)
    without_images = triton_pb.ModelInferRequest(model_name=tiny.MODEL_NAME)
    with held(server):
        first = server.classifier.Classify.future(request(), timeout=60)
        wait_until(lambda: in_flight(server, 1))
        with pytest.raises(grpc.RpcError, match="Exceeds maximum queue size"):
            stub.ModelInfer(without_images, timeout=20)
    assert first.result().version == 1
    assert 'unfreeze_rejected_total{reason="queue_full"} 1.0' in server.metrics()
    with pytest.raises(grpc.RpcError, match="missing 'image'"):
        stub.ModelInfer(without_images, timeout=20)


def test_a_request_larger_than_the_queue_passes_when_nothing_waits(
    start: Start, root: Path
) -> None:
    tiny.publish(root, promote=True)
    server = start(max_queue=4)
    assert best(server.classify(*[tiny.picture("blue")] * 20)) == ["blue"] * 20


def test_calls_over_the_limit_are_turned_away(start: Start, root: Path) -> None:
    server = slow(start, root, work=0, max_rpcs=1)
    with held(server):
        first = server.classifier.Classify.future(request(), timeout=60)
        wait_until(lambda: in_flight(server, 1))
        with pytest.raises(grpc.RpcError) as caught:
            server.classify(tiny.picture())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert first.result().version == 1


def test_a_full_server_is_still_administered_and_reports_live(start: Start, root: Path) -> None:
    tiny.publish(root, promote=True)
    tiny.publish(root, promote=True)
    server = start(max_rpcs=1)
    protocol = triton_grpc.GRPCInferenceServiceStub(server.channel)
    model = triton_pb.ModelReadyRequest(name="colours")
    with held(server):
        first = server.classifier.Classify.future(request(), timeout=60)
        wait_until(lambda: in_flight(server, 1))
        assert protocol.ServerLive(triton_pb.ServerLiveRequest(), timeout=20).live
        assert protocol.ServerReady(triton_pb.ServerReadyRequest(), timeout=20).ready
        assert protocol.ModelReady(model, timeout=20).ready
        back = admin_pb.RollbackRequest(model="colours", reason="it is too slow")
        assert server.admin.Rollback(back, timeout=20).version == 1
    assert first.result().version == 2


def test_a_call_whose_message_is_still_to_come_takes_nobodys_place(
    start: Start, root: Path
) -> None:
    server = slow(start, root, work=0, max_rpcs=1)
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait()
        yield from ()

    classify = server.channel.stream_unary("/unfreeze.v1.Classifier/Classify")
    silent = classify.future(nothing(), timeout=60)
    assert best(server.classify(tiny.picture())) == ["red"]
    over.set()
    with pytest.raises(grpc.RpcError, match="without a message"):
        silent.result()


def test_what_is_cancelled_in_the_queue_never_runs(start: Start, root: Path) -> None:
    server = slow(start, root, work=0)
    with held(server) as executor:
        first = server.classifier.Classify.future(request(), timeout=60)
        wait_until(lambda: in_flight(server, 1) and executor.depth == 0)
        others = [server.classifier.Classify.future(request(), timeout=60) for _ in range(4)]
        wait_until(lambda: executor.depth == 4)
        for answer in others:
            answer.cancel()
        wait_until(lambda: in_flight(server, 1))
    assert first.result().version == 1
    wait_until(lambda: executor.depth == 0)
    assert 'unfreeze_batch_size_sum{model="colours"} 1.0' in server.metrics()
    dropped = 'unfreeze_dropped_images_total{model="colours",reason="cancelled"} 4.0'
    wait_until(lambda: dropped in server.metrics())


def test_a_deadline_that_passes_in_the_queue_frees_its_place(start: Start, root: Path) -> None:
    server = slow(start, root, work=0)
    with held(server) as executor:
        first = server.classifier.Classify.future(request(), timeout=60)
        wait_until(lambda: in_flight(server, 1) and executor.depth == 0)
        with pytest.raises(grpc.RpcError) as caught:
            server.classifier.Classify(request(), timeout=0.3)
        wait_until(lambda: in_flight(server, 1))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert first.result().version == 1
    wait_until(lambda: executor.depth == 0)
    assert 'unfreeze_batch_size_sum{model="colours"} 1.0' in server.metrics()


@pytest.mark.parametrize("gives_up_by", ["deadline", "cancelling"])
def test_what_is_given_up_while_it_runs_frees_its_place_and_harms_nobody(
    start: Start, root: Path, gives_up_by: str
) -> None:
    server = slow(start, root, work=0, max_queue=1)
    timeout = 0.3 if gives_up_by == "deadline" else 60
    with held(server) as executor:
        given_up = server.classifier.Classify.future(request(), timeout=timeout)
        wait_until(lambda: not executor.depth and (in_flight(server, 1) or given_up.done()))
        if gives_up_by == "cancelling":
            given_up.cancel()
        wait_until(lambda: in_flight(server, 0) and given_up.done())
        next_one = server.classifier.Classify.future(request("green"), timeout=60)
        wait_until(lambda: in_flight(server, 1))
    assert best(next_one.result()) == ["green"]
    assert 'unfreeze_images_total{model="colours",outcome="ok",version="1"} 1.0' in server.metrics()
    status = "DEADLINE_EXCEEDED" if gives_up_by == "deadline" else "CANCELLED"
    assert given_up.code().name == status
    assert f'grpc_code="{status}",grpc_method="Classify"' in server.metrics()


def test_views_of_many_images_share_the_queue(server: RunningServer) -> None:
    response = server.classify(*[tiny.picture("green")] * 16, tta_views=8)
    assert best(response) == ["green"] * 16


def test_the_views_of_an_image_are_one_batch_where_one_run_takes_all_cores(
    start: Start, root: Path
) -> None:
    tiny.publish(root, promote=True)
    server = start(plan="1x1x8")
    assert best(server.classify(tiny.picture("green"), tta_views=5)) == ["green"]
    assert 'unfreeze_batch_size_sum{model="colours"} 5.0' in server.metrics()
    assert 'unfreeze_batch_size_count{model="colours"} 1.0' in server.metrics()


def test_a_deadline_that_cannot_be_met_is_refused_at_once(start: Start, root: Path) -> None:
    server = slow(start, root, work=0, max_queue_seconds=100)
    with held(server) as executor:
        executor._admission.times.learn(1, 30.0)  # seconds for an image
        first = server.classifier.Classify.future(request(), timeout=60)
        wait_until(lambda: in_flight(server, 1))
        with pytest.raises(grpc.RpcError) as caught:
            server.classifier.Classify(request(), timeout=50)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "an answer would take 60 s, the deadline is in " in caught.value.details()
    assert 'unfreeze_rejected_total{reason="deadline"} 1.0' in server.metrics()
    assert first.result().version == 1


def test_a_flood_is_refused_unread_until_somebody_turns_out_to_be_urgent(
    start: Start, root: Path
) -> None:
    """How urgent a call is, its message says. While nobody has used a priority, only a few messages
    of a flood are read, so that an urgent caller is noticed when it tries again; then all are."""
    server = slow(start, root, work=200, max_queue_seconds=100)
    classify = server.channel.unary_unary("/unfreeze.v1.Classifier/Classify")

    def code() -> grpc.StatusCode:
        return classify.future(b"\xff not protobuf", timeout=2).code()

    unread, read = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT
    with held(server) as executor:
        # seconds for an image: the next one would take 1.5 s, an urgent one would be second
        executor._admission.times.learn(1, 0.25)
        flood = [server.classifier.Classify.future(request(), timeout=60) for _ in range(5)]
        wait_until(lambda: in_flight(server, 5))
        codes = Counter(code() for _ in range(200))
        assert set(codes) == {unread, read}
        assert codes[unread] > codes[read]

        def is_let_in() -> bool:
            urgent = server.classifier.Classify.future(request("blue", priority=1), timeout=2)
            wait_until(lambda: urgent.done() or executor._admission._n_views == 6)
            let_in = not urgent.done()
            urgent.cancel()
            return let_in

        assert any(is_let_in() for _ in range(200))
        assert {code() for _ in range(50)} == {read}
    assert all(call.result() for call in flood)


@pytest.mark.parametrize("api", ["ours", "protocol"])
def test_the_urgent_come_first_by_either_api(start: Start, root: Path, api: str) -> None:
    server = slow(start, root, work=0)
    ran: list[str] = []
    with held(server) as executor:
        run = executor._run
        executor._run = lambda images: ran.append(COLOURS[images[0, 4, 4].argmax()]) or run(images)
        calls = []
        for waiting, (colour, priority) in enumerate((("red", 0), ("green", 3), ("blue", 1))):
            calls.append(ask(server, api, colour, priority))
            wait_until(lambda: ran and executor.depth == waiting)  # noqa: B023
    assert all(call.result() for call in calls)
    assert ran == ["red", "blue", "green"]


@pytest.mark.parametrize("api", ["ours", "protocol"])
def test_a_full_server_still_answers_what_it_remembers(start: Start, root: Path, api: str) -> None:
    server = slow(start, root, work=0, max_queue=1, cache_entries=9)
    ask(server, api, "red").result()
    with held(server):
        under_way = ask(server, api, "green")
        wait_until(lambda: in_flight(server, 1))
        assert ask(server, api, "red").exception() is None
        assert "Exceeds maximum queue size" in ask(server, api, "blue").details()
    assert under_way.exception() is None


COLOURS = ("red", "green", "blue")


def ask(server: RunningServer, api: str, colour: str, priority: int = 0) -> grpc.Future:
    if api == "ours":
        return server.classifier.Classify.future(request(colour, priority=priority), timeout=60)
    image = tiny.picture(colour)
    tensor = triton_pb.ModelInferRequest.InferInputTensor(
        name="image", datatype="BYTES", shape=[1, 1]
    )
    asked = triton_pb.ModelInferRequest(
        model_name="colours",
        inputs=[tensor],
        raw_input_contents=[struct.pack("<I", len(image)) + image],
        parameters={"priority": triton_pb.InferParameter(uint64_param=priority)},
    )
    stub = triton_grpc.GRPCInferenceServiceStub(server.channel)
    return stub.ModelInfer.future(asked, timeout=60)
