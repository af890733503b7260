"""Updates of metrics that are deferred."""

import threading
from concurrent.futures import ThreadPoolExecutor

from prometheus_client import CollectorRegistry, Counter, generate_latest

from service.observability.deferred_updates import MAX_QUEUED, DeferredUpdates


def test_updates_are_made_once_and_in_order() -> None:
    deferred, counted = DeferredUpdates(), []
    for i in range(5):
        deferred.defer(counted.append, i)
    assert counted == []
    deferred.flush()
    deferred.flush()
    assert counted == [0, 1, 2, 3, 4]


def test_a_full_queue_is_flushed_at_once() -> None:
    deferred, counted = DeferredUpdates(), []
    for i in range(MAX_QUEUED):
        deferred.defer(counted.append, i)
    assert counted == list(range(MAX_QUEUED))


def test_a_scrape_flushes_first() -> None:
    registry, deferred = CollectorRegistry(), DeferredUpdates()
    registry.register(deferred)
    counter = Counter("things", "Some.", registry=registry)
    deferred.defer(counter.inc)
    assert b"things_total 1.0" in generate_latest(registry)


def test_updates_of_many_threads_are_all_made() -> None:
    deferred, counted, lock = DeferredUpdates(), [0], threading.Lock()

    def count() -> None:
        assert lock.acquire(blocking=False), "counting in two threads at once"
        counted[0] += 1
        lock.release()

    def work(_: int) -> None:
        for _ in range(2_000):
            deferred.defer(count)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    deferred.flush()
    assert counted == [8_000]
