"""Real servers for the tests: in this process, on free ports, with a tiny model.

def test_something(server):                 # a server in a thread, with `colours` version 1
    server.classifier.Classify(...)         # a plain gRPC stub
    server.address, server.admin_address, server.metrics_address, server.registry
"""

import service.one_poller  # noqa: F401  # before grpc

# isort: split
import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
import tiny

from registry.store import Registry
from service.execution.executor import Executor
from service.server import Service
from service.settings import Settings
from unfreeze.cli import main
from unfreeze.v1 import admin_pb2_grpc, classifier_pb2_grpc
from unfreeze.v1 import classifier_pb2 as pb

TESTS = Path(__file__).parent
STAND_IN_TRAINER = (sys.executable, str(TESTS / "stand_in_trainer.py"))
PLAN = "1x2x4"  # measuring one takes a second

# A shell that starts the tests in the background has them ignore it, and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

T = TypeVar("T")


class RunningServer:
    """A real server with a loop and a thread of its own, so that blocking clients may call it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.registry = Registry(settings.registry)
        self._ready: Future[Service] = Future()
        self._thread = threading.Thread(target=self._live, name="server")
        self._thread.start()
        try:
            self.service = self._ready.result(60)
        except BaseException:
            self._thread.join()
            raise
        host = "127.0.0.1"
        self.address = f"{host}:{self.service.port}"
        self.admin_address = f"{host}:{self.service.admin_port}"
        self.metrics_address = f"{host}:{self.service.metrics_port}"
        self.channel = grpc.insecure_channel(self.address, OPTIONS)
        self.admin_channel = grpc.insecure_channel(self.admin_address)
        self.classifier = classifier_pb2_grpc.ClassifierStub(self.channel)
        self.admin = admin_pb2_grpc.AdminStub(self.admin_channel)

    def _live(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        try:
            async with Service(self.settings) as service:
                self._ready.set_result(service)
                await self._end.wait()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            else:
                raise

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of something that must run in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def call_soon(self, work: Callable[[], object]) -> None:
        """It runs in the server's loop, which stands still meanwhile."""
        self._loop.call_soon_threadsafe(work)

    def refresh(self) -> None:
        """The server has taken up what the registry says now."""
        self.call(self.service.models.refresh())

    def classify(self, *images: bytes, model: str = tiny.MODEL_NAME, **fields: Any) -> Any:
        return self.classifier.Classify(
            pb.ClassifyRequest(model=model, images=images, **fields), timeout=20
        )

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics") as page:
            return page.read().decode()

    def end(self) -> None:
        """It has been told to end, and does so by itself."""
        self._loop.call_soon_threadsafe(self._end.set)

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def stop(self) -> None:
        """It has ended; a second call does nothing."""
        self.channel.close()
        self.admin_channel.close()
        if not self.has_ended:
            with suppress(RuntimeError):  # its loop has closed at this very moment
                self.end()
            self._thread.join()


OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]

Start = Callable[..., RunningServer]


def settings(registry: Path, **changes: Any) -> Settings:
    """Settings of a server on free ports that loses no time."""
    quick: dict[str, Any] = {
        "port": 0,
        "metrics_port": 0,
        "admin_port": 0,
        "plan": PLAN,
        "poll_seconds": 0.1,
        "drain_seconds": 0,
        "grace_seconds": 5,
        "cancel_seconds": 2,
        "trainer_command": STAND_IN_TRAINER,
    }
    return Settings(registry=registry, **(quick | changes))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of an empty registry."""
    folder = tmp_path / "registry"
    folder.mkdir()
    return folder


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data root that holds the data set `colours`."""
    folder = tmp_path / "data" / "colours"
    folder.mkdir(parents=True)
    (folder / "red.png").write_bytes(tiny.picture("red", format="PNG"))
    return folder.parent


@pytest.fixture
def start(root: Path) -> Iterator[Start]:
    """Starts servers on the registry `root`; they are stopped when the test ends."""
    running: list[RunningServer] = []

    def start(**changes: Any) -> RunningServer:
        server = RunningServer(settings(root, **changes))
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def server(start: Start, root: Path, state: Path, data: Path) -> RunningServer:
    """A server that can train, with version 1 of `colours` promoted."""
    tiny.publish(root, promote=True)
    return start(state=state, data_roots=(data,))


ImportOnnx = Callable[..., tuple[int, str, str]]


@pytest.fixture
def import_onnx(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> ImportOnnx:
    """`unfreeze import` of a file, by the name `net`: exit code, standard output and error."""
    default = tmp_path / "colours.txt"
    default.write_text("\n".join(tiny.LABELS))

    def run(model: Path, *flags: object, labels: Path = default) -> tuple[int, str, str]:
        known = ("import", model, "--name", "net", "--labels", labels, "--registry", root)
        code = main([str(one) for one in (*known, *flags)])
        return code, *capsys.readouterr()

    return run


class ServerProcess:
    """`python -m service` as a process of its own, for what only a process can show."""

    def __init__(self, root: Path, folder: Path, *flags: str, awaited: bool = True) -> None:
        """`awaited`: it is ready, or has ended."""
        self.ports_file = folder / "ports.json"
        self.log = folder / "server.log"
        self.ports_file.unlink(missing_ok=True)
        ports = ("--port", "0", "--metrics-port", "0", "--admin-port", "0")
        command = [sys.executable, "-m", "service", "--registry", str(root), *ports]
        command += ["--ports-file", str(self.ports_file), "--plan", PLAN, *flags]
        environment = os.environ | {"UNFREEZE_TRAINER_COMMAND": " ".join(STAND_IN_TRAINER)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, cwd=TESTS.parent, env=environment)
        if not awaited:
            return
        try:
            wait_until(lambda: self.ports_file.exists() or self.process.poll() is not None)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start_process(root: Path, tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    running: list[ServerProcess] = []

    def start(*flags: str, awaited: bool = True) -> ServerProcess:
        folder = tmp_path / f"server-{len(running)}"
        folder.mkdir()
        process = ServerProcess(root, folder, *flags, awaited=awaited)
        running.append(process)
        return process

    yield start
    for process in running:
        process.stop()


def wait_until(true: Callable[[], object], within_s: float = 60) -> None:
    """`true()` is; a test that waits in vain fails."""
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


@contextmanager
def held(server: RunningServer, version: int | None = None) -> Iterator[Executor]:
    """What runs now, or begins to, ends no sooner than the block; None: of the live version."""
    model = server.service.models._states["colours"]
    executor = (model.find(version) if version else model.live).executor
    run, go = executor._run, threading.Event()
    executor._run = lambda images: go.wait(60) and run(images)
    try:
        yield executor
    finally:
        go.set()


def in_flight(server: RunningServer, n_calls: int) -> bool:
    return f"unfreeze_rpcs_in_flight {n_calls}.0" in server.metrics()


def best(response: pb.ClassifyResponse) -> Sequence[str]:
    """The first label of every image."""
    return [result.prediction.labels[0].name for result in response.results]
