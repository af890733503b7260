"""What Prometheus sees. Label values come from the catalogue only, so nobody can add series."""

from collections.abc import Callable
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH = (1, 2, 4, 8, 16, 32, 64)
RPC = ("grpc_type", "grpc_service", "grpc_method")
STOP_WITHIN_S = 0.1


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not worth a line."""


class Metrics:
    """Every metric of one server, in a collection of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry

        self.rpcs_started = Counter("grpc_server_started", "RPCs started.", RPC, registry=registry)
        self.rpcs_handled = Counter(
            "grpc_server_handled", "RPCs completed.", (*RPC, "grpc_code"), registry=registry
        )
        self.rpc_seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time from start to end of an RPC.",
            RPC,
            buckets=SECONDS,
            registry=registry,
        )
        self.rpcs_in_flight = Gauge("unfreeze_rpcs_in_flight", "RPCs now.", registry=registry)

        self.images = Counter(
            "unfreeze_images",
            "Images answered, by outcome: ok or bad_image.",
            ("model", "version", "outcome"),
            registry=registry,
        )
        self.decode_seconds = _seconds("decode", "Decoding and preparing one image.", registry)
        self.queue_seconds = _seconds("queue", "Waiting of a batch's oldest image.", registry)
        self.compute_seconds = _seconds("compute", "Running one batch.", registry)
        self.batch_size = Histogram(
            "unfreeze_batch_size", "Images in a run.", ("model",), buckets=BATCH, registry=registry
        )
        self.queue_depth = Gauge(
            "unfreeze_queue_depth", "Images that wait now.", ("model",), registry=registry
        )
        self.rejected = Counter(
            "unfreeze_rejected", "Requests turned away at a limit.", ("reason",), registry=registry
        )

        self.live_version = Gauge(
            "unfreeze_live_version", "Version that answers.", ("model",), registry=registry
        )
        self.model_info = Gauge(
            "unfreeze_model_info",
            "1 for the live version, with its provider and execution plan.",
            ("model", "version", "provider", "plan"),
            registry=registry,
        )
        self.swaps = Counter(
            "unfreeze_swaps", "Changes of the live version.", ("model",), registry=registry
        )
        self.load_problem = Gauge(
            "unfreeze_load_problem",
            "1 while the promoted version cannot be loaded.",
            ("model",),
            registry=registry,
        )
        self.load_seconds = _seconds("load", "Loading one version.", registry)
        self.jobs_ended = Counter(
            "unfreeze_jobs_ended", "Training jobs by final state.", ("state",), registry=registry
        )
        self.jobs_started = Counter(
            "unfreeze_jobs_started", "Training jobs accepted.", registry=registry
        )

    def serve(self, host: str, port: int) -> tuple[int, Callable[[], None]]:
        """`/metrics` answers; gives the actual port and what ends it."""
        pages = make_wsgi_app(self.registry)
        server = make_server(host, port, pages, ThreadingWSGIServer, handler_class=_Silent)
        thread = Thread(target=server.serve_forever, args=(STOP_WITHIN_S,), name="metrics")
        thread.start()

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return int(server.server_port), stop


def _seconds(stage: str, help: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(
        f"unfreeze_{stage}_seconds", help, ("model",), buckets=SECONDS, registry=registry
    )
