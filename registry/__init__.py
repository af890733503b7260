"""What training and serving share: image preparation, bundles, versions, aliases, jobs.

Nothing here imports `service`, `training` or `unfreeze`, and nothing here needs torch or
ONNX Runtime.
"""
