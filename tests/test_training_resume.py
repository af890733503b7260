"""Trainings that are killed, and go on as if nothing had happened."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal

import photos
import pytest
import tiny
import torch
from torch import nn

from registry.bundle import Bundle
from registry.errors import BadRequest, Conflict, DataError, Unavailable
from registry.jobs import CHECKPOINT, Note
from registry.store import Registry
from training.__main__ import main
from training.distributed.parallel import ALONE
from training.fit.epoch import Tally
from training.fit.optimizer import Optimizer
from training.network.saving import NETWORK
from training.recipe import train
from training.run.checkpoint import Checkpoint
from training.run.command import train_and_publish
from training.run.journal import JOURNAL, journaled
from training.run.request import REQUEST, Request, find_request, fulfil, make_request
from training.run.state_file import read_state, write_state
from training.settings import OptimizerSpec

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Killed(BaseException):
    """What nothing catches, as nothing catches a kill."""


def test_a_training_that_dies_again_and_again_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In the midst of epochs and between them, after every fifth checkpoint that it wrote."""
    data = photos.folder(tmp_path / "data", per_class=20)
    told = {"ema": "0.9", "ema_kept": "always", "checkpoint_seconds": "0", "optimizer": "adamw"}
    told |= {"sizes": "24,32", "cycle_len": "2", "augmented_epochs": "2", "head_epochs": "2"}
    told |= {"policy": "trivial", "erasing": "0.5", "mixup": "0.4", "cutmix": "1"}
    straight = photos.assignment(tmp_path, data, **told)
    train(straight, lambda event: None)
    save, written = Checkpoint.save, count()

    def save_and_die(self: Checkpoint, tally: Tally) -> None:
        save(self, tally)
        if next(written) % 5 == 4:
            raise Killed

    monkeypatch.setattr(Checkpoint, "save", save_and_die)
    broken = straight.model_copy(update={"run": tmp_path / "broken"})
    heard, deaths = photos.Heard(), 0
    while not heard.of("scored"):
        try:
            train(broken, heard.append)
        except Killed:
            deaths += 1
    assert deaths >= 4
    assert sum("resumed after" in event.text for event in heard.of("note")) == deaths
    assert (broken.run / NETWORK).read_bytes() == (straight.run / NETWORK).read_bytes()


COSINE = {"optimizer": "sgd", "schedule": "cosine", "cycles": "2", "snapshots": "true"}
ONE_CYCLE = {"optimizer": "adamw", "schedule": "one_cycle", "keep": "swa", "cycle_len": "2"}


@pytest.mark.parametrize("told", [COSINE, ONE_CYCLE], ids=["sgd", "adamw"])
def test_a_command_that_is_killed_and_resumed_leaves_the_same_weights(
    tmp_path: Path, told: dict[str, str]
):
    data = photos.folder(tmp_path / "data", per_class=12)
    straight = photos.assignment(tmp_path, data, checkpoint_seconds="0", **told)
    train(straight, lambda event: None)
    run = tmp_path / "killed"
    settings = [f"--set={name}={text}" for name, text in straight.settings.items()]
    folders = ["--cache", straight.cache, "--registry", tmp_path / "models", "--run", run]
    first = [*folders, *settings, "--data", data, "--model", "photos"]
    kill_when(first, lambda event: event["kind"] == "epoch_finished" and event["epoch"] == 2)
    kill_when(
        ["--resume", run],
        lambda event: event["kind"] == "epoch_finished" and event["stage"].startswith("all layers"),
    )
    events = kill_when(["--resume", run])
    assert any(event.get("text", "").startswith("all layers: resumed") for event in events)
    assert (run / NETWORK).read_bytes() == (straight.run / NETWORK).read_bytes()
    assert Registry(tmp_path / "models").versions("photos") == [1]
    assert not (run / CHECKPOINT).exists()
    begun = [line["what"] for line in journal(run) if line["what"] in ("begins", "goes on")]
    assert begun == ["begins", "goes on", "goes on"]
    published = {"kind": "published", "model": "photos", "version": 1, "promoted": True}
    assert events[-1] == published | {"note": ""}
    with pytest.raises(BadRequest, match="this training has finished"):
        find_request(run)


def test_an_interrupted_command_says_how_to_resume(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=12)
    told = photos.assignment(tmp_path, data, **COSINE)
    settings = [f"--set={name}={text}" for name, text in told.settings.items()]
    folders = ["--cache", told.cache, "--registry", tmp_path / "models", "--run", told.run]
    arguments = ["train", "--json", "--data", data, "--model", "photos", *folders, *settings]
    command = [sys.executable, "-m", "unfreeze", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        next(line for line in child.stdout if json.loads(line)["kind"] == "epoch_finished")
        child.send_signal(signal.SIGINT)
        last = json.loads(child.stdout.readlines()[-1])
    assert child.returncode == 130
    assert last["text"] == f"interrupted; resume with: unfreeze train --resume {told.run}"


def kill_when(
    arguments: Sequence[str | Path], wanted: Callable[[dict[str, Any]], bool] = lambda event: False
) -> list[dict[str, Any]]:
    """What a training told until it told what was wanted and was killed; or to its good end."""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    events = []
    with subprocess.Popen(
        [sys.executable, "-m", "training", "--json", *map(str, arguments)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | threads,
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            events.append(json.loads(line))
            if wanted(events[-1]):
                child.kill()
                break
        assert child.wait() == (-signal.SIGKILL if wanted(events[-1]) else 0)
    return events


def journal(run: Path) -> list[dict[str, Any]]:
    """Its whole lines."""
    lines = (run / JOURNAL).read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def test_a_journal_says_how_long_each_stage_took_and_how_it_ended(tmp_path: Path):
    assignment = photos.assignment(tmp_path, tmp_path / "nowhere")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        train(assignment, lambda event: None)
    lines = journal(assignment.run)
    begins, stage, ends = (line for line in lines if line["what"] != "note")
    assert (begins["what"], begins["settings"]) == ("begins", assignment.settings)
    assert (stage["stage"], stage["seconds"] >= 0) == ("audit and split", True)
    assert stage["outcome"] == ends["outcome"]
    assert "no such folder" in ends["outcome"]


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path):
    assignment = photos.assignment(tmp_path, tmp_path)
    other = journaled(assignment, lambda event: None)
    message = "another process is training in"
    with other, pytest.raises(Unavailable, match=message):
        train(assignment, lambda event: None)


def given(tmp_path: Path, **settings: str) -> Request:
    return make_request(
        tmp_path / "models",
        "photos",
        photos.folder(tmp_path / "data", per_class=1),
        settings,
        tmp_path / "cache",
        tmp_path / "run",
        promote=False,
    )


def test_a_request_that_is_given_again_is_the_same_and_another_is_refused(tmp_path: Path):
    assert given(tmp_path, size="32") == given(tmp_path, size="32")
    with pytest.raises(
        Conflict, match="an unfinished training with other settings; resume it with the same"
    ):
        given(tmp_path, size="64")


def test_a_request_means_the_same_file_of_weights_wherever_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.safetensors").touch()
    begun = given(tmp_path, weights="some.safetensors")
    assert begun.assignment.settings == {"weights": str(tmp_path / "some.safetensors")}
    assert find_request(begun.assignment.run) == begun


def test_a_folder_without_a_request_cannot_be_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["--resume", str(tmp_path)]) == 2
    assert "no unfinished training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--promote"], "--promote"),
        (["--set", "size=32", "--json"], "--set"),
        (["--registry", "models", "--size=32"], "--size and --registry"),
    ],
)
def test_what_resume_would_pass_over_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], named: str
):
    run = given(tmp_path).assignment.run
    with pytest.raises(SystemExit, match="2"):
        main(["--resume", str(run), *more])
    said = f"--resume takes everything else from {run}; leave out {named}\n"
    assert said in capsys.readouterr().err


def test_a_request_that_cannot_work_leaves_its_folder_free(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=1)
    (data / "dark" / "00.png").write_bytes(b"nothing")  # which only reading it shows
    folders = ["--run", str(tmp_path / "run"), "--registry", str(tmp_path / "models")]
    assert main(["--data", str(data), "--model", "photos", "--json", *folders]) == 2
    assert not (tmp_path / "run" / REQUEST).exists()
    assert (tmp_path / "run" / JOURNAL).exists()


def test_a_training_that_cannot_write_leaves_its_folder_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = photos.folder(tmp_path / "data")
    (tmp_path / "cache").touch()  # a file, where a folder is needed
    folders = [f"--{name}={tmp_path / name}" for name in ("cache", "registry", "run")]
    settings = [f"--set={name}={text}" for name, text in photos.QUICK.items()]
    assert main(["--data", str(data), "--model=photos", "--json", *folders, *settings]) == 1
    assert str(tmp_path / "cache") in capsys.readouterr().err
    assert not (tmp_path / "run" / REQUEST).exists()


def test_a_setting_may_be_a_blank(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=1)
    folders = ["--run", str(tmp_path / "run"), "--registry", str(tmp_path / "models")]
    blank = ["--set", " label_separator =\t", "--set=hidden="]
    assert main(["--data", str(data), "--model", "photos", "--json", *folders, *blank]) == 2
    assert journal(tmp_path / "run")[0]["settings"] == {"label_separator": "\t", "hidden": ""}


def test_who_asks_for_a_training_that_is_under_way_disturbs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    begun = given(tmp_path)
    staged = tiny.stage(begun.assignment.stage, model="photos")
    with journaled(begun.assignment, lambda event: None):
        assert main(["--resume", str(begun.assignment.run), "--json"]) == 1
    assert "wait until it has ended" in capsys.readouterr().err
    assert (begun.assignment.run / REQUEST).exists()
    assert fulfil(begun, staged) == (1, True)


def test_nobody_goes_on_with_a_training_that_is_being_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    data, publish, others = photos.folder(tmp_path / "data"), Registry.publish, []
    resume = ["--resume", str(tmp_path / "run"), "--json"]

    def publish_beside_another(self: Registry, staged: Path, bundle: Bundle) -> int:
        if not others:
            others.append("came")
            others.append(str(main(resume)))
        return publish(self, staged, bundle)

    monkeypatch.setattr(Registry, "publish", publish_beside_another)
    told = photos.QUICK | {"cycles": "0", "augmented_epochs": "0"}
    folders = [f"--{name}={tmp_path / name}" for name in ("cache", "registry", "run")]
    settings = [f"--set={name}={text}" for name, text in told.items()]
    assert main(["--data", str(data), "--model=photos", "--json", *folders, *settings]) == 0
    assert others == ["came", "1"]
    assert "another process is training" in capsys.readouterr().err
    assert Registry(tmp_path / "registry").versions("photos") == [1]


def test_a_request_that_was_fulfilled_in_the_meantime_is_not_trained_again(tmp_path: Path):
    begun = given(tmp_path)
    fulfil(begun, tiny.stage(begun.assignment.stage, model="photos"))
    with pytest.raises(BadRequest, match="no unfinished training"):
        train_and_publish(begun, ALONE, as_json=True)


def test_a_request_is_published_and_promoted_once(tmp_path: Path):
    """Whatever moment its publication was killed at."""
    once = given(tmp_path)
    for _ in range(2):
        bundle = tiny.stage(once.assignment.stage, model="photos")
        (once.assignment.run / REQUEST).write_text("{}")
        assert fulfil(once, bundle) == (1, True)
    assert len(Registry(once.registry).history("photos")) == 1
    assert not list(once.assignment.run.iterdir())


@pytest.mark.parametrize("promote", [False, True])
def test_a_first_version_that_is_no_longer_the_first_is_published_and_not_promoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], promote: bool
):
    """Of two trainings into one new model at once, the second."""
    data = photos.folder(tmp_path / "data", per_class=8)
    told = photos.QUICK | {"cycles": "0", "augmented_epochs": "0", "label_noise": "false"}
    requests = [
        make_request(
            tmp_path / "models",
            "photos",
            data,
            told,
            tmp_path / "cache",
            tmp_path / run,
            promote=promote,
        )
        for run in ("first", "second")
    ]
    bundle = tiny.stage(requests[0].assignment.stage, model="photos")
    assert fulfil(requests[0], bundle) == (1, True)
    assert main(["--resume", str(tmp_path / "second")]) == int(promote)
    out, error = capsys.readouterr()
    assert "version 2: accuracy" in out
    assert "published, not promoted: unfreeze promote photos 2 makes it live" in out
    refused = "version 2 is published, but --promote has not promoted it"
    assert (refused in error) == promote
    found = Registry(tmp_path / "models").promoted("photos")
    assert found
    assert found[1].version == 1


def test_a_child_whose_images_have_changed_since_begins_anew(tmp_path: Path):
    data = photos.folder(tmp_path / "data")
    assignment = photos.assignment(tmp_path, data, cycles="0", augmented_epochs="0")
    (tmp_path / "assignment.json").write_text(assignment.model_dump_json())
    write_state(assignment.run / CHECKPOINT, {"key": {"images": "of yesterday"}})
    child = subprocess.Popen(
        [sys.executable, "-m", "training", "--assignment", tmp_path / "assignment.json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    told = [json.loads(line) for line in child.stdout]
    assert any("starting over" in event.get("text", "") for event in told)
    assert told[-1]["kind"] == "staged"
    child.stdin.close()
    child.stdout.close()
    assert child.wait() == 0


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path):
    laid_out = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    state = {"a": [{"b": laid_out, 3: torch.tensor(5)}, None, float("inf"), 0.1, "text", True]}
    write_state(tmp_path / CHECKPOINT, state)
    ((first, *others),) = read_state(tmp_path / CHECKPOINT).values()
    assert torch.equal(first["b"], laid_out)
    assert first["b"].stride() == laid_out.stride()
    assert first[3] == 5
    assert others == state["a"][1:]
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_what_could_not_be_read_without_running_code_is_not_written(tmp_path: Path):
    with pytest.raises(TypeError, match="Linear cannot be put into a checkpoint"):
        write_state(tmp_path / CHECKPOINT, {"network": nn.Linear(1, 1)})
    assert not list(tmp_path.iterdir())


def opened(path: Path, every_s: float = 0, **key: str) -> Checkpoint:
    checkpoint = Checkpoint()
    checkpoint.open(path, key, every_s)
    return checkpoint


def test_another_training_is_not_gone_on_with(tmp_path: Path):
    checkpoint = opened(tmp_path / CHECKPOINT, settings="size=32", images="abc")
    checkpoint.begin("head")
    checkpoint.save(checkpoint.enter({}))
    with pytest.raises(Conflict, match=r"has an unfinished training with other images; resume"):
        opened(tmp_path / CHECKPOINT, settings="size=32", images="abd")


def test_a_damaged_checkpoint_says_what_to_do(tmp_path: Path):
    (tmp_path / CHECKPOINT).write_bytes(b"half a")
    with pytest.raises(Conflict, match=r"no checkpoint .*; remove it to begin anew"):
        opened(tmp_path / CHECKPOINT)


KILLED_WHILE_IT_WRITES = """
import resource, signal, sys
from pathlib import Path

import torch

from training.run.state_file import write_state

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_state(Path(sys.argv[1]), {"half": torch.zeros(1000)})
"""


def test_what_a_killed_writer_left_is_gone_when_its_training_goes_on(tmp_path: Path):
    command = [sys.executable, "-c", KILLED_WHILE_IT_WRITES, tmp_path / CHECKPOINT]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGXFSZ
    (left,) = tmp_path.iterdir()
    Checkpoint().open(tmp_path / CHECKPOINT, {}, 0, writes=False)  # another process may write it
    assert left.exists()
    opened(tmp_path / CHECKPOINT)
    assert not left.exists()


@contextmanager
def no_file_above(n_bytes: int) -> Iterator[None]:
    """As on a disk that is full, but for smaller files."""
    usual, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (usual, most))


def test_a_training_goes_on_while_there_is_no_room_for_its_checkpoint(tmp_path: Path):
    path, notes = tmp_path / CHECKPOINT, list[str]()
    checkpoint = Checkpoint()
    checkpoint.open(path, {}, 0, note=notes.append)
    checkpoint.register("network", nn.Linear(100, 100))
    checkpoint.save(Tally(epoch=1))
    with no_file_above(1000):
        checkpoint.save(Tally(epoch=2))
        checkpoint.save(Tally(epoch=3))
    assert read_state(path)["tally"]["epoch"] == 1
    assert [found.name for found in tmp_path.iterdir()] == [CHECKPOINT]
    (note,) = notes
    assert f"no checkpoint: {path} cannot be written: " in note
    checkpoint.save(Tally(epoch=4))
    assert read_state(path)["tally"]["epoch"] == 4


def test_a_training_goes_on_while_there_is_no_room_for_its_journal(tmp_path: Path):
    assignment, heard = photos.assignment(tmp_path, tmp_path), photos.Heard()
    notes = [Note(text="x" * length) for length in (10, 2_000, 20, 30)]
    with journaled(assignment, heard.append) as tell:
        tell(notes[0])
        with no_file_above(1_000):
            tell(notes[1])
            tell(notes[2])
        tell(notes[3])
    again = journaled(assignment, heard.append)
    with pytest.raises(DataError, match="no images"), no_file_above(1_000), again:
        raise DataError("no images")
    lines = [line for line in journal(assignment.run) if line["what"] == "note"]
    assert [line["text"] for line in lines] == [notes[0].text, notes[3].text]
    told = [note.text for note in heard.of("note") if note not in notes]
    problem = f"{assignment.run / JOURNAL} cannot be written: [Errno 27] File too large"
    assert told == [f"{problem}; training goes on without it"] * 2


def test_who_may_read_other_files_may_read_a_checkpoint(tmp_path: Path):
    write_state(tmp_path / CHECKPOINT, {"a": torch.zeros(1)})
    (tmp_path / "other").touch()
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_stages_that_are_over_are_passed_once(tmp_path: Path):
    checkpoint = opened(tmp_path / CHECKPOINT)
    assert checkpoint.begin("search")
    assert checkpoint.begin("head")
    checkpoint.save(Tally(2, 5))
    later = opened(tmp_path / CHECKPOINT)
    assert not later.begin("search")
    assert later.begin("head")
    assert later.enter({}) == Tally(2, 5)
    assert later.begin("search")
    assert later.enter({}) == Tally()


def descend(parameter: nn.Parameter, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.clear()
        (parameter**4).sum().backward()
        optimizer.step([0.0, 0.01], momentum=0.9 - step / 10)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_an_optimizer_goes_on_bit_for_bit(tmp_path: Path, kind: Literal["sgd", "adamw"]):
    straight, broken = (nn.Parameter(torch.arange(4.0)) for _ in range(2))
    first, second, third = (
        Optimizer([[], [each]], OptimizerSpec(kind=kind)) for each in (straight, broken, broken)
    )
    descend(straight, first, range(6))
    descend(broken, second, range(3))
    write_state(tmp_path / CHECKPOINT, second.state_dict())
    third.load_state_dict(read_state(tmp_path / CHECKPOINT))
    descend(broken, third, range(3, 6))
    assert torch.equal(straight, broken)
