"""Loads, swaps and rollbacks at once: who waits for whom, and what is left in the end.

Nothing here is timed: a load is held at a gate, and what must not wait for it happens meanwhile.
"""

import gc
import random
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import onnx
import pytest
import tiny
from conftest import PLAN, RunningServer, Start, best, wait_until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from registry.bundle import MODEL, Bundle, read_bundle, seal
from registry.files import sha256_file
from registry.store import Registry
from service.execution.session import Session
from service.models.loader import Loader
from unfreeze.v1 import admin_pb2 as pb

BIASES = {"red": (9.0, 0.0, 0.0), "green": (0.0, 9.0, 0.0), "blue": (0.0, 0.0, 9.0)}


class Gate:
    """Loads of the versions that it is closed for wait until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: set[tuple[str, int]] = set()
        self.passed: set[tuple[str, int]] = set()
        self._closed: dict[tuple[str, int], threading.Event] = {}
        really_load = Loader.load

        def load(loader: Loader, folder: Path, version: int) -> Any:
            key = folder.parent.name, version
            if closed := self._closed.get(key):
                self.waiting.add(key)
                closed.wait(30)
            self.passed.add(key)
            return really_load(loader, folder, version)

        monkeypatch.setattr(Loader, "load", load)

    def close(self, model: str, version: int) -> tuple[str, int]:
        self._closed[model, version] = threading.Event()
        return model, version

    def open(self) -> None:
        for closed in self._closed.values():
            closed.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.open()


@pytest.fixture
def aside() -> Iterator[Callable[..., "Future[Any]"]]:
    """Calls in threads of their own."""
    with ThreadPoolExecutor(32) as pool:
        yield pool.submit


def promote(server: RunningServer, version: int, model: str = "colours") -> pb.PromoteResponse:
    request = pb.PromoteRequest(model=model, version=version)
    return server.admin.Promote(request, timeout=20)


def roll_back(server: RunningServer) -> pb.PromoteResponse:
    return server.admin.Rollback(pb.RollbackRequest(model="colours"), timeout=20)


def version_of(server: RunningServer, model: str = "colours", **fields: Any) -> int:
    return server.classify(tiny.picture(), model=model, **fields).version


def workers() -> int:
    """Threads that run networks; every version here has two."""
    return sum(thread.name.startswith("run-") for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def sessions() -> Callable[[], int]:
    """Counts the networks in memory that were not there when the test began."""
    before = weakref.WeakSet(networks())
    return lambda: sum(network not in before for network in networks())


def networks() -> list[Session]:
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing) is Session]


# Loading holds up nothing else


def test_while_a_version_loads_all_models_answer_and_the_server_stays_ready(
    server: RunningServer, root: Path, gate: Gate, aside: Callable[..., "Future[Any]"]
) -> None:
    other = tiny.publish(root, model="other", promote=True)
    server.refresh()
    slow = gate.close("colours", tiny.publish(root))
    promoted = aside(promote, server, 2)
    wait_until(lambda: slow in gate.waiting)
    assert (version_of(server), version_of(server, "other")) == (1, other)
    stub = health_pb2_grpc.HealthStub(server.channel)
    for service in ("", "readiness", "colours"):
        status = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    gate.open()
    assert promoted.result(20).version == version_of(server) == 2


def test_a_model_that_loads_for_the_first_time_is_unavailable_and_not_unknown(
    server: RunningServer, root: Path, gate: Gate
) -> None:
    stub = pb_grpc.GRPCInferenceServiceStub(server.channel)
    slow = gate.close("later", 1)
    tiny.publish(root, model="later", promote=True)
    wait_until(lambda: slow in gate.waiting)
    for call in (
        lambda: version_of(server, "later"),
        lambda: stub.ModelMetadata(oip.ModelMetadataRequest(name="later-tensor"), timeout=20),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "later is being loaded; try again in a moment"
    index = stub.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=20).models
    assert {row.state for row in index if row.name.startswith("later")} == {"LOADING"}
    gate.open()
    wait_until(lambda: "later" in server.service.models.ready())
    assert version_of(server, "later") == 1


def test_a_slow_load_keeps_no_other_model_from_being_promoted(
    server: RunningServer, root: Path, gate: Gate, aside: Callable[..., "Future[Any]"]
) -> None:
    slow = gate.close("colours", tiny.publish(root))
    promoted = aside(promote, server, 2)
    wait_until(lambda: slow in gate.waiting)
    promote(server, tiny.publish(root, model="other"), model="other")
    assert version_of(server, "other") == 1
    gate.open()
    promoted.result(20)


def test_a_slow_load_keeps_no_other_pointer_from_being_followed(
    server: RunningServer, root: Path, gate: Gate
) -> None:
    slow = gate.close("colours", tiny.publish(root))
    server.registry.promote("colours", 2, by="other", reason="")
    wait_until(lambda: slow in gate.waiting)
    tiny.publish(root, model="other", promote=True)
    wait_until(lambda: "other" in server.service.models.ready())
    assert version_of(server) == 1
    gate.open()
    wait_until(lambda: version_of(server) == 2)


def test_what_was_rolled_back_while_it_loaded_never_goes_live(
    server: RunningServer, root: Path, gate: Gate
) -> None:
    slow = gate.close("colours", tiny.publish(root))
    server.registry.promote("colours", 2, by="other", reason="")
    wait_until(lambda: slow in gate.waiting)
    fast = tiny.publish(root, promote=True)
    wait_until(lambda: version_of(server) == fast)
    gate.open()
    loaded = 'unfreeze_load_seconds_count{model="colours"} 3.0'
    wait_until(lambda: loaded in server.metrics())
    server.refresh()
    assert version_of(server) == fast
    assert 'unfreeze_swaps_total{model="colours"} 2.0' in server.metrics()  # 1, then 3


def test_a_slow_load_at_the_start_keeps_no_other_from_loading(
    start: Start, root: Path, gate: Gate, aside: Callable[..., "Future[Any]"]
) -> None:
    names = ("a-slow", "b", "c")
    versions = {(name, tiny.publish(root, model=name, promote=True)) for name in names}
    slow = gate.close("a-slow", 1)
    server = aside(start)
    wait_until(lambda: gate.passed == versions - {slow} and slow in gate.waiting)
    assert not server.done()
    gate.open()
    assert server.result(20).service.models.ready() == set(names)


def test_versions_asked_for_by_number_take_no_thread_from_those_that_go_live(
    server: RunningServer, root: Path, gate: Gate, aside: Callable[..., "Future[Any]"]
) -> None:
    slow = {gate.close("colours", tiny.publish(root)) for _ in range(6)}
    asked = [aside(version_of, server, version=version) for _, version in sorted(slow)]
    wait_until(lambda: gate.waiting)
    assert promote(server, tiny.publish(root)).version == version_of(server) == 8
    assert len(gate.waiting) < len(slow), "loads are not bounded"
    gate.open()
    assert [one.result(20) for one in asked] == [2, 3, 4, 5, 6, 7]


def test_a_rollback_waits_for_no_load(
    server: RunningServer, root: Path, gate: Gate, aside: Callable[..., "Future[Any]"]
) -> None:
    promote(server, tiny.publish(root))
    slow = gate.close("colours", tiny.publish(root))
    asked = aside(version_of, server, version=3)
    promoted = aside(promote, server, 3)
    wait_until(lambda: slow in gate.waiting)
    assert roll_back(server).version == version_of(server) == 1
    gate.open()
    assert (asked.result(20), promoted.result(20).version) == (3, 3)
    assert server.registry.promoted("colours").pointer.version == version_of(server) == 3


def test_what_is_promoted_while_old_versions_are_deleted_stays(
    server: RunningServer, root: Path, aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, looked, go = Registry.bundle, threading.Event(), threading.Event()

    def look_and_wait(self: Registry, model: str, version: int) -> Bundle:
        found = bundle(self, model, version)
        looked.set()
        assert go.wait(20)
        return found

    tiny.publish(root)
    tiny.publish(root, promote=True)
    monkeypatch.setattr(Registry, "bundle", look_and_wait)
    promotion = aside(promote, server, 2)
    assert looked.wait(20)
    pruning = aside(server.admin.PruneVersions, pb.PruneVersionsRequest(model="colours", keep=1))
    wait([pruning], timeout=1)  # it waits for the promotion, or is over
    go.set()
    assert promotion.result().version == 2
    pruning.result()
    assert server.registry.versions("colours") == [2, 3]


def test_a_rollback_does_not_wait_for_the_files_of_old_versions_to_be_deleted(
    server: RunningServer, root: Path, aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleting, go = threading.Event(), threading.Event()
    really_delete = shutil.rmtree

    def delete_slowly(folder: Path) -> None:
        deleting.set()
        assert go.wait(20)
        really_delete(folder)

    promote(server, tiny.publish(root))
    promote(server, tiny.publish(root))
    monkeypatch.setattr("registry.prune.shutil.rmtree", delete_slowly)
    pruning = aside(server.admin.PruneVersions, pb.PruneVersionsRequest(model="colours", keep=1))
    assert deleting.wait(20)
    assert roll_back(server).version == version_of(server) == 2
    assert not pruning.done()
    assert server.registry.versions("colours") == [2, 3]
    go.set()
    assert list(pruning.result(20).deleted) == [1]
    assert not (root / "colours" / "1").exists()


def test_a_promotion_whose_caller_has_gone_ends_as_the_registry_says(
    server: RunningServer, root: Path, gate: Gate
) -> None:
    slow = gate.close("colours", tiny.publish(root))
    call = server.admin.Promote.future(pb.PromoteRequest(model="colours", version=2))
    wait_until(lambda: slow in gate.waiting)
    call.cancel()
    assert version_of(server) == 1
    gate.open()
    wait_until(lambda: version_of(server) == 2)
    assert server.registry.promoted("colours").pointer.version == 2


def test_a_server_that_stops_while_it_loads_leaves_nothing_behind(
    server: RunningServer,
    root: Path,
    gate: Gate,
    aside: Callable[..., "Future[Any]"],
    sessions: Callable[[], int],
) -> None:
    slow = gate.close("colours", tiny.publish(root))
    server.registry.promote("colours", 2, by="other", reason="")
    wait_until(lambda: slow in gate.waiting)
    stopped = aside(server.stop)
    gate.open()
    stopped.result(20)
    assert (workers(), sessions()) == (0, 0)


# What is left


def history_of(server: RunningServer) -> list[tuple[int, int | None]]:
    pointers = server.registry.history("colours")
    return [(pointer.version, pointer.replaced) for _, pointer in pointers]


def test_thirty_two_threads_that_change_and_ask_leave_a_legal_state(
    start: Start, root: Path, aside: Callable[..., "Future[Any]"], sessions: Callable[[], int]
) -> None:
    says = {tiny.publish(root, bias=bias): name for name, bias in BIASES.items()} | {
        tiny.publish(root, bias=BIASES["red"]): "red"
    }
    server = start()
    promote(server, 1)
    promote(server, 2)

    def act(seed: int) -> list[str]:
        chance = random.Random(seed)
        wrong = [
            try_one(server, chance.choice(ACTIONS), chance.choice(list(says)), says)
            for _ in range(8)
        ]
        return [problem for problem in wrong if problem]

    acting = [aside(act, seed) for seed in range(32)]
    assert [problem for one in acting for problem in one.result(60)] == []
    history = history_of(server)
    for (before, replaced_before), (version, replaced) in pairwise(history):
        assert replaced == (replaced_before if version == before else before)
    server.admin.ClearCandidate(pb.ClearCandidateRequest(model="colours"), timeout=20)
    assert version_of(server) == history[-1][0]
    # live, the one before, and two that were asked for by number at most
    wait_until(lambda: workers() == 2 * sessions() <= 8)


ACTIONS = ("promote", "rollback", "split", "shadow", "clear", "pinned", "plain", "plain")
# another may have promoted or cleared it just before, and nobody may try what is live
MAY_BE_REFUSED = ("rollback", "split", "shadow", "clear")


def try_one(server: RunningServer, action: str, version: int, says: dict[int, str]) -> str:
    """What is wrong with how the server took it."""
    try:
        match action:
            case "promote":
                promote(server, version)
            case "rollback":
                roll_back(server)
            case "split" | "shadow":
                mode = pb.CandidateMode.Value(f"CANDIDATE_MODE_{action.upper()}")
                wanted = {"version": version, "mode": mode, "percent": 50}
                server.admin.SetCandidate(
                    pb.SetCandidateRequest(model="colours", **wanted), timeout=20
                )
            case "clear":
                server.admin.ClearCandidate(pb.ClearCandidateRequest(model="colours"), timeout=20)
            case _:
                fields = {"version": version} if action == "pinned" else {}
                response = server.classify(tiny.picture("white"), **fields)
                if best(response) != [says[response.version]]:
                    return f"version {response.version} said {best(response)}"
                if fields and response.version != version:
                    return f"{version} was asked for and {response.version} answered"
    except grpc.RpcError as error:
        if action not in MAY_BE_REFUSED or error.code().name != "FAILED_PRECONDITION":
            return f"{action}: {error}"
    return ""


def test_a_swap_does_not_touch_a_version_that_was_asked_for(
    server: RunningServer, root: Path, aside: Callable[..., "Future[Any]"]
) -> None:
    versions = [tiny.publish(root) for _ in range(6)]
    ended = threading.Event()

    def ask() -> set[int]:
        seen = set()
        while not ended.is_set():
            seen.add(version_of(server, version=1))
        return seen

    asked = [aside(ask) for _ in range(3)]
    for version in versions:
        promote(server, version)
    ended.set()
    assert [one.result(20) for one in asked] == [{1}] * 3


def test_the_number_of_labels_may_change_with_every_swap_under_load(
    server: RunningServer, root: Path, aside: Callable[..., "Future[Any]"]
) -> None:
    more = (*tiny.LABELS, "violet", "grey")
    folder = (
        root / "colours" / str(tiny.publish(root, bias=BIASES["red"] + (0.0, 0.0), labels=more))
    )
    assert len(read_bundle(folder).labels) == 5
    counts, ended = {1: 3, 2: 5}, threading.Event()

    def ask() -> set[tuple[int, int]]:
        seen = set()
        while not ended.is_set():
            response = server.classify(tiny.picture(), tiny.picture())
            seen |= {(response.version, len(one.prediction.labels)) for one in response.results}
        return seen

    with finishing(ended):
        asked = [aside(ask) for _ in range(3)]
        for round in range(20):
            promote(server, 2 - round % 2)
    assert set.union(*(one.result(20) for one in asked)) == set(counts.items())


@contextmanager
def finishing(ended: threading.Event) -> Iterator[None]:
    try:
        yield
    finally:
        ended.set()


def test_a_warm_up_that_fails_keeps_the_old_version(server: RunningServer, root: Path) -> None:
    folder = root / "colours" / str(tiny.publish(root))
    take_so_many_images_at_a_time(folder, 1)
    with pytest.raises(grpc.RpcError) as caught:
        promote(server, 2)
    assert caught.value.code().name == "FAILED_PRECONDITION"
    assert "colours/2: it cannot run 4 images at a time" in caught.value.details()
    assert version_of(server) == server.registry.promoted("colours").pointer.version == 1


@pytest.mark.parametrize("plan", [PLAN, None], ids=["pinned", "measured"])
def test_a_network_that_cannot_run_keeps_the_old_version(
    start: Start, root: Path, plan: str | None
) -> None:
    tiny.publish(root, promote=True)
    server = start(plan=plan)
    folder = root / "colours" / str(tiny.publish(root, size=16))  # of another kind
    take_so_many_images_at_a_time(folder, 2)
    with pytest.raises(grpc.RpcError) as caught:
        promote(server, 2)
    assert caught.value.code().name == "FAILED_PRECONDITION"
    assert "colours/2: it cannot run 1 image at a time" in caught.value.details()
    with pytest.raises(grpc.RpcError, match="version 2 of colours cannot be served"):
        server.classify(tiny.picture(), version=2)
    assert version_of(server) == 1


def take_so_many_images_at_a_time(folder: Path, n_images: int) -> None:
    """No other number can run. Golden answers are asked for one by one."""
    graph = onnx.load(folder / MODEL)
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = n_images
    onnx.save(graph, folder / MODEL)
    bundle = read_bundle(folder)
    files = bundle.files | {MODEL: sha256_file(folder / MODEL)}
    seal(folder, bundle.model_copy(update={"files": files}))


def test_memory_of_freed_versions_is_released(
    server: RunningServer, root: Path, sessions: Callable[[], int]
) -> None:
    for version in [tiny.publish(root) for _ in range(5)]:
        promote(server, version)
        version_of(server, version=max(1, version - 2))
        with pytest.raises(grpc.RpcError, match="top_k is 9"):  # an error knows where it came from
            version_of(server, top_k=9)
    # live, the one before, and two that were asked for by number
    wait_until(lambda: (sessions(), workers()) == (4, 8))


def test_what_a_freed_version_leaves_is_given_back_to_the_system(
    server: RunningServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back: list[int] = []
    monkeypatch.setattr(
        "service.models.loaded_version.release_freed_memory",
        lambda: given_back.append(workers()),
    )
    for _ in range(2):
        promote(server, tiny.publish(root))
    wait_until(lambda: given_back)
    assert given_back == [4]  # when its own workers have gone


def test_a_version_that_vanished_from_the_disk_leaves_the_live_one_alone(
    start: Start, root: Path
) -> None:
    tiny.publish(root, promote=True)
    server = start(poll_seconds=3600)
    server.registry.promote("colours", tiny.publish(root), by="test", reason="")
    shutil.rmtree(root / "colours" / "2")
    server.refresh()
    assert version_of(server) == 1
    (model,) = server.admin.ListModels(pb.ListModelsRequest()).models
    assert "no version 2 of colours" in model.problem
