"""The in-process limit: ONNX Runtime called directly, side by side in threads, and no server.

    python -m bench.limit '{"network": "model.onnx", "inputs": "images.npz", …}'

For encoded images, each thread calls `registry.images.prepare` first.
"""

import registry.telemetry_off  # noqa: F401  # before onnxruntime

# isort: split
import itertools
import json
import resource
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from registry.images import ImageSpec, UInt8Array, prepare

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Load:
    network: str  # uint8 [n,s,s,3] -> probabilities [n,classes]
    inputs: str  # a file of `inputs.py`
    warm_s: float
    seconds: float
    runs: int = 2
    threads: int = 1
    batch: int = 1
    provider: str = CPU


def open_network(network: str, provider: str, threads: int) -> onnxruntime.InferenceSession:
    """A session whose threads do not spin.

    Raises:
        SystemExit: the provider failed to initialise.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider != CPU:
        onnxruntime.preload_dlls()  # CUDA's, from where pip installed them
    session = onnxruntime.InferenceSession(network, options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise SystemExit(f"{provider} failed to initialise; there is {session.get_providers()}")
    return session


def measure(load: Load) -> dict[str, Any]:
    """Images per second over the `seconds` after the first `warm_s`, and the cost of one."""
    session = open_network(load.network, load.provider, load.threads)
    with np.load(load.inputs) as arrays:
        tensors, kind = arrays["tensors"], str(arrays["kind"])
        images = np.split(tensors, np.cumsum(arrays["lengths"])[:-1]) if kind == "BYTES" else []
    spec = ImageSpec(size=session.get_inputs()[0].shape[1])
    counts, stopped = [0] * load.runs, threading.Event()

    def pixels(i: int) -> UInt8Array:
        if not images:
            one: UInt8Array = tensors[i % len(tensors)]
            return one
        return prepare(images[i % len(images)].tobytes(), spec)

    def run(i: int) -> None:
        batch = np.stack([pixels(load.batch * i + k) for k in range(load.batch)])
        session.run(["probabilities"], {"image": batch})

    def work(number: int) -> None:
        for i in itertools.count(number):
            if stopped.is_set():
                return
            run(i)
            counts[number] += load.batch

    run(0)  # a GPU first tunes its kernels, which can take longer than `warm_s`
    workers = [threading.Thread(target=work, args=(number,)) for number in range(load.runs)]
    for worker in workers:
        worker.start()
    time.sleep(load.warm_s)
    before, began, cpu = sum(counts), time.perf_counter(), _cpu_s()
    time.sleep(load.seconds)
    n, took_s, cpu = sum(counts) - before, time.perf_counter() - began, _cpu_s() - cpu
    stopped.set()
    for worker in workers:
        worker.join()
    return {"per_s": n / took_s, "server_cpu_ms": 1000 * cpu / max(1, n)}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    print(json.dumps(measure(Load(**json.loads(sys.argv[1])))))
