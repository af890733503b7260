"""What is long in the event loop leaves other calls their turns, health checks among them."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import tiny
from tritonclient.grpc import service_pb2 as triton_pb

from service.classifier import LABELS_AT_ONCE, add_results
from service.execution.work import Answer
from service.oip.tensors import (
    CLASSES_AT_ONCE,
    NUMBERS_AT_ONCE,
    classification_output,
    read_pixels,
)
from unfreeze.v1 import classifier_pb2 as pb

N_IMAGES = 8


async def turns_of_another(work: Coroutine[Any, Any, Any]) -> tuple[Any, int]:
    """What this gives, and how often another task had its turn meanwhile."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    result = await work
    beside.cancel()
    return result, turns


def typed(pixels: Any) -> Any:
    tensor = triton_pb.ModelInferRequest.InferInputTensor(
        name="image",
        datatype="UINT8",
        shape=pixels.shape,
        contents=triton_pb.InferTensorContents(uint_contents=pixels.tobytes()),
    )
    return triton_pb.ModelInferRequest(inputs=[tensor])


async def test_typed_pixels_are_read_in_slices() -> None:
    size = 192
    pixels = np.random.default_rng(0).integers(0, 256, (N_IMAGES, size, size, 3), np.uint8)
    read, turns = await turns_of_another(read_pixels(typed(pixels), size, N_IMAGES))
    assert (read == pixels).all()
    assert turns == (pixels.size - 1) // NUMBERS_AT_ONCE > 10


async def test_a_few_typed_pixels_are_read_at_once() -> None:
    pixels = np.zeros((1, tiny.SIZE, tiny.SIZE, 3), np.uint8)
    _, turns = await turns_of_another(read_pixels(typed(pixels), tiny.SIZE, 1))
    assert turns == 0


async def test_long_classifications_are_written_in_slices() -> None:
    labels = [f"class {i}" for i in range(CLASSES_AT_ONCE // 2)]
    answers = [np.linspace(0, 1, len(labels), dtype=np.float32)] * N_IMAGES
    (tensor, _), turns = await turns_of_another(classification_output(answers, len(labels), labels))
    assert list(tensor.shape) == [N_IMAGES, len(labels)]
    assert turns == N_IMAGES // 2 - 1
    _, turns = await turns_of_another(classification_output(answers, 5, labels))
    assert turns == 0


async def test_many_labels_are_written_in_slices(tmp_path: Path) -> None:
    labels = [f"class {i}" for i in range(LABELS_AT_ONCE)]
    bundle = tiny.stage(tmp_path / "bundle", labels=labels, bias=[0.0] * len(labels))
    answers = [Answer(np.linspace(0, 1, len(labels), dtype=np.float32))] * N_IMAGES
    for k, expected in ((len(labels), N_IMAGES - 1), (5, 0)):
        response = pb.ClassifyResponse()
        _, turns = await turns_of_another(add_results(response, answers, bundle, k))
        assert [len(one.prediction.labels) for one in response.results] == [k] * N_IMAGES
        assert turns == expected
