"""Prometheus metrics. Label values come from the registry and from this code, never from a
request, so that their number stays bounded."""

from collections import defaultdict
from collections.abc import Sequence
from threading import Lock

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from service.observability.candidate_metrics import SECONDS, CandidateMetrics
from service.observability.prediction_counts import PredictionCounts
from service.observability.quick_metrics import Counter, Histogram

LOAD_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SLO_SECONDS = 0.25
BATCH = (1, 2, 4, 8, 16, 32, 64)
CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
RPC = ("grpc_type", "grpc_service", "grpc_method")
LIMITS_OF_MODELS = ("queue_full", "queue_bytes", "expected_wait", "model_requests", "deadline")
LIMITS = ("rpcs", "silent", "streams", *LIMITS_OF_MODELS)


class Metrics:
    """Every metric of one server, in a registry of its own."""

    def __init__(self, slo_s: float = SLO_SECONDS) -> None:
        """`slo_s` becomes a bucket boundary of the latency histograms, so that the share of
        requests within it is exact."""
        self.registry = CollectorRegistry()
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
        self.predictions = PredictionCounts()
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
        self.jobs_started = self._counter(
            "unfreeze_jobs_started", "Training jobs accepted."
        ).labels()
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

    # Short forms

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        counter = Counter(name, help, labels)
        self.registry.register(counter)
        return counter

    def _gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(name, help, labels, registry=self.registry)

    def _histogram(self, name: str, help: str, buckets: Sequence[float], *labels: str) -> Histogram:
        histogram = Histogram(name, help, labels, buckets)
        self.registry.register(histogram)
        return histogram

    def _stage(self, stage: str, help: str) -> Histogram:
        return self._histogram(f"unfreeze_{stage}_seconds", help, SECONDS, "model")
