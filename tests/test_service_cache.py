"""Answers that are remembered."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import tiny
from conftest import Start, best
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from service.cache import Cache

MADE = datetime(2026, 3, 1, tzinfo=UTC)


def keep(cache: Cache, *contents: bytes) -> None:
    for content in contents:
        cache.put(cache.key("m", 1, MADE, 1, content), np.zeros(3, np.float32))


def test_the_answer_not_asked_for_the_longest_is_forgotten() -> None:
    cache = Cache(2)
    keep(cache, b"a", b"b")
    assert cache.get(cache.key("m", 1, MADE, 1, b"a")) is not None
    keep(cache, b"c")
    keys = [cache.key("m", 1, MADE, 1, one) for one in (b"a", b"b", b"c")]
    assert [cache.get(key) is not None for key in keys] == [True, False, True]
    assert len(cache) == 2


def test_an_answer_belongs_to_its_version_and_its_views() -> None:
    cache = Cache(9)
    keep(cache, b"a")
    for other in (
        ("n", 1, MADE, 1, b"a"),
        ("m", 2, MADE, 1, b"a"),
        ("m", 1, MADE + timedelta(seconds=1), 1, b"a"),
        ("m", 1, MADE, 4, b"a"),
        ("m", 1, MADE, 1, b"b"),
    ):
        assert cache.get(cache.key(*other)) is None


def test_a_repeated_image_is_answered_alike_without_a_run(start: Start, root) -> None:
    tiny.publish(root, promote=True)
    server = start(cache_entries=10)
    pictures = tiny.noise(1), tiny.noise(2)
    first = server.classify(*pictures)
    again = server.classify(*pictures, tiny.noise(3))
    assert list(again.results)[:2] == list(first.results)
    assert again.results[2] not in first.results
    assert 'unfreeze_batch_size_sum{model="colours"} 3.0' in server.metrics()


def test_bad_images_are_not_remembered_as_answers(start: Start, root) -> None:
    tiny.publish(root, promote=True)
    server = start(cache_entries=10)
    for _ in range(2):
        bad, good = server.classify(b"bad", tiny.picture()).results
        assert bad.error.message
        assert good.prediction.labels


def test_pixels_are_not_taken_for_an_image_of_the_same_bytes(start: Start, root) -> None:
    tiny.publish(root, promote=True)
    server = start(cache_entries=10)
    n_bytes = tiny.SIZE * tiny.SIZE * 3
    both = tiny.picture("red", format="PNG").ljust(
        n_bytes, b"\0"
    )  # what follows a PNG is passed over
    assert len(both) == n_bytes
    pixels = np.frombuffer(both, np.uint8).reshape(1, tiny.SIZE, tiny.SIZE, 3)
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="image", datatype="UINT8", shape=pixels.shape
    )
    request = pb.ModelInferRequest(
        model_name="colours-tensor", inputs=[tensor], raw_input_contents=[both]
    )
    (answer,) = (
        pb_grpc.GRPCInferenceServiceStub(server.channel).ModelInfer(request).raw_output_contents
    )
    np.testing.assert_allclose(np.frombuffer(answer, np.float32), tiny.answer(pixels)[0], atol=1e-6)
    red = server.classify(both).results[0].prediction.labels[0]
    assert (red.name, red.probability > 0.9) == ("red", True)


def test_a_model_whose_folder_was_copied_answers_by_its_own_name(start: Start, root: Path) -> None:
    tiny.publish(root, bias=(9, 0, 0), promote=True)
    tiny.publish(root, bias=(0, 9, 0))
    shutil.copytree(root / "colours" / "2", root / "copied" / "1")
    server = start(cache_entries=10)
    server.registry.promote("copied", 1, by="test", reason="")
    server.refresh()
    assert best(server.classify(tiny.picture("white"))) == ["red"]
    assert best(server.classify(tiny.picture("white"), model="copied")) == ["green"]
    assert 'unfreeze_images_total{model="copied",outcome="ok",version="1"} 1.0' in server.metrics()
