"""Settings that cannot work are refused when a training is asked for, not when it runs."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from conftest import RunningServer, Start, wait_until
from test_service_jobs import begin, finished, notes, refusal

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
