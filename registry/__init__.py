"""Shared by training and serving: image preprocessing, bundles, versions, aliases, jobs.

Nothing here imports `service`, `training` or `unfreeze`, or needs torch or ONNX Runtime.
"""
