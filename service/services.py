"""The services of each listener: the public ones, and administration."""

from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2_grpc

from registry.store import Registry
from service.admin import Admin
from service.cache import Cache
from service.calls import Calls
from service.classifier import Classifier
from service.health import Health
from service.jobs.jobs import Jobs
from service.models.model_manager import ModelManager
from service.oip.inference import Inference
from service.oip.model_control import ModelControl
from service.oip.servicer import PROTOCOL, Protocol
from service.predict import Predictor
from service.status import CODES, PROTOCOL_CODES
from unfreeze.v1 import admin_pb2, admin_pb2_grpc, classifier_pb2, classifier_pb2_grpc

CLASSIFIER = classifier_pb2.DESCRIPTOR.services_by_name["Classifier"].full_name
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
PUBLIC_NAMES = (CLASSIFIER, PROTOCOL, HEALTH)
ADMIN_NAMES = (ADMIN, PROTOCOL)


def add_public(
    server: grpc.aio.Server,
    calls: Calls,
    registry: Registry,
    models: ModelManager,
    health: Health,
    *,
    max_images: int,
    max_pixels: int,
    max_wait_ms: float,
    max_queue: int,
    cache_entries: int,
) -> None:
    """Adds both prediction protocols, with one predictor, and the health service to `server`."""
    cache = Cache(cache_entries) if cache_entries else None
    predictor = Predictor(max_pixels, cache, models.trial_beside)
    protocol = Protocol(
        models,
        registry,
        Inference(models, predictor, max_images),
        max_images=max_images,
        max_wait_us=round(1000 * max_wait_ms),
        max_queue=max_queue,
        is_ready=lambda: health.is_ready,
    )
    # with a cache, even an overloaded version can answer what is cached
    checks = {} if cache_entries else {"ModelInfer": models.refusal, "Classify": models.refusal}
    add_protocol = service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server
    add_protocol(protocol, calls.counted(server, PROTOCOL_CODES, checks))
    classifier = Classifier(models, predictor, max_images)
    add_classifier = classifier_pb2_grpc.add_ClassifierServicer_to_server
    add_classifier(classifier, calls.counted(server, CODES, checks))
    health_pb2_grpc.add_HealthServicer_to_server(health, calls.uncounted(server))


def add_admin(
    server: grpc.aio.Server,
    calls: Calls,
    registry: Registry,
    models: ModelManager,
    jobs: Jobs | None,
    data_roots: Sequence[Path],
) -> None:
    """Adds training, promotion, and the protocol's loading and unloading of models to `server`."""
    admin = Admin(registry, models, jobs, data_roots)
    admin_pb2_grpc.add_AdminServicer_to_server(admin, calls.counted(server, CODES))
    add_protocol = service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server
    add_protocol(ModelControl(models, registry), calls.counted(server, PROTOCOL_CODES))
