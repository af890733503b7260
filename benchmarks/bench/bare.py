"""The minimal server for `ModelInfer`: grpc.aio and ONNX Runtime in two threads, nothing else.

    python -m bench.bare model.onnx --ports-file ports.json

It shows the most that a server in Python can reach on this machine. It has no checks, no metrics, a
single model and no deadlines; with `--most`, it refuses what exceeds so many requests in flight,
before it reads them.
"""

import registry.telemetry_off  # noqa: F401  # before onnxruntime

# isort: split
import argparse
import asyncio
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from bench.limit import open_network
from registry.images import ImageSpec, prepare

LENGTH_BYTES = 4  # before each element of a BYTES tensor
WORKERS = 2


def answerer(network: Path, most: float) -> Any:
    """A coroutine function that reads a request and gives the response; it runs the network in
    `WORKERS` threads, and refuses a request while `most` are in flight."""
    session = open_network(str(network), "CPUExecutionProvider", threads=1)
    taken = session.get_inputs()[0]
    spec, pool = ImageSpec(size=taken.shape[1]), ThreadPoolExecutor(WORKERS)
    in_flight = 0

    def run(request: Any) -> bytes:
        (asked,), (content,) = request.inputs, request.raw_input_contents
        if asked.datatype == "BYTES":
            pixels = prepare(content[LENGTH_BYTES:], spec)[None]
        else:
            pixels = np.frombuffer(content, np.uint8).reshape(asked.shape)
        probabilities: bytes = session.run(None, {taken.name: pixels})[0].tobytes()
        return probabilities

    async def answer(_: object, context: Any) -> Any:
        nonlocal in_flight
        if in_flight >= most:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "full")
        in_flight += 1
        try:
            return await response(pb.ModelInferRequest.FromString(await context.read()))
        finally:
            in_flight -= 1

    async def response(request: Any) -> Any:
        content = await asyncio.get_running_loop().run_in_executor(pool, run, request)
        shape = [1, len(content) // np.dtype(np.float32).itemsize]
        output = pb.ModelInferResponse.InferOutputTensor(
            name="probabilities", datatype="FP32", shape=shape
        )
        return pb.ModelInferResponse(
            model_name=request.model_name, outputs=(output,), raw_output_contents=(content,)
        )

    return answer


async def serve(network: Path, ports: Path, most: float) -> None:
    """Serves until the process is killed."""
    server = grpc.aio.server()
    handler: Any = grpc.stream_unary_rpc_method_handler(  # unary, but it reads only on request
        answerer(network, most),
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    methods = {"ModelInfer": handler}
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    written = ports.with_suffix(".new")
    written.write_text(json.dumps({"port": port}))
    written.rename(ports)
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", type=Path)
    parser.add_argument("--ports-file", type=Path, required=True)
    parser.add_argument("--most", type=float, default=math.inf, help="requests in flight")
    options = parser.parse_args()
    asyncio.run(serve(options.network, options.ports_file, options.most))
