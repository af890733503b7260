"""Servers as processes: start, wait until ready, measure, stop."""

import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import tritonclient.grpc as triton

from bench import processes

ROOT = Path(__file__).parents[2]
PEER_CODE = ROOT / "benchmarks" / "peers"
# This checkout, even if another one is installed.
PYTHONPATH = os.pathsep.join((str(ROOT), str(ROOT / "benchmarks")))
ENVIRONMENT = os.environ | {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
# As Unfreeze sets it for itself: one thread for the sockets. Tuned peers get it too.
ONE_POLLER = {"GRPC_EXPERIMENTS": "-event_engine_listener"}
READY_WITHIN_S = 60
MESSAGE_BYTES = 64 << 20


@dataclass(frozen=True)
class Server:
    """A running server that has reported ready."""

    url: str
    pid: int
    ready_s: float  # from exec

    def rss(self) -> int:
        """Resident bytes of all its processes."""
        return processes.rss(processes.family(self.pid))

    def idle_cpu(self, seconds: float) -> float:
        """The share of a core that it uses while idle."""
        family = processes.family(self.pid)
        before = processes.cpu_s(family)
        time.sleep(seconds)
        return (processes.cpu_s(family) - before) / seconds


@dataclass(frozen=True)
class PeerSettings:
    """What a user of kserve or mlserver can tune."""

    runs: int  # requests answered concurrently in threads; 0: in the event loop
    threads: int  # of ONNX Runtime, per request
    workers: int = 0  # mlserver's parallel_workers: processes with the model
    batch: int = 0  # mlserver's adaptive batching: largest batch
    logs: bool = False  # as documented: a log line for each request, and gRPC's defaults

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that its user sets."""
        return {} if self.logs else ONE_POLLER

    def __str__(self) -> str:
        form = f"{self.workers} workers" if self.workers else "one process"
        form += f", {self.runs} threads" if self.runs else ""
        form += f", batches of {self.batch}" if self.batch else ""
        form += ", logs" if self.logs else ""
        return f"{form}, {self.threads} intra-op"


@contextmanager
def unfreeze(registry: Path, *flags: str) -> Iterator[Server]:
    """`python -m service`, ready when it has written its ports."""
    with TemporaryDirectory() as folder:
        ports = Path(folder) / "ports.json"
        command = [sys.executable, "-m", "service", "--registry", str(registry)]
        command += ["--port", "0", "--metrics-port", "0", "--admin-port", "0"]
        command += ["--ports-file", str(ports), "--drain-seconds", "0", *flags]
        with _running(command, _port_written(ports), Path(folder)) as server:
            yield server


@contextmanager
def bare(network: Path, most: float = math.inf) -> Iterator[Server]:
    """bare.py, ready when it has written its port; gRPC as Unfreeze has it."""
    with TemporaryDirectory() as folder:
        ports = Path(folder) / "ports.json"
        command = [sys.executable, "-m", "bench.bare", str(network), "--ports-file", str(ports)]
        command += ["--most", str(most)]
        with _running(command, _port_written(ports), Path(folder), ONE_POLLER) as server:
            yield server


@contextmanager
def kserve(python: Path, networks: Path, model: str, settings: PeerSettings) -> Iterator[Server]:
    """peers/kserve_server.py with one model, ready when the model is."""
    port, http_port = free_ports(2)
    command = [python, PEER_CODE / "kserve_server.py", networks, "--model", model]
    command += ["--grpc_port", port, "--http_port", http_port]
    command += ["--runs", settings.runs, "--threads", settings.threads]
    command += [] if settings.logs else ["--quiet"]
    words, ready = [str(one) for one in command], _model_ready(port, model)
    with (
        TemporaryDirectory() as folder,
        _running(words, ready, Path(folder), settings.variables) as server,
    ):
        yield server


@contextmanager
def mlserver(python: Path, networks: Path, model: str, settings: PeerSettings) -> Iterator[Server]:
    """`mlserver start` with one model of peers/mlserver_runtime.py, ready when the model is."""
    port, http_port, metrics_port = free_ports(3)
    with TemporaryDirectory() as folder:
        server = {
            "debug": settings.logs,
            "host": "127.0.0.1",
            "grpc_port": port,
            "http_port": http_port,
            "metrics_port": metrics_port,
            "parallel_workers": settings.workers,
            "grpc_max_message_length": MESSAGE_BYTES,
        }
        network = networks / f"{model.removesuffix('-tensor')}.onnx"
        runtime = {
            "name": model,
            "implementation": f"mlserver_runtime.{'Pictures' if model == 'lite0' else 'Network'}",
            "max_batch_size": settings.batch,
            "max_batch_time": 0.005 if settings.batch else 0,
            "parameters": {
                "uri": str(network),
                "extra": {"runs": settings.runs, "threads": settings.threads},
            },
        }
        (Path(folder) / "settings.json").write_text(json.dumps(server))
        (Path(folder) / "model-settings.json").write_text(json.dumps(runtime))
        command = [str(python.with_name("mlserver")), "start", folder]
        ready = _model_ready(port, model)
        variables = {"PYTHONPATH": str(PEER_CODE)} | settings.variables
        with _running(command, ready, Path(folder), variables) as running:
            yield running


def free_ports(n: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def _running(
    command: Sequence[str],
    url: Callable[[], str | None],
    folder: Path,
    variables: dict[str, str] | None = None,
) -> Iterator[Server]:
    """Runs `command` until the block ends; `url` returns its address once it is ready."""
    log = folder / "log"
    began = time.perf_counter()
    with log.open("wb") as file:
        started = subprocess.Popen(
            command, stdout=file, stderr=file, cwd=folder, env=ENVIRONMENT | (variables or {})
        )
    try:
        while (found := url()) is None:
            if started.poll() is not None or time.perf_counter() - began > READY_WITHIN_S:
                raise SystemExit(f"{command[0]} did not become ready: {log.read_text()[-2000:]}")
            time.sleep(0.01)
        yield Server(found, started.pid, time.perf_counter() - began)
    finally:
        started.terminate()
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def _port_written(ports: Path) -> Callable[[], str | None]:
    def url() -> str | None:
        return f"127.0.0.1:{json.loads(ports.read_text())['port']}" if ports.exists() else None

    return url


def _model_ready(port: int, model: str) -> Callable[[], str | None]:
    address = f"127.0.0.1:{port}"

    def url() -> str | None:
        with triton.InferenceServerClient(address) as client:
            try:
                ready = client.is_model_ready(model, client_timeout=1)
            except triton.InferenceServerException:
                return None
        return address if ready else None

    return url
