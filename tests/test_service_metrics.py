"""What is counted, how it is labelled, and what goes when a version does."""

import re
import socket
import struct
import threading
import urllib.request

import numpy as np
import pytest
from conftest import RunningServer, Start, wait_until
from prometheus_client import generate_latest

from service.execution.work import Answer
from service.observability.metrics import Metrics
from service.observability.metrics_server import MAX_CONNECTIONS
from service.observability.prediction_counts import MAX_CLASSES
from service.observability.rpc_counts import RpcCounts
from service.observability.version_counts import VersionCounts
from unfreeze.v1 import admin_pb2 as pb

SCORES = np.array([0.2, 0.7, 0.1], dtype=np.float32)
COLOURS = ("red", "green", "blue")


def page(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def value(text: str, series: str) -> float:
    """The value of the one series that begins like this."""
    (found,) = re.findall(rf"^{re.escape(series)}\S* (\S+)$", text, re.MULTILINE)
    return float(found)


def test_predicted_classes_and_their_confidence_are_counted():
    metrics = Metrics()
    counts = VersionCounts(metrics, "colours", 3, COLOURS)
    counts.answered([Answer(SCORES), Answer(SCORES)])
    counts.answered([Answer(None)])
    text = page(metrics)
    of = 'model="colours",version="3"'
    assert value(text, f'unfreeze_predictions_total{{class="green",{of}}}') == 2
    assert value(text, f'unfreeze_predictions_total{{class="red",{of}}}') == 0
    assert value(text, f"unfreeze_confidence_sum{{{of}}}") == pytest.approx(1.4)
    assert value(text, 'unfreeze_images_total{model="colours",outcome="bad_image"') == 1


def test_probabilities_that_are_no_numbers_are_seen_and_spoil_no_sum():
    metrics = Metrics()
    counts = VersionCounts(metrics, "colours", 3, COLOURS)
    counts.answered([Answer(np.array([0.2, np.nan, 0.1], np.float32)), Answer(SCORES)])
    text = page(metrics)
    for outcome in ("ok", "not_a_number"):
        series = f'unfreeze_images_total{{model="colours",outcome="{outcome}"'
        assert value(text, series) == 1
    assert value(text, "unfreeze_confidence_sum{") == pytest.approx(0.7)


def test_every_metric_of_ours_can_be_asked_for_by_name():
    metrics = Metrics()
    counts = VersionCounts(metrics, "colours", 3, COLOURS)
    counts.answered([Answer(SCORES)])
    samples = {one.name for family in metrics.registry.collect() for one in family.samples}
    ours = sorted(name for name in samples if name.startswith(("unfreeze_", "grpc_")))
    assert "unfreeze_predictions_total" in ours
    for name in ours:
        alone = generate_latest(metrics.registry.restricted_registry([name])).decode()
        assert re.search(rf"^{name}\b", alone, re.MULTILINE), name


@pytest.mark.parametrize("last", ["class 99", "other"])
def test_of_many_classes_the_first_are_counted_by_name_and_the_rest_together(last: str):
    metrics, n_classes = Metrics(), 3 * MAX_CLASSES
    labels = [f"class {i}" for i in range(MAX_CLASSES - 2)] + [last]
    labels += [f"class {i}" for i in range(MAX_CLASSES, n_classes + 1)]
    counts = VersionCounts(metrics, "large", 1, labels)
    scores = np.eye(n_classes, dtype=np.float32)
    counts.answered([Answer(scores[i]) for i in (7, 98, 99, 100, n_classes - 1)])
    text = page(metrics)
    assert text.count("unfreeze_predictions_total{") == MAX_CLASSES - (last == "other")
    expected = {"class 7": 1, "other": 3} | ({"other": 4} if last == "other" else {last: 1})
    for name, n_images in expected.items():
        assert value(text, f'unfreeze_predictions_total{{class="{name}"') == n_images
    assert value(text, "unfreeze_confidence_sum{") == 5


def test_nothing_is_left_of_a_version_that_is_unloaded():
    metrics = Metrics()
    counts = VersionCounts(metrics, "colours", 3, COLOURS)
    counts.answered([Answer(SCORES)])
    counts.close()
    assert 'version="3"' not in page(metrics)


def test_a_version_that_was_loaded_again_is_still_counted():
    metrics = Metrics()
    old, new = (VersionCounts(metrics, "colours", 3, COLOURS) for _ in range(2))
    old.answered([Answer(SCORES)])
    old.close()
    new.answered([Answer(SCORES)])
    series = 'unfreeze_predictions_total{class="green",model="colours",version="3"}'
    assert value(page(metrics), series) == 2


def test_a_version_that_is_loaded_while_it_is_unloaded_is_still_counted():
    class Overtaken(tuple[str, ...]):
        """Whoever looks at it is overtaken by the unloading, unless that has to wait."""

        def __len__(self) -> int:
            if unloading.ident is None:
                unloading.start()
                unloading.join(0.1)
            return super().__len__()

    metrics = Metrics()
    unloading = threading.Thread(target=VersionCounts(metrics, "colours", 3, COLOURS).close)
    new = VersionCounts(metrics, "colours", 3, Overtaken(COLOURS))
    unloading.join()
    new.answered([Answer(SCORES)])
    assert value(page(metrics), 'unfreeze_images_total{model="colours",outcome="ok"') == 1


def test_a_label_cannot_forge_a_line():
    metrics = Metrics()
    VersionCounts(metrics, "colours", 1, ['a"} 1\nforged 7', "b"])
    assert not re.search("^forged", page(metrics), re.MULTILINE)


def test_latency_has_an_edge_at_the_objective():
    assert 'le="0.125"' not in page(with_a_call(Metrics()))
    assert 'le="0.125"' in page(with_a_call(Metrics(slo_s=0.125)))


def with_a_call(metrics: Metrics) -> Metrics:
    calls = RpcCounts(metrics, "unary", "unfreeze.v1.Classifier", "Classify")
    calls.begin()
    calls.end("NOT_FOUND", 0.01, trace_id="0af7651916cd43dd8448eb211c80319c")
    return metrics


def test_failures_are_there_before_the_first_one():
    metrics = with_a_call(Metrics())
    handled = re.findall(r'handled_total\{grpc_code="(\w+)".* (\S+)', page(metrics))
    assert dict(handled) == {
        "OK": "0.0",
        "INTERNAL": "0.0",
        "UNAVAILABLE": "0.0",
        "RESOURCE_EXHAUSTED": "0.0",
        "DEADLINE_EXCEEDED": "0.0",
        "NOT_FOUND": "1.0",
    }


def test_a_slow_bucket_names_a_trace_to_those_who_read_openmetrics(start: Start):
    server = start()
    with_a_call(server.service.metrics)
    ask = urllib.request.Request(f"http://{server.metrics_address}/metrics")
    ask.add_header("Accept", "application/openmetrics-text; version=1.0.0")
    with urllib.request.urlopen(ask) as answer:
        exemplar = '# {trace_id="0af7651916cd43dd8448eb211c80319c"} 0.01'
        assert exemplar in answer.read().decode()


def test_the_process_is_measured(server: RunningServer):
    assert value(server.metrics(), "process_resident_memory_bytes") > 1e7
    assert value(server.metrics(), "process_open_fds") > 3


def test_a_scraper_that_breaks_off_or_says_nothing_is_let_go(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("service.observability.metrics_server.CONNECTION_S", 0.1)
    server = start()
    address = ("127.0.0.1", server.service.metrics_port)
    silent, gone = (socket.create_connection(address, timeout=20) for _ in range(2))
    gone.send(b"GET /metrics HTTP/1.1\r\nHost: ")
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    gone.close()
    assert silent.recv(1) == b""
    silent.close()
    monkeypatch.undo()
    assert "unfreeze_draining 0.0" in server.metrics()
    server.stop()
    assert capfd.readouterr().err == ""


def test_a_scraper_that_says_a_byte_now_and_then_is_let_go(
    start: Start, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("service.observability.metrics_server.CONNECTION_S", 0.1)
    server = start()
    slow = socket.create_connection(("127.0.0.1", server.service.metrics_port), timeout=20)

    def is_let_go() -> bool:
        try:
            slow.send(b"G")
        except OSError:
            return True
        return False

    wait_until(is_let_go)
    slow.close()


def test_scrapers_beyond_a_few_are_let_go_at_once_and_the_page_is_there_again_after_them(
    start: Start,
):
    server = start()
    address = ("127.0.0.1", server.service.metrics_port)
    silent = [socket.create_connection(address, timeout=20) for _ in range(MAX_CONNECTIONS)]
    one_more = socket.create_connection(address, timeout=20)
    assert one_more.recv(1) == b""
    for connection in (*silent, one_more):
        connection.close()

    def answers() -> bool:
        try:
            return "unfreeze_ready 1.0" in server.metrics()
        except OSError:  # the server has not seen them go
            return False

    wait_until(answers)


def train(server: RunningServer, **settings: str) -> None:
    request = pb.StartTrainingRequest(model="colours", data="colours", settings=settings)
    job = server.admin.StartTraining(request, timeout=20).job.id
    for _ in server.admin.WatchJob(pb.WatchJobRequest(job_id=job), timeout=20):
        pass


def test_jobs_are_counted_by_state_and_their_last_success_is_dated(server: RunningServer):
    success = 'unfreeze_last_training_success_timestamp_seconds{model="colours"}'
    train(server, mode="fail")
    assert success not in server.metrics()
    train(server)
    text = server.metrics()
    assert value(text, 'unfreeze_jobs_ended_total{state="failed"}') == 1
    assert value(text, 'unfreeze_jobs_ended_total{state="succeeded"}') == 1
    assert value(text, 'unfreeze_jobs{state="running"}') == 0
    assert value(text, success) >= value(text, "process_start_time_seconds")


def test_a_running_job_is_seen_and_so_is_that_it_goes_on(server: RunningServer):
    request = pb.StartTrainingRequest(model="colours", data="colours", settings={"mode": "hang"})
    job = server.admin.StartTraining(request, timeout=20).job.id
    wait_until(lambda: 'unfreeze_jobs{state="running"} 1.0' in server.metrics())
    started = value(server.metrics(), "process_start_time_seconds")
    assert value(server.metrics(), "unfreeze_job_last_progress_timestamp_seconds") >= started
    server.admin.CancelJob(pb.CancelJobRequest(job_id=job), timeout=20)
    assert value(server.metrics(), 'unfreeze_jobs{state="running"}') == 0


def test_a_new_server_knows_when_a_model_was_trained(server: RunningServer, start: Start):
    train(server)
    series = 'unfreeze_last_training_success_timestamp_seconds{model="colours"}'
    before = value(server.metrics(), series)
    server.stop()
    again = start(state=server.settings.state, data_roots=server.settings.data_roots)
    assert value(again.metrics(), series) == before
