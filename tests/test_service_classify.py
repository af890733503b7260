"""Requests and what is answered: the happy path and every bad input."""

import asyncio
import io
import struct
import zlib

import grpc
import numpy as np
import pytest
import tiny
from conftest import RunningServer, Start, best
from PIL import Image

from registry.errors import RequestFull
from registry.images import ImageSpec, prepare
from registry.tta import TtaSpec, tta_views
from service.predict import MAX_REQUEST_PIXELS, PixelBudget
from unfreeze import AsyncClient, Client, Prediction
from unfreeze.v1 import classifier_pb2 as pb


def code_and_details(server: RunningServer, request: pb.ClassifyRequest) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        server.classifier.Classify(request, timeout=20)
    return caught.value.code().name, caught.value.details()


def test_each_image_is_named_by_its_colour(server: RunningServer) -> None:
    response = server.classify(
        *(tiny.picture(colour) for colour in ("red", "green", "blue")), request_id="mine"
    )
    assert best(response) == ["red", "green", "blue"]
    assert (response.model, response.version, response.request_id) == ("colours", 1, "mine")
    assert response.timings.total_ms >= response.timings.decode_ms > 0
    assert response.timings.compute_ms > 0


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_every_format_is_read(server: RunningServer, format: str) -> None:
    assert best(server.classify(tiny.picture("green", format=format))) == ["green"]


def test_top_k_labels_come_most_probable_first(server: RunningServer) -> None:
    labels = server.classify(tiny.noise(3), top_k=2).results[0].prediction.labels
    assert len(labels) == 2
    assert labels[0].probability >= labels[1].probability
    assert [label.chosen for label in labels] == [True, False]


def test_served_probabilities_equal_offline_ones(server: RunningServer) -> None:
    image = tiny.noise(5)
    expected = tiny.answer(prepare(image, ImageSpec(size=tiny.SIZE))[None])[0]
    labels = server.classify(image).results[0].prediction.labels
    served = {label.index: label.probability for label in labels}
    np.testing.assert_allclose([served[i] for i in range(3)], expected, atol=1e-6)


@pytest.mark.parametrize("n_views", [1, 2, 5, 32])
def test_served_tta_equals_the_offline_mean(server: RunningServer, n_views: int) -> None:
    image = tiny.noise(7)
    views = tta_views(prepare(image, ImageSpec(size=tiny.SIZE)), image, TtaSpec(), n_views)
    expected = tiny.answer(views).mean(axis=0)
    labels = server.classify(image, tta_views=n_views).results[0].prediction.labels
    served = {label.index: label.probability for label in labels}
    np.testing.assert_allclose([served[i] for i in range(3)], expected, atol=1e-6)


def test_the_bundles_own_views_are_the_default(start: Start, root) -> None:
    spec = TtaSpec(default_views=4, symmetries="dihedral", max_zoom=2, lighting=0.5)
    tiny.publish(root, promote=True, tta=spec)
    server = start()
    image = tiny.noise(9)
    plain, default, four = (
        server.classify(image, **fields).results[0]
        for fields in ({"tta_views": 1}, {}, {"tta_views": 4})
    )
    assert default == four
    assert default != plain


def test_multi_label_models_choose_by_threshold(start: Start, root) -> None:
    tiny.publish(root, promote=True, task="multi", bias=(-2.0, -2.0, -2.0))
    labels = start().classify(tiny.picture("white")).results[0].prediction.labels
    assert [label.chosen for label in labels] == [True, True, True]


def test_every_label_that_is_chosen_is_returned_unless_fewer_are_asked_for(
    start: Start, root
) -> None:
    names = tuple(f"kind {number}" for number in range(8))
    tiny.publish(root, promote=True, task="multi", labels=names, bias=(3.0,) * 7 + (-99.0,))
    server = start()
    labels = server.classify(tiny.picture("white")).results[0].prediction.labels
    assert sorted(label.index for label in labels) == list(range(7))
    assert all(label.chosen for label in labels)
    assert [label.probability for label in labels] == sorted(
        (label.probability for label in labels), reverse=True
    )
    assert len(server.classify(tiny.noise(1), top_k=2).results[0].prediction.labels) == 2


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 10) + b"IDAT"


BAD_IMAGES = {
    "empty": (b"", "empty: 0 bytes"),
    "text": (b"just some text", "not an image: 14 bytes that begin with b'just some te'"),
    "truncated": (tiny.noise(1, (200, 200), "JPEG")[:2000], "truncated or damaged JPEG"),
    "bomb": (png_header(50_000, 50_000), "too many pixels, the limit is 100000000"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_gets_its_error_and_the_others_their_labels(
    server: RunningServer, name: str
) -> None:
    content, message = BAD_IMAGES[name]
    response = server.classify(tiny.picture("red"), content, tiny.picture("blue"))
    first, bad, last = response.results
    assert (bad.error.code, message in bad.error.message) == (3, True), bad.error.message
    assert first.prediction.labels[0].name == "red"
    assert last.prediction.labels[0].name == "blue"


def test_images_beyond_the_pixels_of_a_request_are_refused_and_the_others_answered(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.predict.MAX_REQUEST_PIXELS", 2 * 32 * 24)
    results = server.classify(*[tiny.picture("green")] * 6).results
    errors = [one.error.message for one in results if one.HasField("error")]
    wrong = "the images of this request have more than 1536 pixels in total; send this one in"
    assert errors == [f"{wrong} another request"] * 3
    assert [one.error.send_in_another_request for one in results].count(True) == 3
    assert best(server.classify(tiny.picture("blue", size=(640, 480)))) == ["blue"]


async def ask_async(server: RunningServer, images: list[bytes]) -> list[Prediction]:
    async with AsyncClient(server.address) as client:
        return await client.classify(images, model="colours")


@pytest.mark.parametrize("client", ["Client", "AsyncClient"])
def test_the_clients_send_images_beyond_the_pixels_of_a_request_again(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    monkeypatch.setattr("service.predict.MAX_REQUEST_PIXELS", 2 * 32 * 24)
    colours = ["red", "green", "blue"] * 3
    images = [tiny.picture(colour) for colour in colours] + [b"bad"]
    if client == "Client":
        with Client(server.address) as asked:
            answers = asked.classify(images, model="colours")
    else:
        answers = asyncio.run(ask_async(server, images))
    assert [answer.label.name for answer in answers[:-1]] == colours
    assert "not an image" in str(answers[-1].error)


def test_an_image_that_is_drawn_for_two_versions_counts_once() -> None:
    budget = PixelBudget()
    for image, n_pixels in ((0, MAX_REQUEST_PIXELS), (0, MAX_REQUEST_PIXELS), (1, 1), (1, 1)):
        budget.admit(image, n_pixels)
    with pytest.raises(RequestFull, match="send this one in another"):
        budget.admit(2, 1)


def test_unusual_images_are_answered(server: RunningServer) -> None:
    red = Image.new("RGB", (30, 20), (255, 0, 0))
    palette = red.convert("RGBA").quantize(4)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    images = [
        tiny.encode(red.convert("CMYK"), "JPEG"),
        tiny.encode(palette, "PNG", transparency=1),
        tiny.encode(red, "JPEG", exif=rotated),
    ]
    assert best(server.classify(*images)) == ["red", "red", "red"]
    deep = io.BytesIO()
    Image.fromarray(np.full((20, 30), 60_000, np.uint16)).save(deep, "PNG")
    assert not server.classify(deep.getvalue()).results[0].HasField("error")


BAD_REQUESTS = {
    "unknown model": (
        {"model": "solar"},
        "NOT_FOUND",
        "no promoted version of a model 'solar'; models served: colours",
    ),
    "unknown version": (
        {"version": 9},
        "NOT_FOUND",
        "no version 9 of colours; published: 1",
    ),
    "unknown model with version": ({"model": "solar", "version": 1}, "NOT_FOUND", "no version 1"),
    "version 0": ({"version": 0}, "NOT_FOUND", "no version 0 of colours; published: 1"),
    "path as model": (
        {"model": "../etc", "version": 1},
        "INVALID_ARGUMENT",
        "'../etc' is not a valid model name",
    ),
    "top_k 0": (
        {"top_k": 0},
        "INVALID_ARGUMENT",
        "top_k is 0, but colours has 3 classes; use 1 to 3, or leave it out",
    ),
    "top_k above": ({"top_k": 4}, "INVALID_ARGUMENT", "top_k is 4, but colours has 3 classes"),
    "no images": ({"images": []}, "INVALID_ARGUMENT", "no images; send at least one"),
    "1000 images": (
        {"images": [b"x"] * 1000},
        "INVALID_ARGUMENT",
        "1000 images in one request, and the limit is 128; send several requests",
    ),
    "views": ({"tta_views": 33}, "INVALID_ARGUMENT", "tta_views is 33; use at most 32"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_explained_and_the_service_goes_on(
    server: RunningServer, name: str
) -> None:
    fields, code, message = BAD_REQUESTS[name]
    good = {"model": "colours", "images": [tiny.picture()]}
    got_code, details = code_and_details(server, pb.ClassifyRequest(**(good | fields)))
    assert got_code == code
    assert message in details
    assert best(server.classify(tiny.picture("green"))) == ["green"]


def test_a_message_over_the_limit_is_refused(start: Start, root) -> None:
    tiny.publish(root, promote=True)
    server = start(max_message_mb=1)
    request = pb.ClassifyRequest(model="colours", images=[b"x" * 2_000_000])
    assert code_and_details(server, request)[0] == "RESOURCE_EXHAUSTED"
    assert best(server.classify(tiny.picture("green"))) == ["green"]


def test_a_version_can_be_asked_for_by_number(server: RunningServer, root) -> None:
    versions = [tiny.publish(root, bias=(0.0, 9.0, 0.0)) for _ in range(4)]
    assert best(server.classify(tiny.picture("red"))) == ["red"]
    for version in (*versions, *versions, 1):
        response = server.classify(tiny.picture("red"), version=version)
        assert response.version == version
        assert best(response) == ["red" if version == 1 else "green"]


def test_a_damaged_version_asked_for_by_number_is_unavailable(server: RunningServer, root) -> None:
    version = tiny.publish(root)
    (root / "colours" / str(version) / "model.onnx").write_bytes(b"damaged")
    request = pb.ClassifyRequest(model="colours", version=version, images=[tiny.picture()])
    code, details = code_and_details(server, request)
    assert code == "UNAVAILABLE"
    assert "model.onnx differs from bundle.json; publish again" in details


def test_an_empty_registry_is_a_ready_server(start: Start, root) -> None:
    server = start()
    request = pb.ClassifyRequest(model="colours", images=[tiny.picture()])
    assert code_and_details(server, request)[0] == "NOT_FOUND"
    tiny.publish(root, promote=True)
    server.refresh()
    assert best(server.classify(tiny.picture("blue"))) == ["blue"]
