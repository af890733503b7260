"""Job records in SQLite. Once a call has returned, its changes survive a crash or power failure."""

import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from registry.errors import Conflict, NotFound, Unavailable
from registry.job_database import open_database
from registry.jobs import EVENTS, Event, Job, JobRequest, JobState, StateChanged
from registry.quoted import quoted
from registry.record import explain

T = TypeVar("T")

JOBS: TypeAdapter[Job] = TypeAdapter(Job)


@dataclass(frozen=True)
class NumberedEvent:
    """An event of a job; sequence counts 1, 2, 3, … without gaps."""

    sequence: int
    at: datetime
    event: Event


class JobStore:
    """Opened by the one server that owns the file; may be used from any thread."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the database.

        Raises:
            Unavailable: the file is damaged, and left untouched, or cannot be opened now.
        """
        self._lock = threading.Lock()
        self._db = open_database(path)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def create(
        self,
        request: JobRequest,
        resolved: dict[str, str] | None = None,
        note: Event | None = None,
    ) -> tuple[Job, bool]:
        """A new queued job, with a note in its history, or the existing one with the request's
        idempotency key.

        The second value is True if the job existed. For `resolved` see `Job`.

        Raises:
            Conflict: the key was used for a different request.
        """
        with self._transaction() as db:
            if existing := _find(db, request):
                return existing, True
            job = Job(
                id=uuid.uuid4().hex,
                request=request,
                state=JobState.QUEUED,
                created_at=datetime.now(UTC),
                resolved=resolved,
            )
            db.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?)",
                [
                    job.id,
                    request.model,
                    request.idempotency_key or None,
                    job.state,
                    job.created_at.isoformat(),
                    _write(job),
                ],
            )
            _append(db, job.id, StateChanged(state=job.state))
            if note:
                _append(db, job.id, note)
            return job, False

    def find(self, request: JobRequest) -> Job | None:
        """The job with the request's idempotency key.

        Raises:
            Conflict: the key was used for a different request.
        """
        with self._transaction() as db:
            return _find(db, request)

    def get(self, job_id: str) -> Job:
        """Raises: NotFound."""
        with self._transaction() as db:
            return _get(db, job_id)

    def jobs(self, *, model: str = "", limit: int = 100) -> list[Job]:
        """Newest first."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT record FROM jobs WHERE ? IN ('', model) ORDER BY rowid DESC LIMIT ?",
                [model, limit],
            )
            return [_read(JOBS, record) for (record,) in rows]

    def unfinished(self) -> list[Job]:
        """Queued and running jobs, oldest first."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT record FROM jobs WHERE state IN (?, ?) ORDER BY rowid",
                [JobState.QUEUED, JobState.RUNNING],
            )
            return [_read(JOBS, record) for (record,) in rows]

    def update(self, job_id: str, event: Event | None = None, **changes: object) -> Job:
        """Changes fields of a job's record and appends an event, both or neither.

        Without an event of its own, a change of state appends `StateChanged`. A job that has ended
        is not changed again; its record is returned as it is.
        """
        with self._transaction() as db:
            old = _get(db, job_id)
            if old.state.ended:
                return old
            new = Job.model_validate(old.model_dump() | changes)
            db.execute(
                "UPDATE jobs SET state = ?, record = ? WHERE id = ?",
                [new.state, _write(new), job_id],
            )
            if event is None and "state" in changes:
                event = StateChanged(state=new.state, message=new.message)
            if event is not None:
                _append(db, job_id, event)
            return new

    def append(self, job_id: str, event: Event) -> None:
        """Appends an event to a job's history."""
        with self._transaction() as db:
            _append(db, job_id, event)

    def events(self, job_id: str, from_sequence: int = 1) -> list[NumberedEvent]:
        """Events from `from_sequence` on, in order.

        Raises:
            NotFound: there is no such job.
        """
        with self._transaction() as db:
            _get(db, job_id)
            rows = db.execute(
                "SELECT sequence, at, event FROM events WHERE job_id = ? AND sequence >= ? "
                "ORDER BY sequence",
                [job_id, from_sequence],
            )
            return [
                NumberedEvent(sequence, datetime.fromisoformat(at), _read(EVENTS, event))
                for sequence, at, event in rows
            ]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise Unavailable(f"the job database failed: {error}") from error
                raise


def _read(kind: TypeAdapter[T], record: str) -> T:
    try:
        return kind.validate_json(record)
    except ValidationError as error:
        raise Unavailable(
            f"the job database has a record that this version cannot read ({explain(error)}); it "
            "was written by a newer unfreeze: upgrade, or start with another state folder"
        ) from error


def _write(job: Job) -> str:
    """Without what is not set, so that earlier releases read every job that they could have had."""
    return job.model_dump_json(exclude_defaults=True)


def _find(db: sqlite3.Connection, request: JobRequest) -> Job | None:
    """The job with the request's key, after checking that its request was the same."""
    key = request.idempotency_key or None  # NULL equals nothing
    row = db.execute("SELECT record FROM jobs WHERE idempotency_key = ?", [key]).fetchone()
    if row is None:
        return None
    job = _read(JOBS, row[0])
    others = [name for name, value in request if value != getattr(job.request, name)]
    if others:
        raise Conflict(
            f"the idempotency key {quoted(request.idempotency_key)} belongs to job {job.id}, which "
            f"differs in its {' and '.join(others)}; give each request its own key"
        )
    return job


def _get(db: sqlite3.Connection, job_id: str) -> Job:
    row = db.execute("SELECT record FROM jobs WHERE id = ?", [job_id]).fetchone()
    if row is None:
        raise NotFound(f"no job {quoted(job_id)}")
    return _read(JOBS, row[0])


def _append(db: sqlite3.Connection, job_id: str, event: Event) -> None:
    db.execute(
        "INSERT INTO events SELECT ?, COALESCE(MAX(sequence), 0) + 1, ?, ? "
        "FROM events WHERE job_id = ?",
        [job_id, datetime.now(UTC).isoformat(), event.model_dump_json(), job_id],
    )
