"""Opens a network for the peers' models."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime


def open_network(path: str, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU whose threads do not spin while they wait."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
