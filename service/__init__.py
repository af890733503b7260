"""The gRPC server: classifies images on ONNX Runtime, and runs training jobs when asked.

`__main__.py` is its life cycle, `server.py` assembles its parts. From there, follow

a request   calls.py, classifier.py or protocol.py, live.py, predict.py, executor.py, session.py
a swap      changes.py or follower.py, loading.py, loader.py, proof.py, swaps.py, loaded.py
a job       admin.py, jobs.py, job_run.py, preparation.py, trainer.py, publication.py, gate.py

Nothing here imports torch, `training`, or any of `unfreeze` but the generated `unfreeze.v1`.
"""
