"""From a published folder to a version that can answer: verify, open, check golden answers, warm
up."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from registry.bundle import FILES, Bundle, Precision, verify_bundle
from service.execution.admission import Admission
from service.execution.cpus import usable_cpus
from service.execution.executor import Executor
from service.execution.hardware import processors
from service.execution.kind import Kind, kind_of
from service.execution.malloc import release_freed_memory
from service.execution.plan import Plan, Plans, is_quick, measure_plan
from service.execution.providers import GPUS, Placement
from service.execution.run_times import RunTimes
from service.execution.session import Session
from service.execution.shapes import Run, batch_sizes, shaped
from service.models.golden_check import NeverEnds, check_golden, proving, warm
from service.models.loaded_version import LoadedVersion
from service.models.proof import Proof
from service.observability.metrics import Metrics
from service.observability.version_counts import VersionCounts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Limits of one version: see `Admission` and `Executor`."""

    max_queue: int
    max_queue_s: float
    max_requests: int
    max_bytes: int
    max_wait_s: float


class Loader:
    """Loads versions; `load` blocks and is called from a thread."""

    def __init__(
        self,
        *,
        placement: Placement,
        precision: Literal["auto"] | Precision,
        pinned: Plan | None,
        max_batch: int | None,
        plans: Plans,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        """
        Args:
            max_batch: largest batch of a measured plan; None: the provider's default.
        """
        self.placement = placement
        self._precision = precision
        self._pinned = pinned
        self._max_batch = max_batch
        self._plans = plans
        self._limits = limits
        self._metrics = metrics
        self._measuring = threading.Lock()  # concurrent measurements would disturb each other
        self._planned: dict[tuple[str, Kind], Plan] = {}  # by model; without inherited ones
        # by model and version: a network that did not end its run, by its digest, and the error.
        # Whoever follows the registry, or requests a version by number, would otherwise have it
        # take a core for a minute, again and again.
        self._endless: dict[tuple[str, int], tuple[str, str]] = {}

    def load(self, folder: Path, version: int) -> LoadedVersion:
        """The version, ready to answer: files verified, golden answers reproduced, warmed up.

        Raises:
            BundleError: why it must not go live.
            Unavailable: the provider could not be initialised.
        """
        started = time.monotonic()
        bundle = verify_bundle(folder)
        if bundle.model != folder.parent.name:  # the folder was copied or renamed
            bundle = bundle.model_copy(update={"model": folder.parent.name})
        kind = kind_of(folder, bundle, self.placement.provider, self._precision)
        digest = bundle.files[FILES[kind.precision]]
        known, problem = self._endless.get((bundle.model, version), ("", ""))
        if known == digest:
            raise NeverEnds(problem)
        try:
            plan, origin, session, sizes = self._prove(folder, bundle, kind)
        except NeverEnds as error:
            self._endless[bundle.model, version] = digest, str(error)
            raise
        run = shaped(session.run, sizes)
        if origin != "inherited":
            self._planned.pop((bundle.model, kind), None)  # an equal key would keep its old n_bytes
            self._planned[bundle.model, kind] = plan
        counts = VersionCounts(self._metrics, bundle.model, version, bundle.labels)
        quick = is_quick(run, bundle.image.size)
        executor = self._executor(run, kind, plan, sizes, counts, quick)
        seconds = time.monotonic() - started
        self._metrics.load_seconds.labels(bundle.model).observe(seconds)
        facts = {
            "model": bundle.model,
            "version": version,
            "file": FILES[kind.precision],
            "provider": kind.provider,
            "plan": str(plan),
            "plan_is": origin,
            "seconds": seconds,
        }
        log.info("version_loaded", extra=facts)
        if session.elsewhere:  # their tensors are copied there and back, a hidden cost
            log.warning("nodes_elsewhere", extra=facts | {"nodes": session.elsewhere})
        release_freed_memory()  # of the file as read, and of networks opened only for measuring
        return LoadedVersion(version, bundle, kind, plan, executor, counts)

    def forget(self, model: str, version: int) -> None:
        """The version is tried again, even if its network did not end its run before."""
        self._endless.pop((model, version), None)

    def _prove(
        self, folder: Path, bundle: Bundle, kind: Kind
    ) -> tuple[Plan, str, Session, Sequence[int]]:
        """The plan, where it comes from, the proven network, and the batch sizes of its runs."""
        with ExitStack() as proofs:
            plan, origin, proof = self._open(folder, bundle, kind, proofs)
            sizes = batch_sizes(kind.provider, plan.batch, bundle.fixed_batch)
            proven = shaped(proof.run, sizes)
            check_golden(folder, bundle, kind, proven)
            warm(folder, proven, bundle.image.size, sizes, plan.runs)
        return plan, origin, proof.session, sizes

    def _open(
        self, folder: Path, bundle: Bundle, kind: Kind, proofs: ExitStack
    ) -> tuple[Plan, str, Proof]:
        """The plan, where it comes from, and the network opened for it; its runs are watched until
        `proofs` is closed."""
        opened: dict[int, Proof] = {}  # by number of threads
        file = FILES[kind.precision]
        digest, hardware = bundle.files[file], processors(kind.provider)
        placement = self.placement.of(digest, hardware)

        def opened_with(threads: int) -> Proof:
            if threads not in opened:
                session = Session(
                    folder / file,
                    bundle,
                    placement=placement,
                    threads=threads,
                    precision=kind.precision,
                )
                opened[threads] = Proof(session, kind.provider)
                proofs.enter_context(opened[threads].watched())
            return opened[threads]

        where = f"{bundle.model}/{folder.name}"
        plan, origin = self._choose_plan(where, bundle.model, kind, digest, hardware, opened_with)
        return plan, origin, opened_with(plan.threads)

    def _choose_plan(
        self,
        where: str,
        model: str,
        kind: Kind,
        digest: str,
        hardware: str,
        opened_with: Callable[[int], Proof],
    ) -> tuple[Plan, str]:
        """The plan, and where it comes from; measured only if there is no other."""
        key = f"{digest} {kind.provider} {hardware}"
        if self._max_batch:
            key += f" {self._max_batch}"
        if self._pinned:
            return self._pinned, "pinned"
        if hardware and (known := self._plans.get(key)):
            return known, "remembered"
        if inherited := self._inherited(model, kind):
            return inherited, "inherited"  # measuring would slow down what is live
        plan = self._measure(where, kind, opened_with)
        if hardware:
            self._plans.put(key, plan)
        return plan, "measured"

    def _measure(self, where: str, kind: Kind, opened_with: Callable[[int], Proof]) -> Plan:
        def open_run(threads: int) -> Run:
            run = proving(where, opened_with(threads).run)
            return shaped(run, (kind.fixed_batch,)) if kind.fixed_batch else run

        cpus, size = usable_cpus(), kind.size
        batches = kind.fixed_batch, self._max_batch
        with self._measuring:
            plan = measure_plan(open_run, kind.provider, cpus, size, *batches)
        # concurrent trial batches took more memory than the chosen plan ever will
        smallest = np.zeros((kind.fixed_batch or 1, size, size, 3), np.uint8)
        opened_with(plan.threads).session.run_and_shrink(smallest)
        return plan

    def _inherited(self, model: str, kind: Kind) -> Plan | None:
        """The plan of a network of this kind that was loaded here before. Another model's counts
        only if the bundle names the backbone: two that do not may share nothing but their size."""
        for (other, planned), plan in reversed(list(self._planned.items())):
            if planned.same_as(kind) and (other == model or kind.backbone):
                return plan
        return None

    def _executor(
        self,
        run: Run,
        kind: Kind,
        plan: Plan,
        sizes: Sequence[int],
        counts: VersionCounts,
        quick: bool,
    ) -> Executor:
        limits = self._limits
        times = RunTimes(runs=plan.runs, batch=plan.batch, sizes=sizes)
        # queued one by one, views would run in batches of one, which pays only with several runs on
        # a CPU
        together = plan.batch > 1 and (kind.provider in GPUS or plan.runs == 1)
        return Executor(
            run,
            runs=plan.runs,
            batch=plan.batch,
            admission=Admission(
                times,
                max_queue=limits.max_queue,
                max_queue_s=limits.max_queue_s,
                max_requests=limits.max_requests,
                max_bytes=limits.max_bytes,
            ),
            max_wait_s=limits.max_wait_s,
            sizes=sizes,
            decoders=usable_cpus(),
            observer=counts,
            together=together,
            quick=quick,
        )
