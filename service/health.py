"""The `grpc.health.v1` service: health of the server, of its services, and of each model by either
of its names.

The servicer of `grpcio-health-checking` (1.81) forgets all watchers of a name when one of them
goes, waits for the slowest of them, and lets them delay the server's stop.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from registry.quoted import quoted
from service.oip.names import both_names

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

OVERALL = ""
LIVENESS = "liveness"  # stays up while draining, or the orchestrator would kill the server
READINESS = "readiness"


class Health(health_pb2_grpc.HealthServicer):
    """Used from one event loop."""

    def __init__(self, *services: str) -> None:
        """`services` are the full names of the gRPC services to report on."""
        self._ours = (OVERALL, READINESS, *services)
        self._status: dict[str, int] = {}
        self._changed = asyncio.Event()  # replaced after every change
        self._draining = False
        self._ended = False

    @property
    def is_ready(self) -> bool:
        """Whether requests are welcome: the server is not draining."""
        return not self._draining

    def ready(self) -> None:
        self._status |= dict.fromkeys((LIVENESS, *self._ours), SERVING)
        self._notify()

    def drain(self) -> None:
        """Reports everything but liveness as NOT_SERVING from now on."""
        self._draining = True
        for name in self._status.keys() - {LIVENESS}:
            self._status[name] = NOT_SERVING
        self._notify()

    def end(self) -> None:
        """Ends all watches, after a last update."""
        self._ended = True
        self._notify()

    def model_ready(self, model: str) -> None:
        """Reports the model as SERVING, unless its name is one of ours."""
        if not self._draining and model not in (LIVENESS, *self._ours):
            self._status |= dict.fromkeys(both_names(model), SERVING)
            self._notify()

    def model_gone(self, model: str) -> None:
        """Reports the model as NOT_SERVING until it is ready again."""
        if model not in (LIVENESS, *self._ours) and model in self._status:
            self._status |= dict.fromkeys(both_names(model), NOT_SERVING)
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # The service

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._status:
            problem = f"no service or model is called {quoted(request.service, 128)}"
            await context.abort(grpc.StatusCode.NOT_FOUND, problem)
        return health_pb2.HealthCheckResponse(status=self._status[request.service])

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status now and after every change; a slow reader may miss some in between."""
        sent = None
        while True:
            changed, status = self._changed, self._status.get(request.service, UNKNOWN)
            if status != sent:
                yield health_pb2.HealthCheckResponse(status=status)
                sent = status
            elif self._ended:
                return
            else:
                await changed.wait()
