"""The networks as runtimes of MLServer, written as in its documentation."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from networks import open_network
from pictures import normalised


class Network(MLModel):
    """A tensor in, probabilities out. `extra` in model-settings.json has `threads` and `runs`."""

    async def load(self) -> bool:
        extra = self.settings.parameters.extra
        self.session = open_network(self.settings.parameters.uri, extra["threads"])
        self.input = self.session.get_inputs()[0].name
        self.pool = ThreadPoolExecutor(extra["runs"]) if extra["runs"] else None
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        if self.pool is None:
            probabilities = self.answer(payload)
        else:
            loop = asyncio.get_running_loop()
            probabilities = await loop.run_in_executor(self.pool, self.answer, payload)
        output = NumpyCodec.encode_output("probabilities", probabilities)
        return InferenceResponse(model_name=self.name, outputs=[output])

    def answer(self, request: InferenceRequest) -> np.ndarray:
        return self.session.run(None, {self.input: self.tensor(request)})[0]

    def tensor(self, request: InferenceRequest) -> np.ndarray:
        return NumpyCodec.decode_input(request.inputs[0])


class Pictures(Network):
    """Encoded images in, probabilities out."""

    def tensor(self, request: InferenceRequest) -> np.ndarray:
        return np.concatenate([normalised(image) for image in request.inputs[0].data])
