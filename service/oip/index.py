"""The protocol's repository index: one row per version, under each of a model's names."""

from collections.abc import Iterator, Sequence
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from registry.errors import BundleError
from registry.store import Registry
from service.models.model_manager import ModelManager
from service.models.registry_calls import in_registry
from service.oip.names import both_names, check_repository

READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"

Message = Any  # the stubs of tritonclient come without types
Row = tuple[str, str, str]  # version, state, reason


async def index_message(models: ModelManager, registry: Registry, request: Message) -> Message:
    """Every model of the registry; with `request.ready`, only versions that can answer.

    Raises:
        NotOffered: the request names a repository; there is only one.
        Unavailable: the registry cannot be read.
    """
    check_repository(request.repository_name)
    known = await in_registry(_promoted_versions, registry)
    index, problems = pb.RepositoryIndexResponse(), models.problems()
    for model in sorted({*known, *problems}):
        ready = [str(loaded.version) for loaded in models.in_memory(model)]
        for version, state, reason in _rows(ready, known.get(model, ""), problems.get(model, "")):
            for name in both_names(model):
                if state == READY or not request.ready:
                    index.models.add(name=name, version=version, state=state, reason=reason)
    return index


def _promoted_versions(registry: Registry) -> dict[str, str]:
    """The promoted version of each model; an empty string if there is none."""
    found = {}
    for model in registry.models():
        try:
            promoted = registry.promoted(model)
        except BundleError:  # shown as the model's problem
            promoted = None
        found[model] = str(promoted.pointer.version) if promoted else ""
    return found


def _rows(ready: Sequence[str], promoted: str, problem: str) -> Iterator[Row]:
    for version in ready:
        yield version, READY, ""
    if promoted in ready:
        return
    if problem:
        yield promoted, UNAVAILABLE, problem
    elif promoted:
        yield promoted, LOADING, ""
    elif not ready:  # nothing was ever promoted or requested by number
        yield "", "", ""
