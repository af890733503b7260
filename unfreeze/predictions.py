"""Requests and predictions as plain values, shared by both clients."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unfreeze.bounds import MOST_32, MOST_64, check_whole
from unfreeze.channel import MAX_SEND_BYTES
from unfreeze.errors import (
    TOO_MANY,
    ImageError,
    RequestTooLarge,
    UnfreezeClientError,
    image_error,
)
from unfreeze.v1 import classifier_pb2

Image = str | os.PathLike[str] | bytes

MAX_REQUEST_IMAGES = 32
MAX_REQUEST_BYTES = 16 << 20
LOWEST_PRIORITY = 3


@dataclass(frozen=True)
class Label:
    name: str
    index: int  # in the model's list of labels
    probability: float
    chosen: bool  # multi-label: reaches its threshold; single-label: the most probable one


@dataclass(frozen=True)
class Prediction:
    """The answer for one image: its labels, most probable first, or an error instead."""

    image: str  # its path; "image 3" if the fourth of the images was given as bytes
    model: str
    version: int | None  # None if the image never reached a server
    labels: tuple[Label, ...] = ()
    error: UnfreezeClientError | None = None

    @property
    def label(self) -> Label:
        """The most probable label.

        Raises:
            ImageError: the image could not be used.
        """
        if self.error is not None:
            raise self.error
        return self.labels[0]

    @property
    def chosen(self) -> tuple[Label, ...]:
        """The labels that the model assigns, of those returned (`top_k`); none for an image that
        failed."""
        return tuple(label for label in self.labels if label.chosen)


@dataclass(frozen=True)
class RequestOptions:
    """The parameters of a request, the same for every image."""

    model: str
    version: int | None
    top_k: int | None
    tta_views: int | None
    priority: int = 0

    def __post_init__(self) -> None:
        check_whole("version", self.version, 1, MOST_64)
        check_whole("top_k", self.top_k, 1, MOST_32)
        check_whole("tta_views", self.tta_views, 0, MOST_32)
        check_whole("priority", self.priority, 0, LOWEST_PRIORITY)

    def request(self, encoded: list[bytes]) -> classifier_pb2.ClassifyRequest:
        return classifier_pb2.ClassifyRequest(
            model=self.model,
            version=self.version,
            images=encoded,
            top_k=self.top_k,
            tta_views=self.tta_views,
            priority=self.priority,
        )


@dataclass(frozen=True)
class Chunk:
    """The images of one request: their names, and their paths or bytes."""

    names: tuple[str, ...]
    images: tuple[Path | bytes, ...]

    def read(self) -> list[bytes | ImageError]:
        """The bytes of each image, or why its file cannot be read."""
        return [_read(image) for image in self.images]


def chunks(images: Image | Iterable[Image]) -> Iterator[Chunk]:
    """Splits the images, in order, into requests of bounded count and size; reads no file yet."""
    given = [images] if isinstance(images, str | bytes | os.PathLike) else images
    names: list[str] = []
    members: list[Path | bytes] = []
    n_bytes = 0
    for number, image in enumerate(given):
        member = image if isinstance(image, bytes) else Path(image)
        size = _size(member)
        if members and (len(members) == MAX_REQUEST_IMAGES or n_bytes + size > MAX_REQUEST_BYTES):
            yield Chunk(tuple(names), tuple(members))
            names, members, n_bytes = [], [], 0
        names.append(f"image {number}" if isinstance(member, bytes) else str(member))
        members.append(member)
        n_bytes += size
    if members:
        yield Chunk(tuple(names), tuple(members))


@dataclass
class RequestLimits:
    """How much to put into one request; lowered when a server takes less."""

    n_images: int = MAX_REQUEST_IMAGES
    n_bytes: int = MAX_REQUEST_BYTES

    def lower(self, n_images: int, n_bytes: int, refusal: RequestTooLarge) -> None:
        """To half of a request that was refused, in images or in bytes."""
        if TOO_MANY in str(refusal) or not n_bytes:
            self.n_images = min(self.n_images, n_images // 2)
        else:
            self.n_bytes = min(self.n_bytes, n_bytes // 2)


class PendingChunk:
    """Asks about the images of a chunk: in one request, or in several if the server takes fewer at
    once, or refuses images because of those before them.

    pending = PendingChunk(options, chunk, chunk.read(), limits)
    while request := pending.request():
        pending.add(call(request)), or pending.refused(…) if that raises RequestTooLarge
    pending.predictions()
    """

    def __init__(
        self,
        options: RequestOptions,
        chunk: Chunk,
        content: list[bytes | ImageError],
        limits: RequestLimits,
    ) -> None:
        """`limits` may be shared: all that share them learn from one refusal."""
        self._options = options
        self._limits = limits
        self._names = chunk.names
        self._encoded: dict[int, bytes] = {}
        self._found: dict[int, Prediction] = {}
        for i, given in enumerate(content):
            if isinstance(given, bytes):
                self._encoded[i] = given
            else:
                self._found[i] = Prediction(chunk.names[i], options.model, None, error=given)
        self._left = list(self._encoded)
        self._asked: list[int] = []  # the first of those left

    def request(self) -> classifier_pb2.ClassifyRequest | None:
        """The next request; None once every image has its answer."""
        self._asked = self._next()
        if not self._asked:
            return None
        return self._options.request([self._encoded[i] for i in self._asked])

    def add(self, response: classifier_pb2.ClassifyResponse) -> None:
        """Takes the results of the last request; images that belong in another one are left."""
        again = []
        for i, result in zip(self._asked, response.results, strict=True):
            self._found[i] = _prediction(self._names[i], result, response)
            if result.error.send_in_another_request:
                again.append(i)
        if again == self._asked:  # asking again would never end
            again = []
        self._left = again + self._left[len(self._asked) :]

    def refused(self, refusal: RequestTooLarge) -> None:
        """Takes that the last request was too large: the next one is smaller, and an image that was
        alone in it is given up."""
        if len(self._asked) > 1:
            n_bytes = sum(len(self._encoded[i]) for i in self._asked)
            self._limits.lower(len(self._asked), n_bytes, refusal)
            return
        (i,) = self._asked
        error = ImageError(f"too large even in a request of its own: {refusal}")
        self._found[i] = Prediction(self._names[i], self._options.model, None, error=error)
        self._left.remove(i)

    def _next(self) -> list[int]:
        """As many of the images left as go into one request, but at least one."""
        n_bytes = 0
        for n, i in enumerate(self._left):
            n_bytes += len(self._encoded[i])
            if n and (n >= self._limits.n_images or n_bytes > self._limits.n_bytes):
                return self._left[:n]
        return self._left

    def predictions(self) -> list[Prediction]:
        """One per image of the chunk, in order."""
        return [self._found[i] for i in range(len(self._names))]


def _prediction(
    name: str, result: classifier_pb2.ImageResult, response: classifier_pb2.ClassifyResponse
) -> Prediction:
    failed = result.WhichOneof("outcome") != "prediction"
    return Prediction(
        image=name,
        model=response.model,
        version=response.version,
        labels=tuple(_label(label) for label in result.prediction.labels),
        error=image_error(result.error.code, result.error.message) if failed else None,
    )


def _label(label: classifier_pb2.Label) -> Label:
    return Label(label.name, label.index, label.probability, label.chosen)


def _size(image: Path | bytes) -> int:
    if isinstance(image, bytes):
        return len(image)
    try:
        return image.stat().st_size
    except OSError:
        return 0  # `_read` will report what is wrong with it


def _read(image: Path | bytes) -> bytes | ImageError:
    n_bytes = _size(image)
    if n_bytes > MAX_SEND_BYTES:
        most = f"{MAX_SEND_BYTES / 1e6:.1f} MB"
        return ImageError(f"{n_bytes / 1e6:.1f} MB, and a request may have {most} at most")
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes()
    except OSError as error:
        return ImageError(f"cannot be read: {error.strerror}")
