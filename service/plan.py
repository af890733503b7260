"""The execution plan: threads per run, runs side by side, images per run; measured, not guessed.

What wins differs between machines and networks: on two cores, two runs of one thread each beat one
run of two threads by a third, and batches are slower than single images; a GPU wants batches.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from registry.files import write_durably
from registry.images import Float32Array, UInt8Array

log = logging.getLogger(__name__)

BUDGET_S = 1.0
SLOWEST = 1.5  # times the best latency of a single image
BATCH_GAIN = 1.05  # a larger batch makes others wait, so it must pay
BATCHES = {"cpu": (1, 4, 8), "cuda": (1, 4, 8, 16, 32), "tensorrt": (1, 4, 8, 16, 32)}

Run = Callable[[UInt8Array], Float32Array]


@dataclass(frozen=True)
class Plan:
    threads: int
    runs: int
    batch: int

    def __str__(self) -> str:
        return f"{self.threads}x{self.runs}x{self.batch}"


@dataclass(frozen=True)
class Trial:
    plan: Plan
    latency_s: float  # of one image that is alone
    images_per_s: float


def parse_plan(text: str) -> Plan:
    """`THREADSxRUNSxBATCH`, as in 1x2x1."""
    threads, runs, batch = map(int, text.split("x"))
    return Plan(threads, runs, batch)


def candidates(provider: str, cpus: int) -> list[tuple[int, int]]:
    """(threads, runs) worth trying: the cores are split evenly; a GPU overlaps two runs."""
    if provider != "cpu":
        return [(1, 1), (1, 2)]
    return [(cpus // runs, runs) for runs in range(cpus, 0, -1) if cpus % runs == 0][:6]


def measure_plan(open_run: Callable[[int], Run], provider: str, cpus: int, size: int) -> Plan:
    """The best plan for a network, found in about BUDGET_S; `open_run` gives it with n threads."""
    splits = candidates(provider, cpus)
    until = time.monotonic() + BUDGET_S
    share_s = BUDGET_S / (len(splits) * len(BATCHES[provider]))
    trials: list[Trial] = []
    for threads, runs in splits:
        run = open_run(threads)
        run(np.zeros((1, size, size, 3), np.uint8))  # the first run allocates
        latency_s = _latency(run, size, share_s / 4)
        for batch in BATCHES[provider]:
            if trials and time.monotonic() > until:
                break
            rate = _throughput(run, runs, batch, size, share_s)
            trials.append(Trial(Plan(threads, runs, batch), latency_s, rate))
    chosen = choose(trials)
    rates = {str(trial.plan): round(trial.images_per_s, 1) for trial in trials}
    log.info("plan_measured", extra={"plan": str(chosen), "images_per_s": rates})
    return chosen


def choose(trials: list[Trial]) -> Plan:
    """Highest throughput among those whose latency is at most SLOWEST times the best."""
    fastest_s = min(trial.latency_s for trial in trials)
    fit = [trial for trial in trials if trial.latency_s <= SLOWEST * fastest_s]
    best = max(fit, key=lambda trial: trial.images_per_s)
    close = [trial for trial in fit if trial.images_per_s * BATCH_GAIN >= best.images_per_s]
    smallest = min(trial.plan.batch for trial in close)
    close = [trial for trial in close if trial.plan.batch == smallest]
    return max(close, key=lambda trial: trial.images_per_s).plan


def _latency(run: Run, size: int, for_s: float) -> float:
    image = np.zeros((1, size, size, 3), np.uint8)
    times: list[float] = []
    until = time.perf_counter() + for_s
    while len(times) < 2 or time.perf_counter() < until:
        begin = time.perf_counter()
        run(image)
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def _throughput(run: Run, runs: int, batch: int, size: int, for_s: float) -> float:
    images = np.zeros((batch, size, size, 3), np.uint8)
    run(images)
    begin = time.perf_counter()
    until = begin + for_s

    def repeat() -> int:
        n = 0
        while n == 0 or time.perf_counter() < until:
            run(images)
            n += batch
        return n

    with ThreadPoolExecutor(runs) as pool:
        n_images = sum(pool.map(lambda _: repeat(), range(runs)))
    return n_images / (time.perf_counter() - begin)


class Plans:
    """Plans that were measured before, by network, provider and processors; kept in `path`."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known = _read(path) if path else {}

    def get(self, key: str) -> Plan | None:
        with self._lock:
            return self._known.get(key)

    def put(self, key: str, plan: Plan) -> None:
        with self._lock:
            self._known[key] = plan
            if self._path:
                content = {key: asdict(plan) for key, plan in self._known.items()}
                write_durably(self._path, json.dumps(content, indent=1).encode())


def _read(path: Path) -> dict[str, Plan]:
    try:
        return {key: Plan(**plan) for key, plan in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # a cache; it is measured again
        return {}
