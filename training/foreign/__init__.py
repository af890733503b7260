"""Foreign ONNX classifiers become bundles. Needs neither torch nor anything else of a training."""
