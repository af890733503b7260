"""Answers of a busy network are given to their callers a few at a time, and none is late for it."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from registry.images import UInt8Array
from service.execution import delivery
from service.execution.delivery import TOGETHER, Delivery
from service.execution.queue import Queue, View
from service.execution.run_times import RunTimes
from service.execution.work import HIGH, Answer, Image, Terms, Work

PLAIN = Terms()
FOREVER_S = 60.0  # that answers are kept back here: longer than any of these tests takes


def request(terms: Terms = PLAIN) -> Work:
    def decode(i: int) -> Iterator[UInt8Array]:
        raise AssertionError("nothing is decoded here")

    return Work(1, decode, terms, asyncio.get_running_loop().create_future())


def queue_of(n_views: int) -> Queue:
    waiting = Queue()
    waiting.push([View(Image(request(), 0)) for _ in range(n_views)])
    return waiting


def two_at_once(run_s: float) -> RunTimes:
    """Of a network of which two runs, of one image each, are under way at the same time."""
    times = RunTimes(runs=2, batch=1, sizes=[1])
    times.learn(1, run_s)
    return times


QUICK = two_at_once(0.001)


def finish(delivery: Delivery, *works: Work) -> None:
    delivery.finish([(Image(work, 0), Answer(np.zeros(2, np.float32))) for work in works])


async def given(*works: Work) -> list[bool]:
    """Which of them have their answers once the event loop has done what it was asked to."""
    for _ in range(3):
        await asyncio.sleep(0)
    return [work.done.done() for work in works]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "LONGEST_S", FOREVER_S)


async def busy(times: RunTimes = QUICK) -> Delivery:
    """One that has just given an answer, and where more views wait than run at the same time."""
    started = Delivery(queue_of(3), times)
    first = request()
    finish(started, first)
    assert await given(first) == [True]
    return started


async def test_the_first_answer_is_given_at_once_and_then_a_few_together(patient: None) -> None:
    network = await busy()
    works = [request() for _ in range(TOGETHER)]
    for work in works[:-1]:
        finish(network, work)
    assert not any(await given(*works))
    finish(network, works[-1])
    assert all(await given(*works))


async def test_an_answer_is_kept_back_for_a_moment_only() -> None:
    network = await busy()
    work = request()
    finish(network, work)
    async with asyncio.timeout(20):
        await work.done  # though no other one follows


async def test_nothing_is_kept_back_once_the_moment_has_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "LONGEST_S", 0.0)
    network = await busy()
    work = request()
    finish(network, work)
    assert await given(work) == [True]


async def test_answers_are_given_before_the_threads_run_out_of_work(patient: None) -> None:
    waiting = queue_of(2)
    network = Delivery(waiting, QUICK)
    first, second, third = request(), request(), request()
    finish(network, first)
    assert await given(first) == [True]
    finish(network, second)
    assert await given(second) == [False]
    waiting.take(1)
    finish(network, third)
    assert await given(second, third) == [True, True]


async def test_a_slow_network_keeps_nothing_back() -> None:
    network = await busy(two_at_once(run_s=delivery.LONGEST_S))
    work = request()
    finish(network, work)
    assert await given(work) == [True]


URGENT = {
    "of high priority": Terms(priority=HIGH),
    "whose caller waits no longer": Terms(answer_s=FOREVER_S / 2),
}


@pytest.mark.parametrize("case", URGENT)
async def test_what_is_urgent_is_given_at_once_and_takes_the_others_along(
    patient: None, case: str
) -> None:
    network = await busy()
    kept, urgent = request(), request(URGENT[case])
    finish(network, kept)
    assert await given(kept) == [False]
    finish(network, urgent)
    assert await given(kept, urgent) == [True, True]


async def test_a_request_is_given_when_its_last_image_is_done() -> None:
    idle = Delivery(Queue(), QUICK)
    work = request()
    work.n_images = 2
    answer = Answer(np.zeros(2, np.float32))
    idle.finish([(Image(work, 0), answer)])
    assert await given(work) == [False]
    idle.finish([(Image(work, 1), answer)])
    assert await given(work) == [True]


async def test_who_has_left_is_not_given_anything() -> None:
    idle = Delivery(Queue(), QUICK)
    left, stayed = request(), request()
    left.done.cancel()
    finish(idle, left, stayed)
    assert await given(left, stayed) == [True, True]
    assert left.done.cancelled()
