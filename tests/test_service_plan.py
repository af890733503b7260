"""The execution plan: how it is measured, kept, handed on, and what batches it lets come."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from conftest import Start

from registry.errors import BundleError
from registry.images import Float32Array, UInt8Array
from service.execution.kind import Kind
from service.execution.plan import (
    Measurement,
    Plan,
    Plans,
    choose,
    measure_plan,
    parse_plan,
    tried_splits,
)
from service.execution.shapes import batch_sizes, shaped, worth_running
from service.models.golden_check import proving, warm


def sums(images: UInt8Array) -> Float32Array:
    """A network whose answer is the sum of an image's pixels."""
    return images.reshape(len(images), -1).sum(axis=1, dtype=np.float32)[:, None]


def images(n_images: int) -> UInt8Array:
    return np.stack([np.full((2, 2, 3), value, np.uint8) for value in range(1, n_images + 1)])


def measured(plan: str, latency_ms: float, rate: float) -> Measurement:
    return Measurement(parse_plan(plan), latency_ms / 1000, rate)


CHOICES = {
    "the fastest": ([measured("1x2x1", 11, 187), measured("2x1x1", 9, 146)], "1x2x1"),
    "not if one image waits too long": (
        [measured("1x8x1", 60, 400), measured("8x1x1", 9, 150)],
        "8x1x1",
    ),
    "half the threads are not excluded": (
        [measured("1x2x1", 17, 187), measured("2x1x1", 9, 146)],
        "1x2x1",
    ),
    "unless they gain nothing": ([measured("1x2x1", 17, 150), measured("2x1x1", 9, 146)], "2x1x1"),
    "two runs at once on a GPU": ([measured("1x1x8", 1, 960), measured("1x2x8", 1, 990)], "1x2x8"),
    "a batch must pay": ([measured("1x2x1", 9, 100), measured("1x2x8", 9, 115)], "1x2x1"),
    "also over a smaller one that pays": (
        [measured("1x1x1", 1, 100), measured("1x1x4", 1, 150), measured("1x1x8", 1, 170)],
        "1x1x4",
    ),
    "if two steps pay together": (
        [measured("1x1x1", 1, 100), measured("1x1x4", 1, 115), measured("1x1x8", 1, 130)],
        "1x1x8",
    ),
    "a batch that pays": ([measured("1x1x1", 1, 100), measured("1x1x32", 1, 900)], "1x1x32"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_the_plan_is_the_highest_throughput_at_an_acceptable_latency(case: str) -> None:
    plans, expected = CHOICES[case]
    assert str(choose(plans)) == expected


def test_measuring_stays_within_its_budget_for_a_slow_network() -> None:
    seconds: list[float] = []

    def run(batch: UInt8Array) -> Float32Array:
        seconds.append(run_s := 0.02 * len(batch))
        time.sleep(run_s)
        return sums(batch)

    plan = measure_plan(lambda threads: run, "cpu", 2, 2)
    assert sum(seconds) < 3  # of which two were made at once
    assert plan.runs == 2  # this one sleeps: two runs are twice as fast, and batches no faster


def test_what_is_measured_splits_the_cores_evenly() -> None:
    assert tried_splits("cpu", 4) == [(1, 4), (2, 2), (4, 1)]
    assert tried_splits("cpu", 1) == [(1, 1)]
    assert len(tried_splits("cpu", 64)) <= 6
    assert tried_splits("cuda", 64) == [(1, 1), (1, 2)]


def test_plans_are_remembered_and_a_damaged_memory_is_none(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    Plans(path).put("key", Plan(1, 2, 4))
    assert Plans(path).get("key") == Plan(1, 2, 4)
    assert Plans(path).get("other") is None
    path.write_text("{")
    assert Plans(path).get("key") is None


def test_a_plan_that_cannot_be_kept_is_a_plan_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk does not keep a model from answering."""
    (tmp_path / "file").touch()
    plans = Plans(tmp_path / "file" / "plans.json")
    plans.put("key", Plan(1, 2, 4))
    assert plans.get("key") == Plan(1, 2, 4)
    assert [record.message for record in caplog.records] == ["plans_not_kept"]


def test_a_batch_for_which_a_gpu_has_too_little_memory_is_not_planned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def run(batch: UInt8Array) -> Float32Array:
        if len(batch) > 4:
            raise RuntimeError("Failed to allocate memory")
        return sums(batch)

    assert measure_plan(lambda threads: proving("m/1", run), "cuda", 1, 2).batch <= 4
    assert "batch_too_large" in caplog.messages


def test_a_batch_that_no_longer_fits_when_it_is_measured_again_is_not_planned() -> None:
    had_large = fills_up = False

    def run(batch: UInt8Array) -> Float32Array:
        nonlocal had_large, fills_up
        had_large = had_large or len(batch) > 4
        fills_up = fills_up or (had_large and len(batch) == 1)
        if fills_up and len(batch) > 4:
            raise RuntimeError("Failed to allocate memory")
        return sums(batch)

    assert measure_plan(lambda threads: proving("m/1", run), "cuda", 1, 2).batch <= 4
    assert fills_up


def test_a_network_that_fails_on_a_batch_for_another_reason_is_not_planned() -> None:
    def run(batch: UInt8Array) -> Float32Array:
        if len(batch) > 4:
            raise BundleError("memory/1: it gives 1 answer for 8 images")
        return sums(batch)

    with pytest.raises(BundleError, match="gives 1 answer for 8"):
        measure_plan(lambda threads: run, "cuda", 1, 2)


def test_a_network_that_leaves_images_of_a_batch_out_does_not_go_live(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="colours/1: it gives 1 answer for 4 images"):
        warm(tmp_path / "colours" / "1", lambda images: sums(images)[:1], 2, (1, 4), 2)


def test_a_network_too_slow_for_the_budget_is_planned_by_its_latency() -> None:
    n_timed = 0

    def run(batch: UInt8Array) -> Float32Array:
        nonlocal n_timed
        n_timed += 1
        time.sleep(0.8)
        return sums(batch)

    assert measure_plan(lambda threads: run, "cpu", 1, 2) == Plan(1, 1, 1)
    assert n_timed == 2  # one to warm up and one to measure


def test_a_fixed_batch_is_the_only_one_that_is_tried() -> None:
    sizes: set[int] = set()

    def run(batch: UInt8Array) -> Float32Array:
        sizes.add(len(batch))
        time.sleep(0.002)
        return sums(batch)

    plan = measure_plan(lambda threads: shaped(run, (3,)), "cpu", 2, 2, fixed_batch=3)
    assert (plan.batch, sizes) == (3, {3})


@pytest.mark.parametrize("max_batch", [1, 2, 8, 16])
def test_no_batch_is_tried_that_is_larger_than_the_largest_wanted(max_batch: int) -> None:
    tried: set[int] = set()

    def run(batch: UInt8Array) -> Float32Array:
        tried.add(len(batch))
        return sums(batch)

    measure_plan(lambda threads: run, "cpu", 1, 2, max_batch=max_batch)
    assert max(tried) == max_batch


def test_a_server_plans_no_larger_batch_than_is_set(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.execution.plan.choose", lambda measured: measured[-1].plan)
    tiny.publish(root, promote=True)
    loaded = start(plan=None, max_batch=3).service.models.in_memory(tiny.MODEL_NAME)
    assert [one.plan.batch for one in loaded] == [3]


def test_threads_that_make_one_image_wait_are_not_tried_in_batches() -> None:
    tried: set[tuple[int, int]] = set()

    def open_run(threads: int):
        def run(batch: UInt8Array) -> Float32Array:
            tried.add((threads, len(batch)))
            time.sleep(0.08 / threads**2)
            return sums(batch)

        return run

    assert measure_plan(open_run, "cpu", 4, 2).threads == 4
    assert (4, 4) in tried
    assert all(batch == 1 for threads, batch in tried if threads < 4)


class Compiled:
    """Compiles as TensorRT does: anew for each batch beyond the smallest and largest so far."""

    def __init__(self) -> None:
        self.times, self._from, self._to = 0, 99, 0

    def run(self, batch: UInt8Array) -> Float32Array:
        if not self._from <= len(batch) <= self._to:
            self.times += 1
            self._from, self._to = min(self._from, len(batch)), max(self._to, len(batch))
        return sums(batch)


def test_a_network_that_is_measured_is_compiled_twice_and_not_for_every_batch() -> None:
    compiled = Compiled()
    measure_plan(lambda threads: compiled.run, "tensorrt", 1, 2)
    assert compiled.times == 2


def test_a_network_whose_plan_is_known_is_compiled_twice_at_most(tmp_path: Path) -> None:
    compiled = Compiled()
    compiled.run(images(1))  # the golden answers
    warm(tmp_path, compiled.run, 2, batch_sizes("tensorrt", 32, None), n_runs=1)
    assert compiled.times == 2


# Batches


@pytest.mark.parametrize("most", [6, 24, 100])
def test_no_batch_has_a_size_that_was_not_warmed_up(tmp_path: Path, most: int) -> None:
    met: set[int] = set()

    def run(batch: UInt8Array) -> Float32Array:
        met.add(len(batch))
        return sums(batch)

    sizes = batch_sizes("cpu", most, None)
    any_number = shaped(run, sizes)
    warm(tmp_path, any_number, 2, sizes, n_runs=1)
    warmed = set(met)
    for n_images in range(1, most + 1):
        any_number(images(n_images))
    assert met == warmed == set(sizes)


SIZES = {
    "a CPU takes what comes": (("cpu", 4, None), (1, 2, 3, 4)),
    "but is not warmed up with every size": (
        ("cpu", 80, None),
        (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 80),
    ),
    "a GPU is given few shapes": (("cuda", 32, None), (1, 4, 8, 16, 32)),
    "and none beyond the plan": (("tensorrt", 12, None), (1, 4, 8, 12)),
    "a plan of single images": (("cuda", 1, None), (1,)),
    "a fixed batch is the only one": (("cpu", 4, 7), (7,)),
}


@pytest.mark.parametrize("case", SIZES)
def test_a_run_has_one_of_the_sizes_of_its_plan(case: str) -> None:
    arguments, expected = SIZES[case]
    assert batch_sizes(*arguments) == expected


GPU_SIZES = (1, 4, 8, 16, 32)


@pytest.mark.parametrize(
    ("n_images", "run"),
    [(0, 0), (1, 1), (2, 2), (5, 5), (8, 8), (9, 8), (10, 8), (11, 11), (17, 16), (22, 22)],
)
def test_a_batch_is_cut_to_a_size_where_filling_it_up_would_waste_more_than_a_third(
    n_images: int, run: int
) -> None:
    """Two are filled up to four, though: the second run would cost more than two black images."""
    assert worth_running(n_images, GPU_SIZES) == run


@pytest.mark.parametrize(("n_images", "given"), [(1, [1]), (3, [4]), (4, [4]), (10, [4, 4, 4])])
def test_batches_are_split_and_filled_up_to_the_allowed_sizes(
    n_images: int, given: list[int]
) -> None:
    met: list[int] = []

    def run(batch: UInt8Array) -> Float32Array:
        met.append(len(batch))
        return sums(batch)

    answers = shaped(run, (1, 4))(images(n_images))
    np.testing.assert_array_equal(answers, sums(images(n_images)))
    assert met == given


# Handing on

KIND = Kind("cpu", "fp32", None, 224, 2, "resnet34", "dynamo", n_bytes=1000)


@pytest.mark.parametrize(
    "change",
    [
        {"provider": "cuda"},
        {"precision": "int8"},
        {"fixed_batch": 8},
        {"size": 160},
        {"n_classes": 3},
        {"backbone": "resnet50"},
        {"exporter": "torchscript"},
        {"n_bytes": 900},
    ],
    ids=lambda change: next(iter(change)),
)
def test_networks_of_another_kind_do_not_inherit_a_plan(change: dict[str, object]) -> None:
    assert replace(KIND, n_bytes=1010).same_as(KIND)
    assert not replace(KIND, **change).same_as(KIND)


def origins(log: pytest.LogCaptureFixture) -> list[str]:
    """How each loaded version came by its plan."""
    return [record.plan_is for record in log.records if record.msg == "version_loaded"]


def test_a_swap_inherits_the_plan_and_another_kind_is_measured(
    start: Start, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tiny.publish(root, promote=True)
    server = start(plan=None)
    for changes in ({"bias": (1.0, 0.0, 0.0)}, {"size": 16}):
        tiny.publish(root, promote=True, **changes)
        server.refresh()
    assert origins(caplog) == ["measured", "inherited", "measured"]


@pytest.mark.parametrize(
    ("provenance", "origin"),
    [({"backbone": "mean-colour"}, "inherited"), ({"imported_from": "net.onnx"}, "measured")],
)
def test_a_model_inherits_the_plan_of_another_if_both_say_that_they_are_of_one_kind(
    start: Start,
    root: Path,
    caplog: pytest.LogCaptureFixture,
    provenance: dict[str, str],
    origin: str,
) -> None:
    caplog.set_level("INFO")
    tiny.publish(root, promote=True, provenance=provenance)
    server = start(plan=None)
    tiny.publish(root, model="other", bias=(1.0, 0.0, 0.0), promote=True, provenance=provenance)
    server.refresh()
    assert origins(caplog) == ["measured", origin]


def test_a_plan_is_remembered_by_the_next_server_and_can_be_pinned(
    start: Start, root: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tiny.publish(root, promote=True)
    start(plan=None, state=state).stop()
    start(plan=None, state=state).stop()
    server = start(plan="2x1x3", state=state)
    assert origins(caplog) == ["measured", "remembered", "pinned"]
    assert 'plan="2x1x3",precision="fp32",provider="cpu"' in server.metrics()


@pytest.mark.parametrize(
    ("later", "origin"), [("a GPU", "remembered"), ("another GPU", "measured"), ("", "measured")]
)
def test_a_plan_that_was_measured_on_other_processors_is_not_taken(
    start: Start,
    root: Path,
    state: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    later: str,
    origin: str,
) -> None:
    caplog.set_level("INFO")
    tiny.publish(root, promote=True)
    for named in ("a GPU", later):
        monkeypatch.setattr("service.models.loader.processors", lambda provider, named=named: named)
        start(plan=None, state=state).stop()
    assert origins(caplog) == ["measured", origin]


def test_plans_are_measured_one_after_the_other(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring: list[str] = []
    most = 0

    def measure(*args: object) -> Plan:
        nonlocal most
        measuring.append("one more")
        time.sleep(0.05)
        most = max(most, len(measuring))
        measuring.pop()
        return Plan(1, 1, 1)

    monkeypatch.setattr("service.models.loader.measure_plan", measure)
    for name in ("a", "b", "c"):
        tiny.publish(root, model=name, promote=True)
    assert start(plan=None).service.models.ready() == {"a", "b", "c"}
    assert most == 1


def test_a_model_of_a_fixed_batch_answers_any_number_of_images(start: Start, root: Path) -> None:
    tiny.publish(root, promote=True)
    tiny.fix_batch(root / tiny.MODEL_NAME / "1", 3)
    server = start(plan=None)
    pictures = [tiny.picture(colour) for colour in ("red", "green", "blue", "red")]
    answers = server.classify(*pictures).results
    names = [answer.prediction.labels[0].name for answer in answers]
    assert names == ["red", "green", "blue", "red"]
    assert 'x3",precision="fp32"' in server.metrics()
