"""Spans as a collector gets them, and the context that callers send along."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import tiny
from conftest import RunningServer, Start
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc

from service.observability.tracing import EXPORT_WITHIN_S, Tracer, trace_id_of
from unfreeze.v1 import classifier_pb2 as pb

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SERVICE = "unfreeze.v1.Classifier"


class Collector(otlp_grpc.TraceServiceServicer):
    """Keeps what is exported to it."""

    def __init__(self) -> None:
        self.spans: dict[str, Any] = {}
        self.resource: dict[str, str] = {}

    def Export(self, request: Any, context: Any) -> Any:
        for sent in request.resource_spans:
            self.resource |= {
                pair.key: pair.value.string_value for pair in sent.resource.attributes
            }
            self.spans |= {span.name: span for scope in sent.scope_spans for span in scope.spans}
        return otlp.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    otlp_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    collector.address = f"http://127.0.0.1:{port}"
    yield collector
    server.stop(0).wait()


def traceparent(sampled: bool = True) -> tuple[tuple[str, str], ...]:
    return (("traceparent", f"00-{TRACE}-{CALLER}-0{int(sampled)}"), ("tracestate", "vendor=1"))


def test_a_request_is_a_span_within_the_callers(collector: Collector):
    tracer = Tracer(collector.address)
    tracer.begin(SERVICE, "Classify", traceparent()).end("OK")
    tracer.close()
    span = collector.spans[f"{SERVICE}/Classify"]
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == CALLER
    assert span.trace_state == "vendor=1"
    assert span.kind == span.SPAN_KIND_SERVER
    assert collector.resource["service.name"] == "unfreeze"


def test_stages_are_within_the_request_and_last_as_long_as_they_did(collector: Collector):
    tracer = Tracer(collector.address)
    span = tracer.begin(SERVICE, "Classify", ())
    began = time.perf_counter()
    span.stage("compute", began, began + 0.25)
    span.end("OK")
    tracer.close()
    compute, request = collector.spans["compute"], collector.spans[f"{SERVICE}/Classify"]
    assert compute.parent_span_id == request.span_id
    assert compute.end_time_unix_nano - compute.start_time_unix_nano == pytest.approx(25e7, abs=2e3)


@pytest.mark.parametrize(("code", "failed"), [("NOT_FOUND", False), ("INTERNAL", True)])
def test_only_the_servers_own_failures_are_errors(collector: Collector, code: str, failed: bool):
    tracer = Tracer(collector.address)
    tracer.begin(SERVICE, "Classify", ()).end(code)
    tracer.close()
    span = collector.spans[f"{SERVICE}/Classify"]
    assert (span.status.code == span.status.STATUS_CODE_ERROR) is failed
    assert {pair.key: pair.value.string_value for pair in span.attributes}[
        "rpc.response.status_code"
    ] == code


def test_a_caller_that_does_not_sample_is_not_sampled(collector: Collector):
    tracer = Tracer(collector.address)
    span = tracer.begin(SERVICE, "Classify", traceparent(sampled=False))
    span.stage("compute", 0, 1)
    span.end("OK")
    tracer.close()
    assert not span.sampled
    assert collector.spans == {}


def test_none_of_the_traces_that_begin_here_is_sent_at_a_ratio_of_0(collector: Collector):
    tracer = Tracer(collector.address, ratio=0)
    tracer.begin(SERVICE, "Classify", ()).end("OK")
    tracer.begin(SERVICE, "Asked", traceparent()).end("OK")
    tracer.close()
    assert list(collector.spans) == [f"{SERVICE}/Asked"]


def test_a_collector_that_is_away_does_not_hold_up_the_end():
    tracer = Tracer("http://127.0.0.1:9")
    for _ in range(2_000):  # several batches, each of which would be tried again
        tracer.begin(SERVICE, "Classify", ()).end("OK")
    began = time.monotonic()
    tracer.close()
    assert time.monotonic() - began < 4 * EXPORT_WITHIN_S  # 14 s when each had its time


NOT_ONES = ["", "00-short-b7ad6b7169203331-01", f"00-{TRACE.upper()}-{CALLER}-01", f"00-{TRACE}\n"]


@pytest.mark.parametrize("value", NOT_ONES)
def test_what_is_no_trace_context_names_no_trace(value: str):
    assert trace_id_of((("traceparent", value),)) == ""


def test_a_trace_is_named_by_its_context():
    assert trace_id_of((("user-agent", "x"), *traceparent())) == TRACE


# Through a server


def traced(start: Start, root: Path, collector: Collector, **changes: Any) -> RunningServer:
    tiny.publish(root, promote=True)
    return start(otlp_endpoint=collector.address, **changes)


@pytest.mark.parametrize("plan", ["1x1x1", "1x1x4"], ids=["decodes where it runs", "in a pool"])
def test_a_trace_shows_a_request_stage_by_stage(
    start: Start, root: Path, collector: Collector, plan: str
):
    server = traced(start, root, collector, plan=plan)
    ask = pb.ClassifyRequest(model="colours", images=[tiny.picture()])
    server.classifier.Classify(ask, metadata=traceparent(), timeout=20)
    server.stop()
    request = collector.spans[f"{SERVICE}/Classify"]
    stages = [collector.spans[name] for name in ("decode", "queue", "compute", "encode")]
    assert {span.trace_id.hex() for span in (request, *stages)} == {TRACE}
    assert {span.parent_span_id for span in stages} == {request.span_id}
    moments = [
        moment for one in stages for moment in (one.start_time_unix_nano, one.end_time_unix_nano)
    ]
    assert moments == sorted(moments)
    facts = {pair.key: pair.value for pair in request.attributes}
    assert facts["unfreeze.model"].string_value == "colours"
    assert facts["unfreeze.version"].int_value == 1


def test_a_server_sends_the_ratio_of_traces_that_is_set(
    start: Start, root: Path, collector: Collector
):
    server = traced(start, root, collector, trace_ratio=0)
    ask = pb.ClassifyRequest(model="colours", images=[tiny.picture()])
    server.classifier.Classify(ask, metadata=traceparent(), timeout=20)
    server.classify(tiny.picture())  # its span would take the place of the first
    server.stop()
    assert collector.spans[f"{SERVICE}/Classify"].trace_id.hex() == TRACE


def test_a_stream_is_one_span(start: Start, root: Path, collector: Collector):
    server = traced(start, root, collector)
    ask = pb.ClassifyRequest(model="colours", images=[tiny.picture()])
    assert len(list(server.classifier.ClassifyStream(iter([ask] * 3), timeout=20))) == 3
    server.stop()
    assert (
        collector.spans["compute"].parent_span_id
        == collector.spans[f"{SERVICE}/ClassifyStream"].span_id
    )


@pytest.mark.parametrize("traces", [True, False])
def test_an_error_of_our_own_is_logged_with_the_callers_trace(
    start: Start, root: Path, collector: Collector, caplog: pytest.LogCaptureFixture, traces: bool
):
    tiny.publish(root, promote=True)
    server = start(otlp_endpoint=collector.address if traces else None)
    server.service.models._states["colours"].live.executor._run = lambda images: 1 / 0
    ask = pb.ClassifyRequest(model="colours", images=[tiny.picture()])
    with pytest.raises(grpc.RpcError):
        server.classifier.Classify(ask, metadata=traceparent(), timeout=20)
    (record,) = (record for record in caplog.records if record.msg == "internal_error")
    assert record.trace_id == TRACE


def test_latency_names_the_trace_that_took_it(start: Start, root: Path, collector: Collector):
    server = traced(start, root, collector)
    ask = pb.ClassifyRequest(model="colours", images=[tiny.picture()])
    server.classifier.Classify(ask, metadata=traceparent(), timeout=20)
    page = urllib.request.Request(f"http://{server.metrics_address}/metrics")
    page.add_header("Accept", "application/openmetrics-text; version=1.0.0")
    with urllib.request.urlopen(page) as answer:
        assert f'# {{trace_id="{TRACE}"}}' in answer.read().decode()


def test_a_server_that_does_not_trace_imports_none_of_it():
    code = (
        "import sys, service.server; sys.exit(any('opentelemetry' in name for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
