"""A version in memory, for as long as it is needed."""

import threading

from registry.bundle import Bundle
from service.execution.executor import Executor
from service.execution.kind import Kind
from service.execution.malloc import release_freed_memory
from service.execution.plan import Plan
from service.observability.version_counts import VersionCounts


class LoadedVersion:
    """A version in memory. It counts its readers; once retired, it closes when the last is gone."""

    def __init__(
        self,
        version: int,
        bundle: Bundle,
        kind: Kind,
        plan: Plan,
        executor: Executor,
        counts: VersionCounts,
    ) -> None:
        self.model = bundle.model
        self.version = version
        self.bundle = bundle
        self.kind = kind
        self.plan = plan
        self.executor = executor
        self.counts = counts
        self._readers = 0
        self._retired = False
        self._freed = False

    def __enter__(self) -> "LoadedVersion":
        self._readers += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self._readers -= 1
        self._free()

    def retire(self) -> None:
        """Frees its memory once nobody uses it."""
        self._retired = True
        self._free()

    def keep(self) -> None:
        """Takes `retire` back; to be called by a reader, so that its memory is still there."""
        self._retired = False

    def _free(self) -> None:
        if self._retired and not self._readers and not self._freed:
            self._freed = True
            self.counts.close()
            # joining threads would block the event loop
            threading.Thread(target=_unload, args=(self.executor,), name="unload").start()


def _unload(executor: Executor) -> None:
    executor.close()
    release_freed_memory()
