"""What the real `tritonclient` sees of a server, in a process of its own.

Arguments: address, address of the administrative listener. Prints {case: value, or {"status",
"message"} of the error that the client raised}, as JSON.
"""

import asyncio
import io
import json
import queue
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.json_format import MessageToDict
from PIL import Image
from tritonclient.utils import InferenceServerException

SIZE = 8
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)

CASES: dict[str, Callable[[], Any]] = {}
address, admin_address = sys.argv[1:3]
client = triton.InferenceServerClient(address)
admin = triton.InferenceServerClient(admin_address)


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    CASES[function.__name__] = function
    return function


def picture(colour: tuple[int, int, int], format: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (20, 10), colour).save(content, format)
    return content.getvalue()


def images(*encoded: bytes) -> list[Any]:
    tensor = triton.InferInput("image", [len(encoded), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(encoded, dtype=np.object_).reshape(-1, 1))
    return [tensor]


def pixels(*colours: tuple[int, int, int]) -> list[Any]:
    array = np.stack([np.full((SIZE, SIZE, 3), colour, np.uint8) for colour in colours])
    tensor = triton.InferInput("image", array.shape, "UINT8")
    tensor.set_data_from_numpy(array)
    return [tensor]


def wanted(classes: int = 0) -> list[Any]:
    return [triton.InferRequestedOutput("probabilities", class_count=classes)]


def answer(result: Any) -> Any:
    """Everything that a response says."""
    response = result.get_response()
    values = result.as_numpy("probabilities")
    if values.dtype == np.object_:
        values = np.char.decode(values.astype(bytes))
    return {
        "id": response.id,
        "model": response.model_name,
        "version": response.model_version,
        "shape": list(values.shape),
        "values": values.tolist(),
        "raw": len(response.raw_output_contents),
    }


def as_dict(message: Any) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True)


# The server and its models


@case
def server_is_live() -> Any:
    return client.is_server_live()


@case
def server_is_ready() -> Any:
    return client.is_server_ready()


@case
def server_metadata() -> Any:
    return as_dict(client.get_server_metadata())


@case
def models_ready() -> Any:
    names = ("colours", "colours-tensor", "unknown", "", "../etc")
    asked = {name: client.is_model_ready(name) for name in names}
    return asked | {version: client.is_model_ready("colours", version) for version in ("1", "9")}


@case
def metadata() -> Any:
    return as_dict(client.get_model_metadata("colours"))


@case
def metadata_of_tensors() -> Any:
    return as_dict(client.get_model_metadata("colours-tensor"))


@case
def config() -> Any:
    return as_dict(client.get_model_config("colours"))["config"]


@case
def config_of_tensors() -> Any:
    return as_dict(client.get_model_config("colours-tensor"))["config"]


@case
def index() -> Any:
    return as_dict(client.get_model_repository_index())["models"]


# Inference


@case
def one_image() -> Any:
    return answer(client.infer("colours", images(picture(RED)), request_id="mine"))


@case
def several_images() -> Any:
    encoded = images(picture(RED), picture(GREEN, "JPEG"), picture(BLUE, "WEBP"))
    return answer(client.infer("colours", encoded, outputs=wanted()))


@case
def some_pixels() -> Any:
    return answer(client.infer("colours-tensor", pixels(RED, BLUE), model_version="1"))


@case
def two_classes() -> Any:
    return answer(client.infer("colours", images(picture(GREEN), picture(BLUE)), outputs=wanted(2)))


@case
def more_classes_than_there_are() -> Any:
    return answer(client.infer("colours-tensor", pixels(RED), outputs=wanted(99)))


@case
def no_classes() -> Any:
    return answer(client.infer("colours", images(picture(RED)), outputs=wanted(-1)))


@case
def views() -> Any:
    return answer(client.infer("colours", images(picture(RED)), parameters={"tta_views": 5}))


@case
def views_of_pixels() -> Any:
    return answer(client.infer("colours-tensor", pixels(RED), parameters={"tta_views": 5}))


@case
def too_many_views() -> Any:
    return answer(client.infer("colours", images(picture(RED)), parameters={"tta_views": 1000}))


@case
def priority_and_timeout() -> Any:
    return answer(client.infer("colours", images(picture(RED)), priority=1, timeout=10_000_000))


@case
def a_priority_beyond_the_levels() -> Any:
    return answer(client.infer("colours", images(picture(RED)), priority=77))


@case
def a_sequence() -> Any:
    options = {"sequence_id": 5, "sequence_start": True, "sequence_end": True}
    return answer(client.infer("colours", images(picture(RED)), **options))


@case
def custom_parameters() -> Any:
    parameters = {"text": "a", "flag": True, "number": 1, "fraction": 0.5}
    return answer(client.infer("colours", images(picture(RED)), parameters=parameters))


@case
def compressed() -> Any:
    return answer(client.infer("colours-tensor", pixels(RED), compression_algorithm="gzip"))


@case
def large_pixels() -> Any:
    """More than the 4 MB that a server takes when nobody tells it otherwise."""
    return answer(client.infer("wide-tensor", wide_pixels()))


def wide_pixels() -> list[Any]:
    array = np.zeros((100, 128, 128, 3), np.uint8)
    tensor = triton.InferInput("image", array.shape, "UINT8")
    tensor.set_data_from_numpy(array)
    return [tensor]


# What is wrong


@case
def unknown_model() -> Any:
    return answer(client.infer("unknown", images(picture(RED))))


@case
def unknown_version() -> Any:
    return answer(client.infer("colours", images(picture(RED)), model_version="9"))


@case
def version_in_words() -> Any:
    return answer(client.infer("colours", images(picture(RED)), model_version="latest"))


@case
def bad_image() -> Any:
    encoded = images(picture(RED), b"not an image", picture(BLUE), b"")
    return answer(client.infer("colours", encoded))


# Other ways to call


@case
def asynchronous() -> Any:
    done: queue.Queue[Any] = queue.Queue()
    for i in range(4):
        client.async_infer(
            "colours-tensor",
            pixels(RED),
            request_id=str(i),
            callback=lambda result, error: done.put((result, error)),
        )
    found = [done.get(timeout=20) for _ in range(4)]
    assert not any(error for _, error in found)
    return sorted(answer(result)["id"] for result, _ in found)


@case
def asyncio_client() -> Any:
    async def main() -> Any:
        async with triton_aio.InferenceServerClient(address) as other:
            live = await other.is_server_live()
            found = await asyncio.gather(
                *(other.infer("colours-tensor", pixels(RED), request_id=str(i)) for i in range(8))
            )
            return live, [answer(one)["id"] for one in found]

    return asyncio.run(main())


def streamed(*requests: tuple[str, list[Any]], headers: Any = None, **options: Any) -> list[Any]:
    """What a stream answered, in its order: the id of each answer, or the message of the error."""
    done: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(address) as streaming:
        streaming.start_stream(lambda result, error: done.put((result, error)), headers=headers)
        for i, (name, inputs) in enumerate(requests):
            streaming.async_stream_infer(name, inputs, request_id=str(i), **options)
        found = []
        while len(found) < len(requests):
            result, error = done.get(timeout=20)
            if error:
                found.append({"status": error.status(), "message": error.message()})
                if error.status():  # the stream has ended
                    break
            else:
                found.append(as_dict(result.get_response()))
    return found


def stream_requests() -> list[tuple[str, list[Any]]]:
    return [
        ("colours-tensor", pixels(RED)),
        ("colours", images(b"not an image")),
        ("unknown", pixels(RED)),
        ("colours", images(picture(RED), picture(GREEN))),
    ]


@case
def a_stream() -> Any:
    return streamed(*stream_requests())


@case
def a_stream_with_errors_as_status() -> Any:
    return streamed(*stream_requests(), headers={"triton_grpc_error": "true"})


@case
def a_stream_that_asks_for_ends() -> Any:
    one = ("colours-tensor", pixels(RED))
    return streamed(one, enable_empty_final_response=True)


@case
def a_long_stream() -> Any:
    found = streamed(*[("colours-tensor", pixels(RED))] * 40)
    return [one["id"] for one in found]


@case
def an_asyncio_stream() -> Any:
    async def requests() -> Any:
        for i in range(5):
            inputs = pixels(RED) if i != 2 else images(b"bad")
            name = "colours-tensor" if i != 2 else "colours"
            yield {"model_name": name, "inputs": inputs, "request_id": str(i)}

    async def main() -> Any:
        async with triton_aio.InferenceServerClient(address) as other:
            found = other.stream_infer(requests())
            return [(result and answer(result)["id"], bool(error)) async for result, error in found]

    return asyncio.run(main())


# Statistics


@case
def statistics() -> Any:
    """Three requests of four images that succeed and one that does not, before and after."""
    name = "counted-tensor"
    before = as_dict(client.get_inference_statistics(name))["model_stats"]
    for inputs in (pixels(RED, GREEN), pixels(RED), pixels(BLUE)):
        client.infer(name, inputs)
    outcome(lambda: client.infer(name, images(b"bad")))
    after = as_dict(client.get_inference_statistics(name))["model_stats"]
    return before, after


@case
def statistics_of_all() -> Any:
    found = as_dict(client.get_inference_statistics())["model_stats"]
    return sorted((one["name"], one["version"]) for one in found)


@case
def statistics_of_an_unknown_model() -> Any:
    return as_dict(client.get_inference_statistics("unknown"))


# Loading and unloading


@case
def loading_on_the_public_port() -> Any:
    return [outcome(lambda: client.load_model("spare")), outcome(lambda: client.unload_model("x"))]


@case
def inference_on_the_administrative_port() -> Any:
    return [
        outcome(lambda: admin.infer("spare-tensor", pixels(RED))),
        outcome(admin.is_server_live),
    ]


def spare() -> Any:
    """How `spare` stands: ready, and its rows of the index."""
    rows = as_dict(admin.get_model_repository_index())["models"]
    rows = [row for row in rows if row["name"].startswith("spare")]
    return {"ready": client.is_model_ready("spare-tensor"), "rows": rows}


@case
def unloading() -> Any:
    """Unload by one name, load again by the other."""
    admin.unload_model("spare")
    unloaded = spare()
    refused = outcome(lambda: client.infer("spare-tensor", pixels(RED)))
    by_number = outcome(lambda: client.infer("spare-tensor", pixels(RED), model_version="1"))
    admin.load_model("spare-tensor")
    loaded = spare()
    result = answer(client.infer("spare-tensor", pixels(RED)))
    return {
        "unloaded": unloaded,
        "refused": refused,
        "by_number": by_number,
        "loaded": loaded,
        "answer": result,
    }


@case
def loading_with_a_configuration() -> Any:
    return admin.load_model("spare", config='{"max_batch_size": 1}')


@case
def loading_with_files() -> Any:
    files = {"file:../../x": b"content"}
    return admin.load_model("spare", config="{}", files=files)


@case
def loading_what_is_not_there() -> Any:
    names = ("unknown", "../colours", "", "/etc", "never-promoted")
    return {name: outcome(lambda name=name: admin.load_model(name)) for name in names}


@case
def unloading_what_is_not_there() -> Any:
    return [admin.unload_model("unknown"), outcome(lambda: admin.unload_model("../x"))]


@case
def loading_what_is_broken() -> Any:
    found = outcome(lambda: admin.load_model("broken"))
    rows = as_dict(admin.get_model_repository_index())["models"]
    return found, [row for row in rows if row["name"] == "broken"]


@case
def loading_and_unloading_from_many_threads() -> Any:
    def infer(name: str) -> None:
        assert answer(client.infer(name, images(picture(RED))))["shape"] == [1, 3]

    acts = (admin.load_model, infer, admin.unload_model, infer)
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda i: outcome(lambda: acts[i % 4]("busy")), range(128)))
    admin.load_model("busy")
    return found, answer(client.infer("busy-tensor", pixels(RED)))


# Of a server that holds back its answers, so each is asked for by its name


def a_timeout_that_passes() -> Any:
    return outcome(lambda: client.infer("colours", images(picture(RED)), client_timeout=0.3))


def a_request_that_is_cancelled() -> Any:
    done: queue.Queue[Any] = queue.Queue()
    call = client.async_infer(
        "colours", images(picture(RED)), lambda result, error: done.put((result, error))
    )
    client.is_server_live()  # it has come after the request, over the same connection
    call.cancel()
    result, error = done.get(timeout=20)
    return result, error.status()


def a_full_queue() -> Any:
    try:
        client.infer("colours", images(picture(RED)))
    except InferenceServerException as error:
        refused = error.__context__  # which the client leaves out, and with it the metadata
        return error.status(), error.message(), dict(refused.trailing_metadata())


def unloading_what_answers() -> Any:
    admin.unload_model("colours")
    return client.is_model_ready("colours"), outcome(lambda: client.infer("colours", images(b"")))


# What is not offered


@case
def what_is_not_offered() -> Any:
    return [
        outcome(client.get_system_shared_memory_status),
        outcome(client.get_cuda_shared_memory_status),
        outcome(client.get_trace_settings),
        outcome(client.get_log_settings),
        outcome(lambda: client.register_system_shared_memory("a", "b", 1)),
    ]


def outcome(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}


if __name__ == "__main__":
    only = sys.argv[3:] or CASES
    print(json.dumps({name: outcome(CASES.get(name) or globals()[name]) for name in only}))
