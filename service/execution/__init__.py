"""How networks run: ONNX Runtime, the measured plan, queue, decoding and admission."""
