"""A network served by kserve's model server, written as in its documentation.

    python kserve_server.py FOLDER --model lite0 --grpc_port 8081 --http_port 8080 --threads 2

FOLDER has lite0.onnx and tiny.onnx; the models are lite0 (encoded images), lite0-tensor and
tiny-tensor.

kserve reads its own flags from the same command line.
"""

import argparse
import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kserve
import numpy as np
from kserve.protocol.infer_type import InferOutput, InferRequest, InferResponse

from networks import open_network
from pictures import normalised


class Network(kserve.Model):
    """A tensor in, probabilities out."""

    def __init__(self, name: str, path: Path, runs: int, threads: int) -> None:
        """`runs`: requests answered concurrently in threads; 0: each in the event loop."""
        super().__init__(name)
        self.session = open_network(str(path), threads)
        self.input = self.session.get_inputs()[0].name
        self.pool = ThreadPoolExecutor(runs) if runs else None
        self.ready = True

    async def predict(self, payload: InferRequest, headers=None, response_headers=None):
        if self.pool is None:
            return self.answer(payload)
        return await asyncio.get_running_loop().run_in_executor(self.pool, self.answer, payload)

    def answer(self, request: InferRequest) -> InferResponse:
        probabilities = self.session.run(None, {self.input: self.tensor(request)})[0]
        output = InferOutput("probabilities", list(probabilities.shape), "FP32")
        output.set_data_from_numpy(probabilities)
        return InferResponse(request.id, self.name, [output])

    def tensor(self, request: InferRequest) -> np.ndarray:
        return request.inputs[0].as_numpy()


class Pictures(Network):
    """Encoded images in, probabilities out."""

    def tensor(self, request: InferRequest) -> np.ndarray:
        images = request.inputs[0].as_numpy().reshape(-1)
        return np.concatenate([normalised(image) for image in images])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="lite0")
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quiet", action="store_true", help="no log line for each request")
    options = parser.parse_args()
    kind = Pictures if options.model == "lite0" else Network
    path = options.folder / f"{options.model.removesuffix('-tensor')}.onnx"
    model = kind(options.model, path, options.runs, options.threads)
    server = kserve.ModelServer(workers=1, enable_latency_logging=not options.quiet)
    if options.quiet:
        logging.getLogger("kserve").setLevel(logging.WARNING)
    server.start([model])
