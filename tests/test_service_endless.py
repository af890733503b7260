"""A version whose network never ends its run occupies a core once, and not again and again."""

from pathlib import Path
from typing import Any

import grpc
import pytest
import tiny
from conftest import Start, best, wait_until
from tritonclient.grpc import service_pb2 as triton_pb
from tritonclient.grpc import service_pb2_grpc as triton_grpc

from registry.bundle import Bundle
from service.execution.session import Session
from service.models import loader, model_state, proof
from unfreeze.v1 import admin_pb2 as pb

FOR_EVER = 10**12
REFUSED = "colours/1: it cannot run 1 image at a time: no end after 2 s; load or promote it"


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every version whose network is opened, as often as that happens."""
    opened: list[str] = []

    class Noted(Session):
        def __init__(self, model: Path, bundle: Bundle, **options: Any) -> None:
            opened.append(f"{bundle.model}/{model.parent.name}")
            super().__init__(model, bundle, **options)

    monkeypatch.setattr(loader, "Session", Noted)
    monkeypatch.setattr(proof, "LONGEST_S", 2.0)
    monkeypatch.setattr(model_state, "FIRST_RETRY_S", 0.0)
    return opened


def test_a_network_that_never_ends_is_tried_once_until_its_files_change(
    start: Start, root: Path, tried: list[str]
) -> None:
    tiny.publish(root, work=FOR_EVER, promote=True)
    server = start()
    for _ in range(3):
        server.refresh()
        with pytest.raises(grpc.RpcError, match=REFUSED):
            server.classify(tiny.picture(), version=1)
    assert tried == ["colours/1"]
    tiny.stage(root / "colours" / "1")
    wait_until(server.service.models.ready)
    assert best(server.classify(tiny.picture("green"))) == ["green"]


def test_a_network_that_never_ends_is_tried_again_when_somebody_asks_to_load_it(
    start: Start, root: Path, tried: list[str]
) -> None:
    tiny.publish(root, work=FOR_EVER, promote=True)
    server = start()
    protocol = triton_grpc.GRPCInferenceServiceStub(server.admin_channel)
    load = triton_pb.RepositoryModelLoadRequest(model_name="colours")
    with pytest.raises(grpc.RpcError, match=REFUSED):
        protocol.RepositoryModelLoad(load, timeout=60)
    with pytest.raises(grpc.RpcError, match=REFUSED):
        server.admin.Promote(pb.PromoteRequest(model="colours", version=1), timeout=60)
    assert tried == ["colours/1"] * 3


def test_a_network_that_never_ended_here_is_tried_again_when_another_server_promotes_it(
    start: Start, root: Path, tried: list[str]
) -> None:
    """There it ended; here it may only have been slow."""
    tiny.publish(root, promote=True)
    tiny.publish(root, work=FOR_EVER)
    server = start()
    with pytest.raises(grpc.RpcError, match="no end after 2 s"):
        server.classify(tiny.picture(), version=2)
    server.registry.promote("colours", 2, by="another server", reason="")
    for _ in range(3):
        server.refresh()
    assert tried == ["colours/1", "colours/2", "colours/2"]
