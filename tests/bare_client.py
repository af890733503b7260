"""Does all that the command does, knowing nothing of Unfreeze but modules made from protos/.

Arguments: address, admin address, image, data folder. Prints what it saw, as JSON.
"""

import json
import sys

import grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase as Reflection,
)

from unfreeze.v1 import admin_pb2, admin_pb2_grpc, classifier_pb2, classifier_pb2_grpc

address, admin_address, image, data = sys.argv[1:]
with open(image, "rb") as file:
    encoded = file.read()

with grpc.insecure_channel(address) as channel:
    services = Reflection(channel).get_services()
    classifier = classifier_pb2_grpc.ClassifierStub(channel)
    request = classifier_pb2.ClassifyRequest(model="colours", images=[encoded], tta_views=2)
    (result,) = classifier.Classify(request).results
    (streamed,) = classifier.ClassifyStream(iter([request]))

with grpc.insecure_channel(admin_address) as channel:
    admin = admin_pb2_grpc.AdminStub(channel)
    start = admin_pb2.StartTrainingRequest(model="colours", data=data, idempotency_key="one")
    job = admin.StartTraining(start).job
    events = [
        event.WhichOneof("event")
        for event in admin.WatchJob(admin_pb2.WatchJobRequest(job_id=job.id))
    ]
    job = admin.GetJob(admin_pb2.GetJobRequest(job_id=job.id))
    jobs = admin.ListJobs(admin_pb2.ListJobsRequest()).jobs
    admin.CancelJob(admin_pb2.CancelJobRequest(job_id=job.id))
    back = admin.Rollback(admin_pb2.RollbackRequest(model="colours"))
    forth = admin.Promote(admin_pb2.PromoteRequest(model="colours", version=2))
    models = admin.ListModels(admin_pb2.ListModelsRequest()).models
    versions = admin.ListVersions(admin_pb2.ListVersionsRequest(model="colours")).versions
    pruned = admin.PruneVersions(admin_pb2.PruneVersionsRequest(model="colours", keep=1)).deleted

print(
    json.dumps(
        {
            "generated": classifier_pb2.__file__,
            "services": sorted(services),
            "label": result.prediction.labels[0].name,
            "streamed": streamed.response.results[0].prediction.labels[0].name,
            "state": job.state,
            "events": sorted(set(events)),
            "jobs": len(jobs),
            "back": back.version,
            "forth": forth.version,
            "models": [model.name for model in models],
            "versions": [version.version for version in versions],
            "pruned": list(pruned),
        }
    )
)
