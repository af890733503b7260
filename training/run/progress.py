"""Reports a training's progress: to a person on a terminal, or to a service as JSON lines."""

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from registry.counted import counted
from registry.jobs import EpochFinished, Event, Note, Progress, StageStarted

Tell = Callable[[Event], None]  # takes each event of a training: to print, write or send it
SECONDS_BETWEEN = 1.0  # progress events of a stage; each is a row in the service's database
SECONDS_QUIET = 10.0  # of a stage, before a notebook reports its progress


class Stages:
    """The stages of one training, reported in order; safe to advance from several threads."""

    def __init__(self, tell: Tell, n_stages: int) -> None:
        self.tell = tell
        self._n_stages = n_stages
        self._number = 0
        self._lock = threading.Lock()
        self._name, self._total, self._done = "", 0, 0
        self._began = self._reported = time.monotonic()
        self._ended: dict[str, float] = {}

    @property
    def durations(self) -> dict[str, float]:
        """Seconds that each stage took, including the current one so far."""
        with self._lock:
            return self._ended | self._under_way()

    def _under_way(self) -> dict[str, float]:
        if not self._name:
            return {}
        before = self._ended.get(self._name, 0.0)  # a stage may recur at another size
        return {self._name: before + time.monotonic() - self._began}

    def begin(self, name: str, total: int) -> None:
        """Starts a new stage, of `total` images."""
        with self._lock:
            self._ended |= self._under_way()
            self._number += 1
            self._name, self._total, self._done = name, total, 0
            self._began = self._reported = time.monotonic()
        self.tell(StageStarted(stage=name, number=self._number, of=self._n_stages))

    def advance(self, n: int) -> None:
        """`n` more images are done."""
        with self._lock:
            over = self._done < self._total <= self._done + n
            self._done += n
            now = time.monotonic()
            if now - self._reported < SECONDS_BETWEEN and not over:
                return
            self._reported = now
            rate = self._done / max(now - self._began, 1e-9)
            left = max(self._total - self._done, 0) / rate
            self.tell(
                Progress(
                    stage=self._name,
                    done=self._done,
                    total=self._total,
                    images_per_second=rate,
                    seconds_left=left,
                )
            )

    def note(self, text: str) -> None:
        self.tell(Note(text=text))


def json_lines(stream: TextIO) -> Tell:
    """Writes each event as one line of JSON."""
    lock = threading.Lock()

    def tell(event: Event) -> None:
        with lock:
            stream.write(event.model_dump_json() + "\n")
            stream.flush()

    return tell


class Lines:
    """Plain lines on standard output, for a notebook. A long stage is reported at each quarter, so
    that silence is not mistaken for the end."""

    def __init__(self) -> None:
        self._quarters = 0

    def __call__(self, event: Event) -> None:
        match event:
            case StageStarted():
                self._quarters = 0
                print(event.stage)
            case Progress():
                quarters = 4 * event.done // max(event.total, 1)
                seconds = event.done / max(event.images_per_second, 1e-9)
                if self._quarters < quarters < 4 and seconds > SECONDS_QUIET:
                    self._quarters = quarters
                    print(
                        f"    {event.done} of {counted(event.total, 'image')}, "
                        f"{event.images_per_second:.0f} images/s, {event.seconds_left:.0f} s left"
                    )
            case EpochFinished() | Note():
                print(f"    {_line(event)}")
            case _:
                pass


def _line(event: EpochFinished | Note) -> str:
    if isinstance(event, Note):
        return event.text
    return (
        f"epoch {event.epoch}/{event.epochs}  train {event.train_loss:.4f}  "
        f"valid {event.valid_loss:.4f}  {event.metric} {event.metric_value:.4f}  "
        f"{event.images_per_second:.0f} images/s"
    )


class Terminal:
    """For a person: a line for each stage and epoch, and a progress bar in between."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._console = Console(file=stream, highlight=False)
        self._bars = Bars(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f} images/s"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._bar = self._bars.add_task("", total=None, visible=False, rate=0.0)

    def __enter__(self) -> Tell:
        self._bars.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def _show(self, event: Event) -> None:
        match event:
            case StageStarted():
                self._print(f"{event.number}/{event.of} {event.stage}", style="bold")
                self._bars.update(self._bar, visible=False)
            case Progress():
                self._bars.update(
                    self._bar,
                    description=event.stage,
                    completed=event.done,
                    total=event.total,
                    rate=event.images_per_second,
                    visible=event.done < event.total,
                )
            case EpochFinished() | Note():
                self._print(f"    {_line(event)}")
            case _:
                pass

    def _print(self, line: str, style: str | None = None) -> None:
        """Without markup, as a label may be called [/b]; unwrapped, so that paths can be copied."""
        self._console.print(line, style=style, markup=False, emoji=False, soft_wrap=True)
