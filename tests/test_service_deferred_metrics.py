"""Counting that is put off."""

import threading
from concurrent.futures import ThreadPoolExecutor

from prometheus_client import CollectorRegistry, Counter, generate_latest

from service.observability.deferred_metrics import PAGE, Notebook


def test_notes_are_counted_once_and_in_order() -> None:
    notes, counted = Notebook(), []
    for i in range(5):
        notes.note(counted.append, i)
    assert counted == []
    notes.settle()
    notes.settle()
    assert counted == [0, 1, 2, 3, 4]


def test_a_full_page_is_counted_without_being_asked() -> None:
    notes, counted = Notebook(), []
    for i in range(PAGE):
        notes.note(counted.append, i)
    assert counted == list(range(PAGE))


def test_a_scrape_finds_everything_counted() -> None:
    registry, notes = CollectorRegistry(), Notebook()
    registry.register(notes)
    counter = Counter("things", "Some.", registry=registry)
    notes.note(counter.inc)
    assert b"things_total 1.0" in generate_latest(registry)


def test_notes_of_many_threads_are_all_counted() -> None:
    notes, counted, lock = Notebook(), [0], threading.Lock()

    def count() -> None:
        assert lock.acquire(blocking=False), "counting in two threads at once"
        counted[0] += 1
        lock.release()

    def work(_: int) -> None:
        for _ in range(2_000):
            notes.note(count)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    notes.settle()
    assert counted == [8_000]
