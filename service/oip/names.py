"""Model names and versions in the Open Inference Protocol."""

from collections.abc import Callable

from registry.errors import BadRequest, NotFound, NotOffered
from registry.quoted import quoted
from registry.store import TENSOR_SUFFIX, check_name
from service.models.loaded_version import LoadedVersion
from service.models.model_manager import ModelManager
from service.models.trial import Content

MAX_DIGITS = 18  # version numbers are signed 64-bit integers in every client


def both_names(model: str) -> tuple[str, str]:
    """A model's name for encoded images, and its name for pixels."""
    return model, model + TENSOR_SUFFIX


def split_name(name: str) -> tuple[str, bool]:
    """The model, and whether this name of it takes pixels."""
    if name.endswith(TENSOR_SUFFIX):
        return name[: -len(TENSOR_SUFFIX)], True
    return name, False


def check_repository(name: str) -> None:
    """Raises NotOffered if a request names a repository: there is only one."""
    if name:
        raise NotOffered("there is one repository; leave repository_name empty")


def read_version(text: str) -> int | None:
    """The version asked for; None for the promoted one.

    Raises:
        BadRequest: not a number.
    """
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise BadRequest(f"model_version {quoted(text, 40)} is not a positive integer")
    return int(text)


async def find(
    models: ModelManager, name: str, version: str, content: Callable[[], Content] = tuple
) -> tuple[LoadedVersion, bool]:
    """The version that answers, and whether this name takes pixels.

    Enter it (`with loaded:`) before the next await.

    Args:
        content: gives the images, which decide whether a candidate answers.

    Raises:
        BadRequest: the name is not valid, or the version is not a number.
        NotFound: there is no such model or version.
    """
    model, takes_pixels = split_name(name)
    try:
        # answers are numbers without names, which clients read by the live version's labels; and
        # whoever sends pixels has read their size from its metadata
        found = await models.get(
            model, read_version(version), content, same_labels=True, same_size=takes_pixels
        )
        return found, takes_pixels
    except NotFound as error:
        check_name(model)
        raise NotFound(f"Request for unknown model: {error}") from error
