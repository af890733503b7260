"""A bounded queue of images, the threads that decode them, and those that run them through a
network.

Each run takes what has been decoded by then, as far as the network's batch sizes make it
worthwhile. Decoding goes on a little ahead, so that a thread that has run an image finds the next
one ready: the steps of decoding wait for Python's lock, which the event loop holds much of the time
when many requests come.

Large images, of which the process decodes one at a time, have a queue and a thread of their own, so
that no other image waits for them.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from registry.counted import counted
from registry.errors import Expired, Overloaded, Unavailable
from registry.images import Float32Array, Large, UInt8Array, leaving_large
from registry.niceness import ANSWERING, give_way
from service.execution.admission import Admission
from service.execution.decoding import Decoder
from service.execution.delivery import Delivery
from service.execution.observer import Observer
from service.execution.queue import Queue, View, is_wanted
from service.execution.shapes import Run, worth_running
from service.execution.work import Answer, DecodeViews, Image, Terms, Work

log = logging.getLogger(__name__)

# Why images were not run, by the error that ended their request.
DROPPED: dict[type[BaseException], str] = {
    asyncio.CancelledError: "cancelled",
    Expired: "expired",
}
TIMER_S = 0.001  # by which timers may fire early: uvloop counts whole milliseconds
MOST_AT_ONCE = 8  # images that a quick network runs in the event loop, blocking it
AHEAD = 4  # batches to decode ahead per run; more would only take memory


class Executor:
    """Decodes what is queued in `decoders` threads, and large images in one more, and runs it, at
    most `batch` views at a time, in `runs` others."""

    def __init__(
        self,
        run: Run,
        *,
        runs: int,
        batch: int,
        admission: Admission,
        observer: Observer,
        max_wait_s: float = 0,
        sizes: Sequence[int] | None = None,
        decoders: int = 1,
        together: bool = False,
        quick: bool = False,
    ) -> None:
        """
        Args:
            max_wait_s: how long a view may wait for others to fill a batch, if its terms allow it.
            sizes: the batch sizes that the network is given; None: any.
            decoders: most threads that decode. The first is started now, and others when so many
                images are in flight, since many versions may be loaded and few of them asked. The
                one for large images is started when the first comes.
            together: an image's views are queued together; otherwise each as soon as it is
                decoded.
            quick: the network runs in less time than it takes to wake a thread.
        """
        self._run = run
        self._batch = batch
        # by how many views wait; None: all of them
        self._worth = [worth_running(n, sizes) for n in range(batch + 1)] if sizes else None
        self._admission = admission
        self._max_wait_s = max_wait_s
        self._observer = observer
        self._quick = quick
        self._encoded, self._large, self._ready = Queue(), Queue(), Queue()
        self._delivery = Delivery(self._ready, admission.times)
        self._decoder = Decoder(self._ready, self._delivery, observer, together)
        self._queues = (self._encoded, self._large, self._ready)
        self._max_decoded = AHEAD * batch * runs
        self._decoders = decoders
        self._closed = False
        self._dropping = False
        self._n_encoded = 0  # images in flight that came encoded
        self._starting = threading.Lock()
        self._decoding_large: threading.Thread | None = None
        self._decoding = [_started("decode-0", self._decode_next)]
        self._running = [_started(f"run-{i}", self._run_next) for i in range(runs)]

    # Submitting; from the event loop only

    @property
    def depth(self) -> int:
        """Images in the queue."""
        return sum(map(len, self._queues))

    @property
    def n_awaited(self) -> int:
        """Those of them that a caller waits for; may be read from any thread."""
        return sum(queue.n_awaited for queue in self._queues)

    def refusal(self, terms: Terms) -> Overloaded | None:
        """Why even a single image would be refused; None if it would not."""
        return None if self._quick else self._admission.refusal(max(1, terms.n_views), terms)

    @property
    def stream_window(self) -> int:
        """How many requests of one caller may be under way to keep the network busy without filling
        the queue; 0: it is busy."""
        return self._admission.stream_window

    async def run(
        self,
        n_images: int,
        decode: DecodeViews,
        terms: Terms,
        pixels: UInt8Array | None = None,
        n_bytes: int = 0,
    ) -> list[Answer]:
        """Answers each image, in order; cancelling it removes them from the queue.

        Args:
            decode: gives the views of an image, each [s,s,3]; called in a thread; may raise
                BadImage.
            pixels: the only view of every image, [n,s,s,3], if they are decoded already.
            n_bytes: size of the images as received.

        Raises:
            Overloaded: a limit is reached, and nothing was done.
            Expired: it was queued for longer than `terms` allow.
        """
        at_once = self._quick and n_images <= MOST_AT_ONCE and not self.depth
        if at_once and pixels is not None:
            return self._run_at_once(pixels)
        n_views = n_images * max(1, terms.n_views)
        try:
            self._admission.enter(n_views, terms, n_bytes)
        except Overloaded as error:
            self._observer.rejected(error.reason)
            raise
        work = Work(n_images, decode, terms, asyncio.get_running_loop().create_future())
        images = [Image(work, i, n_views=max(1, terms.n_views)) for i in range(n_images)]
        n_encoded = n_images if pixels is None else 0
        self._n_encoded += n_encoded
        if terms.queue_s < math.inf:  # or it would fill the queue until its turn comes
            self._expire_after(terms.queue_s, work, images)
        try:
            self._submit(images, pixels)
            return await work.done
        except (Exception, asyncio.CancelledError) as error:
            self._give_up(work, images, error)
            raise
        finally:
            if work.timer:
                work.timer.cancel()
            self._n_encoded -= n_encoded
            self._admission.leave(n_views, terms, n_bytes)

    def _run_at_once(self, pixels: UInt8Array) -> list[Answer]:
        """Runs in the event loop, which is faster than waking a thread."""
        if self._closed:
            raise Unavailable("this version is being unloaded; try again")
        began = time.perf_counter()
        answers = self._answers_to(pixels)
        compute_s = time.perf_counter() - began
        self._observer.ran(len(pixels), 0.0, compute_s)
        return [
            Answer(one, compute_s=compute_s, queued_at=began, compute_at=began) for one in answers
        ]

    def close(self) -> None:
        """Runs what is queued, ends the threads, and drops the reference to the network."""
        self._closed = True
        with self._starting:
            self._encoded.close()
        for thread in self._decoding:
            thread.join()
        self._large.close()
        if self._decoding_large:
            self._decoding_large.join()
        self._ready.close()
        for thread in self._running:
            thread.join()
        self._run = _closed

    def _submit(self, images: Sequence[Image], pixels: UInt8Array | None) -> None:
        views = [View(image, ready_at=image.work.queued_at) for image in images]
        if pixels is None:
            with self._starting:  # or closing would miss a thread
                self._encoded.push(views)
                while len(self._decoding) < min(self._n_encoded, self._decoders):
                    self._start_decoding()
            return
        for i, view in enumerate(views):
            view.pixels = pixels[i : i + 1]
        self._ready.push(views)

    def _start_decoding(self) -> None:
        n_threads = len(self._decoding)
        try:
            self._decoding.append(_started(f"decode-{n_threads}", self._decode_next))
        except RuntimeError as error:  # a limit of the system; those that there are go on
            log.warning("no_more_threads", extra={"decoding": n_threads, "problem": str(error)})
            self._decoders = n_threads

    def _decodes_large(self) -> bool:
        """Whether there is a thread for large images; starts it if there is none."""
        with self._starting:
            try:
                self._decoding_large = self._decoding_large or _started(
                    "decode-large", self._decode_next_large
                )
            except RuntimeError as error:
                n_threads = len(self._decoding)
                log.warning("no_more_threads", extra={"decoding": n_threads, "problem": str(error)})
        return self._decoding_large is not None

    def _expire_after(self, seconds: float, work: Work, images: Sequence[Image]) -> None:
        loop = asyncio.get_running_loop()
        work.timer = loop.call_later(seconds + TIMER_S, self._expire, work, images)

    def _expire(self, work: Work, images: Sequence[Image]) -> None:
        """Gives the caller the error if an image of it has been queued for too long; looks again
        later if decoding took some of the time."""
        now = time.perf_counter()
        if waiting := [image.waited_s(now) for image in images if not image.has_begun]:
            left_s = work.terms.queue_s - max(waiting)
            if left_s < 0:
                work.expire(now)
            else:
                self._expire_after(left_s, work, images)

    def _give_up(self, work: Work, images: Sequence[Image], error: BaseException) -> None:
        work.abandon()
        if not self._dropping:  # once for all that are given up now, perhaps a thousand requests
            self._dropping = True
            asyncio.get_running_loop().call_soon(self._drop_abandoned)
        n_images = sum(not image.has_begun for image in images)
        if n_images and (reason := DROPPED.get(type(error))):
            self._observer.dropped(reason, n_images)

    def _drop_abandoned(self) -> None:
        self._dropping = False
        for queue in self._queues:
            queue.drop_abandoned()

    # Decoding and running, each in its threads

    def _decode_next(self) -> bool:
        """Waits until little of what was decoded is left, then for an image, and decodes it; False
        if there is none because the queue is closed."""
        self._ready.wait_for_room(self._max_decoded)
        taken = self._encoded.take(1)
        for view in taken:
            if is_wanted(view):
                self._decode(view)
        return bool(taken)

    def _decode(self, view: View) -> None:
        """Decodes an image, or leaves it to the thread for large ones."""
        try:
            with leaving_large():
                self._decoder.decode(view.image)
        except Large:
            view.image.is_large = True
        else:
            return
        if self._decodes_large():
            self._large.add(view)
        else:
            self._decoder.decode(view.image)

    def _decode_next_large(self) -> bool:
        """Does the same as `_decode_next` for large images."""
        self._ready.wait_for_room(self._max_decoded)
        taken = self._large.take(1)
        for view in taken:
            if is_wanted(view):
                self._decoder.decode(view.image)
        return bool(taken)

    def _run_next(self) -> bool:
        """Waits for views and runs them; False if there are none because the queue is closed."""
        taken = self._ready.take(self._batch, self._max_wait_s, self._worth, self._full_run_s)
        if views := [view for view in taken if is_wanted(view)]:
            self._run_batch(views)
        return bool(taken)

    def _full_run_s(self) -> float:
        times = self._admission.times
        return times.of(times.capacity)  # one batch in each of the runs, which go on side by side

    def _run_batch(self, views: list[View]) -> None:
        started = time.perf_counter()
        for view in views:
            view.image.compute_at = view.image.compute_at or started
        try:
            pixels = [view.pixels for view in views if view.pixels is not None]
            answers = self._answers_to(pixels[0] if len(pixels) == 1 else np.concatenate(pixels))
        except Exception as error:  # the thread must survive
            self._run_one_by_one(views, error)
            return
        ended = time.perf_counter()
        waited_s = max(view.waited_s + started - view.ready_at for view in views)
        if views[0].image.work.is_awaited:
            self._observer.ran(len(views), waited_s, ended - started)
        self._admission.times.learn(len(views), max(ended - started, self._decoding_s(views)))
        answered = []
        for view, answer in zip(views, answers, strict=True):
            if view.image.add(view.number, answer, started - view.ready_at, ended - started):
                answered.append((view.image, view.image.answer()))
        self._delivery.finish(answered)

    def _decoding_s(self, views: Sequence[View]) -> float:
        """How long a run must take for decoding to keep up with it, if all images are like these:
        they may take longer to decode than to run. Large ones do not count, since no other image
        waits while they are decoded."""
        decode_s = sum(
            view.image.decode_s for view in views if not (view.number or view.image.is_large)
        )
        return decode_s * len(self._running) / self._decoders

    def _answers_to(self, pixels: UInt8Array) -> Float32Array:
        answers = self._run(pixels)
        if len(answers) != len(pixels):
            raise RuntimeError(
                f"the network gave {counted(len(answers), 'answer')} for "
                f"{counted(len(pixels), 'image')}"
            )
        return answers

    def _run_one_by_one(self, views: list[View], error: Exception) -> None:
        """Retries a failed batch image by image: the batch may have been too large, or one image
        may be to blame, and then only its caller gets the error."""
        if len(views) == 1:
            views[0].image.work.fail(error)
            return
        log.warning("batch_failed", extra={"images": len(views), "problem": str(error)})
        for view in views:
            self._run_batch([view])


def _started(name: str, take_a_turn: Callable[[], bool]) -> threading.Thread:
    """A thread that takes turns until there is nothing left.

    A turn is a function of its own, so that a thread that waits holds nothing of the turn before.
    """

    def work() -> None:
        give_way(ANSWERING)
        while take_a_turn():
            pass

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def _closed(images: UInt8Array) -> Float32Array:
    raise AssertionError("closed")
