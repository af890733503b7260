"""Proves that a network's runs end, before it goes live: one that loops for ever would occupy a
thread and a core, hold up the other networks that are to be measured, and the server's start."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from registry.images import Float32Array, UInt8Array
from service.execution.providers import GPUS, ActiveProvider
from service.execution.session import Session

LONGEST_S = 60.0  # of a run; a server refuses requests that would wait for 5 s
COMPILING_S = 1_800.0  # where the first run may compile the network, as TensorRT does for minutes
LOOK_S = 0.5


class Proof:
    """Runs a network; a run that takes too long fails, and so do all later ones."""

    def __init__(self, session: Session, provider: ActiveProvider) -> None:
        self.session = session
        self._longest_s = COMPILING_S if provider in GPUS else LONGEST_S
        self._began: dict[object, float] = {}  # of each run in progress
        self._overran = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Runs are only stopped within this block."""
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,), name="proof", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def run(self, images: UInt8Array) -> Float32Array:  # [n,s,s,3] -> [n,classes]
        this = object()
        self._began[this] = time.monotonic()
        try:
            return self.session.run(images)
        except Exception as error:
            if self._overran:
                raise TimeoutError(
                    f"no end after {self._longest_s:g} s; load or promote it to try again"
                ) from error
            raise
        finally:
            del self._began[this]

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(LOOK_S):
            latest = time.monotonic() - self._longest_s
            if any(began < latest for began in list(self._began.values())):
                self._overran = True
                self.session.end_runs()
                return
