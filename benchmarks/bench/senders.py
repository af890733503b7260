"""How the client sends requests: with `tritonclient`, or as bytes that were encoded once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import serialize_byte_tensor

from registry.images import Float32Array

METHOD = "/inference.GRPCInferenceService/ModelInfer"
INPUT, OUTPUT, OK = "image", "probabilities", "OK"
ANY_LENGTH = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]

# Takes the probabilities [n,classes], if there are any, and the status.
Answered = Callable[[Float32Array | None, str], None]
# Sends the request of this number, and passes its answer to the callback, in one of gRPC's threads.
Send = Callable[[int, Answered], None]
Parameters = Mapping[str, int]


def through_tritonclient(
    url: str,
    model: str,
    tensors: Sequence[Any],
    kind: str,
    parameters: Parameters,
    deadline_s: float,
) -> Send:
    """Builds each request as users do. Callbacks are the cheapest style."""
    client = triton.InferenceServerClient(url)
    inputs = [_input(one, kind) for one in tensors]

    def send(i: int, answered: Answered) -> None:
        def note(result: Any, error: Any) -> None:
            if error is None:
                answered(result.as_numpy(OUTPUT), OK)
            else:
                answered(None, str(error.status()).removeprefix("StatusCode."))

        more = {"client_timeout": deadline_s, "parameters": dict(parameters) or None}
        client.async_infer(model, [inputs[i]], note, **more)

    return send


def through_grpc(
    url: str,
    model: str,
    tensors: Sequence[Any],
    kind: str,
    parameters: Parameters,
    deadline_s: float,
) -> Send:
    """Sends the same bytes every time, encoded once: it takes half as much CPU."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
    call = grpc.insecure_channel(url, ANY_LENGTH).unary_unary(METHOD)
    messages = [_message(model, one, kind, parameters) for one in tensors]

    def send(i: int, answered: Answered) -> None:
        def note(done: Any) -> None:
            if done.code() is not grpc.StatusCode.OK:
                answered(None, done.code().name)
                return
            response = pb.ModelInferResponse.FromString(done.result())
            (output,), (content,) = response.outputs, response.raw_output_contents
            answered(np.frombuffer(content, np.float32).reshape(output.shape), OK)

        call.future(messages[i], timeout=deadline_s).add_done_callback(note)

    return send


def _input(tensor: Any, kind: str) -> triton.InferInput:
    one = triton.InferInput(INPUT, list(tensor.shape), kind)
    one.set_data_from_numpy(tensor)
    return one


def _message(model: str, tensor: Any, kind: str, parameters: Parameters) -> bytes:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name=INPUT, datatype=kind, shape=tensor.shape)
    content = serialize_byte_tensor(tensor).item() if kind == "BYTES" else tensor.tobytes()
    request.raw_input_contents.append(content)
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    message: bytes = request.SerializeToString()
    return message
