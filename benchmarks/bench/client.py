"""Asks a server through `tritonclient.grpc`, in a process of its own, and says how that went.

    python -m bench.client '{"url": "127.0.0.1:8001", "model": "lite0", "inputs": "images.npz", …}'

The argument is a `Load` as JSON, the answer on standard output one JSON object. Callbacks are the
style of tritonclient that costs least: 281 us of CPU for a small request here, against 323 us with
blocking calls in threads and 334 us with asyncio.
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
import tritonclient.grpc as triton

from bench import processes


@dataclass(frozen=True)
class Load:
    """What to send, and how."""

    url: str
    model: str
    inputs: str  # a file of `inputs.py`
    warm_s: float
    seconds: float
    in_flight: int = 0  # closed loop
    rate: float = 0  # open loop: requests per second, whatever becomes of them
    deadline_s: float = 10.0
    parameters: dict[str, Any] = field(default_factory=dict)
    pid: int | None = None  # of the server, to account for its CPU time and memory


@dataclass
class Seen:
    """What was measured between warm-up and end."""

    latencies_s: list[float] = field(default_factory=list)
    rejections_s: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    worst: float = 0  # largest difference from the expected probabilities
    agreeing: int = 0  # answers with the expected label


class Asker:
    """Sends requests one after the other and checks each answer, in tritonclient's thread."""

    def __init__(self, load: Load) -> None:
        with np.load(load.inputs) as arrays:
            kind, self.expected = str(arrays["kind"]), arrays["expected"]
            tensors = arrays["tensors"][:, None]
            if kind == "BYTES":
                files = np.split(tensors, np.cumsum(arrays["lengths"])[:-1])
                tensors = [np.array([[file.tobytes()]], object) for file in files]
        self.inputs = [_input(one, kind) for one in tensors]
        self.load = load
        self.client = triton.InferenceServerClient(load.url)
        self._seen = Seen()
        self._noting = threading.Lock()
        self._sent = 0

    def send(self, then: Callable[[], None]) -> None:
        """A request is on its way; `then` is called when its answer has been looked at."""
        i = self._sent % len(self.inputs)
        self._sent += 1
        began = time.perf_counter()

        def answered(result: Any, error: Any) -> None:
            with self._noting:
                self._note(i, time.perf_counter() - began, result, error)
            then()

        self.client.async_infer(
            self.load.model,
            [self.inputs[i]],
            answered,
            client_timeout=self.load.deadline_s,
            parameters=self.load.parameters or None,
        )

    def take(self) -> Seen:
        """What has come back since this was last called."""
        with self._noting:
            seen, self._seen = self._seen, Seen()
        return seen

    def _note(self, i: int, took_s: float, result: Any, error: Any) -> None:
        seen = self._seen
        if error is not None:
            status = str(error.status()).removeprefix("StatusCode.")
            seen.outcomes[status] += 1
            if status == "UNAVAILABLE":
                seen.rejections_s.append(took_s)
            return
        probabilities = result.as_numpy("probabilities")[0]
        expected = self.expected[i]
        seen.worst = max(seen.worst, float(np.abs(probabilities - expected).max()))
        seen.agreeing += int(probabilities.argmax() == expected.argmax())
        seen.outcomes["OK"] += 1
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


def _input(tensor: Any, kind: str) -> triton.InferInput:
    one = triton.InferInput("image", list(tensor.shape), kind)
    one.set_data_from_numpy(tensor)
    return one


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    print(json.dumps(measure(Load(**json.loads(sys.argv[1])))), flush=True)
    os._exit(0)  # requests that are still under way do not matter any more
