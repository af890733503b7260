"""What `grpc.health.v1` says: of the server, of the classifier, and of each model by its name."""

import asyncio

from grpc_health.v1 import health, health_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

OVERALL = ""
LIVENESS = "liveness"  # stays up while draining, or the orchestrator would kill what drains
READINESS = "readiness"

HealthServicer = health.aio.HealthServicer


class Health:
    """The answers of `servicer`, which is given to a listener."""

    def __init__(self, service: str) -> None:
        """`service` is the full name of what is served besides the whole."""
        self.servicer = HealthServicer()
        self._follow = [OVERALL, READINESS, service]
        self._leaving = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_ready(self) -> bool:
        """Requests are wanted: it does not drain."""
        return not self._leaving

    async def ready(self) -> None:
        await self.servicer.set(LIVENESS, SERVING)
        for name in self._follow:
            await self.servicer.set(name, SERVING)

    async def leave(self) -> None:
        """Everything but liveness says, from now on, to go elsewhere."""
        self._leaving = True
        for name in self._follow:
            await self.servicer.set(name, NOT_SERVING)

    def model_ready(self, model: str) -> None:
        """The model has a health of its own, which is good; a model may not take our names."""
        if self._leaving or model in (*self._follow, LIVENESS):
            return
        self._follow.append(model)
        task = asyncio.create_task(self.servicer.set(model, SERVING))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
