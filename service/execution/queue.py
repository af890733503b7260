"""A priority queue of what waits to be decoded or run."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from registry.errors import Unavailable
from registry.images import UInt8Array
from service.execution.work import Image


@dataclass(slots=True, eq=False)
class View:
    """One view of an image: pixels [1,s,s,3], or None if the image must be decoded first."""

    image: Image
    number: int = 0
    pixels: UInt8Array | None = None
    ready_at: float = 0
    waited_s: float = 0  # before it was decoded

    @property
    def decoded_here(self) -> bool:
        """Its pixels were decoded here rather than sent by the caller."""
        return self.image.decode_at > 0

    def waits_until(self, max_wait_s: float, run_s: float) -> float:
        """When to run it although it fills no batch: half of the time in which it can be answered
        is left for what happens meanwhile."""
        work = self.image.work
        deadline_s = work.queued_at + work.terms.answer_s - run_s - self.ready_at
        left_s = min(work.terms.queue_s - self.waited_s, deadline_s)
        return self.ready_at + min(max_wait_s, left_s / 2)


class Queue:
    """Views, most urgent first; equally urgent ones in order of arrival. Thread-safe."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, View]] = []
        self._order = itertools.count()
        self._n_decoded = 0
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._has_room = threading.Condition(lock)
        self._closed = False

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def n_decoded(self) -> int:
        """Views that were decoded here, and take memory until they run."""
        return self._n_decoded

    @property
    def n_awaited(self) -> int:
        """Views that a caller waits for."""
        with self._changed:
            return sum(view.image.work.is_awaited for _, _, view in self._heap)

    def push(self, views: Sequence[View]) -> None:
        """Queues views.

        Raises:
            Unavailable: the queue is closed.
        """
        with self._changed:
            if self._closed:
                raise Unavailable("this version is being unloaded; try again")
            for view in views:
                self._push(view, view.image.work.urgency)
            self._changed.notify(len(views))

    def add(self, *views: View) -> None:
        """Queues more views of an admitted image, unless its request was abandoned meanwhile."""
        with self._changed:
            for view in views:
                work = view.image.work
                if not work.abandoned:  # if it is abandoned later, `drop_abandoned` takes them out
                    self._push(view, work.urgency)
            self._changed.notify(len(views))

    def wait_for_room(self, most_decoded: int) -> None:
        """Waits until fewer views than `most_decoded` that were decoded here are queued."""
        with self._has_room:
            self._has_room.wait_for(lambda: self._n_decoded < most_decoded or self._closed)

    def drop_abandoned(self) -> None:
        """Removes all views of abandoned work, and with them their pixels."""
        with self._changed:
            kept = [entry for entry in self._heap if not entry[2].image.work.abandoned]
            if len(kept) < len(self._heap):
                heapq.heapify(kept)
                self._heap = kept
                self._n_decoded = sum(view.decoded_here for _, _, view in kept)
                self._has_room.notify_all()

    def take(
        self,
        most: int,
        max_wait_s: float = 0,
        worth: Sequence[int] | None = None,
        run_s: Callable[[], float] = lambda: 0.0,
    ) -> list[View]:
        """Waits for views and takes the `most` most urgent ones; none when closed and empty.

        Args:
            max_wait_s: how long a view may wait until there are `most` of them; less if its request
                may not be queued for so long, or its deadline is near.
            worth: how many to take if n wait, by n up to `most`; None: all.
            run_s: tells how long it takes to run `most` of them.
        """
        with self._changed:
            while True:
                while not (self._heap or self._closed):
                    self._changed.wait()
                if max_wait_s:
                    self._wait_for(most, max_wait_s, run_s)
                n = min(most, len(self._heap))
                if worth and worth[n] < n:
                    n = worth[n]
                    self._changed.notify()  # another thread may run the rest
                taken = [self._pop() for _ in range(n)]
                if self._n_decoded:
                    self._has_room.notify(n)
                else:  # those told before may have found nothing to fill the room with
                    self._has_room.notify_all()
                if taken or self._closed:  # else another thread took them meanwhile
                    return taken

    def close(self) -> None:
        """Admits nothing more; what is queued can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait_for(self, most: int, max_wait_s: float, run_s: Callable[[], float]) -> None:
        while self._heap and len(self._heap) < most and not self._closed:
            needed_s = run_s()
            until = min(view.waits_until(max_wait_s, needed_s) for _, _, view in self._heap)
            if (left_s := until - time.perf_counter()) <= 0:
                return
            self._changed.wait(left_s)

    def _push(self, view: View, urgency: float) -> None:
        heapq.heappush(self._heap, (urgency, next(self._order), view))
        self._n_decoded += view.decoded_here

    def _pop(self) -> View:
        view = heapq.heappop(self._heap)[2]
        self._n_decoded -= view.decoded_here
        return view


def is_wanted(view: View) -> bool:
    """Whether to decode or run a view; if its request has expired, the caller gets the error. The
    time that decoding took does not count as waiting, nor any after its image has begun to run."""
    work = view.image.work
    if work.abandoned:
        return False
    now = time.perf_counter()
    waited_s = 0.0 if view.image.has_begun else view.waited_s + now - view.ready_at
    if work.expired(now, waited_s):
        work.expire(now)
        return False
    return True
