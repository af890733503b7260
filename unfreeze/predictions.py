"""Requests and predictions as plain values, shared by both clients."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unfreeze.channel import MAX_SEND_BYTES
from unfreeze.errors import ImageError, UnfreezeClientError, image_error
from unfreeze.v1 import classifier_pb2

Image = str | os.PathLike[str] | bytes

MAX_REQUEST_IMAGES = 32
MAX_REQUEST_BYTES = 16 << 20


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
        """The labels that the model assigns; none for an image that failed."""
        return tuple(label for label in self.labels if label.chosen)


@dataclass(frozen=True)
class Question:
    """The parameters of a request, the same for every image."""

    model: str
    version: int | None
    top_k: int | None
    tta_views: int | None
    priority: int = 0

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


class Asking:
    """Asks about the images of a chunk: in one request, or in several if the server refuses images
    because of those before them.

    asking = Asking(question, chunk, chunk.read())
    while request := asking.request():
        asking.answered(call(request))
    asking.predictions()
    """

    def __init__(self, question: Question, chunk: Chunk, content: list[bytes | ImageError]) -> None:
        self._question = question
        self._names = chunk.names
        self._encoded: dict[int, bytes] = {}
        self._found: dict[int, Prediction] = {}
        for i, given in enumerate(content):
            if isinstance(given, bytes):
                self._encoded[i] = given
            else:
                self._found[i] = Prediction(chunk.names[i], question.model, None, error=given)
        self._left = list(self._encoded)

    def request(self) -> classifier_pb2.ClassifyRequest | None:
        """The next request; None once every image has its answer."""
        return (
            self._question.request([self._encoded[i] for i in self._left]) if self._left else None
        )

    def answered(self, response: classifier_pb2.ClassifyResponse) -> None:
        """Takes the results of the last request; images that belong in another one are left."""
        asked, self._left = self._left, []
        for i, result in zip(asked, response.results, strict=True):
            self._found[i] = _prediction(self._names[i], result, response)
            if result.error.send_in_another_request:
                self._left.append(i)
        if self._left == asked:  # asking again would never end
            self._left = []

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
