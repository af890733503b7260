"""Swaps and rollbacks, one after the other, through the Admin service."""

import random
import threading
import time

import grpc

from load.truth import GOOD, VERSIONS
from unfreeze.v1 import admin_pb2 as pb
from unfreeze.v1 import admin_pb2_grpc as pb_grpc

TIMEOUT_S = 60.0
ROLLBACK_EVERY = 6  # changes


class Swapper:
    """Changes the live version every `every_s` seconds in a thread of its own, until stopped."""

    def __init__(self, admin_address: str, every_s: float) -> None:
        self.swaps = self.rollbacks = 0
        self.problems: list[str] = []
        self.slowest_s = 0.0
        self._every_s = every_s
        self._live = 1
        self._replaced: int | None = None
        self._channel = grpc.insecure_channel(admin_address)
        self._admin = pb_grpc.AdminStub(self._channel)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._ended.wait(self._every_s):
            began = time.monotonic()
            try:
                back = (self.swaps + self.rollbacks) % ROLLBACK_EVERY == ROLLBACK_EVERY - 1
                self._roll_back() if back else self._promote()
            except grpc.RpcError as error:
                self.problems.append(f"{error.code()}: {error.details()}")
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    def _promote(self) -> None:
        version = random.choice([one for one in VERSIONS if one != self._live])
        request = pb.PromoteRequest(model=GOOD, version=version, reason="soak")
        self._done(self._admin.Promote(request, timeout=TIMEOUT_S), version)
        self.swaps += 1

    def _roll_back(self) -> None:
        request = pb.RollbackRequest(model=GOOD, reason="soak")
        assert self._replaced
        self._done(self._admin.Rollback(request, timeout=TIMEOUT_S), self._replaced)
        self.rollbacks += 1

    def _done(self, response: pb.PromoteResponse, wanted: int) -> None:
        if (response.version, response.replaced) != (wanted, self._live):
            self.problems.append(f"{wanted} should have replaced {self._live}; got {response}")
        self._live, self._replaced = response.version, response.replaced

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._channel.close()
