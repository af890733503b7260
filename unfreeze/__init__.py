"""The Python client of an Unfreeze image classification service.

    from unfreeze import Client

    with Client("127.0.0.1:8001") as client:
        for prediction in client.classify(["cell.png", "other.jpg"], model="solar"):
            print(prediction.image, prediction.label.name, prediction.label.probability)

Importing it needs only grpcio and protobuf.
"""

from unfreeze.admin import AdminClient
from unfreeze.client import AsyncClient, Client
from unfreeze.errors import (
    Conflict,
    DeadlineExceeded,
    ImageError,
    InvalidRequest,
    NotAllowed,
    NotFound,
    Overloaded,
    RequestTooLarge,
    ServerError,
    Unavailable,
    UnfreezeClientError,
)
from unfreeze.predictions import Label, Prediction

__all__ = [
    "AdminClient",
    "AsyncClient",
    "Client",
    "Conflict",
    "DeadlineExceeded",
    "ImageError",
    "InvalidRequest",
    "Label",
    "NotAllowed",
    "NotFound",
    "Overloaded",
    "Prediction",
    "RequestTooLarge",
    "ServerError",
    "Unavailable",
    "UnfreezeClientError",
]
