"""Job records: acknowledged means on the disk, and told in order."""

import json
import math
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError

from registry.errors import Conflict, NotFound, Unavailable
from registry.job_store import JobStore
from registry.jobs import (
    EVENTS,
    JobRequest,
    JobState,
    Note,
    Progress,
    Score,
    Scored,
    StateChanged,
)
from service.jobs.trainer_output import read_event


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def store(path: Path):
    store = JobStore(path)
    yield store
    store.close()


def request(key: str = "", model: str = "colours") -> JobRequest:
    return JobRequest(model=model, data="/data", settings={"size": "160"}, idempotency_key=key)


def test_a_job_is_read_back_after_a_restart(store: JobStore, path: Path) -> None:
    job, existing = store.create(request("k"))
    assert (existing, job.state, job.attempt) == (False, JobState.QUEUED, 0)
    other = JobStore(path)
    assert other.get(job.id) == job
    other.close()


def test_the_same_key_is_the_same_job(store: JobStore) -> None:
    first, _ = store.create(request("k"))
    assert store.create(request("k")) == (first, True)
    store.update(first.id, state=JobState.FAILED, message="no")
    assert store.create(request("k"))[0].state is JobState.FAILED


def test_a_key_is_refused_to_another_request(store: JobStore) -> None:
    first, _ = store.create(request("k"))
    told = rf"'k' belongs to job {first.id}, which differs in its model; "
    with pytest.raises(Conflict, match=told):
        store.create(request("k", model="other"))
    others = {"data": "/elsewhere", "settings": {"size": "80"}}
    with pytest.raises(Conflict, match="which differs in its data and settings; "):
        store.create(request("k").model_copy(update=others))
    assert store.jobs() == [first]


def test_no_key_is_no_protection(store: JobStore) -> None:
    assert store.create(request())[0].id != store.create(request())[0].id


def test_of_many_with_one_key_one_creates(store: JobStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: store.create(request("k")), range(20)))
    assert len({job.id for job, _ in made}) == 1
    assert sum(not existing for _, existing in made) == 1


def test_events_count_without_gaps_and_replay_from_anywhere(store: JobStore) -> None:
    job, _ = store.create(request())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: store.append(job.id, Note(text=str(i))), range(20)))
    events = store.events(job.id)
    assert [event.sequence for event in events] == list(range(1, 22))
    assert store.events(job.id, 15) == events[14:]
    assert store.events(job.id, 99) == []


def test_a_change_of_state_is_an_event(store: JobStore) -> None:
    job, _ = store.create(request())
    store.update(job.id, state=JobState.RUNNING, attempt=1)
    store.update(job.id, Note(text="half"), attempt=2)
    told = [event.event for event in store.events(job.id)]
    assert told == [
        StateChanged(state=JobState.QUEUED),
        StateChanged(state=JobState.RUNNING),
        Note(text="half"),
    ]


def test_a_job_that_has_ended_is_not_changed_again(store: JobStore) -> None:
    job, _ = store.create(request())
    ended = store.update(job.id, state=JobState.CANCELLED)
    assert store.update(job.id, state=JobState.RUNNING) == ended
    assert len(store.events(job.id)) == 2


def test_a_wrong_change_changes_nothing(store: JobStore) -> None:
    job, _ = store.create(request())
    with pytest.raises(ValidationError):
        store.update(job.id, state="dancing")
    assert store.get(job.id) == job
    assert len(store.events(job.id)) == 1


def test_jobs_are_listed_newest_first_and_unfinished_oldest_first(store: JobStore) -> None:
    ids = [store.create(request(model=model))[0].id for model in ("a", "b", "a")]
    assert [job.id for job in store.jobs()] == ids[::-1]
    assert [job.id for job in store.jobs(model="a")] == [ids[2], ids[0]]
    assert [job.id for job in store.jobs(limit=1)] == [ids[2]]
    store.update(ids[1], state=JobState.SUCCEEDED)
    assert [job.id for job in store.unfinished()] == [ids[0], ids[2]]


def test_an_unknown_job_is_not_found(store: JobStore) -> None:
    for call in (store.get, store.events, store.update):
        with pytest.raises(NotFound, match="no job 'x'"):
            call("x")


def test_a_damaged_file_is_refused_and_left_untouched(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)
    before = path.read_bytes()
    with pytest.raises(Unavailable, match=r"damaged .*; restore a backup, or salvage what"):
        JobStore(path)
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_opened_is_not_called_damaged(path: Path) -> None:
    """Nobody should restore a backup because a disk is full, or a folder not ours."""
    path.mkdir()
    with pytest.raises(Unavailable, match="the job database cannot be opened: unable to open"):
        JobStore(path)


def test_what_a_newer_program_wrote_is_said_to_be_that(store: JobStore) -> None:
    """Whoever goes back to an older image is not left with a trace."""
    job, _ = store.create(request())
    store._db.execute("UPDATE jobs SET record = json_set(record, '$.priority', 3)")
    with pytest.raises(Unavailable, match=r"priority: .*written by a newer unfreeze: upgrade"):
        store.get(job.id)


def test_damaged_pages_are_refused(store: JobStore, path: Path) -> None:
    for _ in range(200):
        store.create(request())
    store.close()
    content = bytearray(path.read_bytes())
    content[8192:20_000] = b"\xff" * (20_000 - 8192)
    path.write_bytes(content)
    with pytest.raises(Unavailable, match="the job database is damaged"):
        JobStore(path)


def test_a_locked_database_is_an_error_and_not_a_loss(store: JobStore, path: Path) -> None:
    store._db.execute("PRAGMA busy_timeout=50")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="the job database failed"):
        store.create(request())
    other.execute("ROLLBACK")
    other.close()
    assert store.create(request())[1] is False


def test_every_event_survives_the_wire() -> None:
    event = Progress(stage="fit", done=1, total=2, images_per_second=3.5, seconds_left=4)
    assert EVENTS.validate_json(event.model_dump_json()) == event


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_no_number_is_read_back_as_such_and_its_job_goes_on(
    store: JobStore, broken: float
) -> None:
    """It made every event of the job unreadable, as if a newer program had written them."""
    job, _ = store.create(request())
    score = Score(metric="accuracy", value=0.9, log_loss=broken)
    told = Scored(candidate=score, promoted=None, promoted_version=None, images=9, gained=0, lost=0)
    store.append(job.id, told)
    _, read = store.events(job.id)
    assert isinstance(read.event, Scored)
    assert math.isnan(read.event.candidate.log_loss)
    assert read.event.candidate.value == 0.9


def test_what_a_trainer_reports_is_json_and_understood_also_where_it_is_no_number() -> None:
    event = Progress(stage="fit", done=1, total=2, images_per_second=math.nan, seconds_left=4)
    line = event.model_dump_json()
    assert json.loads(line, parse_constant=pytest.fail)["images_per_second"] is None
    for told in (line, line.replace("null", "NaN")):
        read = read_event(told.encode())
        assert isinstance(read, Progress)
        assert math.isnan(read.images_per_second)
        assert read.seconds_left == 4


def test_a_misspelt_event_is_no_event() -> None:
    with pytest.raises(ValidationError):
        EVENTS.validate_json('{"kind": "note", "text": "a", "level": 1}')


def test_a_job_shows_what_it_trains_with_also_after_a_restart(store: JobStore, path: Path) -> None:
    plain, _ = store.create(request())
    same, _ = store.create(request().model_copy(update={"same_settings": True}), {"size": "288"})
    other = JobStore(path)
    assert [other.get(job.id).settings["size"] for job in (plain, same)] == ["160", "288"]
    other.close()


def test_an_earlier_release_reads_the_jobs_that_it_could_have_had(
    store: JobStore, path: Path
) -> None:
    """It takes a field that it does not know for an error, and then does not start."""
    job, _ = store.create(request())
    store.update(job.id, state=JobState.RUNNING, attempt=1)
    with sqlite3.connect(path) as db:
        ((record,),) = db.execute("SELECT record FROM jobs").fetchall()
    assert "resolved" not in json.loads(record)
    assert "same_settings" not in json.loads(record)["request"]
