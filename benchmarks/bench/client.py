"""Load generator: sends requests with `tritonclient.grpc` from a process of its own, and measures.

    python -m bench.client '{"url": "127.0.0.1:8001", "model": "lite0", "inputs": "images.npz", …}'

The argument is a `Load` as JSON; it prints one JSON object. CPU time that it uses is lost to the
server, so the requests of a flood can be encoded beforehand. gRPC runs with its defaults, as users
have it, although with a single thread for its sockets a small request took 0.22 ms of CPU here
instead of 0.35.
"""

import json
import os
import random
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench import processes
from bench.senders import through_grpc, through_tritonclient
from registry.images import Float32Array

REJECTED = "UNAVAILABLE"


@dataclass(frozen=True)
class Load:
    """What to send, and how."""

    url: str
    model: str
    inputs: str  # a file of `inputs.py`
    warm_s: float
    seconds: float
    in_flight: int = 0  # closed loop
    rate: float = 0  # open loop: requests per second, whether or not they are answered
    deadline_s: float = 10.0
    parameters: dict[str, int] = field(default_factory=dict)
    made_once: bool = False  # encode the request once and send the same bytes, without tritonclient
    pid: int | None = None  # of the server, to account for its CPU time and memory


@dataclass
class Seen:
    """The measurements between warm-up and end."""

    latencies_s: list[float] = field(default_factory=list)
    rejections_s: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    worst: float = 0  # largest difference from the expected probabilities
    agreeing: int = 0  # answers with the expected label


class Asker:
    """Sends requests and checks each answer, in one of gRPC's threads."""

    def __init__(self, load: Load) -> None:
        with np.load(load.inputs) as arrays:
            kind, self.expected = str(arrays["kind"]), arrays["expected"]
            tensors = arrays["tensors"][:, None]
            if kind == "BYTES":
                files = np.split(tensors, np.cumsum(arrays["lengths"])[:-1])
                tensors = [np.array([[file.tobytes()]], object) for file in files]
        self.load = load
        through = through_grpc if load.made_once else through_tritonclient
        self._send = through(load.url, load.model, tensors, kind, load.parameters, load.deadline_s)
        self._seen = Seen()
        self._noting = threading.Lock()
        self._sent = 0

    def send(self, then: Callable[[], None]) -> None:
        """Sends a request; `then` is called once its answer has been checked."""
        i = self._sent % len(self.expected)
        self._sent += 1
        began = time.perf_counter()

        def answered(probabilities: Float32Array | None, status: str) -> None:
            with self._noting:
                self._note(i, time.perf_counter() - began, probabilities, status)
            then()

        self._send(i, answered)

    def take(self) -> Seen:
        """The answers since the last call."""
        with self._noting:
            seen, self._seen = self._seen, Seen()
        return seen

    def _note(self, i: int, took_s: float, answer: Float32Array | None, status: str) -> None:
        seen = self._seen
        seen.outcomes[status] += 1
        if answer is None:
            if status == REJECTED:
                seen.rejections_s.append(took_s)
            return
        expected = self.expected[i]
        seen.worst = max(seen.worst, float(np.abs(answer[0] - expected).max()))
        seen.agreeing += int(answer[0].argmax() == expected.argmax())
        seen.latencies_s.append(took_s)


def closed_loop(asker: Asker, stopped: threading.Event) -> None:
    """Each answer is followed by the next request."""

    def again() -> None:
        if not stopped.is_set():
            asker.send(again)

    for _ in range(asker.load.in_flight):
        asker.send(again)


def open_loop(asker: Asker, stopped: threading.Event) -> None:
    """Requests arrive independently of each other and of the answers (a Poisson process)."""
    draw = random.Random(0)

    def arrive() -> None:
        due = time.perf_counter()
        while not stopped.is_set():
            due += draw.expovariate(asker.load.rate)
            if (wait_s := due - time.perf_counter()) > 0:
                time.sleep(wait_s)
            asker.send(lambda: None)

    threading.Thread(target=arrive, daemon=True).start()


def measure(load: Load) -> dict[str, Any]:
    """Everything about the `seconds` after the first `warm_s`."""
    asker, stopped = Asker(load), threading.Event()
    (closed_loop if load.in_flight else open_loop)(asker, stopped)
    time.sleep(load.warm_s)
    server = processes.family(load.pid) if load.pid else []
    asker.take()
    memory = processes.rss(server)
    began, own, theirs = time.perf_counter(), _own_cpu_s(), processes.cpu_s(server)
    time.sleep(load.seconds)
    seen = asker.take()
    took_s = time.perf_counter() - began
    own, theirs = _own_cpu_s() - own, processes.cpu_s(server) - theirs
    stopped.set()
    grown = {"rss_begin": memory, "rss_end": processes.rss(server)}
    return _summary(seen, took_s, own, theirs) | grown


def _summary(seen: Seen, took_s: float, own_cpu_s: float, server_cpu_s: float) -> dict[str, Any]:
    ok = len(seen.latencies_s)
    n = max(1, sum(seen.outcomes.values()))
    p50, p99 = np.percentile(seen.latencies_s, (50, 99)) if ok else (float("nan"),) * 2
    return {
        "per_s": ok / took_s,
        "p50_ms": 1000 * p50,
        "p99_ms": 1000 * p99,
        "offered_per_s": n / took_s,
        "rejection_ms": 1000 * float(np.median(seen.rejections_s)) if seen.rejections_s else None,
        "outcomes": dict(seen.outcomes),
        "worst": seen.worst,
        "agreement": seen.agreeing / max(1, ok),
        "client_cpu_ms": 1000 * own_cpu_s / n,
        "server_cpu_ms": 1000 * server_cpu_s / n,
    }


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    print(json.dumps(measure(Load(**json.loads(sys.argv[1])))), flush=True)
    os._exit(0)  # do not wait for requests in flight
