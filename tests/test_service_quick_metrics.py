"""Counters and histograms of our own, beside those of prometheus_client."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from service.observability.quick_metrics import Counter, Histogram

BOUNDS = (0.001, 0.25, 1, 30)
VALUES = (0, 0.0004, 0.001, 0.0011, 0.25, 1, 7.5, 30, 30.1)
AS_TEXT, AS_OPENMETRICS = generate_latest, openmetrics.generate_latest


def exported(metric: Any, form: Callable[[CollectorRegistry], bytes] = AS_TEXT) -> list[str]:
    """The page of this one metric, without when its series were created, which only theirs say."""
    registry = CollectorRegistry()
    registry.register(metric)
    lines = form(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]


def counted(counter: Any) -> Any:
    counter.labels("pets", "1").inc()
    counter.labels("pets", "1").inc(3)
    counter.labels('odd "\n\\', "2")
    return counter


def observed(histogram: Any) -> Any:
    for value in VALUES:
        histogram.labels("pets").observe(value)
    histogram.labels("odd")
    return histogram


@pytest.mark.parametrize("form", [AS_TEXT, AS_OPENMETRICS])
def test_a_counter_is_exported_as_by_prometheus_client(form: Any) -> None:
    labels = ("model", "version")
    ours = counted(Counter("requests", "Requests.", labels))
    theirs = counted(prometheus_client.Counter("requests", "Requests.", labels, registry=None))
    assert exported(ours, form) == exported(theirs, form)
    assert 'requests_total{model="pets",version="1"} 4.0' in exported(ours)


@pytest.mark.parametrize("form", [AS_TEXT, AS_OPENMETRICS])
def test_a_histogram_is_exported_as_by_prometheus_client(form: Any) -> None:
    name, help, labels = "seconds", "How long.", ("model",)
    theirs = prometheus_client.Histogram(name, help, labels, buckets=BOUNDS, registry=None)
    ours = observed(Histogram(name, help, labels, BOUNDS))
    assert exported(ours, form) == exported(observed(theirs), form)
    assert 'seconds_bucket{le="1.0",model="pets"} 6.0' in exported(ours)


def test_without_labels_there_is_one_series() -> None:
    jobs = Counter("jobs", "Jobs.")
    jobs.labels().inc()
    assert "jobs_total 1.0" in exported(jobs)


def test_a_series_that_is_removed_is_gone_and_begins_anew() -> None:
    requests = Counter("requests", "Requests.", ("model",))
    requests.labels("pets").inc()
    requests.labels("cells").inc()
    requests.remove("pets")
    requests.remove("never there")
    assert "pets" not in "".join(exported(requests))
    requests.labels("pets").inc()
    assert 'requests_total{model="pets"} 1.0' in exported(requests)


def test_a_scrape_may_ask_for_one_metric_and_no_two_have_one_name() -> None:
    registry = CollectorRegistry()
    jobs, requests = (Counter(name, "Some.", ("model",)) for name in ("jobs", "requests"))
    for one in (jobs, requests):
        registry.register(one)
        one.labels("pets").inc()
    page = generate_latest(registry.restricted_registry(["jobs_total"])).decode()
    assert 'jobs_total{model="pets"} 1.0' in page
    assert "requests" not in page
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(Counter("jobs", "Others.", ()))


def test_a_label_too_many_or_too_few_is_an_error() -> None:
    requests = Counter("requests", "Requests.", ("model",))
    for wrong in ((), ("pets", "1")):
        with pytest.raises(ValueError, match="labels"):
            requests.labels(*wrong)


def test_nothing_that_many_threads_count_is_lost() -> None:
    requests = Counter("requests", "Requests.", ("model",))
    seconds = Histogram("seconds", "How long.", ("model",), BOUNDS)

    def work(_: int) -> None:
        for _ in range(5_000):
            requests.labels("pets").inc()
            seconds.labels("pets").observe(0.5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert requests.labels("pets").value == 20_000
    assert 'seconds_bucket{le="1.0",model="pets"} 20000.0' in exported(seconds)
    assert 'seconds_sum{model="pets"} 10000.0' in exported(seconds)
