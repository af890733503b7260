"""One inference request of the Open Inference Protocol: read, answered, written, counted."""

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from registry.errors import BadRequest
from registry.images import Float32Array
from service.execution.work import Answer
from service.models.loaded_version import LoadedVersion
from service.models.model_manager import ModelManager
from service.oip.names import find
from service.oip.parameters import Wanted, read_wanted
from service.oip.tensors import (
    classification_output,
    hashed_content,
    probabilities_output,
    read_images,
    read_pixels,
)
from service.predict import Predictor

Message = Any  # the stubs of tritonclient come without types


class Inference:
    """Answers requests for both names of every model."""

    def __init__(self, models: ModelManager, predictor: Predictor, max_images: int) -> None:
        self._models = models
        self._predictor = predictor
        self._max_images = max_images

    async def infer(self, request: Message, answer_s: float = math.inf) -> Message:
        """Answers a request; `answer_s` is the time to the caller's deadline.

        Raises:
            BadRequest: the request does not fit the model, or one of its images is bad: the whole
                request fails, since the protocol cannot report the error of a single image.
            NotFound: there is no such model or version.
            Overloaded: it would be queued for too long, or was.
        """
        began = time.perf_counter()
        content = partial(hashed_content, request, self._max_images)
        loaded, takes_pixels = await find(
            self._models, request.model_name, request.model_version, content
        )
        with loaded:
            try:
                wanted = read_wanted(request, loaded.bundle.tta.default_views, answer_s)
                self._models.saw(wanted.terms)
                self._predictor.check_capacity(loaded, wanted.terms)
                answers, read_at = await self._answers(request, loaded, takes_pixels, wanted)
                answered_at = time.perf_counter()
                response = await _response(request, loaded, _probabilities(answers), wanted)
            except BaseException as error:
                loaded.counts.failed(error, time.perf_counter() - began)
                raise
            loaded.counts.replied(
                answers,
                began=began,
                read_at=read_at,
                answered_at=answered_at,
                ended=time.perf_counter(),
            )
            return response

    async def _answers(
        self, request: Message, loaded: LoadedVersion, takes_pixels: bool, wanted: Wanted
    ) -> tuple[Sequence[Answer], float]:
        """An answer for each image, and when the request had been read."""
        if takes_pixels:
            pixels = await read_pixels(request, loaded.bundle.image.size, self._max_images)
            read_at = time.perf_counter()
            return await self._predictor.predict_pixels(loaded, pixels, wanted.terms), read_at
        images = read_images(request, self._max_images)
        read_at = time.perf_counter()
        return await self._predictor.predict(loaded, images, wanted.terms), read_at


def _probabilities(answers: Sequence[Answer]) -> list[Float32Array]:
    found = [answer.probabilities for answer in answers if answer.probabilities is not None]
    if len(found) < len(answers):
        bad = [(i, answer.error) for i, answer in enumerate(answers) if answer.error]
        raise BadRequest("; ".join(f"image {i}: {error}" for i, error in bad[:5]))
    return found


async def _response(
    request: Message, loaded: LoadedVersion, probabilities: Sequence[Float32Array], wanted: Wanted
) -> Message:
    if wanted.classes:
        labels = loaded.bundle.labels
        output, content = await classification_output(probabilities, wanted.classes, labels)
    else:
        output, content = probabilities_output(probabilities)
    return pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=str(loaded.version),
        id=request.id,
        outputs=(output,),
        raw_output_contents=(content,),
    )
