"""Spans of requests, for an OpenTelemetry collector. Without an endpoint, OpenTelemetry is not
imported.

The trace context comes in the caller's metadata (W3C `traceparent` and `tracestate`). It is not
propagated further, since answering a request calls no other service.

    span = tracer.begin("unfreeze.v1.Classifier", "Classify", metadata)
    span.stage("decode", began, ended)      # readings of time.perf_counter
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
# Codes that OpenTelemetry's semantic conventions count as server errors.
FAILURES = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)

Metadata = Iterable[tuple[str, str | bytes]]


class Span:
    """The span of one request."""

    def __init__(self, tracer: "Tracer", span: Any) -> None:
        self._tracer = tracer
        self._span = span
        # Unix time of perf_counter's zero; computed per request, since clocks are adjusted
        self._zero = time.time_ns() - time.perf_counter_ns()
        self.sampled: bool = span.is_recording()
        self.trace_id: str = f"{span.get_span_context().trace_id:032x}"

    def stage(self, name: str, began: float, ended: float) -> None:
        """Adds a child span for a stage of the request; times are readings of
        `time.perf_counter`."""
        if self.sampled:
            moments = (self._zero + int(moment * NANOSECONDS) for moment in (began, ended))
            self._tracer.child(self._span, name, *moments)

    def stages(self, answer: "Answer") -> None:
        """Adds the stages of an image. It may be queued twice: to be decoded and to be run."""
        if not self.sampled or not answer.compute_at:
            return
        decoded_at = answer.decode_at + answer.decode_s
        if answer.decode_at:
            self.stage("queue", answer.queued_at, answer.decode_at)
            self.stage("decode", answer.decode_at, decoded_at)
        self.stage("queue", max(answer.queued_at, decoded_at), answer.compute_at)
        self.stage("compute", answer.compute_at, answer.compute_at + answer.compute_s)

    def note(self, **facts: str | int) -> None:
        """Sets attributes, such as the model."""
        if self.sampled:
            self._span.set_attributes({f"unfreeze.{name}": fact for name, fact in facts.items()})

    def end(self, code: str) -> None:
        """Ends the span with the request's status, a gRPC status name."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("rpc.response.status_code", code)
        if code in FAILURES:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


# The span of the request that the current task works on.
CURRENT: ContextVar[Span | None] = ContextVar("span", default=None)


class Tracer:
    """Creates the spans of one server, and exports them in the background."""

    def __init__(self, endpoint: str, ratio: float = 1.0) -> None:
        """Does not connect yet; an unreachable collector does no harm.

        Args:
            endpoint: of OTLP over gRPC, such as http://collector:4317; https:// uses TLS.
            ratio: sampling ratio of traces that start here; a caller's own decision is respected.

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
        """Starts the span of a request, as a child of the caller's span if it sent one."""
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
        """Adds a child span to `parent`; times are Unix times in nanoseconds."""
        from opentelemetry.trace import set_span_in_context

        within = set_span_in_context(parent)  # type: ignore[arg-type]
        self._tracer.start_span(name, within, start_time=began_ns).end(ended_ns)

    def close(self) -> None:
        """Exports what has not been sent yet, within EXPORT_WITHIN_S."""
        over = Timer(EXPORT_WITHIN_S, self._exporter.shutdown)  # else the limit is per batch
        over.start()
        self._provider.shutdown()
        over.cancel()


def trace_id_of(metadata: Metadata) -> str:
    """The caller's trace id, for a log line; empty if there is none."""
    for key, value in metadata:
        if key == "traceparent" and isinstance(value, str):
            found = TRACEPARENT.fullmatch(value)
            return found[1] if found else ""
    return ""
