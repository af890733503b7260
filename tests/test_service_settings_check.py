"""Settings that cannot work are refused when a training is asked for, not when it runs."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
import tiny
from conftest import RunningServer, Start, best, wait_until
from test_service_jobs import begin, finished, notes, refusal, shown

from registry.jobs import Resolved
from service.jobs import settings_check
from service.jobs.settings_check import SettingsCheck
from unfreeze.v1 import admin_pb2 as pb

TRAINER = (sys.executable, "-m", "training")


@pytest.fixture
def training_server(
    start: Start, state: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> RunningServer:
    """One whose trainer is the real one, which takes its time where the machine is busy."""
    monkeypatch.setattr("service.jobs.settings_check.LONGEST_S", 60)
    monkeypatch.setattr("service.jobs.settings_check.RESOLVING_S", 60)
    return start(state=state, data_roots=(data,), trainer_command=TRAINER)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lerning_rate": "0.1"}, "called 'lerning_rate'; did you mean learning_rate?"),
        ({"size": "large"}, "settings: size: 'large' is not a whole number"),
        ({"recipe": "modem"}, "(given: 'modem'); did you mean modern?"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_at_once(
    training_server: RunningServer, settings: dict[str, str], message: str
) -> None:
    code, details = refusal(training_server, settings=settings)
    assert code == "INVALID_ARGUMENT"
    assert message in details
    assert not training_server.admin.ListJobs(pb.ListJobsRequest()).jobs


def test_a_trainer_says_in_its_own_words_what_it_does_not_take(server: RunningServer) -> None:
    assert refusal(server, settings={"refused": "no such mode"}) == (
        "INVALID_ARGUMENT",
        "no such mode",
    )


def test_a_trainer_that_does_not_know_the_question_gets_the_job(
    start: Start, state: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older = tmp_path / "trainer.py"
    older.write_text("import argparse; argparse.ArgumentParser().parse_args()")
    command = (sys.executable, str(older))
    server = start(state=state, data_roots=(data,), trainer_command=command)
    job = begin(server, size="160")
    assert finished(server, job).state == pb.JOB_STATE_FAILED
    assert "the trainer that was asked ended with exit code 2" in notes(server, job)[0]
    assert "settings_unchecked" in caplog.text


def test_a_question_that_is_given_up_while_its_process_starts_leaves_none_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def slowly(command: Sequence[str]) -> subprocess.Popen[bytes]:
        time.sleep(0.2)
        started.append(spawn(command))
        return started[0]

    async def give_up() -> None:
        await SettingsCheck((sys.executable, "-c", "input()")).check({"size": "160"})
        while not started:
            await asyncio.sleep(0.01)

    spawn = settings_check._spawn
    monkeypatch.setattr(settings_check, "_spawn", slowly)
    monkeypatch.setattr(settings_check, "LONGEST_S", 0.01)
    asyncio.run(give_up())
    assert (started[0].returncode, started[0].stdout.closed) == (-signal.SIGKILL, True)


def test_a_trainer_that_does_not_answer_gets_the_job_which_says_so(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.settings_check.LONGEST_S", 0.1)
    job = begin(server, silent="yes")
    assert finished(server, job).state == pb.JOB_STATE_SUCCEEDED
    assert notes(server, job) == [
        "the settings were not checked: the trainer did not answer within 0.1 s"
    ]


def test_a_caller_who_goes_away_leaves_no_trainer_behind(server: RunningServer) -> None:
    request = pb.StartTrainingRequest(model="colours", data="colours", settings={"silent": "yes"})
    call = server.admin.StartTraining.future(request)
    wait_until(lambda: len(children()) == 1)
    call.cancel()
    wait_until(lambda: not children())
    with pytest.raises(grpc.FutureCancelledError):
        call.result()


def children() -> list[str]:
    """The trainers that this process has started and that are being asked."""
    tasks = Path("/proc/self/task")
    numbers = " ".join(path.read_text() for path in tasks.glob("*/children")).split()
    commands = [Path(f"/proc/{number}/cmdline") for number in numbers]
    return [text for path in commands if "--check-settings" in (text := read(path))]


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended meanwhile
        return ""


def promote(root: Path, **settings: object) -> None:
    """A version of `colours` is promoted that was trained with these settings."""
    tiny.publish(root, promote=True, provenance={"settings": json.dumps(settings)})


def begin_again(server: RunningServer, key: str = "", **settings: str) -> pb.Job:
    request = pb.StartTrainingRequest(
        model="colours",
        data="colours",
        settings=settings,
        idempotency_key=key,
        same_settings=True,
    )
    return server.admin.StartTraining(request, timeout=60).job


def test_a_job_shows_the_settings_of_the_promoted_version_that_it_trains_with(
    training_server: RunningServer, root: Path
) -> None:
    promote(root, size=160, hidden=[256], optimizer="sgd")
    job = begin_again(training_server, size="128")
    expected = {"recipe": "modern", "size": "128", "hidden": "256", "optimizer": "sgd"}
    assert job.settings == shown(training_server, job).settings == expected
    training_server.admin.CancelJob(pb.CancelJobRequest(job_id=job.id))


def test_a_trainer_gets_the_settings_that_were_shown(server: RunningServer, root: Path) -> None:
    promote(root, bias="0,9,0", accuracy="0.7")
    job = finished(server, begin_again(server, accuracy="0.9"))
    assert job.message.startswith("version 3 published, promoted: accuracy 0.9000")
    assert best(server.classify(tiny.picture("white"))) == ["green"]


def test_a_request_that_is_repeated_is_the_same_job_whatever_is_promoted_since(
    server: RunningServer, root: Path
) -> None:
    promote(root, accuracy="0.7")
    job = begin_again(server, key="weekly")
    promote(root, accuracy="0.6")
    again = begin_again(server, key="weekly")
    assert (again.id, again.settings) == (job.id, {"accuracy": "0.7"})
    code, details = refusal(server, idempotency_key="weekly")
    assert code == "FAILED_PRECONDITION"
    assert "differs in its same_settings" in details


def test_without_a_promoted_version_there_are_no_settings_to_take(server: RunningServer) -> None:
    code, details = refusal(server, model="new", same_settings=True)
    assert code == "FAILED_PRECONDITION"
    assert details.startswith("new: no version is promoted, whose settings could be taken")


def test_a_version_that_was_imported_has_no_settings_to_take(
    training_server: RunningServer, root: Path
) -> None:
    tiny.publish(root, promote=True, provenance={"backbone": "imported, 123"})
    code, details = refusal(training_server, same_settings=True)
    assert code == "INVALID_ARGUMENT"
    assert details.startswith("version 1 does not say which settings it was trained with")


def test_a_trainer_that_cannot_say_what_a_version_was_trained_with_gets_no_job(
    start: Start, state: Path, data: Path, root: Path, tmp_path: Path
) -> None:
    """It would train with settings that nobody asked for."""
    older = tmp_path / "trainer.py"
    older.write_text("")
    promote(root, accuracy="0.7")
    command = (sys.executable, str(older))
    server = start(state=state, data_roots=(data,), trainer_command=command)
    code, details = refusal(server, same_settings=True)
    assert code == "FAILED_PRECONDITION"
    assert "(exit code 0); give the settings by name" in details
    assert not server.admin.ListJobs(pb.ListJobsRequest()).jobs


def test_a_trainer_that_does_not_answer_in_time_may_be_asked_again(
    server: RunningServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.settings_check.RESOLVING_S", 0.001)
    promote(root, accuracy="0.7")
    code, details = refusal(server, same_settings=True)
    assert code == "UNAVAILABLE"
    assert details.endswith("which settings the promoted version was trained with; try again")


async def test_trainers_that_are_asked_for_settings_are_started_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n_now = most = 0

    async def answered(command: Sequence[str], given: bytes) -> tuple[int, bytes]:
        nonlocal n_now, most
        n_now += 1
        most = max(most, n_now)
        await asyncio.sleep(0)
        n_now -= 1
        return 0, Resolved(settings={}).model_dump_json().encode()

    monkeypatch.setattr(settings_check, "_run", answered)
    check = SettingsCheck(["trainer"])
    asked = [check.resolve({}, Path("colours/1")) for _ in range(3)]
    assert (await asyncio.gather(*asked), most) == ([{}] * 3, 1)


def test_the_settings_of_the_promoted_version_are_checked_like_others(
    server: RunningServer, root: Path
) -> None:
    promote(root, refused="no such mode")
    assert refusal(server, same_settings=True) == ("INVALID_ARGUMENT", "no such mode")
