"""Classifies images over gRPC: `Client` is synchronous, `AsyncClient` is for asyncio."""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import grpc

from unfreeze.channel import (
    OPTIONS,
    UNCHECKED_OPTIONS,
    RetryPolicy,
    connect,
    connect_async,
    no_server_is_healthy,
)
from unfreeze.errors import RequestTooLarge, Unavailable, call_error
from unfreeze.predictions import (
    Chunk,
    Image,
    PendingChunk,
    Prediction,
    RequestLimits,
    RequestOptions,
    chunks,
)
from unfreeze.trace_context import Metadata, trace_metadata
from unfreeze.v1 import classifier_pb2, classifier_pb2_grpc

TIMEOUT_S = 60.0
# About three seconds of backoff: a server that was never there is reported soon.
ATTEMPTS = 6
CONCURRENT_REQUESTS = 4


class Client:
    """A connection to one or more servers. Thread-safe; close it after use.

    Classification is idempotent, so a request is retried, with exponential backoff, when a server
    cannot be reached, is overloaded or goes away during the call.
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        attempts: int = ATTEMPTS,
        concurrent_requests: int = CONCURRENT_REQUESTS,
    ) -> None:
        """No connection is made before the first call.

        Args:
            address: `host:port`; requests go round-robin to every address the name resolves to.
            credentials: for TLS; without them nothing is encrypted.
            attempts: how often to send a request at most; a server that is overloaded, or has
                answered this client before, is retried until the deadline.
            concurrent_requests: how many requests one `classify` has in flight at a time.
        """
        self.address = address
        self._attempts = attempts
        self._concurrent_requests = concurrent_requests
        self._limits = RequestLimits()
        self._answered = False
        self._closed = False
        self._channel = connect(address, credentials, OPTIONS)
        self._stub = classifier_pb2_grpc.ClassifierStub(self._channel)
        self._unchecked_channel = connect(address, credentials, UNCHECKED_OPTIONS)
        self._unchecked_stub = classifier_pb2_grpc.ClassifierStub(self._unchecked_channel)

    def classify(
        self,
        images: Image | Iterable[Image],
        *,
        model: str,
        version: int | None = None,
        top_k: int | None = None,
        tta_views: int | None = None,
        priority: int = 0,
        timeout_s: float = TIMEOUT_S,
    ) -> list[Prediction]:
        """One prediction per image, in order.

        An image that cannot be used does not fail the others: its prediction carries an `error`,
        which `prediction.label` raises.

        Args:
            images: one or more paths or encoded images (JPEG, PNG, WebP). They are sent in requests
                of at most 32 images and 16 MiB, or less if a server refuses that much, and images
                that it refuses because those before them had too many pixels in another; each
                request is answered by a single version.
            version: None: the version that is promoted when a request arrives.
            top_k: how many labels to return per image; None: 5, and of a multi-label model every
                other label that is chosen.
            tta_views: views to average (test-time augmentation), 0 or 1 for none; None: the model's
                default.
            priority: 1 is answered before 2, and 2 before 3; 0 means 2.
            timeout_s: for each request, including its retries; a day at most.

        Raises:
            UnfreezeClientError: a request failed as a whole, e.g. there is no such model.
        """
        each = self.classify_each(
            images,
            model=model,
            version=version,
            top_k=top_k,
            tta_views=tta_views,
            priority=priority,
            timeout_s=timeout_s,
        )
        return list(each)

    def classify_each(
        self,
        images: Image | Iterable[Image],
        *,
        model: str,
        version: int | None = None,
        top_k: int | None = None,
        tta_views: int | None = None,
        priority: int = 0,
        timeout_s: float = TIMEOUT_S,
    ) -> Iterator[Prediction]:
        """As `classify`, but yields each prediction as soon as all before it have arrived, and
        reads only a few requests ahead, so `images` may be of any length."""
        options = RequestOptions(model, version, top_k, tta_views, priority)
        trace = trace_metadata()  # here, because the worker threads do not have the context
        pool = ThreadPoolExecutor(self._concurrent_requests, "unfreeze-client")
        asked: deque[Future[list[Prediction]]] = deque()
        try:
            for chunk in chunks(images):
                asked.append(pool.submit(self._ask, options, chunk, timeout_s, trace))
                while asked and (asked[0].done() or len(asked) > 2 * self._concurrent_requests):
                    yield from asked.popleft().result()
            while asked:
                yield from asked.popleft().result()
        finally:
            # do not wait: an interrupt takes effect at once, and `close` ends calls in flight
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(
        self, options: RequestOptions, chunk: Chunk, timeout_s: float, trace: Metadata | None
    ) -> list[Prediction]:
        pending = PendingChunk(options, chunk, chunk.read(), self._limits)
        while request := pending.request():
            try:
                pending.add(self._call(request, timeout_s, trace))
            except RequestTooLarge as refusal:
                pending.refused(refusal)
        return pending.predictions()

    def _call(
        self, request: classifier_pb2.ClassifyRequest, timeout_s: float, trace: Metadata | None
    ) -> classifier_pb2.ClassifyResponse:
        retries = RetryPolicy(self.address, timeout_s, self._attempts)
        stub = self._stub
        while True:
            try:
                left_s = retries.remaining_s()
                response = stub.Classify(request, timeout=left_s, metadata=trace)
                self._answered = True
                return response
            except grpc.RpcError as failed:
                if stub is self._stub and no_server_is_healthy(failed):
                    stub = self._unchecked_stub
                    continue
                stub = self._stub
                pause_s = retries.pause_s(
                    failed, answered_before=self._answered, cancelled_here=self._closed
                )
                time.sleep(pause_s)
                if self._closed:
                    raise call_error(failed, self.address) from failed

    def close(self) -> None:
        """Closes the connection; calls in flight fail."""
        self._closed = True
        self._channel.close()
        self._unchecked_channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """`Client` for asyncio: `classify` has the same arguments, results and errors."""

    def __init__(
        self,
        address: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        attempts: int = ATTEMPTS,
        concurrent_requests: int = CONCURRENT_REQUESTS,
    ) -> None:
        """Create it inside a running event loop; for the arguments see `Client`."""
        self.address = address
        self._attempts = attempts
        self._concurrent_requests = concurrent_requests
        self._limits = RequestLimits()
        self._answered = False
        self._closed = False
        self._channel = connect_async(address, credentials, OPTIONS)
        self._stub = classifier_pb2_grpc.ClassifierStub(self._channel)
        self._unchecked_channel = connect_async(address, credentials, UNCHECKED_OPTIONS)
        self._unchecked_stub = classifier_pb2_grpc.ClassifierStub(self._unchecked_channel)

    async def classify(
        self,
        images: Image | Iterable[Image],
        *,
        model: str,
        version: int | None = None,
        top_k: int | None = None,
        tta_views: int | None = None,
        priority: int = 0,
        timeout_s: float = TIMEOUT_S,
    ) -> list[Prediction]:
        """One prediction per image, in order; see `Client.classify`."""
        options = RequestOptions(model, version, top_k, tta_views, priority)
        slots = asyncio.Semaphore(self._concurrent_requests)

        async def ask(chunk: Chunk) -> list[Prediction]:
            async with slots:
                return await self._ask(options, chunk, timeout_s)

        tasks = [asyncio.create_task(ask(chunk)) for chunk in chunks(images)]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()  # when one has failed, leave none of the others running
        return [prediction for some in answers for prediction in some]

    async def _ask(
        self, options: RequestOptions, chunk: Chunk, timeout_s: float
    ) -> list[Prediction]:
        pending = PendingChunk(options, chunk, await asyncio.to_thread(chunk.read), self._limits)
        while request := pending.request():
            try:
                pending.add(await self._call(request, timeout_s))
            except RequestTooLarge as refusal:
                pending.refused(refusal)
        return pending.predictions()

    async def _call(
        self, request: classifier_pb2.ClassifyRequest, timeout_s: float
    ) -> classifier_pb2.ClassifyResponse:
        retries = RetryPolicy(self.address, timeout_s, self._attempts)
        stub = self._stub
        while True:
            try:
                left_s = retries.remaining_s()
                response = await stub.Classify(request, timeout=left_s, metadata=trace_metadata())
                self._answered = True
                return response
            except asyncio.CancelledError:  # also when `close` ends the call
                task = asyncio.current_task()
                if self._closed and task and not task.cancelling():
                    raise Unavailable(f"{self.address}: this client was closed") from None
                raise
            except grpc.RpcError as failed:
                if stub is self._stub and no_server_is_healthy(failed):
                    stub = self._unchecked_stub
                    continue
                stub = self._stub
                pause_s = retries.pause_s(
                    failed, answered_before=self._answered, cancelled_here=self._closed
                )
                await asyncio.sleep(pause_s)
                if self._closed:
                    raise call_error(failed, self.address) from failed

    async def close(self) -> None:
        """Closes the connection; calls in flight fail."""
        self._closed = True
        await self._channel.close(None)
        await self._unchecked_channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
