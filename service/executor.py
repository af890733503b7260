"""A bounded queue of images, and the threads that run them through a network.

A plan of single images decodes and runs each image in one thread: no hand-over, and first come is
first served. A plan of batches decodes in a pool, and runs what has come together meanwhile.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor as Pool
from contextlib import suppress
from typing import Protocol

import numpy as np

from registry.errors import BadImage, Expired, Overloaded, Unavailable
from registry.images import Float32Array, UInt8Array
from service.admission import Admission
from service.queue import Queue, View
from service.work import Answer, Draw, Image, Terms, Work

Run = Callable[[UInt8Array], Float32Array]
MOST_AT_ONCE = 8  # images that a quick network runs in the event loop, which waits for them


class Observer(Protocol):
    """What an executor tells of its work; each is called in the thread that did it."""

    def decoded(self, seconds: float) -> None:
        """One image has been decoded."""

    def ran(self, n_images: int, queue_s: float, compute_s: float) -> None:
        """A batch has run; its oldest image had waited `queue_s`."""

    def dropped(self, reason: str, n_images: int) -> None:
        """Images were not run: `cancelled` by their caller, or `expired` in the queue."""

    def rejected(self, reason: str) -> None:
        """A request was turned away at a limit."""


class Executor:
    """Runs what has queued up, at most `batch` views at a time, in `runs` threads."""

    def __init__(
        self,
        run: Run,
        *,
        runs: int,
        batch: int,
        admission: Admission,
        observer: Observer,
        max_wait_s: float = 0,
        pool: Pool | None = None,
        quick: bool = False,
    ) -> None:
        """
        Args:
            max_wait_s: how long a view may wait for others to make up a batch.
            pool: decodes for batches; single images are decoded by the thread that runs them.
            quick: the network runs in less time than a thread needs to be woken.
        """
        self._run = run
        self._batch = batch
        self._admission = admission
        self._max_wait_s = max_wait_s
        self._pool = pool if batch > 1 else None
        self._observer = observer
        self._quick = quick
        self._undrawn = Queue()  # for the pool
        self._ready = Queue()
        self._changed = threading.Condition()
        self._closing = False
        self._runs = runs
        self._threads = [
            threading.Thread(target=self._work, name=f"run-{i}", daemon=True) for i in range(runs)
        ]
        for thread in self._threads:
            thread.start()

    # Asking; from the event loop alone

    @property
    def depth(self) -> int:
        """Images that wait now."""
        return len(self._undrawn) + len(self._ready)

    async def run(
        self,
        n_images: int,
        draw: Draw,
        terms: Terms,
        *,
        drawn: bool = False,
    ) -> list[Answer]:
        """An answer for each image, in order; cancelling it takes them off the queue.

        Args:
            draw: the views of an image, each [s,s,3]; called in a thread, may raise BadImage.
            drawn: every image has one view that is there already; `draw` is called at once.

        Raises:
            Overloaded: there is no room, and nothing was done.
            Expired: it waited for longer than `terms` allow.
        """
        if drawn and self._quick and n_images <= MOST_AT_ONCE and not self.depth:
            return self._run_at_once(n_images, draw)
        n_views = n_images * max(1, terms.n_views)
        try:
            self._admission.enter(n_views, terms.queue_s, terms.answer_s)
        except Overloaded as error:
            self._observer.rejected(error.reason)
            raise
        try:
            work = Work(n_images, draw, terms, asyncio.get_running_loop().create_future())
            self._submit(work, drawn)
            return await work.done
        except asyncio.CancelledError:
            work.abandon()
            raise
        finally:
            self._admission.leave(n_views)

    def _run_at_once(self, n_images: int, draw: Draw) -> list[Answer]:
        """Runs in the event loop, which takes less time than to wake a thread."""
        if self._closing:
            raise Unavailable("this version is being unloaded; try again")
        pixels = [view[None] for i in range(n_images) for view in draw(i)]
        began = time.perf_counter()
        answers = self._run(pixels[0] if n_images == 1 else np.concatenate(pixels))
        compute_s = time.perf_counter() - began
        self._observer.ran(n_images, 0.0, compute_s)
        return [
            Answer(one, compute_s=compute_s, queued_at=began, compute_at=began) for one in answers
        ]

    def close(self) -> None:
        """What is queued has been run, the threads have ended, and nothing holds the network."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._run = _closed

    def _submit(self, work: Work, drawn: bool) -> None:
        n_views = max(1, work.terms.n_views)
        images = [Image(work, i, n_views=n_views) for i in range(work.n_images)]
        views = [View(image, ready_at=work.queued_at) for image in images]
        if drawn:
            for view in views:
                (pixels,) = work.draw(view.image.index)
                view.pixels = pixels[None]
        assert drawn or self._pool or self._batch == 1, "batches of encoded images need a pool"
        pool = None if drawn else self._pool
        self._push(self._undrawn if pool else self._ready, views)
        if pool:
            for _ in views:  # each takes whatever is most urgent by then
                pool.submit(self._decode_next)

    def _push(self, queue: Queue, views: list[View]) -> None:
        with self._changed:
            if self._closing:
                raise Unavailable("this version is being unloaded; try again")
            for view in views:
                queue.push(view)
            self._changed.notify(len(views))

    # Decoding

    def _decode_next(self) -> None:
        """In the pool: the most urgent image is decoded and waits to be run."""
        with self._changed:
            view = self._undrawn.pop()
        if self._is_wanted(view):
            for one in self._decode(view.image):
                with self._changed:
                    self._ready.push(one)
                    self._changed.notify()

    def _decode_here(self, view: View) -> list[View]:
        """The last view, to run at once; those before it run while others are drawn."""
        views: list[View] = []
        for one in self._decode(view.image):
            if views:
                with self._changed:
                    self._ready.push_front(views.pop())
                    self._changed.notify()
            views.append(one)
        return views

    def _decode(self, image: Image) -> Iterator[View]:
        """The views of an image, as they are drawn; none if it is bad, which then is its answer."""
        began = image.decode_at = time.perf_counter()
        image.queue_s = began - image.work.queued_at
        try:
            for number, pixels in enumerate(image.work.draw(image.index)):
                ended = time.perf_counter()
                image.decode_s += ended - began
                yield View(image, number, pixels[None], ended)
                began = time.perf_counter()
        except BadImage as error:
            self._finish([(image, Answer(error=error))])
        except Exception as error:
            _tell(image.work, error)
        else:
            if image.work.is_awaited:
                self._observer.decoded(image.decode_s)

    # Running

    def _work(self) -> None:
        while views := self._take():
            if views[0].pixels is None:  # single images, which decode here
                views = self._decode_here(views[0])
            if views:
                self._run_batch(views)

    def _take(self) -> list[View]:
        """The most urgent views that somebody waits for; none when closed and empty."""
        views: list[View] = []
        while not views:
            with self._changed:
                while not (self._ready or self._closing):
                    self._changed.wait()
                if not self._ready:
                    return []
                self._wait_for_others()
                taken = [self._ready.pop() for _ in range(min(self._batch, len(self._ready)))]
            views = [view for view in taken if self._is_wanted(view)]
        return views

    def _wait_for_others(self) -> None:
        """A full batch, or the end of the time that the first view may wait for one."""
        if self._max_wait_s and self._ready:
            until = self._ready.first().ready_at + self._max_wait_s
            while len(self._ready) < self._batch and not self._closing:
                left_s = until - time.perf_counter()
                if left_s <= 0 or not self._changed.wait(left_s):
                    return

    def _is_wanted(self, view: View) -> bool:
        work = view.image.work
        if work.abandoned:
            if work.done.cancelled():
                self._observer.dropped("cancelled", 1)
            return False
        if work.expired(time.perf_counter()):
            self._observer.dropped("expired", 1)
            _tell(
                work, Expired(f"Request timeout expired: {work.terms.queue_s:.3g} s in the queue")
            )
            return False
        return True

    def _run_batch(self, views: list[View]) -> None:
        started = time.perf_counter()
        try:
            pixels = [view.pixels for view in views if view.pixels is not None]
            answers = self._run(pixels[0] if len(pixels) == 1 else np.concatenate(pixels))
        except Exception as error:  # the callers get it; the thread goes on
            for view in views:
                _tell(view.image.work, error)
            return
        ended = time.perf_counter()
        for view in views:
            view.image.compute_at = view.image.compute_at or started
        waited_s = started - min(view.ready_at for view in views)
        if views[0].image.work.is_awaited:
            self._observer.ran(len(views), waited_s, ended - started)
        decode_s = (
            0 if self._pool else sum(view.image.decode_s for view in views if not view.number)
        )
        self._admission.learn((ended - started + decode_s) / len(views) / self._runs)
        answered = []
        with self._changed:  # two threads may hold views of one image
            for view, answer in zip(views, answers, strict=True):
                if view.image.add(view.number, answer, started - view.ready_at, ended - started):
                    answered.append((view.image, view.image.answer()))
        self._finish(answered)

    def _finish(self, answered: list[tuple[Image, Answer]]) -> None:
        with self._changed:
            complete = [
                image.work for image, answer in answered if image.work.note(image.index, answer)
            ]
        if complete:
            with suppress(RuntimeError):  # the loop has closed: nobody waits any more
                complete[0].done.get_loop().call_soon_threadsafe(_give_answers, complete)


def _closed(images: UInt8Array) -> Float32Array:
    raise AssertionError("closed")


def _give_answers(complete: list[Work]) -> None:
    for work in complete:
        if not work.done.done():
            work.done.set_result(work.in_order())


def _tell(work: Work, error: Exception) -> None:
    """The caller gets the error; what else there is of its work has become pointless."""

    def tell() -> None:
        if not work.done.done():
            work.done.set_exception(error)

    work.abandon()
    with suppress(RuntimeError):
        work.done.get_loop().call_soon_threadsafe(tell)
