"""The execution plan: threads per run, concurrent runs, images per run; measured, not guessed.

What is fastest differs between machines and networks: on two cores, two runs of one thread each
beat one run of two threads by a third, and batches are slower than single images; a GPU needs
batches.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from registry.errors import BundleError
from registry.files import write_durably
from registry.images import UInt8Array
from service.execution.providers import GPUS, ActiveProvider
from service.execution.shapes import Run, tried_batches

log = logging.getLogger(__name__)

BUDGET_S = 1.0
ROUNDS = 2  # so that a moment of other load on the machine does not decide
# Acceptable latency of a single image, as a multiple of the best. With half the threads it is at
# most twice the best, so what they answer decides, and not how lucky each latency was.
SLOWEST = 2.0
QUICK_S = 0.0001
QUICK_TRIALS = 5
GAIN = 1.05  # in throughput, that a slower single image needs
# In throughput, that a larger batch needs. Its images wait for each other, also to be decoded:
# in service, plans with batches that had measured alike answered 3 and 15 % fewer images.
BATCH_GAIN = 1.2
# By a GPU's arena, by CUDA, and by the libraries that allocate on their own.
SAID_OF_MEMORY = ("memory", "ALLOC")


@dataclass(frozen=True)
class Plan:
    threads: int
    runs: int
    batch: int

    def __str__(self) -> str:
        return f"{self.threads}x{self.runs}x{self.batch}"


@dataclass(frozen=True)
class Measurement:
    plan: Plan
    latency_s: float  # of a single image, without other load
    images_per_s: float


def parse_plan(text: str) -> Plan:
    """`THREADSxRUNSxBATCH`, as in 1x2x1."""
    threads, runs, batch = map(int, text.split("x"))
    return Plan(threads, runs, batch)


def tried_splits(provider: ActiveProvider, cpus: int) -> list[tuple[int, int]]:
    """The (threads, runs) to measure: the cores split evenly; on a GPU, one run or two at once."""
    if provider in GPUS:
        return [(1, 1), (1, 2)]
    return [(cpus // runs, runs) for runs in range(cpus, 0, -1) if cpus % runs == 0][:6]


def measure_plan(
    open_run: Callable[[int], Run],
    provider: ActiveProvider,
    cpus: int,
    size: int,
    fixed_batch: int | None = None,
    max_batch: int | None = None,
) -> Plan:
    """The best plan for a network, after at most BUDGET_S of timed runs.

    Args:
        open_run: opens the network with n threads.
        fixed_batch: the only batch size that the network accepts; None: any.
        max_batch: the largest batch to try; None: the provider's default.
    """
    splits = tried_splits(provider, cpus)
    runs = {threads: open_run(threads) for threads, _ in splits}
    batches = tried_batches(provider, max_batch, fixed_batch)
    if provider == "tensorrt":  # it recompiles, for minutes, for every new largest batch
        for run in runs.values():
            run(np.zeros((max(batches), size, size, 3), np.uint8))
    share_s = BUDGET_S / 4 / len(runs)
    latencies = {threads: _latency(run, size, share_s) for threads, run in runs.items()}
    plans = [
        Plan(threads, n_runs, batch)
        for batch in batches
        for threads, n_runs in splits
        if latencies[threads] <= SLOWEST * min(latencies.values())
    ]
    rates = _rates(plans, runs, latencies, size)
    measured = [Measurement(plan, latencies[plan.threads], rate) for plan, rate in rates.items()]
    chosen = choose(measured)
    shown = {str(plan): round(rate, 1) for plan, rate in rates.items()}
    log.info("plan_measured", extra={"plan": str(chosen), "images_per_s": shown})
    return chosen


def _rates(
    plans: list[Plan], runs: dict[int, Run], latencies: dict[int, float], size: int
) -> dict[Plan, float]:
    """Images per second: measured as far as the time allows, otherwise estimated from latency. A
    batch for which there is too little memory is none to choose."""
    smallest, too_large = plans[0].batch, math.inf
    hoped = {
        plan: plan.runs * (smallest / latencies[plan.threads])
        for plan in plans
        if plan.batch == smallest
    }
    left_s = 0.75 * BUDGET_S
    share_s = left_s / (ROUNDS * len(plans))
    measured: dict[Plan, float] = {}
    for plan in plans * ROUNDS:
        one_s = latencies[plan.threads] * plan.batch / smallest
        if max(share_s, one_s) > left_s or plan.batch >= too_large:
            continue
        try:
            if plan not in measured:  # warm-up: allocates memory, and selects a GPU's kernels
                runs[plan.threads](np.zeros((plan.batch, size, size, 3), np.uint8))
            n_images, seconds = _throughput(runs[plan.threads], plan, size, share_s)
        except BundleError as error:
            if plan.batch == smallest or not _is_of_memory(error):
                raise
            log.warning("batch_too_large", extra={"plan": str(plan), "problem": str(error)})
            too_large = plan.batch
            measured = {  # in an earlier round there was still enough
                one: rate
                for one, rate in measured.items()
                if one.batch < plan.batch or one.runs < plan.runs
            }
            continue
        left_s -= seconds
        measured[plan] = max(n_images / seconds, measured.get(plan, 0))
    return hoped | measured


def _is_of_memory(error: BundleError) -> bool:
    """Whether the network failed because memory is short; by its own words, since those of `error`
    have the model's name, too."""
    return any(said in str(error.__cause__) for said in SAID_OF_MEMORY)


def is_quick(run: Run, size: int) -> bool:
    """Whether the network answers one image in less time than it takes to wake a thread for it.

    The shortest of a few runs counts: other load can only make them longer.
    """
    image: UInt8Array = np.zeros((1, size, size, 3), np.uint8)
    for _ in range(QUICK_TRIALS):
        began = time.perf_counter()
        run(image)
        if time.perf_counter() - began < QUICK_S:
            return True
    return False


def choose(measured: list[Measurement]) -> Plan:
    """The highest throughput among plans whose latency is at most SLOWEST times the best, with the
    smallest batch that no larger one beats by BATCH_GAIN. Of those that are about as high, within
    GAIN, the best latency."""
    fastest_s = min(one.latency_s for one in measured)
    fit = [one for one in measured if one.latency_s <= SLOWEST * fastest_s]
    best, *larger = (_best_of(batch, fit) for batch in sorted({one.plan.batch for one in fit}))
    for one in larger:
        if one.images_per_s >= BATCH_GAIN * best.images_per_s:
            best = one
    close = [
        one
        for one in fit
        if one.plan.batch == best.plan.batch and one.images_per_s * GAIN >= best.images_per_s
    ]
    return min(close, key=lambda one: (one.latency_s, -one.images_per_s)).plan


def _best_of(batch: int, measured: list[Measurement]) -> Measurement:
    of_batch = [one for one in measured if one.plan.batch == batch]
    return max(of_batch, key=lambda one: one.images_per_s)


def _latency(run: Run, size: int, for_s: float) -> float:
    """Seconds for a single image: the fastest of several runs."""
    image = np.zeros((1, size, size, 3), np.uint8)
    run(image)  # the first run allocates
    times: list[float] = []
    until = time.perf_counter() + for_s
    while not times or time.perf_counter() < until:
        begin = time.perf_counter()
        run(image)
        times.append(time.perf_counter() - begin)
    return min(times)


def _throughput(run: Run, plan: Plan, size: int, for_s: float) -> tuple[int, float]:
    """Images processed in about `for_s`, and the seconds that it actually took."""
    images = np.zeros((plan.batch, size, size, 3), np.uint8)
    begin = time.perf_counter()

    def repeat(_: int) -> int:
        n_images = 0
        while n_images == 0 or time.perf_counter() < begin + for_s:
            run(images)
            n_images += plan.batch
        return n_images

    with ThreadPoolExecutor(plan.runs) as pool:
        n_images = sum(pool.map(repeat, range(plan.runs)))
    return n_images, time.perf_counter() - begin


class Plans:
    """A cache of measured plans, by network, provider and processors; stored in `path`."""

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
                self._keep(self._path, json.dumps(content, indent=1).encode())

    def _keep(self, path: Path, content: bytes) -> None:
        try:
            write_durably(path, content)
        except OSError as error:  # only a cache: the model can be served all the same
            log.warning("plans_not_kept", extra={"path": str(path), "problem": str(error)})


def _read(path: Path) -> dict[str, Plan]:
    try:
        return {key: Plan(**plan) for key, plan in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # only a cache: measure again
        return {}
