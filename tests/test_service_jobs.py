"""Training jobs from request to promotion, with a stand-in for the trainer."""

import asyncio
import errno
import os
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import pytest
import tiny
from conftest import RunningServer, Start, best, wait_until

from registry import store
from registry.bundle import MANIFEST
from registry.errors import Unavailable
from registry.job_store import JobStore
from registry.jobs import (
    CHECKPOINT,
    GateDecided,
    Job,
    JobRequest,
    JobState,
    Note,
    PromotionPolicy,
    Score,
    Scored,
)
from registry.store import Registry
from service.jobs.attempt import MAX_ATTEMPTS
from service.jobs.gate import decide
from service.jobs.job_records import JobRecords
from service.jobs.preparation import find_promoted
from service.jobs.publication import published_before
from service.jobs.trainer import Trainer, tail
from service.jobs.trainer_output import MAX_LINE, lines_of
from service.observability.metrics import Metrics
from unfreeze.v1 import admin_pb2 as pb


def begin(server: RunningServer, promotion: int = 0, key: str = "", **settings: str) -> pb.Job:
    request = pb.StartTrainingRequest(
        model="colours", data="colours", settings=settings, idempotency_key=key, promotion=promotion
    )
    return server.admin.StartTraining(request, timeout=60).job


def events(server: RunningServer, job: pb.Job, from_sequence: int = 0) -> list[pb.JobEvent]:
    """The job's whole story, once it has ended."""
    request = pb.WatchJobRequest(job_id=job.id, from_sequence=from_sequence)
    return list(server.admin.WatchJob(request, timeout=60))


def notes(server: RunningServer, job: pb.Job) -> list[str]:
    """What was noted in its story, once it has ended."""
    return [event.note.text for event in events(server, job) if event.HasField("note")]


def checkpoint(state: Path, job: pb.Job) -> Path:
    """What its trainer goes on with."""
    return state / "jobs" / job.id / "run" / CHECKPOINT


def finished(server: RunningServer, job: pb.Job) -> pb.Job:
    events(server, job)
    return shown(server, job)


def shown(server: RunningServer, job: pb.Job) -> pb.Job:
    return server.admin.GetJob(pb.GetJobRequest(job_id=job.id), timeout=60)


def refusal(server: RunningServer, **fields: Any) -> tuple[str, str]:
    request = pb.StartTrainingRequest(**({"model": "colours", "data": "colours"} | fields))
    with pytest.raises(grpc.RpcError) as caught:
        server.admin.StartTraining(request, timeout=60)
    return caught.value.code().name, caught.value.details()


def test_a_better_model_goes_live(server: RunningServer) -> None:
    job = finished(server, begin(server, bias="0,9,0", accuracy="0.9", champion="0.8"))
    assert (job.state, job.version, job.promoted) == (pb.JOB_STATE_SUCCEEDED, 2, True)
    assert job.message.startswith("version 2 published, promoted: accuracy 0.9000 against 0.8000")
    response = server.classify(tiny.picture("white"))
    assert (response.version, best(response)) == (2, ["green"])
    assert server.registry.bundle("colours", 2).provenance["job"] == job.id
    assert server.registry.promoted("colours").pointer.by == f"job {job.id}"


def test_a_worse_model_is_published_and_not_promoted(server: RunningServer) -> None:
    job = finished(server, begin(server, bias="0,9,0", accuracy="0.7", champion="0.8"))
    assert (job.state, job.version, job.promoted) == (pb.JOB_STATE_SUCCEEDED, 2, False)
    assert "not promoted: accuracy 0.7000 against 0.8000 of version 1" in job.message
    assert server.classify(tiny.picture("red")).version == 1


def test_nothing_is_said_to_be_promoted_that_this_server_cannot_follow(
    server: RunningServer, root: Path
) -> None:
    backup = shutil.copytree(root / "colours", root.with_name("backup"))
    server.registry.promote("colours", 1, by="test", reason="")
    server.refresh()
    (root / "colours").rename(root.with_name("newer"))
    backup.rename(root / "colours")
    job = finished(server, begin(server))
    assert (job.state, job.version, job.promoted) == (pb.JOB_STATE_SUCCEEDED, 2, False)
    assert "not promoted: colours: the registry was restored or recreated" in job.message


def test_the_first_version_of_a_model_goes_live(start: Start, state: Path, data: Path) -> None:
    server = start(state=state, data_roots=(data,))
    job = finished(server, begin(server))
    assert (job.version, job.promoted) == (1, True)
    assert best(server.classify(tiny.picture("blue"))) == ["blue"]


def test_a_model_whose_golden_answers_fail_keeps_the_old_one_live(server: RunningServer) -> None:
    job = finished(server, begin(server, golden_shift="0.2"))
    assert (job.state, job.version, job.promoted) == (pb.JOB_STATE_SUCCEEDED, 2, False)
    assert "the live version stays, because the new one cannot be loaded" in job.message
    assert "golden answers differ by 0.2" in job.message
    assert server.registry.promoted("colours").pointer.version == 1
    assert server.classify(tiny.picture("red")).version == 1


def test_the_events_of_a_job_come_in_order(server: RunningServer) -> None:
    job = begin(server)
    told = events(server, job)
    assert [event.sequence for event in told] == list(range(1, len(told) + 1))
    kinds = [event.WhichOneof("event") for event in told if event.progress.stage == ""]
    assert kinds == [
        "state_changed",
        "state_changed",
        "stage_started",
        "stage_started",
        "epoch_finished",
        "scored",
        "gate_decided",
        "state_changed",
    ]
    states = [event.state_changed.state for event in told if event.HasField("state_changed")]
    assert states == [pb.JOB_STATE_QUEUED, pb.JOB_STATE_RUNNING, pb.JOB_STATE_SUCCEEDED]
    assert told[-2].gate_decided.promote
    assert events(server, job, from_sequence=4) == told[3:]
    assert events(server, job, from_sequence=2**64 - 1) == []


def test_events_arrive_while_the_job_runs(server: RunningServer) -> None:
    job = begin(server, mode="hang")
    stream = server.admin.WatchJob(pb.WatchJobRequest(job_id=job.id), timeout=20)
    assert next(event for event in stream if event.HasField("stage_started"))
    assert shown(server, job).state == pb.JOB_STATE_RUNNING
    stream.cancel()


FAILURES = {
    "fail": "class 'green' has no images; add some",
    "no such mode": "mode: 'no such mode' is none of good, fail",
    "crash": "training ended with exit code 1 and no bundle; the end of its log:",
    "killed": "training was ended by SIGKILL (out of memory?); the end of its log: (empty)",
    "half": "no bundle.json; this version was never published",
}


@pytest.mark.parametrize("mode", FAILURES)
def test_a_failing_trainer_fails_the_job_and_says_why(server: RunningServer, mode: str) -> None:
    job = finished(server, begin(server, mode=mode))
    assert job.state == pb.JOB_STATE_FAILED
    assert FAILURES[mode] in job.message
    assert server.classify(tiny.picture("red")).version == 1
    assert finished(server, begin(server)).state == pb.JOB_STATE_SUCCEEDED


def test_a_trainer_that_was_killed_goes_on_in_the_folder_where_it_was(
    server: RunningServer, state: Path
) -> None:
    job = finished(server, begin(server, mode="killed once"))
    assert (job.state, job.attempt, job.version) == (pb.JOB_STATE_SUCCEEDED, 2, 2)
    told = [event.state_changed.message for event in events(server, job)]
    assert any("ended by SIGKILL" in text and "goes on where it was" in text for text in told)
    wait_until(lambda: not checkpoint(state, job).exists())


def test_a_trainer_that_is_killed_every_time_is_given_up(server: RunningServer) -> None:
    assert finished(server, begin(server, mode="killed")).attempt == 3


def test_a_job_cancelled_while_it_is_queued_again_does_not_run_again(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, get, looks, waits = JobStore.update, JobStore.get, Queue(), threading.Event()
    answers: Queue[pb.Job] = Queue()

    def cancel(job_id: str) -> None:
        answers.put(server.admin.CancelJob(pb.CancelJobRequest(job_id=job_id), timeout=20))

    def get_for_who_cancels(self, job_id):
        looks.put(job_id)
        if looks.qsize() == 2:  # at first to see whether it can be cancelled
            waits.set()
        return get(self, job_id)

    def update_while_somebody_cancels(self, job_id, event=None, **changes):
        if changes.get("state") is JobState.QUEUED:
            threading.Thread(target=cancel, args=[job_id]).start()
            assert waits.wait(20)
        return update(self, job_id, event, **changes)

    monkeypatch.setattr(JobStore, "get", get_for_who_cancels)
    monkeypatch.setattr(JobStore, "update", update_while_somebody_cancels)
    begin(server, mode="killed once")
    ended = answers.get(timeout=20)
    assert (ended.state, ended.attempt) == (pb.JOB_STATE_CANCELLED, 1)


def test_a_job_that_begins_while_it_is_cancelled_does_not_run_on(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = begin(server, mode="hang"), begin(server, mode="hang")
    update, begun = JobStore.update, threading.Event()

    def update_when_it_has_begun(self, job_id, event=None, **changes):
        if (job_id, changes.get("state")) == (second.id, JobState.CANCELLED) and not begun.is_set():
            begun.set()
            server.admin.CancelJob(pb.CancelJobRequest(job_id=first.id), timeout=20)
            assert running(server, second)
        return update(self, job_id, event, **changes)

    monkeypatch.setattr(JobStore, "update", update_when_it_has_begun)
    assert running(server, first)
    ended = server.admin.CancelJob(pb.CancelJobRequest(job_id=second.id), timeout=30)
    assert ended.state == pb.JOB_STATE_CANCELLED
    assert finished(server, begin(server)).state == pb.JOB_STATE_SUCCEEDED
    assert 'unfreeze_jobs_ended_total{state="cancelled"} 2.0' in server.metrics()


def test_a_job_whose_caller_has_gone_is_run(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, comes, goes_on = JobStore.create, threading.Event(), threading.Event()

    def create_when_the_caller_has_gone(self, *asked):
        comes.set()
        assert goes_on.wait(20)
        return create(self, *asked)

    monkeypatch.setattr(JobStore, "create", create_when_the_caller_has_gone)
    request = pb.StartTrainingRequest(model="colours", data="colours")
    call = server.admin.StartTraining.future(request)
    assert comes.wait(20)
    call.cancel()
    wait_until(lambda: 'grpc_code="CANCELLED",grpc_method="StartTraining"' in server.metrics())
    goes_on.set()
    wait_until(lambda: server.registry.versions("colours") == [1, 2])


def test_a_stubborn_trainer_ends_though_whoever_cancelled_it_has_gone(
    server: RunningServer,
) -> None:
    job = begin(server, mode="stubborn")
    assert running(server, job)
    with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        server.admin.CancelJob(pb.CancelJobRequest(job_id=job.id), timeout=0.5)
    assert finished(server, job).state == pb.JOB_STATE_CANCELLED


def noted(call: Callable[..., Any], threads: set[str]) -> Callable[..., Any]:
    """The same, which notes the threads that call it."""

    def note(*arguments: object, **more: object) -> Any:
        threads.add(threading.current_thread().name)
        return call(*arguments, **more)

    return note


def test_the_event_loop_waits_for_no_disk(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()
    for name in ("fsync", "unlink", "mkdir", "rmdir"):
        monkeypatch.setattr(os, name, noted(getattr(os, name), threads))
    assert finished(server, begin(server, bias="0,9,0")).promoted
    assert threads
    assert "server" not in threads


def test_a_trainer_that_has_ended_is_heard_out_however_long_its_events_take_to_write(
    server: RunningServer, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, linger_s = JobStore.append, 0.2

    def append_long_after_its_end(self, job_id, event):
        if isinstance(event, Scored):
            pid = (state / "jobs" / job_id / "pid").read_text()
            wait_until(lambda: not Path(f"/proc/{pid}").exists())
            time.sleep(5 * linger_s)
        append(self, job_id, event)

    monkeypatch.setattr("service.jobs.trainer.LINGER_S", linger_s)
    monkeypatch.setattr(JobStore, "append", append_long_after_its_end)
    assert finished(server, begin(server)).state == pb.JOB_STATE_SUCCEEDED


def test_of_a_long_log_the_end_alone_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.touch()
    os.truncate(log, 1 << 40)  # takes no disk space: nothing is written there
    with log.open("ab") as file:
        file.write(b"the end")
    assert tail(log).endswith("the end")


def test_a_crash_shows_the_end_of_the_log(server: RunningServer) -> None:
    job = finished(server, begin(server, mode="crash"))
    assert job.message.endswith("RuntimeError: a bug in the trainer")


@pytest.mark.parametrize("mode", ["garbage", "grandchild"])
def test_a_noisy_trainer_still_succeeds(server: RunningServer, state: Path, mode: str) -> None:
    job = finished(server, begin(server, mode=mode))
    assert job.state == pb.JOB_STATE_SUCCEEDED
    if mode == "garbage":
        log = (state / "jobs" / job.id / "log.txt").read_text()
        assert "[stdout] a library says hello\n" in log


async def test_of_a_line_that_is_too_long_the_beginning_alone_is_kept() -> None:
    stream = asyncio.StreamReader(limit=1 << 30)
    stream.feed_data(b"x" * (MAX_LINE + 500_000) + b"the end\nnext\nlast")
    stream.feed_eof()
    assert [line async for line in lines_of(stream)] == [b"x" * MAX_LINE, b"next", b"last"]


def test_a_trainer_that_cannot_be_started_fails_the_job(
    start: Start, state: Path, data: Path
) -> None:
    server = start(state=state, data_roots=(data,), trainer_command=("/no/such/program",))
    job = finished(server, begin(server, size="160"))
    assert job.state == pb.JOB_STATE_FAILED
    assert "/no/such/program cannot be started" in job.message


def test_the_same_key_is_the_same_job(server: RunningServer) -> None:
    first = begin(server, key="nightly", mode="hang")
    request = pb.StartTrainingRequest(
        model="colours", data="colours", settings={"mode": "hang"}, idempotency_key="nightly"
    )
    again = server.admin.StartTraining(request, timeout=60)
    assert (again.job.id, again.existing) == (first.id, True)
    assert len(server.admin.ListJobs(pb.ListJobsRequest()).jobs) == 1


def test_the_key_of_one_model_does_not_pass_for_a_training_of_another(
    server: RunningServer,
) -> None:
    first = begin(server, key="nightly", mode="hang")
    code, details = refusal(server, model="other", idempotency_key="nightly")
    assert code == "FAILED_PRECONDITION"
    assert f"belongs to job {first.id}" in details
    assert "differs in its model and settings; give each request its own key" in details


def running(server: RunningServer, job: pb.Job) -> bool:
    told = pb.WatchJobRequest(job_id=job.id)
    for event in server.admin.WatchJob(told, timeout=60):
        if event.HasField("stage_started") or event.HasField("note"):
            return True
    return False


@pytest.mark.parametrize("mode", ["hang", "stubborn"])
def test_a_running_job_can_be_cancelled(start, root, state, data, mode: str) -> None:
    tiny.publish(root, promote=True)
    server = start(state=state, data_roots=(data,), cancel_seconds=0.3)
    job = begin(server, mode=mode)
    assert running(server, job)
    ended = server.admin.CancelJob(pb.CancelJobRequest(job_id=job.id), timeout=60)
    assert (ended.state, ended.message) == (pb.JOB_STATE_CANCELLED, "cancelled while it ran")
    assert finished(server, begin(server)).state == pb.JOB_STATE_SUCCEEDED


def test_a_queued_job_waits_its_turn_and_can_be_cancelled(server: RunningServer) -> None:
    first, second, third = begin(server, mode="hang"), begin(server), begin(server)
    assert running(server, first)
    cancelled = server.admin.CancelJob(pb.CancelJobRequest(job_id=second.id))
    assert (cancelled.state, cancelled.attempt) == (pb.JOB_STATE_CANCELLED, 0)
    server.admin.CancelJob(pb.CancelJobRequest(job_id=first.id))
    assert finished(server, third).state == pb.JOB_STATE_SUCCEEDED
    listed = server.admin.ListJobs(pb.ListJobsRequest(model="colours", limit=2)).jobs
    assert [job.id for job in listed] == [third.id, second.id]


def test_a_finished_job_is_left_as_it_is(server: RunningServer) -> None:
    job = finished(server, begin(server))
    assert server.admin.CancelJob(pb.CancelJobRequest(job_id=job.id)) == job


def test_a_stopped_server_queues_its_job_for_the_next(start, root, state, data) -> None:
    tiny.publish(root, promote=True)
    first = start(state=state, data_roots=(data,))
    job = begin(first, mode="hang once")
    wait_until(checkpoint(state, job).exists)
    first.stop()
    second = start(state=state, data_roots=(data,))
    ended = finished(second, job)
    assert (ended.state, ended.version) == (pb.JOB_STATE_SUCCEEDED, 2)
    assert "goes on" in notes(second, job)


def test_servers_that_were_stopped_take_no_attempt_away(start, state, data) -> None:
    server = start(state=state, data_roots=(data,))
    job = begin(server, mode="hang")
    for _ in range(MAX_ATTEMPTS):
        wait_until(lambda: shown(server, job).state == pb.JOB_STATE_RUNNING)  # noqa: B023
        server.stop()
        server = start(state=state, data_roots=(data,))
    wait_until(lambda: shown(server, job).state == pb.JOB_STATE_RUNNING)
    assert shown(server, job).attempt == 1


def test_a_damaged_pointer_of_before_holds_up_no_retraining(
    server: RunningServer, root: Path
) -> None:
    server.registry.promote("colours", 1, by="test", reason="")
    (root / "colours/aliases/promoted/000001.json").write_text("{}")
    job = finished(server, begin(server))
    assert (job.state, job.version, job.promoted) == (pb.JOB_STATE_SUCCEEDED, 2, True)


def test_a_job_that_could_not_be_published_fails_before_it_trains(
    server: RunningServer, root: Path
) -> None:
    tried = root / "colours/aliases/candidate/000001.json"
    tried.parent.mkdir()
    tried.write_text("{}")
    job = begin(server)
    told = {event.WhichOneof("event") for event in events(server, job)}
    assert told == {"state_changed"}
    assert "candidate/000001.json: not a pointer" in shown(server, job).message


def test_a_job_killed_between_publication_and_record_is_finished_not_repeated(
    start, root, state, data
) -> None:
    tiny.publish(root, promote=True)
    first = start(state=state, data_roots=(data,))
    job = begin(first, promotion=pb.PROMOTION_POLICY_ALWAYS, mode="hang")
    assert running(first, job)
    tiny.publish(root, provenance={"job": job.id})
    first.stop()
    ended = finished(start(state=state, data_roots=(data,)), job)
    assert (ended.version, ended.promoted) == (2, True)
    assert first.registry.versions("colours") == [1, 2]


def test_a_version_that_cannot_be_read_at_the_moment_may_be_that_of_the_job(root: Path) -> None:
    job = Job(
        id="x",
        request=JobRequest(model="colours", data="colours"),
        state=JobState.RUNNING,
        created_at=datetime.now(UTC),
    )
    tiny.publish(root, provenance={"job": job.id})
    tiny.publish(root)
    manifest = root / "colours" / "1" / MANIFEST
    intact = manifest.rename(root / "intact")
    manifest.symlink_to("/proc/self/mem")  # reading it is an input/output error
    with pytest.raises(OSError, match="Input/output error"):
        published_before(Registry(root), job)
    intact.replace(manifest)
    assert published_before(Registry(root), job) == 1
    manifest.write_text("{}")
    assert published_before(Registry(root), job) is None


def test_a_job_whose_end_cannot_be_recorded_is_not_repeated_for_ever(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.jobs.FIRST_RETRY_S", 0.01)
    update, refusals = JobStore.update, iter(range(4))

    def update_while_the_disk_is_full(self, job_id, event=None, **changes):
        if "finished_at" in changes and next(refusals, None) is not None:
            raise Unavailable("the job database failed: database or disk is full")
        return update(self, job_id, event, **changes)

    monkeypatch.setattr(JobStore, "update", update_while_the_disk_is_full)
    job = finished(server, begin(server, mode="fail"))
    assert (job.state, job.attempt) == (pb.JOB_STATE_FAILED, 3)
    assert job.message == "the result of attempt 3 could not be recorded: see the log"
    monkeypatch.undo()
    assert finished(server, begin(server)).state == pb.JOB_STATE_SUCCEEDED


async def test_an_ended_job_keeps_nothing_that_its_killed_trainer_was_writing(state: Path) -> None:
    state.mkdir()
    records = JobRecords(state, JobStore(state / "jobs.db"), Metrics())
    job, _ = await records.create(JobRequest(model="colours", data="colours"))
    run = records.folder(job.id) / "run"
    (run / f".{CHECKPOINT}.0.unfinished").mkdir(parents=True)
    (run / f".{CHECKPOINT}.0.unfinished" / CHECKPOINT).touch()
    (run / f".{CHECKPOINT}.tmp").touch()  # of the version before
    for kept in ("journal.jsonl", "network.safetensors"):
        (run / kept).touch()
    await records.end(job.id, JobState.CANCELLED, "cancelled while it ran")
    assert {path.name for path in run.iterdir()} == {"journal.jsonl", "network.safetensors"}


async def test_what_has_been_learnt_is_kept_until_the_end_of_its_job_is_recorded(
    state: Path,
) -> None:
    state.mkdir()
    store = JobStore(state / "jobs.db")
    records = JobRecords(state, store, Metrics())
    job, _ = await records.create(JobRequest(model="colours", data="colours"))
    learnt = records.folder(job.id) / "run" / CHECKPOINT
    learnt.parent.mkdir(parents=True)
    learnt.touch()
    store._db.execute("PRAGMA busy_timeout=50")
    other = sqlite3.connect(state / "jobs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="the job database failed"):
        await records.end(job.id, JobState.FAILED, "class 'green' has no images")
    assert learnt.exists()
    other.close()
    await records.end(job.id, JobState.FAILED, "class 'green' has no images")
    assert not learnt.exists()
    store.close()


def test_a_job_goes_on_where_it_was_when_an_event_of_it_could_not_be_recorded(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = JobStore.append

    def append_unless_the_disk_is_full(self, job_id, event):
        if event == Note(text="hangs"):
            raise Unavailable("the job database failed: database or disk is full")
        append(self, job_id, event)

    monkeypatch.setattr(JobStore, "append", append_unless_the_disk_is_full)
    job = finished(server, begin(server, mode="hang once"))
    assert (job.state, job.attempt) == (pb.JOB_STATE_SUCCEEDED, 1)
    told = notes(server, job)
    assert "goes on" in told
    assert any("disk is full; next attempt in 1 s" in text for text in told)


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, function: str) -> Callable[[], int]:
    """`function` finds the disk full; gives how often it has."""
    calls = []

    def refuse(*_: object, **__: object) -> None:
        calls.append(1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("service.jobs.attempt.PAUSES_S", (0.01,) * 1000)
    monkeypatch.setattr(function, refuse)
    return lambda: len(calls)


# what copies a version into the registry, and what promotes it there
@pytest.mark.parametrize(
    "function", ["registry.store._copy", "registry.pointers.create_exclusively"]
)
def test_what_was_trained_waits_for_room_in_the_registry(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    with monkeypatch.context() as full:
        refusals = fill_the_disk(full, function)
        job = begin(server, bias="0,9,0", accuracy="0.9", champion="0.8")
        wait_until(lambda: refusals() >= 2)
    told = notes(server, job)
    assert any("No space left on device" in text and "next attempt in" in text for text in told)
    job = finished(server, job)
    assert (job.state, job.version, job.promoted) == (pb.JOB_STATE_SUCCEEDED, 2, True)
    assert best(server.classify(tiny.picture("white"))) == ["green"]


def test_a_job_waits_to_train_until_the_registry_can_be_read(
    server: RunningServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.attempt.PAUSES_S", (0.01,) * 10_000)
    elsewhere = root.rename(root.with_name("elsewhere"))
    root.symlink_to("x" * 999)
    job = begin(server)
    story = server.admin.WatchJob(pb.WatchJobRequest(job_id=job.id), timeout=60)
    note = next(event.note.text for event in story if event.HasField("note"))
    story.cancel()
    assert note.startswith("the registry cannot be used now (File name too long)")
    mended = root.with_name("mended")
    mended.symlink_to(elsewhere)
    mended.replace(root)
    job = finished(server, job)
    assert (job.state, job.attempt, job.version) == (pb.JOB_STATE_SUCCEEDED, 1, 2)


# what writes a trainer's assignment, and its process id
@pytest.mark.parametrize(
    "function", ["service.jobs.preparation.write_durably", "service.jobs.trainer.write_durably"]
)
def test_a_job_waits_for_room_in_the_state_folder_and_keeps_its_checkpoint(
    server: RunningServer, state: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    with monkeypatch.context() as full:
        refusals = fill_the_disk(full, function)
        job = begin(server, mode="killed once")
        learnt = checkpoint(state, job)
        learnt.parent.mkdir(parents=True, exist_ok=True)
        learnt.touch()
        wait_until(lambda: refusals() > MAX_ATTEMPTS)
        assert learnt.exists()
    job = finished(server, job)
    assert (job.state, job.attempt) == (pb.JOB_STATE_SUCCEEDED, 1)
    assert "goes on" in notes(server, job)


@pytest.mark.parametrize("n_refusals", [3, 4])
def test_the_last_wait_for_the_registry_is_followed_by_a_last_try(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, n_refusals: int
) -> None:
    copy, refusals = store._copy, iter(range(n_refusals))

    def copy_once_there_is_room(*arguments: Any) -> None:
        if next(refusals, None) is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(*arguments)

    monkeypatch.setattr("service.jobs.attempt.PAUSES_S", (0.01,) * 3)
    monkeypatch.setattr(store, "_copy", copy_once_there_is_room)
    job = finished(server, begin(server))
    if n_refusals == 3:
        assert job.state == pb.JOB_STATE_SUCCEEDED
    else:
        assert job.state == pb.JOB_STATE_FAILED
        assert "the registry could not be used: " in job.message
        assert "; what was trained is in " in job.message


def test_a_job_whose_cancellation_cannot_be_recorded_at_once_does_not_train_again(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.jobs.FIRST_RETRY_S", 0.01)
    update, refusals = JobStore.update, iter(range(2))

    def update_unless_the_disk_is_full(self, job_id, event=None, **changes):
        cancelled = changes.get("state") is JobState.CANCELLED
        if cancelled and next(refusals, None) is not None:
            raise Unavailable("the job database failed: database or disk is full")
        return update(self, job_id, event, **changes)

    monkeypatch.setattr(JobStore, "update", update_unless_the_disk_is_full)
    job = begin(server, mode="hang")
    assert running(server, job)
    ended = server.admin.CancelJob(pb.CancelJobRequest(job_id=job.id), timeout=60)
    assert (ended.state, ended.attempt) == (pb.JOB_STATE_CANCELLED, 1)
    assert finished(server, begin(server)).state == pb.JOB_STATE_SUCCEEDED


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, function: str) -> Iterator[threading.Event]:
    """`function` returns no sooner than the block ends; yields what is set once it is called."""
    called, goes_on = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        called.set()
        goes_on.wait(120)

    monkeypatch.setattr(function, hang)
    try:
        yield called
    finally:
        goes_on.set()


READS = ["service.jobs.attempt.published_before", "service.jobs.attempt.find_promoted"]


@pytest.mark.parametrize("function", READS)
def test_a_job_whose_registry_hangs_can_be_cancelled(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    with hanging(monkeypatch, function) as called:
        job = begin(server)
        assert called.wait(60)
        ended = server.admin.CancelJob(pb.CancelJobRequest(job_id=job.id), timeout=60)
        assert ended.state == pb.JOB_STATE_CANCELLED


@pytest.mark.parametrize("function", READS)
def test_a_registry_that_hangs_holds_up_no_stop_and_takes_no_attempt_away(
    server: RunningServer, state: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    with hanging(monkeypatch, function) as called:
        job = begin(server)
        assert called.wait(60)
        server.end()
        wait_until(lambda: server.has_ended)
    left = JobStore(state / "jobs.db").get(job.id)
    assert (left.state, left.attempt) == (JobState.QUEUED, 0)


def test_a_job_that_waits_for_room_can_be_cancelled(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = fill_the_disk(monkeypatch, "registry.store._copy")
    job = begin(server)
    wait_until(lambda: refusals() >= 1)
    assert server.admin.CancelJob(pb.CancelJobRequest(job_id=job.id)).state == (
        pb.JOB_STATE_CANCELLED
    )


def test_a_job_that_waits_for_room_is_kept_for_the_next_server(
    start: Start, root: Path, state: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.publish(root, promote=True)
    server = start(state=state, data_roots=(data,))
    with monkeypatch.context() as full:
        refusals = fill_the_disk(full, "registry.store._copy")
        job = begin(server)
        wait_until(lambda: refusals() >= 1)
        server.stop()
    assert finished(start(state=state, data_roots=(data,)), job).state == pb.JOB_STATE_SUCCEEDED


def test_a_server_whose_disk_is_full_can_be_stopped(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("service.jobs.jobs.FIRST_RETRY_S", 1000)
    monkeypatch.setattr(JobStore, "update", refuse)
    begin(server)
    wait_until(lambda: "jobs_failed" in caplog.text)
    server.end()
    wait_until(lambda: server.has_ended)


def test_training_for_a_registry_that_cannot_be_written_to_is_refused_at_once(
    server: RunningServer, root: Path
) -> None:
    (root / "other").write_bytes(b"where its folder would be")
    code, details = refusal(server, model="other")
    assert code == "FAILED_PRECONDITION"
    assert details.startswith("other cannot be written to, so no version of other could be")
    assert not server.admin.ListJobs(pb.ListJobsRequest(), timeout=20).jobs


def test_a_job_that_was_accepted_is_returned_again_whatever_the_registry_is_now(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = finished(server, begin(server, key="k1", bias="0,9,0", accuracy="0.9", champion="0.8"))
    monkeypatch.setattr(Registry, "write_problem", lambda *_: "the registry cannot be written to")
    settings = {"bias": "0,9,0", "accuracy": "0.9", "champion": "0.8"}
    assert begin(server, key="k1", **settings).id == job.id
    assert refusal(server, idempotency_key="k2")[0] == "FAILED_PRECONDITION"


def test_what_could_not_be_published_is_not_trained_yet(root: Path) -> None:
    (root / "other").write_bytes(b"where its folder would be")
    with pytest.raises(Unavailable, match="no version of other could be published"):
        find_promoted(Registry(root), "other")


def test_a_second_server_on_the_same_state_is_refused(
    server: RunningServer, start: Start, state: Path
) -> None:
    with pytest.raises(Exception, match="another server is using the state folder"):
        start(state=state)


def test_training_without_a_state_folder_says_what_to_do(start: Start) -> None:
    code, details = refusal(start())
    assert code == "FAILED_PRECONDITION"
    assert details == "training is off on this server; start it with --state PATH"


def test_data_outside_the_roots_is_refused_and_not_described(
    server: RunningServer, data: Path, tmp_path: Path
) -> None:
    (data / "link").symlink_to("/etc")
    for path in ("/etc", "/no/such/folder", "../..", "link", "link/passwd", str(tmp_path)):
        code, details = refusal(server, data=path)
        assert code == "PERMISSION_DENIED"
        assert "--data-root" in details
        assert str(data) not in details


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"data": "missing"}, "NOT_FOUND", "data 'missing' does not exist on the server"),
        ({"data": "a" * 999}, "NOT_FOUND", "a...' does not exist on the server"),
        ({"data": ""}, "INVALID_ARGUMENT", "data is empty"),
        ({"data": "a\0b"}, "INVALID_ARGUMENT", "not a path"),
        ({"model": "a/b"}, "INVALID_ARGUMENT", "'a/b' is not a valid model name"),
        ({"idempotency_key": "k" * 300}, "INVALID_ARGUMENT", "idempotency_key"),
        ({"promotion": 9}, "INVALID_ARGUMENT", "promotion 9 is not a policy"),
    ],
)
def test_a_bad_training_request_is_explained(
    server: RunningServer, fields: dict[str, Any], code: str, message: str
) -> None:
    got_code, details = refusal(server, **fields)
    assert got_code == code
    assert message in details


def test_unknown_jobs_are_not_found(server: RunningServer) -> None:
    for call, request in (
        (server.admin.GetJob, pb.GetJobRequest(job_id="x")),
        (server.admin.CancelJob, pb.CancelJobRequest(job_id="x")),
        (lambda r: list(server.admin.WatchJob(r)), pb.WatchJobRequest(job_id="x")),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_requests_are_answered_while_a_job_runs(server: RunningServer) -> None:
    assert server.classify(tiny.picture("white")).version == 1
    job = begin(server, seconds="1", bias="0,9,0")
    wait_until(lambda: server.classify(tiny.picture("white")).version == 2)
    assert finished(server, job).promoted


def scored(value: float, log_loss: float = 0.4, promoted_version: int = 3) -> Scored:
    return Scored(
        candidate=Score(metric="accuracy", value=value, log_loss=log_loss),
        promoted=Score(metric="accuracy", value=0.8, log_loss=0.5),
        promoted_version=promoted_version,
        images=100,
        gained=5,
        lost=4,
    )


GATE = {
    "better": (PromotionPolicy.IF_BETTER, scored(0.81, log_loss=0.9), 3, True),
    "worse": (PromotionPolicy.IF_BETTER, scored(0.79), 3, False),
    "equal and surer": (PromotionPolicy.IF_BETTER, scored(0.8, log_loss=0.4), 3, True),
    "equal in both": (PromotionPolicy.IF_BETTER, scored(0.8, log_loss=0.5), 3, False),
    "not a number": (PromotionPolicy.IF_BETTER, scored(float("nan")), 3, False),
    "first": (PromotionPolicy.IF_BETTER, None, None, True),
    "not compared": (PromotionPolicy.IF_BETTER, None, 3, False),
    "compared with another": (PromotionPolicy.IF_BETTER, scored(0.9), 4, False),
    "always": (PromotionPolicy.ALWAYS, scored(0.1), 3, True),
    "never": (PromotionPolicy.NEVER, scored(0.9), 3, False),
    "never, first": (PromotionPolicy.NEVER, None, None, False),
}


@pytest.mark.parametrize("case", GATE)
def test_the_gate_decides_by_policy_and_score(case: str) -> None:
    policy, score, promoted, expected = GATE[case]
    decision = decide(policy, score, promoted)
    assert isinstance(decision, GateDecided)
    assert decision.promote is expected
    assert decision.reason


def test_a_trainer_whose_number_cannot_be_written_does_not_run(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "input()", str(tmp_path))
    start = Trainer.start(command, tmp_path, tmp_path / "log.txt", tmp_path / "no folder" / "pid")
    with pytest.raises(FileNotFoundError):
        asyncio.run(start)
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if runs(path, tmp_path)]


def runs(command: Path, argument: Path) -> bool:
    with suppress(OSError):  # it has just ended
        return str(argument).encode() in command.read_bytes().split(b"\0")
    return False
