"""Well-behaved clients: every request must be answered, and answered correctly.

Each function makes one request and returns the number of images answered, by version; it raises if
anything is wrong.
"""

import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from load.truth import GOOD, VERSIONS, pictures, wrong
from unfreeze import AsyncClient
from unfreeze.v1 import classifier_pb2 as pb
from unfreeze.v1 import classifier_pb2_grpc as pb_grpc

TIMEOUT_S = 60.0
STREAM_LENGTH = 20
LABELS = ("red", "green", "blue")
Answered = dict[int, int]  # images, by version


class WrongAnswer(Exception):
    """A reply that does not match the version that it names."""


class Good:
    """Speaks `unfreeze.v1` to one server over one connection, without retries."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.aio.insecure_channel(address)
        self.stub = pb_grpc.ClassifierStub(self.channel)
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)
        self.client = AsyncClient(address)

    async def close(self) -> None:
        await self.client.close()
        await self.channel.close()

    async def unary(self) -> Answered:
        return await self._ask([any_picture()])

    async def many(self) -> Answered:
        return await self._ask([any_picture() for _ in range(random.randint(2, 16))])

    async def tta(self) -> Answered:
        return await self._ask([any_picture()], n_views=random.randint(2, 6))

    async def pinned(self) -> Answered:
        return await self._ask([any_picture()], version=random.choice(VERSIONS))

    async def _ask(
        self, numbers: list[int], n_views: int = 1, version: int | None = None
    ) -> Answered:
        request = ask(numbers, n_views, version)
        response = await self.stub.Classify(request, timeout=TIMEOUT_S)
        check(response, numbers, n_views)
        if version is not None and response.version != version:
            raise WrongAnswer(f"version {version} was asked and {response.version} answered")
        return {response.version: len(numbers)}

    async def stream(self) -> Answered:
        asked = [[any_picture() for _ in range(random.randint(1, 3))] for _ in range(STREAM_LENGTH)]
        requests = (ask(numbers, request_id=str(i)) for i, numbers in enumerate(asked))
        answered: Counter[int] = Counter()
        n_replies = 0
        async for reply in self.stub.ClassifyStream(requests, timeout=TIMEOUT_S):
            if reply.HasField("error") or reply.request_id != str(n_replies):
                raise WrongAnswer(f"reply {n_replies} of a stream: {reply}")
            check(reply.response, asked[n_replies])
            answered[reply.response.version] += len(asked[n_replies])
            n_replies += 1
        if n_replies != len(asked):
            raise WrongAnswer(f"{n_replies} replies to {len(asked)} requests of a stream")
        return answered

    async def library(self) -> Answered:
        """Through `unfreeze.AsyncClient`: forty images, in requests of at most 32."""
        numbers = [any_picture() for _ in range(40)]
        given = [pictures()[number].encoded for number in numbers]
        answered: Counter[int] = Counter()
        for number, found in zip(
            numbers, await self.client.classify(given, model=GOOD), strict=True
        ):
            if found.version is None:
                raise WrongAnswer(f"image {number} was not answered: {found.error}")
            by_name = {label.name: label.probability for label in found.labels}
            _right([number], found.version, [[by_name[name] for name in LABELS]])
            answered[found.version] += 1
        return answered

    async def health_check(self) -> Answered:
        request = health_pb2.HealthCheckRequest(service=GOOD)
        _serving(await self.health.Check(request, timeout=TIMEOUT_S))
        return {}

    async def health_watch(self) -> Answered:
        """Watches the health for a while; the server must never report not serving."""
        watch = self.health.Watch(health_pb2.HealthCheckRequest(), timeout=random.uniform(1, 5))
        try:
            async for status in watch:
                _serving(status)
        except grpc.RpcError as error:
            # at the deadline the server ends the watch too, and perhaps an aged connection with it
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED and not has_aged(error):
                raise
        return {}


def has_aged(error: grpc.RpcError) -> bool:
    """Whether the call ended because its connection had reached its maximum age: no fault of the
    server's where the client itself keeps a call open, or gives up on it, at that moment."""
    return "max_age" in (error.details() or "")


def any_picture() -> int:
    return random.randrange(len(pictures()))


def ask(
    numbers: Iterable[int], n_views: int = 1, version: int | None = None, request_id: str = ""
) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(
        model=GOOD,
        images=[pictures()[number].encoded for number in numbers],
        tta_views=n_views,
        version=version,
        request_id=request_id,
    )


def check(response: pb.ClassifyResponse, numbers: list[int], n_views: int = 1) -> None:
    """Checks that every image has the probabilities of the version named in the reply."""
    answers = []
    for result in response.results:
        if result.HasField("error"):
            raise WrongAnswer(f"a good image was refused: {result.error.message}")
        by_index = {label.index: label.probability for label in result.prediction.labels}
        answers.append([by_index[i] for i in sorted(by_index)])
    _right(numbers, response.version, answers, n_views)


def _right(numbers: list[int], version: int, answers: list[list[float]], n_views: int = 1) -> None:
    if problem := wrong(numbers, version, answers, n_views):
        raise WrongAnswer(problem)


def _serving(reply: health_pb2.HealthCheckResponse) -> None:
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise WrongAnswer(f"health says {reply.status}")
