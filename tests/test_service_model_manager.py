"""Versions go live, come back and break while requests flow."""

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import tiny
from conftest import RunningServer, Start, best, wait_until
from tritonclient.grpc import service_pb2 as triton_pb
from tritonclient.grpc import service_pb2_grpc as triton_grpc

from registry.store import Registry
from service.models import proof
from service.models.follower import Aliases, read_aliases
from service.models.model_state import LoadFailure
from unfreeze.v1 import admin_pb2 as pb
from unfreeze.v1 import classifier_pb2

RED = (9.0, 0.0, 0.0)
GREEN = (0.0, 9.0, 0.0)
BLUE = (0.0, 0.0, 9.0)

UNUSABLE = (
    "UNAVAILABLE",
    "the registry cannot be used now (File name too long); try again later",
)


def answers(server: RunningServer, version: int | None = None) -> str:
    """What the server says of a white image: the bias decides."""
    fields = {} if version is None else {"version": version}
    return best(server.classify(tiny.picture("white"), **fields))[0]


def refusal(call, request) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=20)
    return caught.value.code().name, caught.value.details()


@contextmanager
def load(server: RunningServer, says: dict[int, str], n_threads: int = 3) -> Iterator[list[str]]:
    """Requests without a pause; collects what was wrong with any of them."""
    wrong: list[str] = []
    seen: set[int] = set()
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                response = server.classify(*[tiny.picture("white")] * 3)
            except grpc.RpcError as error:
                wrong.append(str(error))
                continue
            seen.add(response.version)
            if best(response) != [says[response.version]] * 3:
                wrong.append(f"version {response.version} said {best(response)}")

    threads = [threading.Thread(target=ask) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    yield wrong
    ended.set()
    for thread in threads:
        thread.join()
    assert len(seen) > 1, "nothing was swapped while requests flowed"


def test_a_new_pointer_is_followed_within_the_polling_interval(
    server: RunningServer, root: Path
) -> None:
    version = tiny.publish(root, bias=GREEN, promote=True)
    wait_until(lambda: server.classify(tiny.picture("white")).version == version)
    assert answers(server) == "green"


def test_many_swaps_under_load_fail_no_request(start: Start, root: Path) -> None:
    versions = {
        tiny.publish(root, bias=bias): name
        for bias, name in zip((RED, GREEN, BLUE, RED), ("red", "green", "blue", "red"), strict=True)
    }
    server = start()
    promote(server, 1)
    with load(server, versions) as wrong:
        for round in range(40):
            promote(server, round % 4 + 1)
        for _ in range(10):
            server.admin.Rollback(pb.RollbackRequest(model="colours"), timeout=20)
    assert wrong == []
    assert 'unfreeze_swaps_total{model="colours"} 50.0' in server.metrics()


def promote(server: RunningServer, version: int) -> pb.PromoteResponse:
    request = pb.PromoteRequest(model="colours", version=version, reason="a test")
    return server.admin.Promote(request, timeout=20)


def test_promote_serves_before_it_answers(server: RunningServer, root: Path) -> None:
    version = tiny.publish(root, bias=BLUE)
    response = promote(server, version)
    assert (response.version, response.replaced, response.pointer) == (version, 1, 2)
    assert answers(server) == "blue"
    assert server.registry.promoted("colours").pointer.reason == "a test"


def test_rollback_returns_to_what_was_replaced(server: RunningServer, root: Path) -> None:
    promote(server, tiny.publish(root, bias=BLUE))
    response = server.admin.Rollback(pb.RollbackRequest(model="colours", reason="bad"), timeout=20)
    assert (response.version, response.replaced, response.pointer) == (1, 2, 3)
    assert server.classify(tiny.picture("red")).version == 1


def test_rollback_needs_no_disk(server: RunningServer, root: Path) -> None:
    promote(server, tiny.publish(root, bias=BLUE))
    (root / "colours" / "1" / "model.onnx").write_bytes(b"gone")
    server.admin.Rollback(pb.RollbackRequest(model="colours"), timeout=20)
    assert server.classify(tiny.picture("red")).version == 1


def restarted(start: Start, root: Path) -> RunningServer:
    """A server that has never had version 1 live, which version 2 has replaced."""
    tiny.publish(root, promote=True)
    tiny.publish(root, bias=BLUE, promote=True)
    return start()


def test_rollback_needs_no_disk_after_a_restart_either(start: Start, root: Path) -> None:
    server = restarted(start, root)
    wait_until(lambda: len(server.service.models.in_memory("colours")) == 2)
    (root / "colours" / "1" / "model.onnx").write_bytes(b"gone")
    server.admin.Rollback(pb.RollbackRequest(model="colours"), timeout=20)
    assert server.classify(tiny.picture("red")).version == 1


def test_what_a_rollback_would_return_to_is_kept_after_an_unload_too(
    start: Start, root: Path
) -> None:
    server = restarted(start, root)
    model_control = triton_grpc.GRPCInferenceServiceStub(server.admin_channel)
    model_control.RepositoryModelUnload(
        triton_pb.RepositoryModelUnloadRequest(model_name="colours"), timeout=20
    )
    assert server.service.models.in_memory("colours") == []
    model_control.RepositoryModelLoad(
        triton_pb.RepositoryModelLoadRequest(model_name="colours"), timeout=20
    )
    wait_until(lambda: len(server.service.models.in_memory("colours")) == 2)


def test_rollback_needs_no_disk_after_promotions_that_were_seen_at_once_either(
    server: RunningServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promotions = [tiny.publish(root, bias=GREEN), tiny.publish(root, bias=BLUE)]

    def look_after_both(registry: Registry) -> dict[str, Aliases]:
        while promotions:
            registry.promote("colours", promotions.pop(0), by="another server", reason="")
        return read_aliases(registry)

    monkeypatch.setattr("service.models.follower.read_aliases", look_after_both)
    models = server.service.models
    # version 1, which answered before, makes room for the one that version 3 replaced
    wait_until(lambda: [one.version for one in models.in_memory("colours")] == [2, 3])
    (root / "colours" / "2" / "model.onnx").write_bytes(b"gone")
    server.admin.Rollback(pb.RollbackRequest(model="colours"), timeout=20)
    assert answers(server) == "green"


def test_a_damaged_version_to_roll_back_to_is_told_once_and_holds_up_nothing(
    start: Start, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.publish(root, promote=True)
    (root / "colours" / "1" / "model.onnx").write_bytes(b"gone")
    tiny.publish(root, bias=BLUE, promote=True)
    server = start(poll_seconds=0.01)
    wait_until(lambda: "previous_not_loaded" in caplog.messages)
    tiny.publish(root, bias=GREEN, promote=True)
    wait_until(lambda: answers(server) == "green")
    assert caplog.messages.count("previous_not_loaded") == 1


def test_rollback_without_history_is_refused(server: RunningServer) -> None:
    code, details = refusal(server.admin.Rollback, pb.RollbackRequest(model="colours"))
    assert code == "FAILED_PRECONDITION"
    assert details == "colours: nothing to roll back to; promote a version by its number"


def test_rollback_of_an_unknown_model_says_that_there_is_none(server: RunningServer) -> None:
    request = pb.RollbackRequest(model="nobody")
    assert refusal(server.admin.Rollback, request) == (
        "NOT_FOUND",
        "no model 'nobody' in the registry",
    )


def broken(root: Path, how: str) -> int:
    version = tiny.publish(root, bias=BLUE, golden_shift=0.1 if how == "golden" else 0)
    folder = root / "colours" / str(version)
    if how == "flipped byte":
        content = bytearray((folder / "model.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "model.onnx").write_bytes(content)
    elif how == "missing file":
        (folder / "golden.npz").unlink()
    elif how == "newer schema":
        manifest = (folder / "bundle.json").read_text()
        newer = manifest.replace('"schema_version": 1', '"schema_version": 99')
        (folder / "bundle.json").write_text(newer)
    return version


BROKEN = {
    "flipped byte": "colours/2: model.onnx differs from bundle.json; publish again",
    "missing file": "colours/2: golden.npz is missing; publish again",
    "newer schema": "bundle.json has schema 99, and this program reads up to 2; upgrade unfreeze",
    "golden": "colours/2: golden answers differ by 0.1 on cpu, the tolerance is 1e-05",
}


@pytest.mark.parametrize("how", BROKEN)
def test_promoting_a_broken_version_changes_nothing(
    server: RunningServer, root: Path, how: str
) -> None:
    request = pb.PromoteRequest(model="colours", version=broken(root, how))
    code, details = refusal(server.admin.Promote, request)
    assert code == "FAILED_PRECONDITION"
    assert BROKEN[how] in details
    assert server.registry.promoted("colours").pointer.version == 1
    assert server.classify(tiny.picture("red")).version == 1


def test_a_promotion_that_is_refused_is_logged_with_who_asked_for_it(
    server: RunningServer, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    request = pb.PromoteRequest(model="colours", version=broken(root, "golden"))
    refusal(server.admin.Promote, request)
    (record,) = [one for one in caplog.records if one.message == "promotion_refused"]
    assert (record.levelname, record.model, record.version, record.by) == (
        "WARNING",
        "colours",
        2,
        "admin",
    )
    assert BROKEN["golden"] in record.problem


def test_a_version_that_cannot_be_served_is_logged_once_and_not_with_every_request(
    server: RunningServer, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = broken(root, "golden")
    for _ in range(3):
        with pytest.raises(grpc.RpcError, match="version 2 of colours cannot be served"):
            server.classify(tiny.picture(), version=version)
    request = pb.SetCandidateRequest(
        model="colours", version=version, mode=pb.CANDIDATE_MODE_SHADOW, percent=100
    )
    assert BROKEN["golden"] in refusal(server.admin.SetCandidate, request)[1]
    (record,) = caplog.records
    assert (record.message, record.levelname) == ("version_unusable", "WARNING")
    assert (record.model, record.version) == ("colours", 2)
    assert BROKEN["golden"] in record.problem


@pytest.mark.parametrize("how", ["flipped byte", "missing file", "golden"])
def test_a_broken_version_promoted_elsewhere_keeps_the_old_one_live(
    server: RunningServer, root: Path, how: str
) -> None:
    version = broken(root, how)
    server.registry.promote("colours", version, by="test", reason="")
    other = tiny.publish(root, model="other", promote=True)
    server.refresh()
    assert server.classify(tiny.picture("red")).version == 1
    assert server.classify(tiny.picture("red"), model="other").version == other
    model, _ = server.admin.ListModels(pb.ListModelsRequest()).models
    assert (model.promoted_version, model.live_version, model.ready) == (2, 1, True)
    assert BROKEN[how] in model.problem
    assert 'unfreeze_load_problem{model="colours"} 1.0' in server.metrics()


@pytest.mark.parametrize("plan", [None, "1x2x4"], ids=["measured", "pinned"])
def test_a_network_that_never_ends_keeps_no_other_from_going_live(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch, plan: str | None
) -> None:
    monkeypatch.setattr(proof, "LONGEST_S", 5.0)
    tiny.publish(root, model="a-loop", work=10**12, promote=True)  # it is measured first
    tiny.publish(root, promote=True)
    server = start(plan=plan)
    assert best(server.classify(tiny.picture("green"))) == ["green"]
    loop, _ = server.admin.ListModels(pb.ListModelsRequest(), timeout=20).models
    assert not loop.ready
    assert "a-loop/1: it cannot run 1 image at a time: no end after 5 s" in loop.problem


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "a pipe for a pointer": lambda odd: os.mkfifo(odd / "aliases" / "promoted" / "000002.json"),
    "a folder for a pointer": lambda odd: (odd / "aliases" / "promoted" / "2.json").mkdir(),
    "a link for a model": lambda odd: (shutil.rmtree(odd), odd.symlink_to("x" * 300)),
    "the longest number of a version": lambda odd: shutil.copytree(odd / "1", odd / ("9" * 30)),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_model_whose_folder_is_odd_keeps_no_other_from_being_listed_and_promoted(
    server: RunningServer, root: Path, what: str
) -> None:
    tiny.publish(root, model="odd", promote=True)
    UNREADABLE[what](root / "odd")
    version = tiny.publish(root, bias=GREEN, promote=True)
    server.refresh()
    assert answers(server) == "green"
    models = server.admin.ListModels(pb.ListModelsRequest(), timeout=20).models
    assert {model.name: model.live_version for model in models}["colours"] == version
    protocol = triton_grpc.GRPCInferenceServiceStub(server.channel)
    index = protocol.RepositoryIndex(triton_pb.RepositoryIndexRequest(ready=True), timeout=20)
    assert "colours" in [row.name for row in index.models]


def test_models_in_memory_are_looked_at_by_the_event_loop_alone(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, threads = server.service.models, set()
    for name in ("versions", "problems", "trial"):
        look = getattr(models, name)

        def note(*arguments: object, look: Callable[..., object] = look) -> object:
            threads.add(threading.current_thread().name)
            return look(*arguments)

        monkeypatch.setattr(models, name, note)
    set_candidate(server, tiny.publish(server.registry.root))
    (model,) = server.admin.ListModels(pb.ListModelsRequest(), timeout=20).models
    assert (model.ready, model.candidate.ready) == (True, True)
    assert threads == {"server"}


def set_candidate(server: RunningServer, version: int) -> None:
    request = pb.SetCandidateRequest(
        model="colours", version=version, mode=pb.CANDIDATE_MODE_SHADOW, percent=1
    )
    server.admin.SetCandidate(request, timeout=20)


def test_a_better_pointer_ends_the_problem(server: RunningServer, root: Path) -> None:
    server.registry.promote("colours", broken(root, "golden"), by="test", reason="")
    server.refresh()
    version = tiny.publish(root, bias=GREEN, promote=True)
    server.refresh()
    assert answers(server) == "green"
    models = server.admin.ListModels(pb.ListModelsRequest()).models
    assert (models[0].promoted_version, models[0].problem) == (version, "")


def test_a_problem_ends_with_the_model_that_had_it(server: RunningServer, root: Path) -> None:
    tiny.publish(root, model="mistyped", promote=True)
    (root / "mistyped" / "1" / "model.onnx").write_bytes(b"damaged")
    server.refresh()
    assert 'unfreeze_load_problem{model="mistyped"} 1.0' in server.metrics()
    shutil.rmtree(root / "mistyped")
    server.refresh()
    assert 'unfreeze_load_problem{model="mistyped"} 0.0' in server.metrics()
    models = server.admin.ListModels(pb.ListModelsRequest(), timeout=20).models
    assert [model.name for model in models] == ["colours"]


def test_a_version_that_did_not_load_is_tried_again(server: RunningServer, root: Path) -> None:
    version = tiny.publish(root, bias=GREEN)
    file, aside = root / "colours" / str(version) / "model.onnx", root / "aside"
    file.rename(aside)
    server.registry.promote("colours", version, by="test", reason="")
    wait_until(lambda: server.service.models.problems())
    aside.rename(file)
    wait_until(lambda: answers(server) == "green")
    assert server.service.models.problems() == {}


def test_a_pointer_that_fails_is_left_alone_for_longer_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, failure, waited = 100.0, LoadFailure(), []
    monkeypatch.setattr("service.models.model_state.time.monotonic", lambda: now)
    for _ in range(9):
        failure.note(7, "it does not load")
        began = now
        while failure.backs_off(7):
            now += 1
        waited.append(now - began)
    assert waited == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert not failure.backs_off(8), "another pointer is tried at once"


def test_asking_again_for_a_version_that_does_not_load_does_not_load_it_again(
    server: RunningServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = broken(root, "golden")
    loader, loads = server.service.models._scheduler._loader, []
    load = loader.load
    monkeypatch.setattr(loader, "load", lambda *facts: loads.append(facts) or load(*facts))
    monkeypatch.setattr("service.models.model_state.FIRST_RETRY_S", 3600.0)
    monkeypatch.setattr("service.models.model_state.LONGEST_RETRY_S", 3600.0)
    for _ in range(9):
        with pytest.raises(grpc.RpcError) as caught:
            server.classify(tiny.picture(), version=version)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert BROKEN["golden"] in caught.value.details()
    assert len(loads) == 1


def test_a_model_that_never_loaded_is_unavailable(start: Start, root: Path) -> None:
    tiny.publish(root, promote=True, golden_shift=0.1)
    server = start()
    with pytest.raises(grpc.RpcError) as caught:
        server.classify(tiny.picture())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "colours cannot be served: colours/1: golden answers differ" in caught.value.details()


def test_a_registry_that_cannot_be_read_any_more_holds_up_nothing_that_is_in_memory(
    start: Start, root: Path
) -> None:
    tiny.publish(root, promote=True)
    server = start()
    index = triton_grpc.GRPCInferenceServiceStub(server.channel).RepositoryIndex
    root.rename(root.with_name("elsewhere"))
    root.symlink_to("x" * 999)
    assert [answers(server), answers(server, version=1)] == ["red", "red"]
    assert refusal(index, triton_pb.RepositoryIndexRequest()) == UNUSABLE
    other = classifier_pb2.ClassifyRequest(model="colours", version=9, images=[tiny.picture()])
    assert refusal(server.classifier.Classify, other) == UNUSABLE


def test_a_registry_that_cannot_be_read_is_logged_once_and_seen_in_the_metrics(
    start: Start, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root.symlink_to(root.rename(root.with_name("elsewhere")))
    server = start(poll_seconds=0.01)
    caplog.set_level("INFO", "service.models.follower")
    read = server.service.metrics.registry_read._value.get
    wait_until(read)
    unreadable = root.with_name("unreadable")
    unreadable.symlink_to("x" * 999)
    unreadable.replace(root)  # at once: a registry that goes while it is read is another problem
    wait_until(lambda: follower_log(caplog))
    last = read()
    server.refresh()  # another look says no more
    assert (follower_log(caplog), read()) == (["registry_unreadable"], last)
    root.unlink()
    wait_until(lambda: follower_log(caplog)[1:] == ["registry_readable"] and read() > last)


def test_an_empty_folder_in_the_registrys_place_is_a_problem_of_every_model_that_answers(
    server: RunningServer, root: Path
) -> None:
    elsewhere = root.rename(root.with_name("elsewhere"))
    root.mkdir()
    server.refresh()
    (model,) = server.admin.ListModels(pb.ListModelsRequest()).models
    assert "no promoted version of it any more" in model.problem
    assert server.service.metrics.load_problem.labels("colours")._value.get() == 1
    assert answers(server) == "red"
    root.rmdir()
    elsewhere.rename(root)
    server.refresh()
    assert server.admin.ListModels(pb.ListModelsRequest()).models[0].problem == ""
    assert server.service.metrics.load_problem.labels("colours")._value.get() == 0


PUT_BACK = "colours: the registry was restored or recreated: pointer 1 of "


def test_a_registry_that_was_put_back_is_a_problem_until_the_model_is_loaded_anew(
    start: Start, root: Path
) -> None:
    tiny.publish(root, promote=True)
    server = start(poll_seconds=3600)
    backup = shutil.copytree(root / "colours", root.with_name("backup"))
    promote(server, tiny.publish(root, bias=BLUE))
    (root / "colours").rename(root.with_name("newer"))
    backup.rename(root / "colours")
    server.refresh()
    assert server.service.models.problems()["colours"].startswith(PUT_BACK)
    control = triton_grpc.GRPCInferenceServiceStub(server.admin_channel)
    for call, request in (
        (server.admin.Promote, pb.PromoteRequest(model="colours", version=1)),
        (control.RepositoryModelLoad, triton_pb.RepositoryModelLoadRequest(model_name="colours")),
    ):
        code, details = refusal(call, request)
        assert (code, details.startswith(PUT_BACK)) == ("FAILED_PRECONDITION", True)
    assert server.registry.promoted("colours").number == 1
    assert answers(server) == "blue"
    load_anew(server)
    assert answers(server) == "red"
    server.refresh()
    assert server.service.models.problems() == {}


def load_anew(server: RunningServer) -> None:
    control = triton_grpc.GRPCInferenceServiceStub(server.admin_channel)
    named = {"model_name": "colours"}
    control.RepositoryModelUnload(triton_pb.RepositoryModelUnloadRequest(**named), timeout=60)
    control.RepositoryModelLoad(triton_pb.RepositoryModelLoadRequest(**named), timeout=60)


def test_a_model_that_was_deleted_and_published_again_is_not_taken_for_the_one_before(
    start: Start, root: Path
) -> None:
    tiny.publish(root, promote=True)
    server = start(poll_seconds=3600)
    (root / "colours").rename(root.with_name("deleted"))
    tiny.publish(root, bias=GREEN, promote=True)  # by the numbers of before
    server.refresh()
    assert server.service.models.problems()["colours"].startswith(PUT_BACK)
    assert answers(server) == "red"
    load_anew(server)
    assert answers(server) == "green"


def test_a_model_that_was_unloaded_and_never_promoted_can_be_promoted_after_all(
    start: Start, root: Path
) -> None:
    tiny.publish(root)
    server = start()
    assert answers(server, version=1) == "red"
    with pytest.raises(grpc.RpcError, match="promote one, which also loads it"):
        load_anew(server)
    promote(server, 1)
    assert answers(server) == "red"


def test_what_is_promoted_while_the_registry_is_looked_at_is_no_problem(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.publish(root, promote=True)
    server = start(poll_seconds=3600)

    def look_before_a_promotion(registry: Registry) -> dict[str, Aliases]:
        found = read_aliases(registry)
        promote(server, tiny.publish(root, bias=BLUE))
        return found

    monkeypatch.setattr("service.models.follower.read_aliases", look_before_a_promotion)
    server.refresh()
    assert server.service.models.problems() == {}
    assert answers(server) == "blue"


def test_a_first_promotion_while_the_registry_is_looked_at_is_not_reported_as_lost(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    version = tiny.publish(root)
    server = start(poll_seconds=3600)

    def look_before_the_promotion(registry: Registry) -> dict[str, Aliases]:
        found = read_aliases(registry)
        promote(server, version)
        return found

    monkeypatch.setattr("service.models.follower.read_aliases", look_before_the_promotion)
    server.refresh()
    assert server.service.models.problems() == {}
    assert 'unfreeze_load_problem{model="colours"} 0.0' in server.metrics()
    assert "load_failed" not in caplog.messages


def follower_log(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "service.models.follower"]


def test_an_administrator_gets_the_error_that_the_registry_cannot_be_used(
    server: RunningServer, root: Path
) -> None:
    load = triton_grpc.GRPCInferenceServiceStub(server.admin_channel).RepositoryModelLoad
    root.rename(root.with_name("elsewhere"))
    root.symlink_to("x" * 999)
    try_out = pb.SetCandidateRequest(
        model="colours", version=1, mode=pb.CANDIDATE_MODE_SHADOW, percent=9
    )
    calls = [
        (server.admin.ListModels, pb.ListModelsRequest()),
        (server.admin.ListVersions, pb.ListVersionsRequest(model="colours")),
        (server.admin.Promote, pb.PromoteRequest(model="colours", version=1)),
        (server.admin.Rollback, pb.RollbackRequest(model="colours")),
        (server.admin.SetCandidate, try_out),
        (server.admin.ClearCandidate, pb.ClearCandidateRequest(model="colours")),
        (server.admin.PruneVersions, pb.PruneVersionsRequest(model="colours", keep=1)),
        (load, triton_pb.RepositoryModelLoadRequest(model_name="colours")),
    ]
    for call, request in calls:
        assert refusal(call, request) == UNUSABLE


def test_a_promotion_that_a_full_disk_refuses_changes_nothing(
    server: RunningServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tiny.publish(root, bias=(0, 9, 0))
    monkeypatch.setattr("registry.pointers.create_exclusively", refuse)
    code, details = refusal(server.admin.Promote, pb.PromoteRequest(model="colours", version=2))
    assert (code, "No space left on device" in details) == ("UNAVAILABLE", True)
    assert answers(server) == "red"


def test_labels_may_change_across_a_swap(server: RunningServer, root: Path) -> None:
    labels = ("rot", "grün", "blau")
    promote(server, tiny.publish(root, labels=labels, size=16))
    assert best(server.classify(tiny.picture("green"))) == ["grün"]


def test_versions_beyond_the_last_two_are_freed(server: RunningServer, root: Path) -> None:
    for _ in range(6):
        promote(server, tiny.publish(root))
    # two workers each for the live version and the one before it; pools of other threads may grow
    wait_until(lambda: workers() == 4)


def workers() -> int:
    """Threads that run networks."""
    return sum(thread.name.startswith("run-") for thread in threading.enumerate())


def test_list_versions_answers_newest_first(server: RunningServer, root: Path) -> None:
    tiny.publish(root, metrics={"accuracy": 0.75}, provenance={"backbone": "x"})
    request = pb.ListVersionsRequest(model="colours")
    second, first = server.admin.ListVersions(request).versions
    assert (second.version, second.promoted, first.version, first.promoted) == (2, False, 1, True)
    assert (dict(second.metrics), dict(second.provenance)) == (
        {"accuracy": 0.75},
        {"backbone": "x"},
    )
    assert list(first.labels) == ["red", "green", "blue"]


def test_a_version_that_cannot_be_read_is_listed_with_the_others(
    server: RunningServer, root: Path
) -> None:
    manifest = root / "colours" / str(tiny.publish(root)) / "bundle.json"
    manifest.unlink()
    manifest.symlink_to("/proc/self/mem")  # reading it is an input/output error
    second, first = server.admin.ListVersions(pb.ListVersionsRequest(model="colours")).versions
    assert "Input/output error" in second.provenance["problem"]
    assert list(first.labels) == ["red", "green", "blue"]


def test_prune_keeps_what_is_needed(server: RunningServer, root: Path) -> None:
    for _ in range(4):
        tiny.publish(root)
    request = pb.PruneVersionsRequest(model="colours", keep=2)
    assert list(server.admin.PruneVersions(request).deleted) == [2, 3]
    assert server.registry.versions("colours") == [1, 4, 5]
    code, details = refusal(
        server.admin.PruneVersions, pb.PruneVersionsRequest(model="colours", keep=0)
    )
    assert (code, details) == ("INVALID_ARGUMENT", "keep must be at least 1")


@pytest.mark.parametrize(
    ("call", "request_", "code"),
    [
        ("Promote", pb.PromoteRequest(model="colours", version=7), "NOT_FOUND"),
        ("Promote", pb.PromoteRequest(model="../x", version=1), "INVALID_ARGUMENT"),
        ("Rollback", pb.RollbackRequest(model="nothing"), "NOT_FOUND"),
        ("ListVersions", pb.ListVersionsRequest(model="nothing"), "NOT_FOUND"),
        ("ListVersions", pb.ListVersionsRequest(model="a/b"), "INVALID_ARGUMENT"),
    ],
)
def test_admin_explains_what_it_refuses(
    server: RunningServer, call: str, request_: object, code: str
) -> None:
    assert refusal(getattr(server.admin, call), request_)[0] == code
