"""Counts of RPCs, with the labels of each metric resolved in advance: looking them up costs more
than counting."""

from service.observability.metrics import Metrics
from service.observability.quick_metrics import CounterSeries, HistogramSeries

# Exported from the first call on, or `rate` would miss the first failure.
CODES = ("OK", "INTERNAL", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")


class RpcCounts:
    """The calls of one method, exported from its first call on: most methods are never called."""

    def __init__(self, metrics: Metrics, kind: str, service: str, method: str) -> None:
        """`kind` is unary, server_stream and so on, the conventional values of `grpc_type`."""
        self.service, self.method = service, method
        self._labels = kind, service, method
        self._metrics = metrics
        self._handled: dict[str, CounterSeries] = {}
        self._started: CounterSeries
        self._seconds: HistogramSeries

    def _show(self) -> None:
        self._started = self._metrics.rpcs_started.labels(*self._labels)
        self._seconds = self._metrics.rpc_seconds.labels(*self._labels)
        self._handled = {code: self._handled_as(code) for code in CODES}

    def _handled_as(self, code: str) -> CounterSeries:
        return self._metrics.rpcs_handled.labels(*self._labels, code)

    def begin(self) -> None:
        """Counts the start of a call."""
        if not self._handled:
            self._show()
        self._metrics.n_rpcs += 1
        self._started.inc()

    def end(self, code: str, seconds: float, trace_id: str = "") -> None:
        """Counts the end of a call; `trace_id` becomes an exemplar, for scrapers of OpenMetrics."""
        self._metrics.n_rpcs -= 1
        if code not in self._handled:
            self._handled[code] = self._handled_as(code)
        self._handled[code].inc()
        self._seconds.observe(seconds, trace_id)
