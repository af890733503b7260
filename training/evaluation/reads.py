"""Records who has evaluated on a test set, when, and how often. It is worth less every time that
somebody looks at its score and goes on tuning."""

import getpass
import hashlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from registry.record import Record
from training.data.items import Item

JOURNAL = "test-reads.jsonl"  # in the cache, which trainings on the same data share


class Read(Record):
    """One evaluation of a model on a test set."""

    at: datetime
    by: str  # the user whose training it was
    model: str
    tests_sha256: str  # over the contents of the test images
    images: int
    weights_sha256: str = ""  # of the network; missing in older journals


def note_read(
    cache: Path, tests: Sequence[Item], model: str, weights_digest: str
) -> tuple[Read, ...]:
    """Records in the journal in `cache` that `model` is about to read these images. Returns every
    known read up to this one, the oldest first.

    The same weights count once: a resumed training or a notebook that publishes again learns
    nothing new from them.
    """
    contents = ",".join(sorted(item.sha256 for item in tests))
    read = Read(
        at=datetime.now(UTC),
        by=_user(),
        model=model,
        tests_sha256=hashlib.sha256(contents.encode()).hexdigest(),
        images=len(tests),
        weights_sha256=weights_digest,
    )
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / JOURNAL
    journal = path.read_text(encoding="utf-8") if path.exists() else ""
    known = [each for each in _reads(journal) if each.tests_sha256 == read.tests_sha256]
    readers = [(each.model, each.weights_sha256) for each in known]
    if (model, weights_digest) in readers:
        return tuple(known[: readers.index((model, weights_digest)) + 1])
    with path.open("a", encoding="utf-8") as file:
        file.write("" if f"\n{journal}".endswith("\n") else "\n")
        file.write(f"{read.model_dump_json()}\n")
    return (*known, read)


def describe_reads(reads: Sequence[Read]) -> str:
    """One line for people."""
    last, before = reads[-1], reads[:-1]
    now = f"read by {last.by} for {last.model} at {last.at:%Y-%m-%d %H:%M} UTC"
    if not before:
        return f"{now}, the first read on record"
    shown = ", ".join(f"{read.by} for {read.model} at {read.at:%Y-%m-%d %H:%M}" for read in before)
    return (
        f"{now}, and {'once' if len(before) == 1 else f'{len(before)} times'} before ({shown}): "
        "if those scores influenced this training, its score is too optimistic"
    )


def _reads(journal: str) -> list[Read]:
    """Skips a line that a crash truncated."""
    reads = []
    for line in journal.splitlines():
        try:
            reads.append(Read.model_validate_json(line))
        except ValidationError:
            continue
    return reads


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number and no name
        return f"user {os.getuid()}"
