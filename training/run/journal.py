"""A log of a training that people can read: `journal.jsonl` in its run folder.

One JSON object per line: that it began or resumed, every stage with its seconds and outcome, every
epoch and note, and finally that it is done, or why it failed. After a kill or on a full disk a line
may be truncated, and where the disk was full lines are missing: nobody loses a training for them.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from registry.errors import Conflict, Unavailable
from registry.jobs import CHECKPOINT, Assignment, EpochFinished, Event, Note, StageStarted
from training.run.progress import Tell

JOURNAL = "journal.jsonl"


class Busy(Unavailable):
    """Another process is training in the folder."""


def check_same(run: Path, differing: Sequence[str]) -> None:
    """Raises Conflict if the unfinished training in `run` is another one, by what differs."""
    if differing:
        raise Conflict(
            f"{run} has an unfinished training with other {' and '.join(differing)}; resume it "
            "with the same, or choose another --run"
        )


@contextmanager
def journaled(assignment: Assignment, tell: Tell) -> Iterator[Tell]:
    """Within, events are also logged in `assignment.run`, which is locked for this training.

    Raises:
        Busy: another process is training there.
    """
    assignment.run.mkdir(parents=True, exist_ok=True)
    # unbuffered, so that closing it writes nothing for which the disk was full before
    with (assignment.run / JOURNAL).open("ab+", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(
                f"another process is training in {assignment.run}; wait until it has ended, or "
                "choose another --run"
            ) from error
        journal = _Journal(file, tell)
        goes_on = (assignment.run / CHECKPOINT).exists()
        about = assignment.model_dump(mode="json", include={"model", "data", "settings"})
        journal.write("goes on" if goes_on else "begins", about)

        def tell_and_write(event: Event) -> None:
            journal.hear(event)
            tell(event)

        try:
            yield tell_and_write
        except BaseException as error:
            journal.end(f"{type(error).__name__}: {error}")
            raise
        journal.end("done")


def has_finished(run: Path) -> bool:
    """Whether the last training in the folder came to its end without an error."""
    try:
        last = json.loads((run / JOURNAL).read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError):  # there is none, or it is truncated
        return False
    return bool(last.get("outcome") == "done" and last.get("what") == "ends")


class _Journal:
    def __init__(self, file: FileIO, tell: Tell) -> None:
        self._file, self._tell = file, tell
        self._stage, self._began = "", 0.0
        self._fails = False

    def hear(self, event: Event) -> None:
        match event:
            case StageStarted():
                self._end_stage("done")
                self._stage, self._began = event.stage, time.monotonic()
            case EpochFinished() | Note():
                self.write(event.kind, event.model_dump(exclude={"kind"}))

    def end(self, outcome: str) -> None:
        self._end_stage(outcome)
        self.write("ends", {"outcome": outcome})

    def _end_stage(self, outcome: str) -> None:
        if self._stage:
            seconds = round(time.monotonic() - self._began, 3)
            self.write("stage", {"stage": self._stage, "seconds": seconds, "outcome": outcome})

    def write(self, what: str, facts: dict[str, object]) -> None:
        """Adds a line durably. If that fails, it says so, and the training goes on."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"at": at, "what": what} | facts) + "\n"
        try:
            _append(self._file, line.encode())
            self._fails = False
        except OSError as error:  # a full disk, perhaps only for a moment
            if not self._fails:
                text = f"{self._file.name} cannot be written: {error}; training goes on without it"
                self._tell(Note(text=text))
            self._fails = True


def _append(file: FileIO, line: bytes) -> None:
    """Adds `line` on the disk, after ending a line that was truncated.

    Raises:
        OSError: it cannot be written; a part of it may have been.
    """
    left = b"\n" + line if _is_cut_off(file) else line
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())


def _is_cut_off(file: FileIO) -> bool:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    return file.read(1) not in (b"", b"\n")
