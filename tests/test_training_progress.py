"""What a training tells, to people and to a service."""

import io
import time

import pytest
from photos import Heard

from registry.jobs import EVENTS, EpochFinished, Note, Progress, StageStarted
from training.run.progress import SECONDS_QUIET, Lines, Stages, Terminal, json_lines

EPOCH = EpochFinished(
    stage="head",
    epoch=2,
    epochs=5,
    train_loss=0.5,
    valid_loss=0.4,
    metric="accuracy",
    metric_value=0.9,
    images_per_second=100,
)


def test_stages_are_numbered_and_progress_counts_images():
    heard = Heard()
    stages = Stages(heard.append, n_stages=2)
    stages.begin("decode", total=10)
    stages.advance(4)
    stages.advance(6)
    stages.begin("train", total=0)
    numbers = [(event.number, event.of) for event in heard.of("stage_started")]
    done = heard.of("progress")[-1]
    assert numbers == [(1, 2), (2, 2)]
    assert isinstance(done, Progress)
    assert (done.stage, done.done, done.total, done.seconds_left) == ("decode", 10, 10, 0)


def test_progress_is_reported_once_a_second_at_most():
    heard, began = Heard(), time.monotonic()
    stages = Stages(heard.append, n_stages=1)
    stages.begin("decode", total=10_000)
    for _ in range(9_000):
        stages.advance(1)
    assert len(heard.of("progress")) <= time.monotonic() - began  # however slow the machine is


def test_more_than_was_expected_is_no_reason_to_report_every_image():
    heard, began = Heard(), time.monotonic()
    stages = Stages(heard.append, n_stages=1)
    stages.begin("decode", total=100)
    for _ in range(9_000):
        stages.advance(1)
    assert len(heard.of("progress")) <= 1 + time.monotonic() - began


def test_a_service_reads_back_the_events_that_were_written():
    stream = io.StringIO()
    json_lines(stream)(EPOCH)
    (line,) = stream.getvalue().splitlines()
    assert EVENTS.validate_json(line) == EPOCH


def test_a_person_sees_a_line_for_each_stage_epoch_and_note():
    stream = io.StringIO()
    with Terminal(stream) as tell:
        Stages(tell, n_stages=1).begin("head", total=5)
        tell(EPOCH)
        tell(Note(text="suggested learning rate 1e-2"))
    shown = stream.getvalue()
    assert "1/1 head" in shown
    assert "epoch 2/5  train 0.5000  valid 0.4000  accuracy 0.9000  100 images/s" in shown
    assert "suggested learning rate 1e-2" in shown


def test_lines_are_printed_as_they_are_whatever_is_in_them():
    stream = io.StringIO()
    path = "/" + "a long folder/" * 20 + "run"
    with Terminal(stream) as tell:
        tell(Note(text=f"[/bold] and [red] :smile: of {path}"))
    assert f"[/bold] and [red] :smile: of {path}" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (10 * SECONDS_QUIET, ["decode", *(f"    {n} of 100 images" for n in (30, 50, 80)), "fit"]),
        (SECONDS_QUIET / 2, ["decode", "fit"]),
    ],
)
def test_a_notebook_shows_each_quarter_of_a_long_stage(
    capsys: pytest.CaptureFixture[str], seconds: float, told: list[str]
):
    tell = Lines()
    tell(StageStarted(stage="decode", number=1, of=2))
    for done in (10, 30, 40, 50, 80, 90, 100):
        left = dict(images_per_second=100 / seconds, seconds_left=seconds - done * seconds / 100)
        tell(Progress(stage="decode", done=done, total=100, **left))
    tell(StageStarted(stage="fit", number=2, of=2))
    tell(Progress(stage="fit", done=3, total=0, images_per_second=0, seconds_left=0))
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == told
