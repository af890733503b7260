"""A training that a person asked for, kept in its run folder until its version is published."""

import shutil
import uuid
from pathlib import Path

from pydantic import ValidationError

from registry.bundle import Bundle
from registry.errors import BadRequest, BundleError, Conflict
from registry.files import write_durably
from registry.jobs import CHECKPOINT, Assignment
from registry.record import Record
from registry.store import Registry
from training.checking import check_settings
from training.data.dataset import check_listed
from training.export.publishing import assign
from training.run.journal import check_same, has_finished
from training.same_settings import with_settings_of

# in the folder of a training whose version is not yet published; the name stays, so that those that
# an earlier Unfreeze began still resume
REQUEST = "order.json"
TOKEN = "run"  # in a bundle's provenance: of the request that it fulfils


class Request(Record):
    """What to train, and where to publish it."""

    assignment: Assignment
    registry: Path
    # current when the request was made, 0: none; only a first version goes live by itself
    pointer: int
    promote: bool
    token: str


def make_request(
    registry: Path,
    model: str,
    data: Path,
    settings: dict[str, str],
    cache: Path,
    run: Path,
    *,
    promote: bool,
    same_settings: bool = False,
) -> Request:
    """Writes the request to `run`, with absolute paths. If the same one is there already, returns
    that one, which compares with the version that was promoted when it was first made.

    Args:
        same_settings: take those of the promoted version, overridden by `settings`.

    Raises:
        BadRequest: `model` is not a valid name, or the settings or the data are unusable.
        Conflict: another request is in `run`.
    """
    if settings.get("weights"):
        settings = settings | {"weights": str(Path(settings["weights"]).resolve())}
    assignment, pointer = assign(
        Registry(registry.resolve()),
        model,
        data.resolve(),
        settings,
        cache.resolve(),
        run.resolve(),
    )
    found = find_request(run) if (run / REQUEST).exists() else None
    if same_settings:
        settings = _as_promoted(found.assignment if found else assignment, settings)
        assignment = assignment.model_copy(update={"settings": settings})
    read = check_settings(settings)
    check_listed(data, read.layout(), read.task)
    request = Request(
        assignment=assignment,
        registry=registry.resolve(),
        pointer=pointer,
        promote=promote,
        token=uuid.uuid4().hex,
    )
    if found is None:
        run.mkdir(parents=True, exist_ok=True)
        write_durably(run / REQUEST, request.model_dump_json(indent=2).encode())
        return request
    differing = [
        name for name, value in _asked_for(found).items() if value != _asked_for(request)[name]
    ]
    check_same(run, differing)
    return found


def _as_promoted(assignment: Assignment, given: dict[str, str]) -> dict[str, str]:
    """Those of the version that the assignment compares with, overridden by those given."""
    if assignment.champion is None:
        raise BadRequest(
            f"{assignment.model}: no version is promoted, whose settings could be taken; leave "
            "--same-settings out"
        )
    return with_settings_of(assignment.champion, given)


def find_request(run: Path) -> Request:
    """The request in `run`.

    Raises:
        BadRequest: there is none.
    """
    try:
        return Request.model_validate_json((run / REQUEST).read_bytes())
    except (OSError, ValidationError) as error:
        if has_finished(run):
            raise BadRequest(
                f"{run}: this training has finished, and its version is published; give --data "
                "and --model to start another"
            ) from error
        raise BadRequest(
            f"{run}: no unfinished training (no {REQUEST}); give the folder of an interrupted "
            "one, or --data and --model to start one"
        ) from error


def withdraw(request: Request) -> None:
    """Removes the request, unless there is a checkpoint to resume from."""
    run = request.assignment.run
    if not (run / CHECKPOINT).exists():
        (run / REQUEST).unlink(missing_ok=True)


def fulfil(request: Request, bundle: Bundle) -> tuple[int, bool]:
    """Publishes the staged bundle, idempotently, and removes what a resumed training would need.
    Returns the version's number and whether it is promoted, which it is not if somebody else has
    promoted a version since it was requested.

    The caller must hold the run, see `journaled`: whoever resumed it would replace the stage.
    """
    registry, assignment, model = Registry(request.registry), request.assignment, bundle.model
    version = _published(registry, model, request.token)
    if version is None:
        provenance = bundle.provenance | {TOKEN: request.token}
        named = bundle.model_copy(update={"provenance": provenance})
        version = registry.publish(assignment.stage, named)
    promoted = request.promote or not request.pointer
    in_force = registry.promoted(model)
    try:
        if promoted and not (in_force and in_force.pointer.version == version):
            reason = "unfreeze train"
            registry.promote(model, version, by="train", reason=reason, expected=request.pointer)
    except Conflict:
        promoted = False
    finally:
        (assignment.run / REQUEST).unlink(missing_ok=True)
        (assignment.run / CHECKPOINT).unlink(missing_ok=True)
        shutil.rmtree(assignment.stage)
    return version, promoted


def _published(registry: Registry, model: str, token: str) -> int | None:
    for version in reversed(registry.versions(model)):
        try:
            if registry.bundle(model, version).provenance.get(TOKEN) == token:
                return version
        except BundleError:  # somebody else's
            continue
    return None


def _asked_for(request: Request) -> dict[str, object]:
    """What a person asked for, by name."""
    assignment = request.assignment
    return {
        "data": assignment.data,
        "model": assignment.model,
        "settings": assignment.settings,
        "registry": request.registry,
        "promotion": request.promote,
    }
