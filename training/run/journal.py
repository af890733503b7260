"""A log of a training that people can read: `journal.jsonl` in its run folder.

One JSON object per line: that it began or resumed, every stage with its seconds and outcome, every
epoch and note, and finally that it is done, or why it failed. After a kill the last line may be
truncated.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

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
    with (assignment.run / JOURNAL).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(
                f"another process is training in {assignment.run}; wait until it has ended, or "
                "choose another --run"
            ) from error
        journal = _Journal(file)
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
    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._stage, self._began = "", 0.0
        file.write("\n" if _is_cut_off(file) else "")

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
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._file.write(json.dumps({"at": at, "what": what} | facts) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _is_cut_off(file: IO[str]) -> bool:
    file.seek(0)
    return not f"\n{file.read()}".endswith("\n")
