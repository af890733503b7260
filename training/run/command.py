"""A training for a person: reported on the terminal, and published. For a service:
`training/run/job.py`.

Of several processes, the main one reports and publishes; the others only train.
"""

import json
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path

from registry.counted import counted
from registry.errors import Conflict, UnfreezeError
from registry.jobs import Assignment, Event, Note, Scored, StageStarted
from registry.store import Registry
from training.distributed.parallel import World
from training.export.publishing import label_note_of
from training.recipe import train_and_bundle, train_network
from training.run.journal import journaled
from training.run.progress import Terminal, json_lines
from training.run.request import Request, find_request, fulfil, withdraw


def train_and_publish(request: Request, world: World, *, as_json: bool) -> None:
    """Trains and publishes what was requested, in the only process or the main one of several.

    Raises:
        UnfreezeError, OSError: it failed; without a checkpoint, the run folder can be reused.
        Conflict: the version is published, but not promoted, though it was requested.
    """
    assignment = request.assignment
    with (
        nullcontext(json_lines(sys.stdout)) if as_json else Terminal() as tell,
        journaled(assignment, tell) as tell_and_write,
    ):
        find_request(assignment.run)  # another process may have fulfilled it since
        resumed = shlex.quote(str(assignment.run))
        tell(Note(text=f"to resume if interrupted: unfreeze train --resume {resumed}"))
        try:
            bundle, scored = train_and_bundle(assignment, tell_and_write, world)
        except (UnfreezeError, OSError):  # so that the folder can be reused
            withdraw(request)
            raise
        except KeyboardInterrupt:
            tell(Note(text=f"interrupted; resume with: unfreeze train --resume {resumed}"))
            raise
        version, promoted = fulfil(request, bundle)
    registry = Registry(request.registry)
    note = label_note_of(registry, assignment.model) if promoted else ""
    if as_json:
        said = {"kind": "published", "model": assignment.model, "version": version}
        print(json.dumps(said | {"promoted": promoted, "note": note}), flush=True)
    else:
        folder = registry.folder(assignment.model, version)
        _summarise(folder, version, scored, promoted=promoted)
        if note:
            print(f"note: {note}")
    if request.promote and not promoted:
        raise Conflict(
            f"version {version} is published, but --promote has not promoted it: another version "
            "was promoted in the meantime"
        )


def learn_along(assignment: Assignment, world: World) -> None:
    """Trains along in every other process, silently unless it fails.

    Raises:
        UnfreezeError: says in which process, and where.
    """
    stages = ["before the first stage"]

    def note(event: Event) -> None:
        if isinstance(event, StageStarted):
            stages.append(event.stage)

    try:
        train_network(assignment, note, world)
    except UnfreezeError as error:
        where = f"process {world.rank + 1} of {world.size}, {stages[-1]}"
        raise type(error)(f"{where}: {error}") from error


def _summarise(folder: Path, version: int, scored: Scored, *, promoted: bool) -> None:
    mine, reference = scored.candidate, scored.promoted
    print(
        f"version {version}: {mine.metric} {mine.value:.4f}, log loss {mine.log_loss:.4f} "
        f"on {counted(scored.images, 'held-out image')}"
    )
    if reference:
        print(
            f"version {scored.promoted_version} on the same images: "
            f"{reference.metric} {reference.value:.4f}, log loss {reference.log_loss:.4f}"
        )
    print(f"report: {folder / 'report' / 'index.html'}")
    model, registry = folder.parent.name, folder.parents[1]
    print(
        f"promoted: unfreeze serve --registry {shlex.quote(str(registry))} serves it"
        if promoted
        else f"published, not promoted: unfreeze promote {model} {version} makes it live"
    )
