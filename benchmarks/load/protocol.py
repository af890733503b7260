"""Good clients that speak the Open Inference Protocol, through Triton's own library."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import np_to_triton_dtype

from load.good import Answered, WrongAnswer, any_picture
from load.truth import GOOD, VERSIONS, pictures, wrong

TIMEOUT_S = 60.0
STREAM_LENGTH = 10


class Protocol:
    def __init__(self, address: str) -> None:
        self.client = triton.InferenceServerClient(address)

    async def close(self) -> None:
        await self.client.close()

    async def infer(self) -> Answered:
        """Sends encoded images, sometimes with TTA, sometimes to a given version."""
        numbers = [any_picture() for _ in range(random.randint(1, 4))]
        n_views = random.choice([1, 1, 3])
        version = random.choice([None, *VERSIONS])
        result = await self.client.infer(
            GOOD,
            encoded(numbers),
            model_version=str(version or ""),
            parameters={"tta_views": n_views},
            client_timeout=TIMEOUT_S,
        )
        answered = check(result, numbers, n_views)
        if version and version not in answered:
            raise WrongAnswer(f"version {version} was asked and {answered} answered")
        return answered

    async def tensor(self) -> Answered:
        """Sends pixels at the model's input size."""
        numbers = [any_picture() for _ in range(random.randint(1, 4))]
        pixels = np.stack([pictures()[number].pixels for number in numbers])
        tensor = f"{GOOD}-tensor"
        result = await self.client.infer(tensor, [_input(pixels)], client_timeout=TIMEOUT_S)
        return check(result, numbers)

    async def stream(self) -> Answered:
        asked = [[any_picture()] for _ in range(STREAM_LENGTH)]

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for i, numbers in enumerate(asked):
                yield {"model_name": GOOD, "inputs": encoded(numbers), "request_id": str(i)}

        answered: Counter[int] = Counter()
        n_replies = 0
        async for result, error in self.client.stream_infer(requests(), stream_timeout=TIMEOUT_S):
            if error or result.get_response().id != str(n_replies):
                raise WrongAnswer(f"reply {n_replies} of a stream: {error or result}")
            answered.update(check(result, asked[n_replies]))
            n_replies += 1
        if n_replies != len(asked):
            raise WrongAnswer(f"{n_replies} replies to {len(asked)} requests of a stream")
        return answered

    async def metadata(self) -> Answered:
        """Makes the calls that a client makes before its first request."""
        ready, live, found = await asyncio.gather(
            self.client.is_model_ready(GOOD),
            self.client.is_server_live(),
            self.client.get_model_metadata(GOOD),
        )
        if not (ready and live and found.name == GOOD):
            raise WrongAnswer(f"ready {ready}, live {live}, metadata {found}")
        return {}


def encoded(numbers: list[int]) -> list[triton.InferInput]:
    files = [[pictures()[number].encoded] for number in numbers]
    return [_input(np.array(files, dtype=object))]


def check(result: Any, numbers: list[int], n_views: int = 1) -> Answered:
    version = int(result.get_response().model_version)
    if problem := wrong(numbers, version, result.as_numpy("probabilities").tolist(), n_views):
        raise WrongAnswer(problem)
    return {version: len(numbers)}


def _input(values: Any) -> triton.InferInput:
    tensor = triton.InferInput("image", values.shape, np_to_triton_dtype(values.dtype))
    tensor.set_data_from_numpy(values)
    return tensor
