"""Spans of requests, for an OpenTelemetry collector. Without an endpoint nothing here is imported.

The context of a trace comes in the caller's metadata (W3C `traceparent` and `tracestate`). It goes
no further than our spans and log lines, for a request is answered without calling anybody else.

    span = tracer.begin("unfreeze.v1.Classifier", "Classify", metadata)
    span.stage("decode", began, ended)      # moments of time.perf_counter
    span.end("OK")
"""

import re
import time
from collections.abc import Iterable
from contextvars import ContextVar
from threading import Timer
from typing import TYPE_CHECKING, Any

from registry.errors import Unavailable

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from service.execution.work import Answer

NANOSECONDS = 1_000_000_000
EXPORT_WITHIN_S = 2.0
W3C = ("traceparent", "tracestate")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
# What the conventions of OpenTelemetry count as failures of a server, and not of its caller.
FAILURES = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)

Metadata = Iterable[tuple[str, str | bytes]]


class Span:
    """One request, on its way to the collector."""

    def __init__(self, tracer: "Tracer", span: Any) -> None:
        self._tracer = tracer
        self._span = span
        # of time.perf_counter, since 1970; anew for each request, for clocks are set
        self._zero = time.time_ns() - time.perf_counter_ns()
        self.sampled: bool = span.is_recording()
        self.trace_id: str = f"{span.get_span_context().trace_id:032x}"

    def stage(self, name: str, began: float, ended: float) -> None:
        """A part of the request went from one moment of `time.perf_counter` to another."""
        if self.sampled:
            moments = (self._zero + int(moment * NANOSECONDS) for moment in (began, ended))
            self._tracer.child(self._span, name, *moments)

    def stages(self, answer: "Answer") -> None:
        """How an image became its answer. It may wait twice, to be decoded and to be run."""
        if not self.sampled or not answer.compute_at:
            return
        decoded_at = answer.decode_at + answer.decode_s
        if answer.decode_at:
            self.stage("queue", answer.queued_at, answer.decode_at)
            self.stage("decode", answer.decode_at, decoded_at)
        self.stage("queue", max(answer.queued_at, decoded_at), answer.compute_at)
        self.stage("compute", answer.compute_at, answer.compute_at + answer.compute_s)

    def note(self, **facts: str | int) -> None:
        """What the request was about, such as its model."""
        if self.sampled:
            self._span.set_attributes({f"unfreeze.{name}": fact for name, fact in facts.items()})

    def end(self, code: str) -> None:
        """The request has its status, named as gRPC does, and the span is sent off."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("rpc.response.status_code", code)
        if code in FAILURES:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


# The request that this task works for.
CURRENT: ContextVar[Span | None] = ContextVar("span", default=None)


class Tracer:
    """Makes the spans of one server, and sends them in the background."""

    def __init__(self, endpoint: str, ratio: float = 1.0) -> None:
        """Nothing is sent yet, and a collector that is away harms nobody.

        Args:
            endpoint: of OTLP over gRPC, such as http://collector:4317; https:// is encrypted.
            ratio: of the traces that begin here; a caller's own decision is kept.

        Raises:
            Unavailable: OpenTelemetry is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ImportError as error:
            raise Unavailable(
                f"--otlp-endpoint needs OpenTelemetry: install unfreeze[tracing] ({error})"
            ) from error
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create({"service.name": "unfreeze"}),
            shutdown_on_exit=False,
        )
        self._exporter = OTLPSpanExporter(
            endpoint, insecure=not endpoint.startswith("https://"), timeout=EXPORT_WITHIN_S
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("unfreeze")

    def begin(self, service: str, method: str, metadata: Metadata) -> Span:
        """A request has come in; its span is a child of the caller's, if that has sent one."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        sent = {key: value for key, value in metadata if key in W3C and isinstance(value, str)}
        span = self._tracer.start_span(
            f"{service}/{method}",
            TraceContextTextMapPropagator().extract(sent),
            SpanKind.SERVER,
            {"rpc.system.name": "grpc", "rpc.method": f"{service}/{method}"},
        )
        return Span(self, span)

    def child(self, parent: "ReadableSpan", name: str, began_ns: int, ended_ns: int) -> None:
        """A part of `parent` went from one moment to another, in nanoseconds since 1970."""
        from opentelemetry.trace import set_span_in_context

        within = set_span_in_context(parent)  # type: ignore[arg-type]
        self._tracer.start_span(name, within, start_time=began_ns).end(ended_ns)

    def close(self) -> None:
        """What was not sent yet has been, or its time was over."""
        over = Timer(EXPORT_WITHIN_S, self._exporter.shutdown)  # or it would go on for every batch
        over.start()
        self._provider.shutdown()
        over.cancel()


def trace_id_of(metadata: Metadata) -> str:
    """The trace that a caller has put its request into, for a log line; empty if it has not."""
    for key, value in metadata:
        if key == "traceparent" and isinstance(value, str):
            found = TRACEPARENT.fullmatch(value)
            return found[1] if found else ""
    return ""
