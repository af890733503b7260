"""The client against small real servers that fail on cue."""

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from conftest import wait_until
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider

import unfreeze
from unfreeze import AdminClient, AsyncClient, Client, Prediction
from unfreeze.channel import LONGEST_PAUSE_S, OPTIONS, RetryPolicy, target
from unfreeze.errors import call_error
from unfreeze.predictions import MAX_REQUEST_BYTES, MAX_REQUEST_IMAGES, chunks
from unfreeze.v1 import admin_pb2, admin_pb2_grpc, classifier_pb2, classifier_pb2_grpc

Code = grpc.StatusCode
Ask = Callable[..., list[Prediction]]
LOST = "Socket closed"  # as gRPC says it of a connection


class Echo(classifier_pb2_grpc.ClassifierServicer):
    """Fails as told, a call each; then labels every image with its own bytes."""

    def __init__(self, *failures: grpc.StatusCode, details: str = "as told") -> None:
        self.failures = list(failures)
        self.details = details
        self.requests: list[classifier_pb2.ClassifyRequest] = []

    def Classify(self, request, context):
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        if self.failures:
            context.abort(self.failures.pop(0), self.details)
        results = []
        for image in request.images:
            if image.startswith(b"elsewhere"):
                error = classifier_pb2.Error(code=3, send_in_another_request=True)
                results.append(classifier_pb2.ImageResult(error=error))
                continue
            if image.startswith(b"bad"):
                error = classifier_pb2.Error(code=3, message="not an image")
                results.append(classifier_pb2.ImageResult(error=error))
                continue
            label = classifier_pb2.Label(name=image[:20].decode(), probability=1, chosen=True)
            prediction = classifier_pb2.Prediction(labels=[label])
            results.append(classifier_pb2.ImageResult(prediction=prediction))
        return classifier_pb2.ClassifyResponse(model=request.model, version=7, results=results)


class Failed(grpc.RpcError):
    """A call that ended with a code."""

    def __init__(
        self, code: grpc.StatusCode, *trailers: tuple[str, str], details: str = "as told"
    ) -> None:
        self.code = lambda: code
        self.trailing_metadata = lambda: trailers
        self.details = lambda: details


class Slow(Echo):
    """Answers when its event is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def Classify(self, request, context):
        self.requests.append(request)
        self.go.wait(60)
        return classifier_pb2.ClassifyResponse()


class Admin(admin_pb2_grpc.AdminServicer):
    """One job with three events; the connection breaks once after the second."""

    def __init__(self, *failures: grpc.StatusCode, details: str = "as told") -> None:
        self.failures = list(failures)
        self.details = details
        self.requests: list[object] = []
        self.breaks = 1

    def _called(self, request, context):
        self.requests.append(request)
        if self.failures:
            context.abort(self.failures.pop(0), self.details)

    def StartTraining(self, request, context):
        self._called(request, context)
        return admin_pb2.StartTrainingResponse(job=admin_pb2.Job(id="j1", model=request.model))

    def GetJob(self, request, context):
        return admin_pb2.Job(id=request.job_id, state=admin_pb2.JOB_STATE_SUCCEEDED, version=2)

    def Rollback(self, request, context):
        self._called(request, context)
        return admin_pb2.PromoteResponse(model=request.model, version=1)

    def ClearCandidate(self, request, context):
        self._called(request, context)
        return admin_pb2.ClearCandidateResponse()

    def PruneVersions(self, request, context):
        self._called(request, context)
        return admin_pb2.PruneVersionsResponse()

    def WatchJob(self, request, context):
        self._called(request, context)
        for sequence in range(max(1, request.from_sequence), 4):
            if sequence == 3 and self.breaks:
                self.breaks -= 1
                context.abort(Code.UNAVAILABLE, "going away")
            yield admin_pb2.JobEvent(sequence=sequence, note=admin_pb2.Note(text=str(sequence)))


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    """Starts a server for servicers and gives its address."""
    servers: list[grpc.Server] = []

    def start(classifier=None, admin=None, checks=None, max_bytes=None) -> str:
        options = [("grpc.so_reuseport", 0)]
        if max_bytes:
            options.append(("grpc.max_receive_message_length", max_bytes))
        server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
        if classifier:
            classifier_pb2_grpc.add_ClassifierServicer_to_server(classifier, server)
        if admin:
            admin_pb2_grpc.add_AdminServicer_to_server(admin, server)
        if checks:
            health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait()


def ask_sync(address: str, images, **options) -> list[Prediction]:
    with Client(address) as client:
        return client.classify(images, model="m", **options)


def ask_async(address: str, images, **options) -> list[Prediction]:
    async def ask() -> list[Prediction]:
        async with AsyncClient(address) as client:
            return await client.classify(images, model="m", **options)

    return asyncio.run(ask())


both = pytest.mark.parametrize("ask", [ask_sync, ask_async], ids=["sync", "async"])


@both
def test_many_images_are_answered_in_order(ask: Ask, start):
    echo = Echo()
    answers = ask(start(echo), [str(number).encode() for number in range(100)])
    assert [answer.label.name for answer in answers] == [str(number) for number in range(100)]
    assert sorted(len(request.images) for request in echo.requests) == [4, 32, 32, 32]
    assert {answer.version for answer in answers} == {7}


@both
def test_a_single_path_or_a_single_image_gives_one_answer(ask: Ask, start, tmp_path: Path):
    address = start(Echo())
    path = tmp_path / "one.jpg"
    path.write_bytes(b"one")
    (from_path,) = ask(address, path)
    (from_bytes,) = ask(address, b"two")
    assert (from_path.image, from_path.label.name) == (str(path), "one")
    assert (from_bytes.image, from_bytes.label.name) == ("image 0", "two")


@both
def test_no_images_are_no_answers(ask: Ask, start):
    assert ask(start(Echo()), []) == []


@both
def test_a_bad_image_does_not_fail_the_others(ask: Ask, start, tmp_path: Path):
    good, bad, missing = ask(start(Echo()), [b"good", b"bad", tmp_path / "missing.jpg"])
    assert good.label.chosen
    assert isinstance(bad.error, unfreeze.ImageError)
    assert str(missing.error) == "cannot be read: No such file or directory"
    with pytest.raises(unfreeze.ImageError, match="not an image"):
        _ = bad.label


@both
def test_an_image_larger_than_a_request_may_be_does_not_fail_the_others(
    ask: Ask, start, tmp_path: Path
):
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(70_000_000)
    first, from_path, from_bytes, last = ask(
        start(Echo()), [b"first", large, bytes(70_000_000), b"last"]
    )
    assert (first.label.name, last.label.name) == ("first", "last")
    for refused in (from_path, from_bytes):
        assert isinstance(refused.error, unfreeze.ImageError)
        assert str(refused.error) == "70.0 MB, and a request may have 67.1 MB at most"


@both
def test_a_request_of_which_nothing_is_taken_is_not_sent_again(ask: Ask, start):
    echo = Echo()
    good, *others = ask(start(echo), [b"good", b"elsewhere", b"elsewhere too"])
    assert good.label.name == "good"
    assert [type(answer.error) for answer in others] == [unfreeze.ImageError] * 2
    assert [len(request.images) for request in echo.requests] == [3, 2]


@both
def test_images_that_cannot_be_read_are_not_asked_about(ask: Ask, start, tmp_path: Path):
    echo = Echo()
    (answer,) = ask(start(echo), tmp_path / "missing.jpg")
    assert answer.error is not None
    assert answer.chosen == ()
    assert echo.requests == []


@both
@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.CANCELLED, Code.RESOURCE_EXHAUSTED])
def test_a_server_in_trouble_is_asked_again(ask: Ask, code: grpc.StatusCode, start):
    echo = Echo(code, code)
    (answer,) = ask(start(echo), b"one")
    assert answer.label.name == "one"
    assert len(echo.requests) == 3


@both
def test_an_image_of_megabytes_is_repeated_too(ask: Ask, start):
    echo = Echo(Code.UNAVAILABLE)
    ask(start(echo), b"x" * (3 << 20))
    assert len(echo.requests) == 2


@both
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (Code.INVALID_ARGUMENT, unfreeze.InvalidRequest),
        (Code.NOT_FOUND, unfreeze.NotFound),
        (Code.PERMISSION_DENIED, unfreeze.NotAllowed),
        (Code.FAILED_PRECONDITION, unfreeze.Conflict),
        (Code.INTERNAL, unfreeze.ServerError),
    ],
)
def test_a_refusal_is_final(ask: Ask, code: grpc.StatusCode, error: type[Exception], start):
    echo = Echo(code, details="no model m")
    with pytest.raises(error, match="no model m") as caught:
        ask(start(echo), b"one")
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert len(echo.requests) == 1


@both
def test_an_image_above_the_servers_limit_is_not_sent_again(ask: Ask, start):
    echo = Echo(Code.RESOURCE_EXHAUSTED, details="Received message larger than max (9 vs. 4)")
    (answer,) = ask(start(echo), b"one")
    assert isinstance(answer.error, unfreeze.ImageError)
    assert str(answer.error).endswith("of its own: Received message larger than max (9 vs. 4)")
    assert len(echo.requests) == 1


def test_a_call_of_administration_above_the_servers_limit_is_an_invalid_request(start):
    with (
        AdminClient(start(admin=Admin(), max_bytes=1000)) as client,
        pytest.raises(unfreeze.InvalidRequest, match="larger than max"),
    ):
        client.start_training("m", "x" * 1000)


@both
def test_repeating_ends_with_the_attempts(ask: Ask, start):
    echo = Echo(*[Code.UNAVAILABLE] * 20)
    with pytest.raises(unfreeze.Unavailable):
        ask(start(echo), b"one")
    assert len(echo.requests) == 6


def test_a_busy_server_is_asked_until_the_deadline():
    now = 0.0
    retries = RetryPolicy("server", timeout_s=60, attempts=2, now=lambda: now)
    while now < 57:
        now += retries.pause_s(Failed(Code.RESOURCE_EXHAUSTED))
    now = 59.5
    with pytest.raises(unfreeze.Overloaded):
        retries.pause_s(Failed(Code.RESOURCE_EXHAUSTED))
    assert retries.failures > 25


def test_a_busy_server_says_when_to_ask_again():
    retries = RetryPolicy("server", timeout_s=60, attempts=2)
    told = Failed(Code.RESOURCE_EXHAUSTED, ("x", "y"), ("grpc-retry-pushback-ms", "7000"))
    assert 7 <= retries.pause_s(told) <= 10.5
    nonsense = Failed(Code.RESOURCE_EXHAUSTED, ("grpc-retry-pushback-ms", "-1"))
    assert retries.pause_s(nonsense) < 1


@both
def test_the_priority_reaches_the_server(ask: Ask, start):
    echo = Echo()
    ask(start(echo), b"one", priority=1)
    assert echo.requests[0].priority == 1


@both
def test_repeating_ends_before_the_deadline(ask: Ask, start):
    echo = Echo(*[Code.UNAVAILABLE] * 20)
    # what the last attempt gets may be too short even for a refusal
    with pytest.raises((unfreeze.Unavailable, unfreeze.DeadlineExceeded)):
        ask(start(echo), b"one", timeout_s=0.3)
    assert len(echo.requests) < 6


@both
def test_no_answer_in_time_is_an_error_of_its_own(ask: Ask, start):
    slow = Slow()
    with pytest.raises(unfreeze.DeadlineExceeded):
        ask(start(slow), b"one", timeout_s=0.2)
    slow.go.set()


@both
def test_no_server_is_reported_within_seconds(ask: Ask):
    with pytest.raises(unfreeze.Unavailable) as caught:
        ask("127.0.0.1:1", b"one")
    nobody = "no server answers at this address; is it running, and is the address right?"
    assert str(caught.value) == f"127.0.0.1:1: {nobody}"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("DNS resolution failed for h:1: C-ares status is not ARES_SUCCESS", "cannot be resolved"),
        ("errors resolving h:1: [Domain name not found]", "cannot be resolved"),
        ("recvmsg:Connection reset by peer", "connection to the server was lost"),
    ],
)
def test_what_grpc_says_of_a_missing_server_is_put_in_words(said: str, meant: str):
    error = call_error(Failed(Code.UNAVAILABLE, details=said), "h:1")
    assert isinstance(error, unfreeze.Unavailable)
    assert meant in str(error)


def test_a_servers_own_words_are_passed_on(start):
    echo = Echo(*[Code.UNAVAILABLE] * 20, details="m cannot be served: its file is damaged")
    with pytest.raises(unfreeze.Unavailable, match=r":\d+: m cannot be served: its file is damag"):
        ask_sync(start(echo), b"one")


def test_closing_the_client_ends_a_call_for_good(start):
    slow = Slow()
    client = Client(start(slow))
    closing = threading.Thread(target=lambda: (wait_until(lambda: slow.requests), client.close()))
    closing.start()
    with pytest.raises(unfreeze.UnfreezeClientError):
        client.classify(b"one", model="m")
    closing.join()
    slow.go.set()
    assert len(slow.requests) == 1


async def test_closing_the_asynchronous_client_ends_a_call_and_cancels_nobody(start):
    slow = Slow()
    client = AsyncClient(start(slow))
    asking = asyncio.create_task(client.classify(b"one", model="m"))
    await asyncio.to_thread(wait_until, lambda: slow.requests)
    await client.close()
    with pytest.raises(unfreeze.Unavailable, match="this client was closed"):
        await asking
    slow.go.set()
    assert len(slow.requests) == 1


def test_closing_the_client_ends_its_wait_for_a_server(start):
    echo = Echo(details=LOST)
    client = Client(start(echo))
    client.classify(b"one", model="m")
    echo.failures = [Code.UNAVAILABLE] * 1000
    closing = threading.Thread(
        target=lambda: (wait_until(lambda: len(echo.requests) > 4), client.close())
    )
    closing.start()
    with pytest.raises(unfreeze.Unavailable):  # the last failure, or that the channel is closed
        client.classify(b"two", model="m")
    closing.join()


def test_closing_the_client_ends_its_wait_for_the_admin_listener(start):
    admin = Admin(details=LOST)
    client = AdminClient(start(admin=admin))
    client.start_training("m", "photos")
    admin.failures = [Code.UNAVAILABLE] * 1000
    closing = threading.Thread(
        target=lambda: (wait_until(lambda: len(admin.requests) > 4), client.close())
    )
    closing.start()
    with pytest.raises(unfreeze.Unavailable):  # the last failure, or that the channel is closed
        client.start_training("m", "photos")
    closing.join()


async def test_cancelling_the_caller_cancels_the_call(start):
    slow = Slow()
    async with AsyncClient(start(slow)) as client:
        asking = asyncio.create_task(client.classify(b"one", model="m"))
        await asyncio.to_thread(wait_until, lambda: slow.requests)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    slow.go.set()
    assert len(slow.requests) == 1


def test_every_address_of_a_name_is_asked_in_turn(start):
    one, other = Echo(), Echo()
    with Client(f"ipv4:{start(one)},{start(other)}") as client:
        for _ in range(20):
            client.classify(b"one", model="m")
    assert one.requests
    assert other.requests


def test_a_server_that_says_it_is_draining_is_left_alone(start):
    one, draining, checks = Echo(), Echo(), health.HealthServicer()
    checks.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    with Client(f"ipv4:{start(one)},{start(draining, checks=checks)}") as client:
        for _ in range(20):
            client.classify(b"one", model="m")
    assert len(one.requests) == 20
    assert draining.requests == []


@both
def test_a_server_that_is_draining_is_asked_where_there_is_no_other(ask: Ask, start):
    draining, checks = Echo(), health.HealthServicer()
    checks.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    address = start(draining, checks=checks)
    alone = ask(address, [b"x"] * 100)
    beside_a_dead_one = ask(f"ipv4:127.0.0.1:1,{address}", [b"x"] * 100)
    assert {answer.label.name for answer in (*alone, *beside_a_dead_one)} == {"x"}
    assert sum(len(request.images) for request in draining.requests) == 200


def test_a_server_that_has_answered_before_is_waited_for(start):
    echo, admin = Echo(details=LOST), Admin(details=LOST)
    address = start(echo, admin)
    with Client(address, attempts=1) as client, AdminClient(address, attempts=1) as administrator:
        client.classify(b"one", model="m")
        administrator.get_job("j1")
        echo.failures = admin.failures = [Code.UNAVAILABLE] * 3
        (answer,) = client.classify(b"two", model="m")
        job = administrator.start_training("m", "photos")
    assert answer.label.name == "two"
    assert job.id == "j1"


async def test_a_server_that_has_answered_before_is_waited_for_asynchronously(start):
    echo = Echo(details=LOST)
    async with AsyncClient(start(echo), attempts=1) as client:
        await client.classify(b"one", model="m")
        echo.failures = [Code.UNAVAILABLE] * 3
        (answer,) = await client.classify(b"two", model="m")
    assert answer.label.name == "two"


def test_a_server_that_says_why_it_cannot_answer_is_not_asked_until_the_deadline(start):
    echo = Echo(details="m cannot be served: its file is damaged")
    address = start(echo)
    with Client(address, attempts=3) as client:
        client.classify(b"one", model="m")
        echo.failures = [Code.UNAVAILABLE] * 100
        with pytest.raises(unfreeze.Unavailable, match="m cannot be served"):
            client.classify(b"two", model="m", timeout_s=1000)
    assert len(echo.requests) == 1 + 3


def test_a_server_may_be_waited_for_for_hours():
    hours = RetryPolicy("h:1", timeout_s=86_400, attempts=1, now=lambda: 0)
    lost = Failed(Code.UNAVAILABLE, details=LOST)
    pauses = [hours.pause_s(lost, answered_before=True) for _ in range(2000)]
    assert max(pauses) <= LONGEST_PAUSE_S


def test_a_restart_behind_a_proxy_is_waited_for():
    """The proxy answers meanwhile, so no connection is lost."""
    minutes = RetryPolicy("h:1", timeout_s=600, attempts=2, now=lambda: 0)
    gone = Failed(Code.UNAVAILABLE, details="Received http2 header with status: 502")
    pauses = [minutes.pause_s(gone, answered_before=True) for _ in range(100)]
    assert max(pauses) <= LONGEST_PAUSE_S


def test_images_too_large_together_for_a_proxy_are_sent_in_several_requests(start):
    echo = Echo(Code.UNKNOWN, details="Received http2 header with status: 413")
    with Client(start(echo)) as client:
        answers = client.classify([b"one", b"two"], model="m")
    assert [answer.label.name for answer in answers] == ["one", "two"]
    assert [len(request.images) for request in echo.requests] == [2, 1, 1]


def test_the_service_config_for_other_languages_repeats_what_is_safe_to_repeat(start):
    page = Path(__file__).parent.parent / "docs" / "clients.md"
    config = re.search(r"```json\n(.+?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    echo = Echo(Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.CANCELLED)
    options = [("grpc.service_config", config[1]), ("grpc.per_rpc_retry_buffer_size", 1 << 20)]
    request = classifier_pb2.ClassifyRequest(model="m", images=[b"one"])
    with grpc.insecure_channel(start(echo), options) as channel:
        response = classifier_pb2_grpc.ClassifierStub(channel).Classify(request, timeout=60)
    assert response.version == 7
    assert len(echo.requests) == 4


@both
def test_the_servers_spans_belong_to_the_callers_trace(ask: Ask, start):
    server = Echo()
    address = start(server)
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with tracer.start_as_current_span("mine") as span:
        ask(address, b"a")
    trace_id = f"{span.get_span_context().trace_id:032x}"
    assert server.metadata["traceparent"].split("-")[1] == trace_id
    ask(address, b"a")
    assert "traceparent" not in server.metadata


def test_requests_are_bounded_in_count_and_bytes():
    megabyte = b"x" * (1 << 20)
    sizes = [len(chunk.images) for chunk in chunks([megabyte] * 20 + [b"x"] * 50)]
    assert max(sizes) <= MAX_REQUEST_IMAGES
    assert sizes[0] * len(megabyte) <= MAX_REQUEST_BYTES
    assert sum(sizes) == 70


class Few(Echo):
    """Takes eight images at a time, as `serve --max-images 8` does."""

    refused = 0

    def Classify(self, request, context):
        if (n := len(request.images)) > 8:
            self.refused += 1
            context.abort(
                Code.INVALID_ARGUMENT,
                f"{n} images in one request, and the limit is 8; send several requests, or use "
                "ClassifyStream",
            )
        return super().Classify(request, context)


@both
def test_a_server_that_takes_fewer_images_at_a_time_is_sent_fewer(ask: Ask, start):
    few = Few()
    answers = ask(start(few), [str(number).encode() for number in range(300)])
    assert [answer.label.name for answer in answers] == [str(number) for number in range(300)]
    assert max(len(request.images) for request in few.requests) == 8


@both
def test_a_server_that_takes_fewer_bytes_at_a_time_is_sent_fewer(ask: Ask, start):
    images = [str(number).encode().ljust(200_000, b".") for number in range(70)]
    images[40] = b"large".ljust(2_000_000, b".")
    answers = ask(start(Echo(), max_bytes=1 << 20), images)
    refused = answers.pop(40)
    assert isinstance(refused.error, unfreeze.ImageError)
    assert "larger than max (2000" in str(refused.error)
    numbers = [number for number in range(70) if number != 40]
    assert [int(answer.label.name.rstrip(".")) for answer in answers] == numbers


def test_what_a_server_takes_is_learnt_once(start):
    few = Few()
    with Client(start(few), concurrent_requests=1) as client:
        for _ in range(3):
            client.classify([b"x"] * 32, model="m")
    assert [len(request.images) for request in few.requests] == [8] * 12
    assert few.refused == 2  # 32 images, and 16


def test_an_image_above_the_bound_travels_alone():
    large = b"x" * (MAX_REQUEST_BYTES + 1)
    assert [len(chunk.images) for chunk in chunks([b"x", large, b"x"])] == [1, 1, 1]


@pytest.mark.parametrize(
    ("address", "meant"),
    [("host:1", "dns:///host:1"), ("unix:/run/s", "unix:/run/s"), ("dns:///h:1", "dns:///h:1")],
)
def test_a_bare_address_is_looked_up(address: str, meant: str):
    assert target(address) == meant


@pytest.mark.parametrize("address", ["8001", "http://127.0.0.1:8001", "https://unfreeze:443"])
def test_an_address_that_is_no_host_and_port_is_refused(address: str):
    with pytest.raises(
        unfreeze.InvalidRequest, match=f"^{address}: write the address as HOST:PORT"
    ):
        Client(address)


@both
@pytest.mark.parametrize(
    ("name", "number", "least", "most"),
    [
        ("version", -5, 1, 2**64 - 1),
        ("top_k", -1, 1, 2**32 - 1),
        ("top_k", 2**32, 1, 2**32 - 1),
        ("tta_views", -1, 0, 2**32 - 1),
        ("priority", -1, 0, 3),
    ],
)
def test_a_number_out_of_range_is_an_invalid_request(
    ask: Ask, name: str, number: int, least: int, most: int, start
):
    echo = Echo()
    with pytest.raises(
        unfreeze.InvalidRequest, match=f"^{name} is {number}; use {least} to {most}$"
    ):
        ask(start(echo), b"one", **{name: number})
    assert echo.requests == []


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda admin: admin.jobs(limit=-1), "limit"),
        (lambda admin: admin.promote("m", -1), "version"),
        (lambda admin: admin.set_candidate("m", -1, mode="split", percent=5), "version"),
        (lambda admin: admin.prune("m", keep=-1), "keep"),
        (lambda admin: list(admin.watch("j1", from_sequence=-1)), "from_sequence"),
    ],
)
def test_administration_takes_no_number_out_of_range(
    call: Callable[[AdminClient], object], name: str, start
):
    with (
        AdminClient(start(admin=Admin())) as admin,
        pytest.raises(unfreeze.InvalidRequest, match=f"^{name} is -1; use [01] to "),
    ):
        call(admin)


@both
@pytest.mark.parametrize("timeout_s", [float("inf"), 1e300])
def test_a_call_may_take_for_ever(ask: Ask, timeout_s: float, start):
    address = start(Echo(), Admin())
    (answer,) = ask(address, b"one", timeout_s=timeout_s)
    with AdminClient(address, timeout_s=timeout_s) as admin:
        job = admin.get_job("j1")
        back = admin.rollback("m")
    assert answer.label.name == "one"
    assert (job.state, back.version) == ("succeeded", 1)


@both
@pytest.mark.parametrize("timeout_s", [float("nan"), 0, -1])
def test_a_call_that_may_take_no_time_is_an_invalid_request(ask: Ask, timeout_s: float, start):
    address = start(Echo())
    why = f"^timeout_s is {timeout_s}; use a number of seconds above 0$"
    with pytest.raises(unfreeze.InvalidRequest, match=why):
        ask(address, b"one", timeout_s=timeout_s)
    with pytest.raises(unfreeze.InvalidRequest, match=why):
        AdminClient(address, timeout_s=timeout_s)


def test_training_is_started_with_a_key_that_survives_repetition(start):
    admin = Admin(Code.UNAVAILABLE)
    with AdminClient(start(admin=admin)) as client:
        job = client.start_training("m", "photos", settings={"size": "64"}, promotion="never")
    first, second = admin.requests
    assert first == second
    assert len(first.idempotency_key) == 36
    assert job.id == "j1"


def test_any_number_of_images_is_taken_a_few_requests_ahead(start):
    taken = []

    def images() -> Iterator[bytes]:
        for number in range(10_000):
            taken.append(number)
            yield f"{number}".encode()

    with Client(start(Echo()), concurrent_requests=2) as client:
        answers = client.classify_each(images(), model="m")
        assert next(answers).label.name == "0"
        assert len(taken) <= 6 * MAX_REQUEST_IMAGES
        assert [answer.label.name for answer in answers] == [str(n) for n in range(1, 10_000)]


ONCE = {
    "rollback": lambda client: client.rollback("m"),
    "clear_candidate": lambda client: client.clear_candidate("m"),
    "prune": lambda client: client.prune("m", keep=1),
}


@pytest.mark.parametrize("call", ONCE)
def test_what_means_something_else_the_second_time_is_sent_once(start, call: str):
    admin = Admin(Code.UNAVAILABLE)
    with AdminClient(start(admin=admin)) as client, pytest.raises(unfreeze.Unavailable):
        ONCE[call](client)
    assert len(admin.requests) == 1


def test_a_watch_goes_on_where_the_connection_broke(start):
    admin = Admin()
    with AdminClient(start(admin=admin)) as client:
        told = [event.sequence for event in client.watch("j1")]
        job = client.wait("j1")
    assert told == [1, 2, 3]
    assert [request.from_sequence for request in admin.requests[:2]] == [1, 3]
    assert (job.state, job.version) == ("succeeded", 2)


class Silent(Admin):
    """Has nothing to tell for a while, and then goes away."""

    def WatchJob(self, request, context):
        self._called(request, context)
        if self.breaks:
            self.breaks -= 1
            threading.Event().wait(1)
            context.abort(Code.UNAVAILABLE, "going away")
        yield admin_pb2.JobEvent(sequence=1, note=admin_pb2.Note(text="1"))


def test_a_watch_of_a_silent_job_outlives_the_server_too(start, monkeypatch):
    monkeypatch.setattr("unfreeze.admin.WATCH_RETRY_S", 0.5)
    monkeypatch.setattr("unfreeze.admin.CONNECTED_S", 0.5)
    with AdminClient(start(admin=Silent())) as client:
        assert [event.sequence for event in client.watch("j1")] == [1]


def test_a_watch_of_an_unknown_job_ends_at_once(start):
    admin = Admin(Code.NOT_FOUND)
    with AdminClient(start(admin=admin)) as client, pytest.raises(unfreeze.NotFound):
        list(client.watch("j2"))


def test_the_client_loads_grpc_and_protobuf_alone():
    code = "import sys, unfreeze; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    heavy = {"numpy", "torch", "PIL", "pydantic", "onnxruntime", "rich"}
    assert not heavy & set(loaded)
    assert not {"registry", "service", "training"} & set(loaded)


def test_the_service_config_is_understood():
    with grpc.insecure_channel("dns:///127.0.0.1:1", OPTIONS) as channel:
        stub = classifier_pb2_grpc.ClassifierStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Classify(classifier_pb2.ClassifyRequest(), timeout=2)
    assert "service config" not in (caught.value.details() or "").lower()
