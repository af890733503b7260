"""A bounded queue of prepared images, and the threads that run them through a network."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np

from registry.errors import Overloaded, Unavailable
from registry.images import Float32Array, UInt8Array


@dataclass(frozen=True)
class Ran:
    """Answers to a group of images, [n,classes], and where its slowest image spent its time."""

    probabilities: Float32Array
    queue_s: float
    compute_s: float


@dataclass
class _Group:
    """The images that one caller waits for."""

    images: UInt8Array
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Ran]
    left: int
    queued_at: float = field(default_factory=time.perf_counter)
    answers: Float32Array | None = None
    queue_s: float = 0
    compute_s: float = 0


Item = tuple[_Group, int]


class Executor:
    """Runs what has queued up, at most `batch` images at a time, in `runs` threads.

    A batch is whatever waits at that moment: nothing is delayed in the hope of more.
    """

    def __init__(
        self,
        run: Callable[[UInt8Array], Float32Array],
        *,
        runs: int,
        batch: int,
        max_queue: int,
        observe: Callable[[int, float, float], None] = lambda n, queue_s, compute_s: None,
    ) -> None:
        """`observe` is told of every batch: images, seconds its oldest waited, seconds it ran."""
        self._run = run
        self._batch = batch
        self._max_queue = max_queue
        self._observe = observe
        self._queue: deque[Item] = deque()
        self._admitted = 0
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"run-{i}", daemon=True) for i in range(runs)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def depth(self) -> int:
        """Images that wait now."""
        return len(self._queue)

    @contextmanager
    def admit(self, n_images: int) -> Iterator[None]:
        """Room for `n_images` from decoding to answer; an idle executor takes any number.

        Raises:
            Overloaded: too many are under way.
        """
        if self._admitted and self._admitted + n_images > self._max_queue:
            raise Overloaded(
                f"{self._admitted} images are under way and the limit is {self._max_queue}; "
                "try again in a moment"
            )
        self._admitted += n_images  # only ever touched by the event loop
        try:
            yield
        finally:
            self._admitted -= n_images

    async def run(self, images: UInt8Array) -> Ran:
        """Answers, when all of [n,s,s,3] have been run; cancelling it takes them off the queue."""
        loop = asyncio.get_running_loop()
        group = _Group(images, loop, loop.create_future(), left=len(images))
        with self._changed:
            if self._closing:
                raise Unavailable("this version is being unloaded; try again")
            self._queue.extend((group, i) for i in range(len(images)))
            self._changed.notify(len(images))
        try:
            return await group.done
        except asyncio.CancelledError:
            self._forget(group)
            raise

    def close(self) -> None:
        """What is queued has been run and the threads have ended."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _forget(self, group: _Group) -> None:
        with self._changed:
            self._queue = deque(item for item in self._queue if item[0] is not group)

    def _work(self) -> None:
        while items := self._take():
            started = time.perf_counter()
            try:
                batch = np.stack([group.images[i] for group, i in items])
                answers = self._run(batch)
            except Exception as error:  # the callers get it; the thread goes on
                _report(items, error)
                continue
            ended = time.perf_counter()
            waited = started - min(group.queued_at for group, _ in items)
            self._observe(len(items), waited, ended - started)
            self._finish(items, answers, started, ended)

    def _take(self) -> list[Item]:
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            return [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]

    def _finish(
        self, items: list[Item], answers: Float32Array, started: float, ended: float
    ) -> None:
        complete = []
        with self._changed:  # two threads may hold parts of one group
            for (group, i), answer in zip(items, answers, strict=True):
                if group.answers is None:
                    group.answers = np.empty((len(group.images), len(answer)), np.float32)
                group.answers[i] = answer
                group.queue_s = max(group.queue_s, started - group.queued_at)
                group.compute_s = max(group.compute_s, ended - started)
                group.left -= 1
                if not group.left:
                    complete.append(group)
        for group in complete:
            assert group.answers is not None
            ran = Ran(group.answers, group.queue_s, group.compute_s)
            _call(group.loop, _set_result, group.done, ran)


def _report(items: list[Item], error: Exception) -> None:
    for group in {id(group): group for group, _ in items}.values():
        _call(group.loop, _set_exception, group.done, error)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: object) -> None:
    with suppress(RuntimeError):  # the loop has closed: nobody waits any more
        loop.call_soon_threadsafe(function, *args)


def _set_result(done: asyncio.Future[Ran], ran: Ran) -> None:
    if not done.done():
        done.set_result(ran)


def _set_exception(done: asyncio.Future[Ran], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
