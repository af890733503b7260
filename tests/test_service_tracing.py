"""Spans as a collector gets them, and the context that callers send along."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc

from service.tracing import CURRENT, EXPORT_WITHIN_S, Tracer, stage, trace_id_of

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
    CURRENT.set(span)
    began = time.perf_counter()
    stage("compute", began, began + 0.25)
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


def test_stages_cost_nothing_where_nobody_traces():
    code = (
        "import sys, service.server; sys.exit(any('opentelemetry' in name for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
