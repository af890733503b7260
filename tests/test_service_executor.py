"""The queue and the threads behind it: order, batches, limits, errors, cancellation."""

import asyncio
import math
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tiny
import uvloop
from PIL import Image

from registry.errors import BadImage, Expired, Overloaded, Unavailable
from registry.images import Float32Array, ImageSpec, UInt8Array, prepare
from registry.niceness import ANSWERING
from service.execution.admission import Admission
from service.execution.executor import AHEAD, Executor
from service.execution.run_times import RunTimes
from service.execution.work import HIGH, LOW, LOWEST, NORMAL, Answer, Terms

Start = Callable[..., Executor]
PLAIN = Terms()


def sums(images: UInt8Array) -> Float32Array:
    """A network whose answer is the sum of an image's pixels."""
    return images.reshape(len(images), -1).sum(axis=1, dtype=np.float32)[:, None]


def image(*values: int) -> list[UInt8Array]:
    """Views of one image, each [2,2,3]."""
    return [np.full((2, 2, 3), value, np.uint8) for value in values]


def value(answer: Answer) -> float:
    assert answer.probabilities is not None
    return float(answer.probabilities[0])


class Gate:
    """A network that answers only when it is let; it notes what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self._free = threading.Event()

    def __call__(self, images: UInt8Array) -> Float32Array:
        self.batches.append([int(pixels.max()) for pixels in images])
        assert self._free.wait(20)
        return sums(images)

    def open(self) -> None:
        self._free.set()

    async def is_busy(self) -> None:
        """Returns once the network has been given something."""
        while not self.batches:
            await asyncio.sleep(0.001)


class Notes:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.drops: list[tuple[str, int]] = []
        self.batches: list[int] = []
        self.rejections: list[str] = []
        self.n_decoded = 0
        self.seconds = 0.0
        self.waits: list[float] = []

    def decoded(self, seconds: float) -> None:
        assert seconds >= 0
        self.n_decoded += 1

    def ran(self, n_images: int, queue_s: float, compute_s: float) -> None:
        self.batches.append(n_images)
        self.waits.append(queue_s)
        self.seconds += compute_s

    def dropped(self, reason: str, n_images: int) -> None:
        self.drops.append((reason, n_images))

    def rejected(self, reason: str) -> None:
        self.rejections.append(reason)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts executors; they are closed when the test ends."""
    started: list[Executor] = []

    def start(run: Any, *, runs: int = 1, batch: int = 1, **options: Any) -> Executor:
        names = ("max_queue", "max_queue_s", "max_requests")
        limits = {name: options.pop(name) for name in names if name in options}
        admit = admission(runs=runs, batch=batch, **limits)
        options = {"observer": Notes(), "decoders": 2, **options}
        executor = Executor(run, runs=runs, batch=batch, admission=admit, **options)
        started.append(executor)
        return executor

    yield start
    for executor in started:
        await asyncio.to_thread(executor.close)


async def ask(executor: Executor, *values: int, terms: Terms = PLAIN, decoded: bool = True) -> Any:
    """Answers to one image for each value."""
    pixels = np.stack([one for value in values for one in image(value)]) if decoded else None
    return await executor.run(len(values), lambda i: image(values[i]), terms, pixels)


async def queued(executor: Executor, *values: int, **options: Any) -> asyncio.Task[Any]:
    """A request that waits in the queue by now."""
    task = asyncio.create_task(ask(executor, *values, **options))
    await asyncio.sleep(0)
    return task


async def test_images_of_one_request_run_side_by_side(start: Start) -> None:
    gate = Gate()
    executor = start(gate, runs=3)
    asked = await queued(executor, 1, 2, 3)
    async with asyncio.timeout(20):
        while len(gate.batches) < 3:
            await asyncio.sleep(0.001)
    gate.open()
    assert [value(answer) for answer in await asked] == [12, 24, 36]


PLANS = {"single images": (3, 1, False), "batches": (3, 4, False), "pixels": (3, 4, True)}


@pytest.mark.parametrize("plan", PLANS)
async def test_answers_come_back_to_those_who_asked(start: Start, plan: str) -> None:
    runs, batch, decoded = PLANS[plan]
    executor = start(sums, runs=runs, batch=batch)
    asked = [tuple(range(i, i + 5)) for i in range(30)]
    answers = await asyncio.gather(*(ask(executor, *values, decoded=decoded) for values in asked))
    for values, given in zip(asked, answers, strict=True):
        assert [value(answer) for answer in given] == [12 * one for one in values]


@pytest.mark.parametrize("batch", [1, 4])
async def test_a_run_has_waited_as_long_as_its_images_also_before_they_were_decoded(
    start: Start, batch: int
) -> None:
    gate, notes = Gate(), Notes()
    executor = start(gate, batch=batch, observer=notes)
    first = await queued(executor, 1, decoded=False)
    await gate.is_busy()
    second = await queued(executor, 2, decoded=False)
    await asyncio.sleep(0.05)
    gate.open()
    await first
    (answer,) = await second
    assert notes.waits[1] == pytest.approx(answer.queue_s)
    assert notes.waits[1] > 0.01


@pytest.mark.parametrize("batch", [1, 4])
async def test_the_views_of_an_image_are_averaged(start: Start, batch: int) -> None:
    executor = start(sums, runs=2, batch=batch)
    terms = Terms(n_views=3)
    answers = await executor.run(2, lambda i: image(i, i + 3, i + 6), terms)
    assert [value(answer) for answer in answers] == [12 * 3, 12 * 4]


async def test_views_run_while_others_are_drawn(start: Start) -> None:
    running = threading.Event()

    def run(batch: UInt8Array) -> Float32Array:
        running.set()
        return sums(batch)

    def decode(i: int) -> Iterator[UInt8Array]:
        yield from image(1)
        yield from image(2)
        assert running.wait(20), "the first view waits for the last"
        yield from image(3)

    for batch in (1, 4):
        (answer,) = await start(run, runs=2, batch=batch).run(1, decode, Terms(n_views=3))
        assert value(answer) == 12 * 2
        running.clear()


async def test_views_that_are_to_run_together_make_one_batch(start: Start) -> None:
    notes = Notes()
    executor = start(sums, batch=8, together=True, observer=notes)
    (answer,) = await executor.run(1, lambda i: image(1, 2, 3, 4, 5), Terms(n_views=5))
    assert value(answer) == 12 * 3
    assert notes.batches == [5]


async def test_a_quick_network_answers_pixels_in_the_event_loop(start: Start) -> None:
    threads: list[str] = []

    def run(batch: UInt8Array) -> Float32Array:
        threads.append(threading.current_thread().name)
        return sums(batch)

    notes = Notes()
    executor = start(run, observer=notes, quick=True)
    assert [value(answer) for answer in await ask(executor, 1, 2)] == [12, 24]
    assert threads == [threading.current_thread().name]
    assert notes.batches == [2]
    many = await ask(executor, *range(20))
    assert [value(answer) for answer in many] == [12 * i for i in range(20)]
    await ask(executor, 1, decoded=False)
    assert set(threads[1:]) == {"run-0"}


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
async def test_threads_that_compute_give_way_to_the_event_loop(start: Start) -> None:
    """On busy cores a rejection took 10 to 20 ms instead of 3."""
    niceness = set()

    def note() -> None:
        niceness.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def run(batch: UInt8Array) -> Float32Array:
        note()
        return sums(batch)

    def decode(i: int) -> list[UInt8Array]:
        note()
        return image(i)

    await start(run).run(1, decode, PLAIN)
    assert niceness == {os.getpriority(os.PRIO_PROCESS, 0) + ANSWERING}


async def test_no_more_threads_decode_than_images_were_in_flight_at_once(start: Start) -> None:
    """Many versions may be loaded, on many cores, and few of them asked."""
    executor = start(sums, decoders=4)

    def n_decoding() -> int:
        return sum(thread.is_alive() for thread in executor._decoding)

    await ask(executor, 1, 2, 3)
    assert n_decoding() == 1
    for _ in range(3):
        await ask(executor, 1, decoded=False)
    assert n_decoding() == 1
    both = threading.Barrier(2)

    def decode(i: int) -> list[UInt8Array]:
        both.wait(20)
        return image(i)

    await asyncio.gather(*(executor.run(1, decode, PLAIN) for _ in range(2)))
    assert n_decoding() == 2
    await ask(executor, *range(50), decoded=False)
    assert n_decoding() == 4


async def test_a_system_that_has_no_more_threads_decodes_with_those_it_has(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    executor = start(sums, decoders=4)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(2):
        answers = await ask(executor, *range(10), decoded=False)
        assert [value(answer) for answer in answers] == [12 * i for i in range(10)]
    monkeypatch.undo()
    assert [record.message for record in caplog.records] == ["no_more_threads"]


async def decoding_pauses(executor: Executor) -> None:
    """Returns once both threads that decode wait, for images or for room."""

    def n_waiting() -> int:
        return len(executor._encoded._changed._waiters) + len(executor._ready._has_room._waiters)  # type: ignore[attr-defined]

    async with asyncio.timeout(20):
        while n_waiting() < 2:
            await asyncio.sleep(0.001)


async def test_no_more_is_decoded_than_will_soon_run(start: Start) -> None:
    """128 small images of 32 views took 600 MB, however slow the network was."""
    gate = Gate()
    executor = start(gate, batch=2)
    decoded: list[int] = []

    def decode(i: int) -> Iterator[UInt8Array]:
        for view in image(*range(8)):
            decoded.append(i)
            yield view

    asked = asyncio.create_task(executor.run(50, decode, Terms(n_views=8)))
    await gate.is_busy()
    await decoding_pauses(executor)
    most_under_way = 2 * 8  # views of two images, one in each thread
    assert len(decoded) <= AHEAD * 2 + most_under_way + 2
    gate.open()
    assert [value(answer) for answer in await asked] == [12 * 3.5] * 50


async def test_what_had_no_room_is_decoded_also_if_what_came_before_is_bad(start: Start) -> None:
    def decode(i: int) -> list[UInt8Array]:
        if 20 <= i < 60:
            raise BadImage("not an image")
        return image(i)

    gate = Gate()
    executor = start(gate, batch=2)
    asked = asyncio.create_task(executor.run(64, decode, PLAIN))
    await gate.is_busy()
    await decoding_pauses(executor)
    gate.open()
    async with asyncio.timeout(20):
        answers = await asked
    assert [i for i, answer in enumerate(answers) if answer.error] == list(range(20, 60))


@pytest.mark.parametrize("batch", [1, 4])
async def test_the_next_image_is_decoded_while_the_first_runs(start: Start, batch: int) -> None:
    gate, decoded = Gate(), threading.Event()
    executor = start(gate, batch=batch)
    first = asyncio.create_task(executor.run(1, image, PLAIN))
    await gate.is_busy()
    second = asyncio.create_task(executor.run(1, signalling(decoded), PLAIN))
    assert await asyncio.to_thread(decoded.wait, 20)
    gate.open()
    await asyncio.gather(first, second)


@pytest.mark.parametrize("batch", [1, 4])
async def test_images_that_are_slower_to_decode_than_to_run_are_expected_to_be_slow(
    start: Start, batch: int
) -> None:
    def decode(i: int) -> list[UInt8Array]:
        time.sleep(0.1)
        return image(i)

    executor = start(sums, batch=batch, decoders=2)
    await executor.run(1, decode, PLAIN)
    assert executor._admission.times.of(1) >= 0.1 / 2


SPEC = ImageSpec(size=2)


def png(side: int, value: int) -> bytes:
    """A picture of so many pixels a side, whose every sample has the value."""
    return tiny.encode(Image.new("RGB", (side, side), (value, value, value)), "PNG")


SMALL, LARGE = png(8, 1), png(9, 2)


class Turn:
    """The lock that one large image has at a time."""

    def __init__(self) -> None:
        self.n_waiting = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self.n_waiting += 1
        self._lock.acquire()
        self.n_waiting -= 1

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    async def is_wanted(self, executor: Executor, n_behind: int) -> None:
        """Returns once one large image waits for its turn, and so many others are behind it."""
        async with asyncio.timeout(20):
            while self.n_waiting != 1 or len(executor._large) != n_behind:
                await asyncio.sleep(0.001)


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Turn:
    """LARGE, and nothing smaller, is decoded one at a time."""
    turn = Turn()
    monkeypatch.setattr("registry.images.LARGE_PIXELS", 16 * 8)
    monkeypatch.setattr("registry.images.ONE_LARGE", turn)
    return turn


async def ask_encoded(executor: Executor, *images: bytes, terms: Terms = PLAIN) -> list[Answer]:
    return await executor.run(len(images), lambda i: [prepare(images[i], SPEC)], terms)


@pytest.mark.parametrize("decoders", [1, 2])
@pytest.mark.parametrize("together", [False, True])
async def test_others_are_answered_while_large_images_wait_for_their_turn(
    start: Start, turn: Turn, decoders: int, together: bool
) -> None:
    """A request with 18 images of 22 megapixels had all others refused for 15 s."""
    notes = Notes()
    executor = start(sums, decoders=decoders, together=together, observer=notes)
    with turn:
        waits = asyncio.create_task(ask_encoded(executor, *[LARGE] * 5, SMALL))
        async with asyncio.timeout(20):
            for _ in range(20):
                (answer,) = await ask_encoded(executor, SMALL)
                assert value(answer) == 12
        assert not waits.done()
    assert [value(answer) for answer in await waits] == [24] * 5 + [12]
    assert sum(notes.batches) == notes.n_decoded == 20 + 6


async def test_a_large_image_has_queued_until_it_is_its_turn(start: Start, turn: Turn) -> None:
    executor = start(sums)
    with turn:
        asked = asyncio.create_task(ask_encoded(executor, LARGE, LARGE))
        await turn.is_wanted(executor, 1)
        await asyncio.sleep(1)
    first, second = sorted(await asked, key=lambda answer: answer.decode_at)
    assert first.decode_s > first.queue_s
    assert second.queue_s > second.decode_s
    assert second.decode_at >= first.decode_at + first.decode_s


async def test_what_large_images_take_is_not_expected_of_others(start: Start, turn: Turn) -> None:
    executor = start(sums, decoders=1)
    with turn:
        asked = asyncio.create_task(ask_encoded(executor, LARGE))
        await asyncio.sleep(0.5)
    await asked
    assert executor._admission.times.of(1) < 0.5


async def test_a_large_image_that_is_damaged_does_not_touch_its_neighbours(
    start: Start, turn: Turn
) -> None:
    answers = await ask_encoded(start(sums), LARGE, LARGE[:45], SMALL)
    assert [answer.error is not None for answer in answers] == [False, True, False]


async def test_large_images_that_are_given_up_leave_the_queue_and_are_not_decoded(
    start: Start, turn: Turn
) -> None:
    notes = Notes()
    executor = start(sums, observer=notes)
    with turn:
        first = asyncio.create_task(ask_encoded(executor, LARGE))
        await turn.is_wanted(executor, 0)
        cancelled = asyncio.create_task(ask_encoded(executor, LARGE, LARGE))
        await turn.is_wanted(executor, 2)
        assert executor.depth == executor.n_awaited == 2
        cancelled.cancel()
        await asyncio.wait({cancelled})
        with pytest.raises(Expired):
            await ask_encoded(executor, LARGE, terms=Terms(queue_s=0.02))
        await turn.is_wanted(executor, 0)
    await first
    await ask_encoded(executor, LARGE)
    assert notes.n_decoded == 2
    assert notes.drops == [("cancelled", 2), ("expired", 1)]


async def test_closing_answers_large_images_that_wait(start: Start, turn: Turn) -> None:
    executor = start(sums, decoders=1)
    with turn:
        asked = asyncio.create_task(ask_encoded(executor, LARGE, LARGE, SMALL, LARGE))
        await turn.is_wanted(executor, 2)
        closing = asyncio.create_task(asyncio.to_thread(executor.close))
        while not executor._encoded._closed:
            await asyncio.sleep(0.001)
        with pytest.raises(Unavailable):
            await ask_encoded(executor, LARGE)
    await closing
    assert [value(answer) for answer in await asked] == [24, 24, 12, 24]
    assert executor._decoding_large
    assert not executor._decoding_large.is_alive()


async def test_only_large_images_have_a_thread_for_them_started(
    start: Start,
    turn: Turn,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor = start(sums, decoders=1)
    await ask_encoded(executor, SMALL, SMALL)
    n_threads = threading.active_count()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", refuse)
        answers = await ask_encoded(executor, LARGE, SMALL)
    assert [value(answer) for answer in answers] == [24, 12]
    assert [record.message for record in caplog.records] == ["no_more_threads"]
    assert threading.active_count() == n_threads
    await ask_encoded(executor, LARGE, LARGE)
    assert threading.active_count() == n_threads + 1


async def test_a_large_image_that_had_no_room_is_decoded_whoever_else_waits_for_room(
    start: Start, turn: Turn
) -> None:
    """Those who were told that there was room had nothing left to decode."""
    gate, decoders = Gate(), 8
    executor = start(gate, decoders=decoders)
    ready: Any = executor._ready

    async def await_room(n_threads: int) -> None:
        while len(ready._has_room._waiters) < n_threads:
            await asyncio.sleep(0.001)

    with turn:
        asked = [asyncio.create_task(ask_encoded(executor, LARGE, LARGE))]
        await turn.is_wanted(executor, 1)
        asked.append(asyncio.create_task(ask_encoded(executor, *[SMALL] * (1 + AHEAD))))
        await gate.is_busy()
        async with asyncio.timeout(20):
            while len(ready) < AHEAD:
                await asyncio.sleep(0.001)
            asked.append(asyncio.create_task(ask_encoded(executor, *[b""] * decoders)))
            await await_room(decoders)
    async with asyncio.timeout(20):
        await await_room(decoders + 1)
        gate.open()
        answers = await asyncio.gather(*asked)
    assert [value(answer) for answer in answers[0]] == [24, 24]


async def test_closing_ends_all_threads_that_waited_for_room(start: Start) -> None:
    """With more of them than images to decode ahead, some would not be told that there is room."""
    gate = Gate()
    executor = start(gate, decoders=3 * AHEAD)
    asked = asyncio.create_task(ask(executor, *range(6 * AHEAD), decoded=False))
    await gate.is_busy()
    async with asyncio.timeout(20):
        while len(executor._ready._has_room._waiters) < 3 * AHEAD:  # type: ignore[attr-defined]
            await asyncio.sleep(0.001)
        gate.open()
        await asked
        closing = threading.Thread(target=executor.close, daemon=True)
        closing.start()
        while closing.is_alive():
            await asyncio.sleep(0.001)


def signalling(decoded: threading.Event) -> Callable[[int], Iterator[UInt8Array]]:
    """Decodes as `image` does, and sets the event then."""

    def decode(i: int) -> Iterator[UInt8Array]:
        yield from image(i)
        decoded.set()

    return decode


async def test_what_had_no_room_is_decoded_when_those_before_it_are_given_up(start: Start) -> None:
    gate = Gate()
    executor = start(gate, batch=2)
    first = asyncio.create_task(executor.run(50, image, PLAIN))
    await gate.is_busy()
    decoded = threading.Event()
    second = asyncio.create_task(executor.run(1, signalling(decoded), PLAIN))
    await asyncio.sleep(0)
    await decoding_pauses(executor)
    assert not decoded.is_set()
    first.cancel()
    assert await asyncio.to_thread(decoded.wait, 20)
    gate.open()
    assert len(await second) == 1


async def test_pixels_that_were_sent_take_no_room(start: Start) -> None:
    gate = Gate()
    executor = start(gate, batch=2)
    sent = [await queued(executor, *range(50))]
    await gate.is_busy()
    decoded = threading.Event()
    asked = asyncio.create_task(executor.run(1, signalling(decoded), PLAIN))
    assert await asyncio.to_thread(decoded.wait, 20)
    gate.open()
    await asyncio.gather(asked, *sent)


async def test_a_batch_is_what_waits_and_never_more_than_its_limit(start: Start) -> None:
    gate = Gate()
    executor = start(gate, batch=4)
    first = await queued(executor, 1)
    await gate.is_busy()
    others = [await queued(executor, i) for i in range(6)]
    gate.open()
    await asyncio.gather(first, *others)
    assert [len(batch) for batch in gate.batches] == [1, 4, 2]


async def test_a_batch_is_not_filled_up_to_a_much_larger_size_and_the_rest_runs_next(
    start: Start,
) -> None:
    """Nine images ran as a batch of 16."""
    gate = Gate()
    executor = start(gate, batch=16, sizes=(1, 4, 8, 16))
    first = await queued(executor, 0)
    await gate.is_busy()
    others = [await queued(executor, i) for i in range(1, 10)]
    gate.open()
    await asyncio.gather(first, *others)
    assert gate.batches == [[0], list(range(1, 9)), [9]]


async def test_the_rest_of_a_batch_does_not_wait_for_the_first_part(start: Start) -> None:
    gate = Gate()
    executor = start(gate, runs=2, batch=16, sizes=(1, 8, 16), max_wait_s=0.001)
    asked = await queued(executor, *range(9))
    async with asyncio.timeout(20):
        while len(gate.batches) < 2:
            await asyncio.sleep(0.001)
    gate.open()
    assert len(await asked) == 9
    assert sorted(map(len, gate.batches)) == [1, 8]


async def test_a_batch_waits_for_others_when_it_is_set_to(start: Start) -> None:
    gate = Gate()
    gate.open()
    executor = start(gate, batch=2, max_wait_s=20)
    first = await queued(executor, 1)
    await asyncio.gather(first, await queued(executor, 2))
    assert gate.batches == [[1, 2]]


LIMITED = {"queue": Terms(queue_s=2), "deadline": Terms(answer_s=2)}


@pytest.mark.parametrize("limit", LIMITED)
async def test_a_batch_waits_no_longer_than_the_limits_of_those_in_it_allow(
    start: Start, limit: str
) -> None:
    """On an idle server, every request with less time than a batch may wait was refused late."""
    gate = Gate()
    gate.open()
    executor = start(gate, batch=3, max_wait_s=5)
    patient = await queued(executor, 1)
    await ask(executor, 2, terms=LIMITED[limit])
    await patient
    assert gate.batches == [[1, 2]]


async def test_a_batch_leaves_a_deadline_the_time_of_its_run(start: Start) -> None:
    gate = Gate()
    gate.open()
    executor = start(gate, batch=2, max_wait_s=20)
    executor._admission.times.learn(2, 40)
    async with asyncio.timeout(10):
        await ask(executor, 1, terms=Terms(answer_s=40))


async def test_the_urgent_go_first_and_equals_in_the_order_they_came(start: Start) -> None:
    gate = Gate()
    executor = start(gate)
    waiting = [await queued(executor, 0)]
    await gate.is_busy()
    for number, priority in enumerate((LOWEST, LOW, NORMAL, 0, HIGH), start=1):
        waiting.append(await queued(executor, number, terms=Terms(priority=priority)))
    gate.open()
    await asyncio.gather(*waiting)
    assert gate.batches == [[0], [5], [3], [4], [2], [1]]


async def test_what_nobody_waits_for_does_not_count_as_waiting(start: Start) -> None:
    gate = Gate()
    executor = start(gate)
    asked = [await queued(executor, 0)]
    await gate.is_busy()
    for priority in (LOWEST, LOW, LOWEST):
        asked.append(await queued(executor, 1, terms=Terms(priority=priority)))
    assert (executor.depth, executor.n_awaited) == (3, 1)
    gate.open()
    await asyncio.gather(*asked)


async def test_who_has_waited_for_what_a_level_is_worth_starves_no_longer(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.execution.work.HEAD_START_S", 1e-9)
    gate = Gate()
    executor = start(gate)
    waiting = [await queued(executor, 0)]
    await gate.is_busy()
    for number, priority in enumerate((LOW, NORMAL, HIGH), start=1):
        waiting.append(await queued(executor, number, terms=Terms(priority=priority)))
    gate.open()
    await asyncio.gather(*waiting)
    assert gate.batches == [[0], [1], [2], [3]]


async def test_a_bad_image_does_not_touch_its_neighbours(start: Start) -> None:
    def decode(i: int) -> list[UInt8Array]:
        if i == 1:
            raise BadImage("not an image")
        return image(i)

    for batch in (1, 4):
        good, bad, fine = await start(sums, batch=batch).run(3, decode, Terms())
        assert [value(good), str(bad.error), value(fine)] == [0, "not an image", 24]


async def test_an_error_reaches_its_batch_and_the_next_one_runs(start: Start) -> None:
    def run(batch: UInt8Array) -> Float32Array:
        if batch.max() == 13:
            raise ValueError("unlucky")
        return sums(batch)

    executor = start(run)
    with pytest.raises(ValueError, match="unlucky"):
        await ask(executor, 13)
    assert [value(answer) for answer in await ask(executor, 1)] == [12]


async def test_a_batch_that_fails_runs_one_by_one_and_nobody_fails_for_another(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    sizes: list[int] = []

    def run(batch: UInt8Array) -> Float32Array:
        sizes.append(len(batch))
        if len(batch) > 1:
            raise MemoryError("no memory for so many")
        if 13 in batch:
            raise ValueError("unlucky")
        return sums(batch)

    executor = start(run, batch=4, max_wait_s=20)
    asked = [await queued(executor, i) for i in (1, 13, 2, 3)]
    first, unlucky, *others = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(unlucky, ValueError)
    assert [value(one[0]) for one in (first, *others)] == [12, 24, 36]
    assert sizes == [4, 1, 1, 1, 1]
    assert caplog.messages == ["batch_failed"]


@pytest.mark.parametrize("quick", [False, True])
async def test_a_wrong_number_of_answers_is_an_error_and_the_next_image_is_answered(
    start: Start, quick: bool
) -> None:
    def run(batch: UInt8Array) -> Float32Array:
        return sums(batch)[: 0 if batch.max() == 13 else None]

    executor = start(run, quick=quick)
    async with asyncio.timeout(20):
        with pytest.raises(RuntimeError, match="gave 0 answers for 1 image"):
            await ask(executor, 13)
        assert [value(answer) for answer in await ask(executor, 1)] == [12]


async def test_an_error_while_decoding_reaches_the_caller(start: Start) -> None:
    def decode(i: int) -> list[UInt8Array]:
        raise MemoryError("too much")

    for batch in (1, 4):
        with pytest.raises(MemoryError, match="too much"):
            await start(sums, batch=batch).run(2, decode, Terms())


async def test_what_was_cancelled_in_the_queue_does_not_run(start: Start) -> None:
    gate, notes = Gate(), Notes()
    executor = start(gate, observer=notes)
    first = await queued(executor, 1)
    await gate.is_busy()
    cancelled, last = await queued(executor, 2, 3), await queued(executor, 4)
    cancelled.cancel()
    await asyncio.wait({cancelled})
    gate.open()
    await asyncio.gather(first, last)
    assert gate.batches == [[1], [4]]
    assert notes.drops == [("cancelled", 2)]


async def test_requests_that_are_given_up_together_are_sought_in_the_queue_once(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client that goes with a thousand of them takes up the event loop for half a second."""
    gate = Gate()
    executor = start(gate)
    first = await queued(executor, 1)
    await gate.is_busy()
    others = [await queued(executor, i) for i in range(5)]
    n_sought, drop = 0, executor._ready.drop_abandoned

    def noted() -> None:
        nonlocal n_sought
        n_sought += 1
        drop()

    monkeypatch.setattr(executor._ready, "drop_abandoned", noted)
    for one in others:
        one.cancel()
    await asyncio.wait(others)
    assert (executor.depth, n_sought) == (0, 1)
    gate.open()
    await first


async def test_what_was_cancelled_takes_neither_memory_nor_a_place_in_the_queue(
    start: Start,
) -> None:
    gate = Gate()
    executor = start(gate, batch=4)
    first = await queued(executor, 1)
    await gate.is_busy()
    pixels = np.ones((1, 2, 2, 3), np.uint8)
    decoded: list[UInt8Array] = []
    freed = [weakref.ref(pixels)]

    def decode(i: int) -> Iterator[UInt8Array]:
        decoded.extend(image(i))
        freed.append(weakref.ref(decoded[0]))
        yield decoded.pop()

    late = [executor.run(1, decode, PLAIN, pixels), executor.run(1, decode, PLAIN)]
    del pixels
    cancelled = [asyncio.create_task(one) for one in late]
    async with asyncio.timeout(20):
        while len(freed) < 2 or executor.depth < 2:
            await asyncio.sleep(0.001)
    for task in cancelled:
        task.cancel()
    await asyncio.wait(cancelled)
    del late, cancelled, task
    assert executor.depth == 0
    assert all(pixels() is None for pixels in freed)
    gate.open()
    await first


@pytest.mark.parametrize("batch", [1, 4])
async def test_what_was_answered_takes_no_memory_while_nothing_runs(
    start: Start, batch: int
) -> None:
    executor = start(sums, batch=batch)
    pixels = np.ones((1, 2, 2, 3), np.uint8)
    freed = [weakref.ref(pixels)]
    await executor.run(1, lambda i: image(i), PLAIN, pixels)
    del pixels
    images = np.ones((1, 2, 2, 3), np.uint8)
    freed.append(weakref.ref(images))
    await executor.run(1, lambda i, images=images: images, PLAIN)
    del images
    async with asyncio.timeout(20):
        while any(one() is not None for one in freed):
            await asyncio.sleep(0.001)


async def test_what_is_cancelled_while_it_is_drawn_does_not_wait_afterwards(start: Start) -> None:
    gate = Gate()
    decodes, decoded, added = threading.Event(), threading.Event(), threading.Event()
    executor = start(gate, batch=4)
    first = await queued(executor, 1)
    await gate.is_busy()

    def decode(i: int) -> Iterator[UInt8Array]:
        decodes.set()
        assert decoded.wait(20)
        yield from image(i)
        added.set()  # or left out

    asked = asyncio.create_task(executor.run(1, decode, PLAIN))
    await asyncio.to_thread(decodes.wait, 20)
    asked.cancel()
    await asyncio.wait({asked})
    decoded.set()
    assert await asyncio.to_thread(added.wait, 20)
    assert executor.depth == 0
    gate.open()
    await first


@pytest.mark.parametrize("batch", [1, 4])
async def test_what_is_cancelled_while_it_runs_is_not_counted_as_dropped(
    start: Start, batch: int
) -> None:
    gate, notes = Gate(), Notes()
    executor = start(gate, batch=batch, observer=notes)
    asked = asyncio.create_task(executor.run(1, lambda i: image(1, 2, 3), Terms(n_views=3)))
    await gate.is_busy()
    asked.cancel()
    await asyncio.wait({asked})
    gate.open()
    assert notes.drops == []


async def test_what_is_cancelled_while_it_is_decoded_does_not_run(start: Start) -> None:
    decoding, goes_on, notes = threading.Event(), threading.Event(), Notes()

    def decode(i: int) -> list[UInt8Array]:
        decoding.set()
        assert goes_on.wait(20)
        return image(1)

    executor = start(sums, observer=notes)
    asked = asyncio.create_task(executor.run(1, decode, PLAIN))
    await asyncio.to_thread(decoding.wait, 20)
    asked.cancel()
    await asyncio.wait({asked})
    goes_on.set()
    await ask(executor, 2)
    assert (notes.batches, notes.drops) == ([1], [("cancelled", 1)])


@pytest.mark.parametrize("terms", [Terms(queue_s=0.001), Terms(answer_s=0.001)])
async def test_what_has_waited_too_long_is_refused_and_does_not_run(
    start: Start, terms: Terms
) -> None:
    gate, notes = Gate(), Notes()
    executor = start(gate, observer=notes)
    first = await queued(executor, 1)
    await gate.is_busy()
    late = await queued(executor, 2, 3, 4, terms=terms)
    await asyncio.sleep(0.01)
    gate.open()
    with pytest.raises(Expired, match="Request timeout expired"):
        await late
    await first
    assert gate.batches == [[1]]
    assert notes.drops == [("expired", 3)]


@pytest.mark.parametrize("batch", [1, 4])
async def test_what_has_waited_too_long_makes_room_before_its_turn_comes(
    start: Start, batch: int
) -> None:
    gate, notes = Gate(), Notes()
    executor = start(gate, batch=batch, observer=notes, max_queue=3)
    first = await queued(executor, 1)
    await gate.is_busy()
    late = await queued(executor, 2, 3, terms=Terms(queue_s=0.02))
    with pytest.raises(Expired, match="Request timeout expired"):
        async with asyncio.timeout(20):
            await late
    assert executor.depth == 0
    assert notes.drops == [("expired", 2)]
    second = await queued(executor, 4, 5)
    gate.open()
    assert [value(answer) for answer in (*await first, *await second)] == [12, 48, 60]


@pytest.mark.parametrize("batch", [1, 4])
async def test_what_is_decoded_makes_room_too_and_its_decoding_does_not_count(
    start: Start, batch: int
) -> None:
    """It took its place, and its memory, until its turn came."""
    decode_s, queue_s, began = 0.4, 0.2, time.perf_counter()

    def decode(i: int) -> list[UInt8Array]:
        time.sleep(decode_s)
        return image(2)

    gate, notes = Gate(), Notes()
    executor = start(gate, batch=batch, observer=notes)
    first = await queued(executor, 1)
    await gate.is_busy()
    late = asyncio.create_task(executor.run(1, decode, Terms(queue_s=queue_s)))
    with pytest.raises(Expired, match="Request timeout expired"):
        async with asyncio.timeout(20):
            await late
    assert time.perf_counter() - began > decode_s + queue_s
    assert (executor.depth, notes.drops) == (0, [("expired", 1)])
    gate.open()
    await first
    assert gate.batches == [[1]]


def test_nothing_expires_before_its_time_in_the_queue_is_over(start: Start) -> None:
    async def waited_s(queue_s: float) -> float:
        gate = Gate()
        executor = start(gate)
        first = await queued(executor, 1)
        await gate.is_busy()
        late = await queued(executor, 2, terms=Terms(queue_s=queue_s))
        with pytest.raises(Expired) as expired:
            await late
        gate.open()
        await first
        (waited,) = re.findall(r"expired: (\S+) s after it was queued", str(expired.value))
        return float(waited)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as in a server
        assert runner.run(waited_s(0.0004)) >= 0.0004


async def test_what_runs_when_its_time_in_the_queue_is_over_is_answered(start: Start) -> None:
    gate = Gate()
    executor = start(gate)
    asked = await queued(executor, 1, terms=Terms(queue_s=1))
    await gate.is_busy()
    await asyncio.sleep(1.1)
    gate.open()
    (answer,) = await asked
    assert value(answer) == 12


@pytest.mark.parametrize("batch", [1, 4])
async def test_decoding_does_not_count_as_waiting(start: Start, batch: int) -> None:
    """An idle server refused images that took longer to decode than they were allowed to wait."""

    def decode(i: int) -> list[UInt8Array]:
        time.sleep(0.6)
        return image(i)

    (answer,) = await start(sums, batch=batch).run(1, decode, Terms(queue_s=0.5))
    assert answer.error is None


@pytest.mark.parametrize("batch", [1, 4])
async def test_all_views_of_an_image_run_if_the_first_has_not_waited_too_long(
    start: Start, batch: int
) -> None:
    def run(batch: UInt8Array) -> Float32Array:
        time.sleep(0.2)
        return sums(batch)

    views = range(4 * batch)
    terms = Terms(n_views=len(views), queue_s=0.5)
    (answer,) = await start(run, batch=batch).run(1, lambda i: image(*views), terms)
    assert value(answer) == pytest.approx(12 * np.mean(views))


@pytest.mark.parametrize("quick", [False, True])
async def test_closing_runs_what_is_queued_and_refuses_what_comes_later(
    start: Start, quick: bool
) -> None:
    executor = start(sums, quick=quick)
    asked = [await queued(executor, i) for i in range(5)]
    await asyncio.to_thread(executor.close)
    assert len(await asyncio.gather(*asked)) == 5
    with pytest.raises(Unavailable):
        await ask(executor, 1)


async def test_a_full_queue_refuses_and_has_room_again(start: Start) -> None:
    gate = Gate()
    executor = start(gate, max_queue=3)
    asked = [await queued(executor, 1, 2)]
    with pytest.raises(
        Overloaded, match="size: 2 views of images are in flight and the limit is 3"
    ):
        await ask(executor, 1, 2)
    asked.append(await queued(executor, 3))
    gate.open()
    await asyncio.gather(*asked)
    assert len(await ask(executor, *range(9))) == 9  # an idle one takes any number


async def test_views_take_room_and_not_images(start: Start) -> None:
    gate = Gate()
    executor = start(gate, max_queue=4)
    first = asyncio.create_task(executor.run(1, lambda i: image(1, 2, 3), Terms(n_views=3)))
    await gate.is_busy()
    with pytest.raises(Overloaded, match="3 views of images are in flight and the limit is 4"):
        await executor.run(1, lambda i: image(1, 2), Terms(n_views=2))
    gate.open()
    await first


async def test_a_batch_is_expected_to_take_its_share_of_what_runs_side_by_side() -> None:
    notes, learning = Notes(), admission(runs=2, batch=4)
    executor = Executor(sums, runs=2, batch=4, admission=learning, observer=notes, max_wait_s=20)
    await ask(executor, 1, 2, 3, 4)
    await asyncio.to_thread(executor.close)
    learning.enter(4, PLAIN)
    assert learning.expected_wait_s == pytest.approx(notes.seconds / 2)


# Admission


def admission(*, runs: int = 1, batch: int = 1, **limits: Any) -> Admission:
    any_number = {"max_queue": 1000, "max_queue_s": math.inf, "max_requests": 0, "max_bytes": 2**40}
    times = RunTimes(runs=runs, batch=batch, sizes=range(1, batch + 1))
    return Admission(times, **(any_number | limits))


def test_requests_of_a_model_are_counted() -> None:
    few = admission(max_requests=2)
    few.enter(1, PLAIN)
    few.enter(1, PLAIN)
    with pytest.raises(Overloaded, match=r"^2 requests are in flight, which is this") as caught:
        few.enter(1, PLAIN)
    assert caught.value.reason == "model_requests"
    few.leave(1, PLAIN)
    few.enter(1, PLAIN)


@pytest.mark.parametrize("n_views", [6, 10, 12])
def test_a_request_of_more_than_half_of_the_queue_enters_once_half_is_free(n_views: int) -> None:
    """Beside any traffic, those of 128 images with 9 views each were refused for ever."""
    busy = admission(max_queue=10)
    for _ in range(6):
        busy.enter(1, PLAIN)
    with pytest.raises(Overloaded, match="6 views of images are in flight and the limit is 10"):
        busy.enter(n_views, PLAIN)
    busy.leave(1, PLAIN)
    busy.enter(n_views, PLAIN)
    with pytest.raises(Overloaded, match=f"{5 + n_views} views of images are in flight"):
        busy.enter(1, PLAIN)
    busy.leave(n_views, PLAIN)
    busy.enter(5, PLAIN)


def test_bytes_take_room_until_they_leave() -> None:
    small = admission(max_bytes=3 << 20)
    small.enter(1, PLAIN, n_bytes=9 << 20)  # an idle one takes any number
    small.leave(1, PLAIN, n_bytes=9 << 20)
    small.enter(1, PLAIN, n_bytes=2 << 20)
    with pytest.raises(Overloaded, match="2 MB of images are in flight and the limit is 3 MB"):
        small.enter(1, PLAIN, n_bytes=(1 << 20) + 1)
    small.enter(1, PLAIN, n_bytes=1 << 20)


def test_a_wait_that_would_be_too_long_is_refused_at_once_with_a_hint() -> None:
    quick = admission(max_queue_s=1.0)
    quick.times.learn(1, 0.25)
    for _ in range(5):
        quick.enter(1, PLAIN)
    with pytest.raises(Overloaded, match=r"the wait would be 1\.2 s, the limit is 1 s") as caught:
        quick.enter(1, PLAIN)
    assert caught.value.retry_after_s == pytest.approx(0.625)
    assert caught.value.reason == "expected_wait"


def test_a_caller_who_cannot_wait_is_refused_sooner() -> None:
    patient = admission()
    patient.times.learn(1, 0.25)
    patient.enter(2, PLAIN)
    with pytest.raises(Overloaded):
        patient.enter(1, Terms(queue_s=0.1))
    patient.enter(1, Terms(queue_s=10))


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    busy = admission()
    busy.times.learn(1, 0.25)
    busy.enter(3, PLAIN)
    with pytest.raises(Overloaded, match=r"^an answer would take 1 s, the deadline is in 0\.9 s"):
        busy.enter(1, Terms(answer_s=0.9))
    busy.enter(1, Terms(answer_s=1.5))


def test_the_expected_wait_follows_what_images_take() -> None:
    learning = admission()
    learning.times.learn(1, 1.0)
    learning.enter(1, PLAIN)
    for _ in range(100):
        learning.times.learn(1, 2.0)
    assert learning.expected_wait_s == pytest.approx(2.0, rel=0.01)


def test_what_waits_is_expected_to_run_in_batches_also_after_single_images() -> None:
    """Each view was charged a whole run: of 400 at once 153 were refused, and the rest took 1 s."""
    quiet = admission(runs=1, batch=8, max_queue_s=5.0)
    for _ in range(30):
        quiet.times.learn(1, 0.017)
    for _ in range(400):
        quiet.enter(1, PLAIN)
    assert quiet.expected_wait_s == pytest.approx(400 / 8 * 0.017)
    quiet.times.learn(8, 0.022)
    assert quiet.expected_wait_s == pytest.approx(400 / 8 * 0.022)


def test_a_deadline_is_judged_by_the_runs_before_it_and_its_own() -> None:
    busy = admission(runs=1, batch=8)
    busy.times.learn(1, 0.1)
    busy.times.learn(8, 0.2)
    busy.enter(9, PLAIN)
    with pytest.raises(
        Overloaded, match=r"^an answer would take 0\.3 s, the deadline is in 0\.4 s"
    ):
        busy.enter(1, Terms(answer_s=0.4))
    busy.enter(1, Terms(answer_s=0.5))


def test_a_run_that_once_was_slow_is_not_expected_to_be_slow_for_ever() -> None:
    """With short deadlines, it would not run at that size again and not be learned anew."""
    times = RunTimes(runs=1, batch=8, sizes=[1, 2, 4, 8])
    times.learn(8, 60.0)
    for size in (1, 2, 4):
        times.learn(size, 0.1)
    assert times.of(8) == pytest.approx(0.2)


def test_a_machine_that_has_become_slow_is_noticed_at_every_size() -> None:
    times = RunTimes(runs=1, batch=8, sizes=[1, 8])
    times.learn(8, 0.2)
    times.learn(1, 0.5)
    assert times.of(8) == pytest.approx(0.5)


def test_a_run_takes_the_time_of_the_size_that_it_is_filled_up_to() -> None:
    times = RunTimes(runs=2, batch=8, sizes=[1, 4, 8])
    for size, seconds in ((1, 1.0), (4, 2.0), (8, 3.0)):
        times.learn(size, seconds)
    assert [times.of(n_views) * 2 for n_views in (0, 1, 2, 4, 5, 8, 9, 18)] == [
        0, 1, 2, 2, 3, 3, 4, 8,
    ]  # fmt: skip


async def test_the_urgent_are_let_in_by_what_would_run_before_them(start: Start) -> None:
    """All that was under way counted, so with a deadline none was answered in a flood."""
    gate = Gate()
    executor = start(gate)
    executor._admission.times.learn(1, 0.25)
    flood = [await queued(executor, 0, terms=Terms(priority=LOW)) for _ in range(8)]
    await gate.is_busy()
    with pytest.raises(Overloaded, match=r"an answer would take 2\.2 s, the deadline is in 2 s"):
        await ask(executor, 1, terms=Terms(priority=LOW, answer_s=2))
    with pytest.raises(Overloaded, match="the wait would be 2 s, the limit is 1 s"):
        await ask(executor, 1, terms=Terms(priority=LOW, queue_s=1))
    assert executor.refusal(Terms(priority=HIGH, answer_s=2)) is None
    assert executor.refusal(Terms(priority=LOW, answer_s=2))
    urgent = await queued(executor, 2, terms=Terms(priority=HIGH, answer_s=2, queue_s=1))
    gate.open()
    await asyncio.gather(urgent, *flood)
    assert gate.batches[:2] == [[0], [2]]


def test_nobody_is_let_in_early_who_could_not_be_answered_however_urgent() -> None:
    busy = admission()
    busy.times.learn(1, 0.25)
    busy.enter(8, Terms(priority=LOW))
    most_urgent = Terms(priority=HIGH, answer_s=0.6)
    with pytest.raises(Overloaded, match=r"would take 0\.5 s, the deadline is in 0\.6 s"):
        busy.enter(1, most_urgent)


def test_a_queue_that_is_full_refuses_the_urgent_too() -> None:
    full = admission(max_queue_s=1.0)
    full.times.learn(1, 0.25)
    full.enter(5, Terms(priority=LOW))
    with pytest.raises(Overloaded, match=r"the wait would be 1\.2 s, the limit is 1 s"):
        full.enter(1, Terms(priority=HIGH))


@pytest.mark.parametrize(
    ("level", "wait_s"), [(HIGH, 3.0), (NORMAL, 4.0), (LOW, 5.1), (LOWEST, 6.0)]
)
def test_what_waits_for_long_is_expected_to_run_before_the_urgent(
    level: int, wait_s: float
) -> None:
    """A level is worth a second of waiting, so most of these have become as urgent; one runs."""
    flooded = admission()
    flooded.times.learn(1, 0.1)
    flooded.enter(50, Terms(priority=LOW))
    flooded.enter(10, Terms(priority=LOWEST))
    assert flooded.wait_s(level) == pytest.approx(wait_s)


BUSY = {
    "idle": ({}, (0, 0), 32),
    "enough runs and waits": ({}, (32, 0), 0),
    "half of the queue": ({"max_queue": 20}, (10, 0), 0),
    "half of the bytes": ({"max_bytes": 100}, (1, 50), 0),
    "half of the wait": ({"max_queue_s": 2.0}, (8, 0), 0),
    "half of the requests": ({"max_requests": 2}, (1, 0), 0),
}


@pytest.mark.parametrize("case", BUSY)
def test_one_caller_may_keep_the_network_busy_but_not_take_all_its_capacity(case: str) -> None:
    limits, (n_views, n_bytes), expected = BUSY[case]
    version = admission(runs=2, batch=8, **limits)
    version.times.learn(8, 2.0)
    if n_views:
        version.enter(n_views, PLAIN, n_bytes)
    assert version.stream_window == expected


def test_who_fills_up_the_batch_that_waits_needs_no_run_of_its_own() -> None:
    busy = admission(runs=1, batch=8)
    busy.times.learn(8, 0.2)
    busy.times.learn(1, 0.15)
    busy.enter(15, PLAIN)
    assert busy.refusal(1, Terms(answer_s=0.4 / 0.69)) is None
    busy.enter(1, PLAIN)
    assert busy.refusal(1, Terms(answer_s=0.4 / 0.69))


def test_who_comes_while_a_single_view_runs_waits_for_it() -> None:
    busy = admission(runs=1, batch=8)
    busy.times.learn(1, 0.2)
    busy.enter(1, PLAIN)
    assert busy.refusal(1, Terms(answer_s=0.5))
    assert busy.refusal(1, Terms(answer_s=0.6)) is None
