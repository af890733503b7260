"""From a network to a published bundle: ONNX, parity, reduced precision, golden answers."""
