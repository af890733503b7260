"""Prometheus metrics. Label values come from the registry and from this code, never from a
request, so that their number stays bounded."""

import math
import time
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from socket import AF_INET6, SHUT_RDWR
from threading import Lock, Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    make_wsgi_app,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from service.observability.candidate_metrics import SECONDS, CandidateMetrics
from service.observability.deferred_metrics import Notebook

LOAD_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SLO_SECONDS = 0.25
BATCH = (1, 2, 4, 8, 16, 32, 64)
CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
RPC = ("grpc_type", "grpc_service", "grpc_method")
MAX_CLASSES = 100  # series per version; of more classes, the last share one series
OTHER = "other"  # the class of that series
LIMITS = ("rpcs", "queue_full", "queue_bytes", "expected_wait", "model_requests", "deadline")
STOP_WITHIN_S = 0.1
# Each connection to /metrics holds a thread, so their number and duration are limited.
MOST_PAGES = 16
PAGE_WITHIN_S = 10.0


class _Pages(ThreadingWSGIServer):
    def __init__(self, *arguments: Any) -> None:
        self._since: dict[Any, float] = {}  # by connection, when it was accepted
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._since) >= MOST_PAGES:
            self.shutdown_request(request)
            return
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called every STOP_WITHIN_S or sooner."""
        self._cut_off(time.monotonic() - PAGE_WITHIN_S)

    def server_close(self) -> None:
        super().server_close()
        self._cut_off(math.inf)

    def _cut_off(self, before: float) -> None:
        """Shuts down connections accepted before this moment, so that their threads end."""
        for request, since in list(self._since.items()):
            if since < before:
                with suppress(OSError):  # it has ended just now
                    request.shutdown(SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Logs nothing: an aborted scrape is not worth a line, and the default one is not JSON."""


class _Pages6(_Pages):
    address_family = AF_INET6


class _Page(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: scrapes are not worth a line."""


class Metrics:
    """Every metric of one server, in a registry of its own."""

    def __init__(self, slo_s: float = SLO_SECONDS) -> None:
        """`slo_s` becomes a bucket boundary of the latency histograms, so that the share of
        requests within it is exact."""
        self.registry = CollectorRegistry()
        self.notes = Notebook()
        self.registry.register(self.notes)  # first, since it brings all others up to date
        ProcessCollector(registry=self.registry)
        self._define_rpcs(tuple(sorted({*SECONDS, slo_s})))
        self._define_stages()
        self._define_versions(tuple(sorted({*SECONDS, slo_s})))
        self._define_jobs()
        self.candidates = CandidateMetrics(self.registry)
        help = "1 once every model that can be loaded answers, until the server is told to stop."
        self.ready = self._gauge("unfreeze_ready", help)
        self.draining = self._gauge("unfreeze_draining", "1 once the server is told to stop.")

    def _define_rpcs(self, buckets: Sequence[float]) -> None:
        self.rpcs_started = self._counter("grpc_server_started", "RPCs started.", *RPC)
        self.rpcs_handled = self._counter(
            "grpc_server_handled", "RPCs completed.", *RPC, "grpc_code"
        )
        help = "Time from start to end of an RPC."
        self.rpc_seconds = self._histogram("grpc_server_handling_seconds", help, buckets, *RPC)
        self.n_rpcs = 0
        in_flight = self._gauge("unfreeze_rpcs_in_flight", "RPCs in flight.")
        in_flight.set_function(lambda: self.n_rpcs)
        self.rejected = self._counter(
            "unfreeze_rejected", "Requests rejected because of a limit, by limit.", "reason"
        )
        for reason in LIMITS:
            self.rejected.labels(reason)  # exported as 0: `rate` misses a series' first increment

    def _define_stages(self) -> None:
        self.decode_seconds = self._stage("decode", "Time to decode and preprocess an image.")
        self.queue_seconds = self._stage("queue", "Time that a batch's oldest image was queued.")
        self.compute_seconds = self._stage("compute", "Time to run a batch.")
        self.encode_seconds = self._stage("encode", "Time to build a reply from the answers.")
        help = "Views per batch run."
        self.batch_size = self._histogram("unfreeze_batch_size", help, BATCH, "model")
        self.queue_depth = self._gauge("unfreeze_queue_depth", "Images in the queue.", "model")
        self.dropped = self._counter(
            "unfreeze_dropped_images",
            "Images dropped from the queue because their request was cancelled or had expired.",
            "model",
            "reason",
        )

    def _define_versions(self, buckets: Sequence[float]) -> None:
        version = ("model", "version")
        self.requests = self._counter(
            "unfreeze_requests",
            "Requests to a version: ok, bad_request, rejected, cancelled (or expired) or error.",
            *version,
            "outcome",
        )
        help = "Time from a request's arrival at a version to its reply."
        self.request_seconds = self._histogram("unfreeze_request_seconds", help, buckets, *version)
        self.images = self._counter(
            "unfreeze_images", "Images: ok, bad_image or not_a_number.", *version, "outcome"
        )
        self.confidence = self._histogram(
            "unfreeze_confidence", "Probability of the top class.", CONFIDENCE, *version
        )
        self.in_memory: dict[tuple[str, str], int] = defaultdict(int)
        self.showing = Lock()  # held while series of a version in memory come or go
        self.predictions = Predictions()
        self.registry.register(self.predictions)
        self.live_version = self._gauge("unfreeze_live_version", "The live version.", "model")
        self.model_info = self._gauge(
            "unfreeze_model_info",
            "1 for the live version, with its provider, precision and execution plan.",
            *version,
            "provider",
            "precision",
            "plan",
        )
        self.registry_read = self._gauge(
            "unfreeze_registry_read_timestamp_seconds",
            "When the registry was last read; 0 before the server is ready.",
        )
        self.swaps = self._counter("unfreeze_swaps", "Changes of the live version.", "model")
        self.load_problem = self._gauge(
            "unfreeze_load_problem", "1 while the promoted version cannot be loaded.", "model"
        )
        self.load_seconds = self._histogram(
            "unfreeze_load_seconds", "Loading one version.", LOAD_SECONDS, "model"
        )

    def _define_jobs(self) -> None:
        self.jobs = self._gauge("unfreeze_jobs", "Unfinished training jobs by state.", "state")
        self.jobs_started = self._counter("unfreeze_jobs_started", "Training jobs accepted.")
        self.jobs_ended = self._counter(
            "unfreeze_jobs_ended", "Training jobs by final state.", "state"
        )
        for state in ("succeeded", "failed", "cancelled"):
            self.jobs_ended.labels(state)
        self.job_progress = self._gauge(
            "unfreeze_job_last_progress_timestamp_seconds",
            "When the running job last reported progress.",
        )
        self.training_success = self._gauge(
            "unfreeze_last_training_success_timestamp_seconds",
            "When a job of this model last succeeded.",
            "model",
        )

    def serve(self, host: str, port: int) -> tuple[int, Callable[[], None]]:
        """Serves `/metrics`; returns the actual port and a function that stops it."""
        pages = make_wsgi_app(self.registry)
        kind = _Pages6 if ":" in host else _Pages
        server = make_server(host, port, pages, kind, handler_class=_Page)
        thread = Thread(target=server.serve_forever, args=(STOP_WITHIN_S,), name="metrics")
        thread.start()

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return int(server.server_port), stop

    # Short forms

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(name, help, labels, registry=self.registry)

    def _gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(name, help, labels, registry=self.registry)

    def _histogram(self, name: str, help: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(name, help, labels, buckets=buckets, registry=self.registry)

    def _stage(self, stage: str, help: str) -> Histogram:
        return self._histogram(f"unfreeze_{stage}_seconds", help, SECONDS, "model")


class Predictions(Collector):
    """How often each class came out on top; the samples are built only when scraped."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, str], tuple[Sequence[str], list[int]]] = {}

    def show(self, model: str, version: str, classes: Sequence[str]) -> list[int]:
        """A list of counts, one per class, for the caller to increment; with more than MAX_CLASSES
        classes, the last count is of all that have none of their own."""
        if len(classes) > MAX_CLASSES:
            classes = (*classes[: MAX_CLASSES - 1], OTHER)
        return self._shown.setdefault((model, version), (classes, [0] * len(classes)))[1]

    def hide(self, model: str, version: str) -> None:
        self._shown.pop((model, version), None)

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "unfreeze_predictions",
            f"Images by top class; of more than {MAX_CLASSES} classes, all but the first "
            f"{MAX_CLASSES - 1} are {OTHER!r}.",
            labels=("model", "version", "class"),
        )
        for (model, version), (classes, counts) in list(self._shown.items()):
            tally: Tally[str] = Tally()
            for name, count in zip(classes, counts, strict=True):
                tally[name] += count  # a class of its own may be called OTHER, too
            for name, count in tally.items():
                family.add_metric((model, version, name), count)
        yield family
