"""Assembles a server from its parts, and starts, drains and stops it."""

import asyncio
import logging
import sys
from contextlib import AsyncExitStack, suppress

import grpc

from registry.errors import Unavailable
from registry.job_store import JobStore
from registry.store import Registry
from service.calls import Calls
from service.execution.plan import Plans, parse_plan
from service.execution.providers import Placement
from service.execution.session import choose_provider
from service.health import Health
from service.jobs.attempt import TrainerSetup
from service.jobs.job_records import JobRecords
from service.jobs.job_runner import JobRunner
from service.jobs.jobs import Jobs
from service.jobs.settings_check import SettingsCheck
from service.listener import MEGABYTE, listen, new_server
from service.models.loader import Limits, Loader
from service.models.model_manager import ModelManager
from service.observability.metrics import Metrics
from service.observability.metrics_server import serve_metrics
from service.observability.tracing import Tracer
from service.oip.servicer import PROTOCOL
from service.reflection import describe
from service.services import ADMIN_NAMES, CLASSIFIER, PUBLIC_NAMES, add_admin, add_public
from service.settings import Settings
from service.state import lock_state

log = logging.getLogger(__name__)

# like this process, with or without modules of the current folder, which may hold anything
SAFE_PATH = ("-P",) if sys.flags.safe_path else ()
TRAINER = (sys.executable, *SAFE_PATH, "-m", "training")
ADMIN_GRACE_S = 1.0
MIN_STREAMS = 100  # per connection; HTTP/2 recommends no fewer


class Service:
    """One server. `async with Service(settings) as service:` starts it and stops it at the end.

    After `start`, `port`, `admin_port` and `metrics_port` are the actual ports.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._parts = AsyncExitStack()  # undoes each step of the start, in reverse order
        self._health = Health(CLASSIFIER, PROTOCOL)
        self.registry = Registry(settings.registry)
        self.metrics = Metrics(settings.slo_seconds)
        self._calls: Calls
        self._admin_calls: Calls
        self.models: ModelManager
        self.port = self.admin_port = self.metrics_port = 0

    async def __aenter__(self) -> "Service":
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Opens the listeners, after loading every promoted model that can be loaded.

        Raises:
            Unavailable: the provider cannot be initialised, a port is taken, or the job database
                is damaged.
            Conflict: another server uses the state folder.
        """
        try:
            await self._open_metrics()
            self._open_tracing()
            self._lock_state()
            await self._open_models()
            jobs = await self._open_jobs()
            await self._open_admin(jobs)
            await self._open_public()
            await self._follow_registry()
            self._health.ready()
            self.metrics.ready.set(1)
        except BaseException:
            await self.stop()
            raise

    async def drain(self) -> None:
        """Reports not ready, and keeps serving for as long as load balancers need to notice."""
        self._report_draining()
        self.metrics.draining.set(1)
        log.info("draining", extra={"seconds": self._settings.drain_seconds})
        await asyncio.sleep(self._settings.drain_seconds)

    async def stop(self) -> None:
        """Finishes requests in flight, queues a running job again, and closes everything."""
        self._report_draining()
        await self._parts.aclose()

    # The parts, in starting order

    async def _open_metrics(self) -> None:
        settings = self._settings
        try:
            self.metrics_port, stop = serve_metrics(
                self.metrics.registry, settings.host, settings.metrics_port
            )
        except OSError as error:
            taken = f"{settings.host}:{settings.metrics_port}"
            raise Unavailable(
                f"metrics cannot listen on {taken}: {error}; choose another port with "
                "--metrics-port"
            ) from error
        self._parts.push_async_callback(asyncio.to_thread, stop)

    def _open_tracing(self) -> None:
        settings, tracer = self._settings, None
        if settings.otlp_endpoint:
            tracer = Tracer(settings.otlp_endpoint, settings.trace_ratio)
            self._parts.push_async_callback(asyncio.to_thread, tracer.close)
        # separate limits, so that a rollback gets through when predictions overload the server
        self._calls = Calls(self.metrics, settings.max_rpcs, tracer)
        self._admin_calls = Calls(self.metrics, settings.max_rpcs, tracer)

    def _lock_state(self) -> None:
        if self._settings.state:
            self._parts.enter_context(lock_state(self._settings.state))

    async def _open_models(self) -> None:
        settings = self._settings
        provider = await asyncio.to_thread(choose_provider, settings.provider)
        loader = Loader(
            placement=Placement(
                provider,
                gpu_memory_mb=settings.gpu_memory_mb,
                engines=settings.state / "engines" if settings.state else None,
            ),
            precision=settings.precision,
            pinned=parse_plan(settings.plan) if settings.plan else None,
            max_batch=settings.max_batch,
            plans=Plans(settings.state / "plans.json" if settings.state else None),
            limits=Limits(
                max_queue=settings.max_queue,
                max_queue_s=settings.max_queue_seconds,
                max_requests=settings.max_model_requests,
                max_bytes=settings.max_queue_mb * MEGABYTE,
                max_wait_s=settings.max_wait_ms / 1000,
            ),
            metrics=self.metrics,
        )
        self.models = ModelManager(
            self.registry,
            loader,
            self.metrics,
            self._on_ready,
            self._health.model_gone,
            settings.pinned_versions,
        )
        self._parts.push_async_callback(self.models.close)
        await self.models.start(settings.poll_seconds)
        with suppress(OSError):  # which the follower logs
            if not await asyncio.to_thread(self.registry.models):
                # it may be filled later, or its path was mistyped
                root = self.registry.root.absolute()
                problem = "no model in it" if root.is_dir() else "no such folder"
                facts = {"registry": str(root), "problem": problem}
                log.warning("registry_empty", extra=facts)

    async def _open_jobs(self) -> Jobs | None:
        settings = self._settings
        if settings.state is None:
            return None
        state, command = settings.state.resolve(), settings.trainer_command or TRAINER
        store = await asyncio.to_thread(JobStore, state / "jobs.db")
        self._parts.callback(store.close)
        records = JobRecords(state, store, self.metrics)
        setup = TrainerSetup(command, settings.cancel_seconds, state / "cache", settings.data_roots)
        runner = JobRunner(records, self.registry, self.models, setup)
        jobs = Jobs(records, runner, SettingsCheck(command))
        await jobs.start()
        self._parts.push_async_callback(jobs.stop)
        return jobs

    async def _open_admin(self, jobs: Jobs | None) -> None:
        settings = self._settings
        server = self._server()
        calls = self._admin_calls
        add_admin(server, calls, self.registry, self.models, jobs, settings.data_roots)
        if settings.reflection:
            describe(server, calls, ADMIN_NAMES)
        self.admin_port = await listen(
            server, settings.admin_host, settings.admin_port, "--admin-port"
        )
        # a short grace: a client watching a job would use up all of a longer one
        self._parts.push_async_callback(server.stop, ADMIN_GRACE_S)

    async def _open_public(self) -> None:
        settings = self._settings
        server = self._server()
        add_public(
            server,
            self._calls,
            self.registry,
            self.models,
            self._health,
            max_images=settings.max_images,
            max_pixels=settings.max_pixels,
            max_wait_ms=settings.max_wait_ms,
            max_queue=settings.max_queue,
            cache_entries=settings.cache_entries,
        )
        if settings.reflection:
            describe(server, self._calls, PUBLIC_NAMES)
        self.port = await listen(server, settings.host, settings.port, "--port")
        self._parts.push_async_callback(self._finish_calls, server)
        self._parts.callback(self._calls.end_waiting)
        self._parts.callback(self._admin_calls.end_waiting)
        self._parts.callback(self._health.end)

    async def _follow_registry(self) -> None:
        task = asyncio.create_task(self.models.follow(self._settings.poll_seconds))

        async def stop() -> None:
            task.cancel()
            await asyncio.wait({task})

        self._parts.push_async_callback(stop)

    # Helpers

    async def _finish_calls(self, server: grpc.aio.Server) -> None:
        grace_s = self._settings.grace_seconds
        over = asyncio.get_running_loop().call_later(grace_s, self._calls.log_cut_off)
        await server.stop(grace_s)
        over.cancel()

    def _server(self) -> grpc.aio.Server:
        settings = self._settings
        # more than `max_rpcs`, so that calls above that get an error instead of waiting
        max_streams = max(MIN_STREAMS, 2 * settings.max_rpcs)
        return new_server(settings.max_message_mb, settings.max_connection_age_seconds, max_streams)

    def _report_draining(self) -> None:
        self._health.drain()
        self.metrics.ready.set(0)

    def _on_ready(self, model: str) -> None:
        depth = self.metrics.queue_depth.labels(model)
        depth.set_function(lambda: self.models.queue_depth(model))
        self._health.model_ready(model)
