"""The gRPC server: classifies images on ONNX Runtime, and runs training jobs when asked.

`__main__.py` tells its life from start to end. Nothing here imports torch, `training` or anything
of `unfreeze` but the generated `unfreeze.v1`.
"""
