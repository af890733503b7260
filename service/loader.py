"""From a published folder to a version that can answer: verify, open, prove, warm."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from registry.bundle import GOLDEN, MODEL, Bundle, verify_bundle
from registry.errors import BundleError
from registry.golden import read_golden
from registry.images import UInt8Array, prepare
from service.cpus import cpu_set, usable_cpus
from service.executor import Executor
from service.metrics import Metrics
from service.plan import Plan, Plans, Run, measure_plan
from service.session import ActiveProvider, Session

log = logging.getLogger(__name__)

# Where a bundle states none for a provider: float32 on a CPU, TF32 and FP16 on a GPU.
TOLERANCES: dict[str, float] = {"cpu": 1e-4, "cuda": 5e-3, "tensorrt": 1e-2}


class Loaded:
    """A version in memory. It counts its readers, and closes when told to and the last has gone."""

    def __init__(self, version: int, bundle: Bundle, plan: Plan, executor: Executor) -> None:
        self.model = bundle.model
        self.version = version
        self.bundle = bundle
        self.plan = plan
        self.executor = executor
        self._readers = 0
        self._retired = False

    def __enter__(self) -> "Loaded":
        self._readers += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self._readers -= 1
        self._free()

    def retire(self) -> None:
        """Its memory is freed once nobody uses it."""
        self._retired = True
        self._free()

    def _free(self) -> None:
        if self._retired and not self._readers:
            # joining threads would hold up the event loop
            threading.Thread(target=self.executor.close, name="unload").start()


class Loader:
    """Knows how this server loads versions; `load` blocks and is called from a thread."""

    def __init__(
        self,
        *,
        provider: ActiveProvider,
        pinned: Plan | None,
        plans: Plans,
        max_queue: int,
        metrics: Metrics,
    ) -> None:
        self.provider = provider
        self._pinned = pinned
        self._plans = plans
        self._max_queue = max_queue
        self._metrics = metrics

    def load(self, folder: Path, version: int, like: Loaded | None) -> Loaded:
        """The version, ready: its files are intact, its golden answers right, its memory warm.

        Args:
            like: a version whose plan it takes over when their shapes are the same.

        Raises:
            BundleError: it must not go live, and why.
            Unavailable: the provider did not come up.
        """
        started = time.monotonic()
        bundle = verify_bundle(folder)
        plan, session = self._open(folder, bundle, like)
        check_golden(folder, bundle, session)
        warm(session, bundle.image.size, plan.batch)
        executor = Executor(
            session.run,
            runs=plan.runs,
            batch=plan.batch,
            max_queue=self._max_queue,
            observe=self._observer(bundle.model),
        )
        seconds = time.monotonic() - started
        self._metrics.load_seconds.labels(bundle.model).observe(seconds)
        facts = {"model": bundle.model, "version": version, "plan": str(plan), "seconds": seconds}
        log.info("version_loaded", extra=facts)
        return Loaded(version, bundle, plan, executor)

    def _open(self, folder: Path, bundle: Bundle, like: Loaded | None) -> tuple[Plan, Session]:
        opened: dict[int, Session] = {}

        def session(threads: int) -> Session:
            if threads not in opened:
                opened[threads] = Session(
                    folder / MODEL, bundle, provider=self.provider, threads=threads
                )
            return opened[threads]

        def open_run(threads: int) -> Run:
            return session(threads).run

        key = f"{bundle.files[MODEL]} {self.provider} {cpu_set()}"
        plan = self._pinned or self._plans.get(key) or _inherited(bundle, like)
        if plan is None:
            plan = measure_plan(open_run, self.provider, usable_cpus(), bundle.image.size)
            self._plans.put(key, plan)
        return plan, session(plan.threads)

    def _observer(self, model: str) -> Callable[[int, float, float], None]:
        queue = self._metrics.queue_seconds.labels(model)
        compute = self._metrics.compute_seconds.labels(model)
        batch = self._metrics.batch_size.labels(model)

        def observe(n_images: int, queue_s: float, compute_s: float) -> None:
            queue.observe(queue_s)
            compute.observe(compute_s)
            batch.observe(n_images)

        return observe


def check_golden(folder: Path, bundle: Bundle, session: Session) -> None:
    """The session repeats the answers that the bundle was published with.

    Raises:
        BundleError: it differs by more than the tolerance.
    """
    where = f"{bundle.model}/{folder.name}"
    golden = read_golden(folder / GOLDEN)
    pixels = [prepare(image, bundle.image) for image in golden.images]
    answers = np.concatenate([session.run(one[None]) for one in pixels])
    if answers.shape != golden.probabilities.shape:
        raise BundleError(
            f"{where}: answers have shape {answers.shape} and the golden ones "
            f"{golden.probabilities.shape}; publish again"
        )
    key = f"{MODEL}/{session.provider}"
    tolerance = bundle.tolerances.get(key, TOLERANCES[session.provider])
    difference = float(np.abs(answers - golden.probabilities).max())
    if not difference <= tolerance:  # also when it is not a number
        raise BundleError(
            f"{where}: golden answers differ by {difference:.3g} on {session.provider}, "
            f"the tolerance is {tolerance:.3g}; it does not go live"
        )


def warm(session: Session, size: int, batch: int) -> None:
    """Memory for the smallest and the largest batch is allocated."""
    for n_images in sorted({1, batch}):
        images: UInt8Array = np.zeros((n_images, size, size, 3), np.uint8)
        session.run(images)


def _inherited(bundle: Bundle, like: Loaded | None) -> Plan | None:
    """Probing would disturb the version that is live; the same shape runs as that one does."""
    if like is None:
        return None
    same = (
        like.bundle.image.size == bundle.image.size
        and len(like.bundle.labels) == len(bundle.labels)
        and like.bundle.provenance.get("backbone") == bundle.provenance.get("backbone")
    )
    return like.plan if same else None
