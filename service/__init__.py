"""The gRPC server: classifies images on ONNX Runtime, and runs training jobs when asked.

`__main__.py` is its life cycle, `server.py` assembles its parts. From there, follow

a request   calls.py, classifier.py or oip/servicer.py, models/model_manager.py, predict.py,
            execution/executor.py, execution/session.py
a swap      models/operations.py or models/follower.py, models/load_scheduler.py,
            models/loader.py, models/golden_check.py, models/swaps.py
a job       admin.py, jobs/jobs.py, jobs/job_runner.py, jobs/attempt.py, jobs/preparation.py,
            jobs/trainer.py, jobs/publication.py, jobs/gate.py

`oip/` is the Open Inference Protocol, `execution/` runs networks, `models/` holds the versions in
memory, `jobs/` trains, and `observability/` is what is seen from outside.

Nothing here imports torch, `training`, or any of `unfreeze` but the generated `unfreeze.v1`.
"""
