"""The HTTP server of `/metrics`."""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from socket import AF_INET6, SHUT_RDWR
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

STOP_WITHIN_S = 0.1
# Each connection to /metrics holds a thread, so their number and duration are limited.
MAX_CONNECTIONS = 16
CONNECTION_S = 10.0


class _Server(ThreadingWSGIServer):
    def __init__(self, *arguments: Any) -> None:
        self._since: dict[Any, float] = {}  # by connection, when it was accepted
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._since) >= MAX_CONNECTIONS:
            self.shutdown_request(request)
            return
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called every STOP_WITHIN_S or sooner."""
        self._cut_off(time.monotonic() - CONNECTION_S)

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


class _Server6(_Server):
    address_family = AF_INET6


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: scrapes are not worth a line."""


def serve_metrics(
    registry: CollectorRegistry, host: str, port: int
) -> tuple[int, Callable[[], None]]:
    """Serves `/metrics`; returns the actual port and a function that stops it."""
    app = make_wsgi_app(registry)
    server_class = _Server6 if ":" in host else _Server
    server = make_server(host, port, app, server_class, handler_class=_Handler)
    thread = Thread(target=server.serve_forever, args=(STOP_WITHIN_S,), name="metrics")
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return int(server.server_port), stop
