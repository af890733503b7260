"""The `unfreeze.v1.Classifier` servicer."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from typing import TypeAlias

import numpy as np
from grpc.aio import ServicerContext

from registry.bundle import Bundle
from registry.errors import BadRequest, Overloaded, RequestFull, UnfreezeError
from registry.images import Float32Array
from registry.tta import MAX_VIEWS
from service.calls import public_error, time_left_s
from service.execution.work import LOW, Answer, Terms
from service.models.loaded_version import LoadedVersion
from service.models.model_manager import ModelManager
from service.predict import Predictor, top
from service.status import message_of, number_of, retry_after_ms
from service.streams import IN_FLIGHT, in_order
from service.tracebacks import drop_tracebacks
from unfreeze.v1 import classifier_pb2 as pb
from unfreeze.v1 import classifier_pb2_grpc as pb_grpc

DEFAULT_TOP = 5
# Writing labels blocks the event loop, so it yields to other calls after this many (some 8 ms).
LABELS_AT_ONCE = 1 << 10

# generic only in the stubs
Context: TypeAlias = "ServicerContext[pb.ClassifyRequest, pb.ClassifyResponse]"
StreamContext: TypeAlias = "ServicerContext[pb.ClassifyRequest, pb.ClassifyStreamResponse]"


class Classifier(pb_grpc.ClassifierServicer):
    """Validates a request, holds a version while answering it, and builds the response."""

    def __init__(self, models: ModelManager, predictor: Predictor, max_images: int) -> None:
        self._models = models
        self._predictor = predictor
        self._max_images = max_images

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        return await self._classify(request, time_left_s(context))

    async def ClassifyStream(
        self, request_iterator: AsyncIterator[pb.ClassifyRequest], context: StreamContext
    ) -> AsyncIterator[pb.ClassifyStreamResponse]:
        async with in_order(request_iterator, self._outcome, self._window) as responses:
            async for response in responses:
                yield response

    def _window(self, request: pb.ClassifyRequest) -> int:
        return max(IN_FLIGHT, self._models.stream_window(request.model))

    async def _outcome(self, request: pb.ClassifyRequest) -> pb.ClassifyStreamResponse:
        """The response, or the error in its place; the stream goes on."""
        request_id = request.request_id
        try:
            response = await self._classify(request)
        except Exception as error:
            public = public_error(error, "ClassifyStream")
            drop_tracebacks(error)
            return pb.ClassifyStreamResponse(error=_error(public), request_id=request_id)
        return pb.ClassifyStreamResponse(response=response, request_id=request_id)

    async def _classify(
        self, request: pb.ClassifyRequest, answer_s: float = math.inf
    ) -> pb.ClassifyResponse:
        began = time.perf_counter()
        images = request.images
        self._check(request)
        version = request.version if request.HasField("version") else None
        with await self._models.get(request.model, version, lambda: images) as loaded:
            default = loaded.bundle.tta.default_views
            n_views = request.tta_views if request.HasField("tta_views") else default
            terms = Terms(n_views, request.priority, answer_s=answer_s)
            self._models.saw(terms)
            try:
                k = self._top_k(request, loaded)
                answers = await self._predictor.predict(loaded, images, terms)
                answered_at = time.perf_counter()
                response = pb.ClassifyResponse(
                    model=request.model,
                    version=loaded.version,
                    timings=_timings(answers, answered_at - began),
                    request_id=request.request_id,
                )
                await add_results(response, answers, loaded.bundle, k)
            except BaseException as error:
                loaded.counts.failed(error, time.perf_counter() - began)
                raise
            loaded.counts.replied(
                answers,
                began=began,
                read_at=began,
                answered_at=answered_at,
                ended=time.perf_counter(),
            )
            return response

    def _check(self, request: pb.ClassifyRequest) -> None:
        n_images = len(request.images)
        if not n_images:
            raise BadRequest("no images; send at least one JPEG, PNG or WebP file in `images`")
        if n_images > self._max_images:
            raise BadRequest(
                f"{n_images} images in one request, and the limit is {self._max_images}; "
                "send several requests, or use ClassifyStream"
            )
        if request.HasField("tta_views") and request.tta_views > MAX_VIEWS:
            raise BadRequest(f"tta_views is {request.tta_views}; use at most {MAX_VIEWS}")
        if request.priority > LOW:
            raise BadRequest(f"priority is {request.priority}; use 1 (highest) to {LOW} (lowest)")

    def _top_k(self, request: pb.ClassifyRequest, loaded: LoadedVersion) -> int | None:
        """How many labels to return; None if the request does not say. Whoever names no version may
        ask for as many as the promoted one has, though a candidate with fewer may answer."""
        if not request.HasField("top_k"):
            return None
        n_classes = most = len(loaded.bundle.labels)
        if not request.HasField("version"):
            most = max(n_classes, self._models.n_classes(request.model))
        if not 1 <= request.top_k <= most:
            raise BadRequest(
                f"top_k is {request.top_k}, but {request.model} has {most} classes; "
                f"use 1 to {most}, or leave it out"
            )
        return min(request.top_k, n_classes)


async def add_results(
    response: pb.ClassifyResponse, answers: Sequence[Answer], bundle: Bundle, k: int | None
) -> None:
    n_labels = 0  # since it last yielded
    for answer in answers:
        if n_labels >= LABELS_AT_ONCE:
            await asyncio.sleep(0)
            n_labels = 0
        result = _result(answer, bundle, k)
        response.results.append(result)
        n_labels += len(result.prediction.labels)


def _result(answer: Answer, bundle: Bundle, k: int | None) -> pb.ImageResult:
    if answer.error is not None:
        return pb.ImageResult(error=_error(answer.error))
    assert answer.probabilities is not None
    probabilities = answer.probabilities
    best = _returned(probabilities, bundle, k)
    labels = []
    for i in best:
        chosen = probabilities[i] >= bundle.thresholds[i] if bundle.thresholds else i == best[0]
        labels.append(
            pb.Label(
                name=bundle.labels[i],
                index=i,
                probability=float(probabilities[i]),
                chosen=bool(chosen),
            )
        )
    return pb.ImageResult(prediction=pb.Prediction(labels=labels))


def _returned(probabilities: Float32Array, bundle: Bundle, k: int | None) -> list[int]:
    """Indices of the labels to return, most probable first. Whoever does not say how many gets
    every label that is chosen, however many these are."""
    best = top(probabilities, k or DEFAULT_TOP)
    if k is not None or not bundle.thresholds:
        return best
    chosen = np.flatnonzero(probabilities >= np.array(bundle.thresholds, np.float32)).tolist()
    return best + sorted(set(chosen) - set(best), key=lambda i: -probabilities[i])


def _timings(answers: Sequence[Answer], total_s: float) -> pb.Timings:
    return pb.Timings(
        decode_ms=1000 * max(answer.decode_s for answer in answers),
        queue_ms=1000 * max(answer.queue_s for answer in answers),
        compute_ms=1000 * max(answer.compute_s for answer in answers),
        total_ms=1000 * total_s,
    )


def _error(error: UnfreezeError) -> pb.Error:
    return pb.Error(
        code=number_of(error),
        message=message_of(error),
        retry_after_ms=retry_after_ms(error) if isinstance(error, Overloaded) else 0,
        send_in_another_request=isinstance(error, RequestFull),
    )
