"""Prints a job's events as they happen: as lines, with a progress bar on a terminal."""

import sys
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from unfreeze import events
from unfreeze.commands.shared import harmless
from unfreeze.events import Event


class JobOutput:
    """A context manager; `show` prints one event."""

    def __init__(self, *, quiet: bool = False) -> None:
        """`quiet`: no progress bar."""
        console = Console(markup=False, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, visible=False, rate="")

    def show(self, event: Event) -> None:
        if isinstance(event, events.Progress):
            self._bar.update(
                self._task,
                description=harmless(event.stage),
                total=event.total,
                completed=event.done,
                rate=f"{event.images_per_second:.0f} img/s",
                visible=True,
            )
            return
        if isinstance(event, events.StageStarted):
            self._bar.update(self._task, visible=False)
        if line := in_words(event):
            # not `print`: on a terminal the progress bar has to make way
            self._bar.console.print(harmless(line))
            sys.stdout.flush()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def in_words(event: Event) -> str:
    """The event as one or more lines; empty if it is not worth one."""
    match event:
        case events.StateChanged(state, message):
            return f"{state}{f': {message}' if message else ''}"
        case events.StageStarted(stage, number, of):
            return f"[{number}/{of}] {stage}"
        case events.EpochFinished():
            return (
                f"  epoch {event.epoch:>2}/{event.epochs:<2}"
                f"  train loss {event.train_loss:.4f}  valid loss {event.valid_loss:.4f}"
                f"  {event.metric} {event.metric_value:.4f}"
                f"  {event.images_per_second:.0f} img/s"
            )
        case events.Note(text):
            return f"  {text}"
        case events.Scored():
            return _comparison(event)
        case events.GateDecided(promote, reason):
            return f"  gate: {'promote' if promote else 'do not promote'}: {reason}"
    return ""


def _comparison(scored: events.Scored) -> str:
    lines = [
        f"  on {scored.images} held-out {_images(scored.images)}",
        _score("new version", scored.candidate),
    ]
    if scored.promoted:
        lines.append(_score(f"version {scored.promoted_version}", scored.promoted))
        only = f"{scored.gained} {_images(scored.gained)}; in the old only: {scored.lost}"
        lines.append(f"    right in the new version only: {only}")
    return "\n".join(lines)


def _images(n: int) -> str:
    return "image" if n == 1 else "images"


def _score(name: str, score: events.Score) -> str:
    return f"    {name:<12} {score.metric} {score.value:.4f}  log loss {score.log_loss:.4f}"
