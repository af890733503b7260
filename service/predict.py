"""From images to probabilities: cache, decoding, views, inference, mean."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from registry.bundle import Bundle
from registry.errors import RequestFull
from registry.images import MAX_PIXELS, Float32Array, UInt8Array, prepare
from registry.tta import each_view
from service.cache import Cache
from service.execution.work import Answer, DecodeViews, Terms
from service.models.loaded_version import LoadedVersion
from service.models.shadow import DecodeViewsFor, Sample
from service.models.trial import Trial
from service.observability.tracing import CURRENT

# Prefix of pixels in cache keys, so that they are never taken for an encoded image.
PIXELS = b"pixels"
# Of all images in a request: 13 MB can hold a hundred images of MAX_PIXELS, which take minutes to
# decode. 64 MB of photographs hardly have more.
MAX_REQUEST_PIXELS = 4 * MAX_PIXELS


class PixelBudget:
    """Limits the pixels that are decoded for one request. Thread-safe."""

    def __init__(self) -> None:
        self._images: set[int] = set()
        self._n_pixels = 0
        self._lock = threading.Lock()

    def admit(self, i: int, n_pixels: int) -> None:
        """Admits image `i` to decoding; decoding it again for another version does not count.

        Raises:
            RequestFull: those before it exceeded the limit already.
        """
        with self._lock:
            if i in self._images:
                return
            if self._n_pixels > MAX_REQUEST_PIXELS:
                raise RequestFull(
                    f"the images of this request have more than {MAX_REQUEST_PIXELS} pixels in "
                    "total; send this one in another request"
                )
            self._images.add(i)
            self._n_pixels += n_pixels


class Predictor:
    """Answers requests with the version it is given."""

    def __init__(
        self,
        max_pixels: int,
        cache: Cache | None,
        trial_beside: Callable[[LoadedVersion], Trial | None],
    ) -> None:
        """
        Args:
            max_pixels: limit per encoded image, checked before decoding.
            trial_beside: the trial of a candidate beside a version, if there is one.
        """
        self._max_pixels = max_pixels
        self._trial_beside = trial_beside
        self._cache = cache

    def check_capacity(self, loaded: LoadedVersion, terms: Terms) -> None:
        """Refuses early: to be called before a request's images are read, which costs more.

        Raises:
            Overloaded: not even one image would be answered.
        """
        if self._cache is None and (refusal := loaded.executor.refusal(terms)):
            loaded.counts.rejected(refusal.reason)
            raise refusal

    async def predict(
        self, loaded: LoadedVersion, images: Sequence[bytes], terms: Terms
    ) -> list[Answer]:
        """An answer for each encoded image, in order; a bad image does not affect the others.

        Raises:
            Overloaded: the queue is full, or it was queued for too long.
        """

        admit = PixelBudget().admit if len(images) > 1 else None

        def decode(bundle: Bundle, i: int) -> Iterator[UInt8Array]:
            admit_this = partial(admit, i) if admit else None
            pixels = prepare(images[i], bundle.image, self._max_pixels, admit_this)
            yield from each_view(pixels, images[i], bundle.tta, terms.n_views)

        trial = self._trial_beside(loaded)
        sample = trial.sample(images, decode, terms.n_views) if trial else None
        n_bytes = sum(map(len, images))
        return await self._answer(loaded, images, decode, terms, sample, n_bytes)

    async def predict_pixels(
        self, loaded: LoadedVersion, pixels: UInt8Array, terms: Terms
    ) -> list[Answer]:
        """The same for prepared pixels, [n,s,s,3] RGB; their own bytes seed the views.

        Raises:
            Overloaded: as `predict`.
        """
        plain = terms.n_views < 2

        def decode(bundle: Bundle, i: int) -> Iterable[UInt8Array]:
            if plain:
                return (pixels[i],)
            return each_view(pixels[i], pixels[i].tobytes(), bundle.tta, terms.n_views)

        trial, sample = self._trial_beside(loaded), None
        if trial and trial.same_size:
            sample = trial.sample([pixels.reshape(-1).data], decode, terms.n_views)
        contents = [PIXELS] * len(pixels)
        if self._cache is not None:
            contents = [PIXELS + image.tobytes() for image in pixels]
        ready = pixels if plain else None
        return await self._answer(loaded, contents, decode, terms, sample, pixels.nbytes, ready)

    async def _answer(
        self,
        loaded: LoadedVersion,
        contents: Sequence[bytes],
        decode: DecodeViewsFor,
        terms: Terms,
        sample: Sample | None,
        n_bytes: int,
        pixels: UInt8Array | None = None,
    ) -> list[Answer]:
        """Answers from the cache or the network. `sample` then also goes to a candidate; `pixels`
        are the only views, if nothing has to be decoded."""
        decode_live = sample.for_live if sample else partial(decode, loaded.bundle)
        if self._cache is not None:
            answers = await self._recall(self._cache, loaded, contents, decode_live, terms, n_bytes)
        else:
            answers = await loaded.executor.run(len(contents), decode_live, terms, pixels, n_bytes)
        if sample:
            sample.answered(answers)
        return _record(loaded, answers)

    async def _recall(
        self,
        cache: Cache,
        loaded: LoadedVersion,
        contents: Sequence[bytes],
        decode: DecodeViews,
        terms: Terms,
        n_bytes: int,
    ) -> list[Answer]:
        """Answers what is cached; runs the rest, and caches it."""
        named = loaded.model, loaded.version, loaded.bundle.created_at
        keys = [cache.key(*named, terms.n_views, one) for one in contents]
        known = [cache.get(key) for key in keys]
        answers = [Answer(one, cached=True) for one in known]
        if missing := [i for i, one in enumerate(known) if one is None]:
            ran = await loaded.executor.run(
                len(missing), lambda i: decode(missing[i]), terms, n_bytes=n_bytes
            )
            for i, answer in zip(missing, ran, strict=True):
                answers[i] = answer
                if answer.probabilities is not None:
                    cache.put(keys[i], answer.probabilities)
        return answers


def _record(loaded: LoadedVersion, answers: list[Answer]) -> list[Answer]:
    """The same answers, after recording them in metrics and traces."""
    loaded.counts.answered(answers)
    if span := CURRENT.get():
        span.note(model=loaded.model, version=loaded.version, images=len(answers))
        span.stages(max(answers, key=lambda answer: answer.compute_at + answer.compute_s))
    return answers


def top(probabilities: Float32Array, k: int) -> list[int]:
    """Indices of the `k` largest, largest first; ties in the order of the labels."""
    order = np.argsort(-probabilities, kind="stable")
    return [int(i) for i in order[:k]]
