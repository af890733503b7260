"""A training as a person ordered it, kept in its run folder until its version is published."""

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

ORDER = "order.json"  # in the folder of a training whose version is not yet published
TOKEN = "run"  # in a bundle's provenance: the order that it fulfils


class Order(Record):
    """What to train, and where to publish it."""

    assignment: Assignment
    registry: Path
    pointer: (
        int  # current when the order was given, 0: none; only a first version goes live by itself
    )
    promote: bool
    token: str


def order(
    registry: Path,
    model: str,
    data: Path,
    settings: dict[str, str],
    cache: Path,
    run: Path,
    *,
    promote: bool,
) -> Order:
    """Writes the order to `run`, with absolute paths. If the same order is there already, returns
    that one, which compares with the version that was promoted when it was first given.

    Raises:
        BadRequest: `model` is not a valid name, or the settings or the data are unusable.
        Conflict: another order is in `run`.
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
    read = check_settings(settings)
    check_listed(data, read.layout(), read.task)
    given = Order(
        assignment=assignment,
        registry=registry.resolve(),
        pointer=pointer,
        promote=promote,
        token=uuid.uuid4().hex,
    )
    if not (run / ORDER).exists():
        run.mkdir(parents=True, exist_ok=True)
        write_durably(run / ORDER, given.model_dump_json(indent=2).encode())
        return given
    found = find_order(run)
    differing = [
        name for name, value in _requested(found).items() if value != _requested(given)[name]
    ]
    check_same(run, differing)
    return found


def find_order(run: Path) -> Order:
    """The order that was given in `run`.

    Raises:
        BadRequest: there is none.
    """
    try:
        return Order.model_validate_json((run / ORDER).read_bytes())
    except (OSError, ValidationError) as error:
        if has_finished(run):
            raise BadRequest(
                f"{run}: this training has finished, and its version is published; give --data "
                "and --model to start another"
            ) from error
        raise BadRequest(
            f"{run}: no unfinished training (no {ORDER}); give the folder of an interrupted "
            "one, or --data and --model to start one"
        ) from error


def withdraw(given: Order) -> None:
    """Removes the order, unless there is a checkpoint to resume from."""
    run = given.assignment.run
    if not (run / CHECKPOINT).exists():
        (run / ORDER).unlink(missing_ok=True)


def fulfil(given: Order, bundle: Bundle) -> tuple[int, bool]:
    """Publishes the staged bundle, idempotently, and removes what a resumed training would need.
    Returns the version's number and whether it is promoted, which it is not if somebody else has
    promoted a version since the order was given.

    The caller must hold the run, see `journaled`: whoever resumed it would replace the stage.
    """
    registry, assignment, model = Registry(given.registry), given.assignment, bundle.model
    version = _published(registry, model, given.token)
    if version is None:
        provenance = bundle.provenance | {TOKEN: given.token}
        named = bundle.model_copy(update={"provenance": provenance})
        version = registry.publish(assignment.stage, named)
    promoted = given.promote or not given.pointer
    in_force = registry.promoted(model)
    try:
        if promoted and not (in_force and in_force[1].version == version):
            reason = "unfreeze train"
            registry.promote(model, version, by="train", reason=reason, expected=given.pointer)
    except Conflict:
        promoted = False
    finally:
        (assignment.run / ORDER).unlink(missing_ok=True)
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


def _requested(given: Order) -> dict[str, object]:
    """What a person asked for, by name."""
    assignment = given.assignment
    return {
        "data": assignment.data,
        "model": assignment.model,
        "settings": assignment.settings,
        "registry": given.registry,
        "promotion": given.promote,
    }
