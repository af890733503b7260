"""How a client reaches its servers, and when it asks again."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from unfreeze.errors import call_error

# All addresses of the name in turn; one that says it is not serving (draining, say) is left out.
# gRPC's own retryPolicy is not used: it gives up on a request above its buffer (256 KiB, which is
# one photograph) and knows no CANCELLED that came from the server. `Patience` does both.
IN_TURN: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
HEALTHY_IN_TURN = IN_TURN | {"healthCheckConfig": {"serviceName": ""}}
Options = list[tuple[str, int | str]]
MAX_SEND_BYTES = 64 << 20
MAX_RECEIVE_BYTES = 64 << 20
COMMON: Options = [
    ("grpc.max_send_message_length", MAX_SEND_BYTES),
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    # a server that restarts is found again within seconds (the default waits up to two minutes)
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]
OPTIONS = [*COMMON, ("grpc.service_config", json.dumps(HEALTHY_IN_TURN))]
# there is no health service on the admin listener, and asking for it would print a complaint
ADMIN_OPTIONS = [*COMMON, ("grpc.service_config", json.dumps(IN_TURN))]
SAFE_TO_REPEAT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,  # a server that stops answers late streams with it
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
PUSHBACK = "grpc-retry-pushback-ms"  # gRPC proposal A6: when a server wants to be asked again
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0


def target(address: str) -> str:
    """`address` as gRPC wants it: a bare host:port is looked up, and all it resolves to is used."""
    has_scheme = "://" in address or address.startswith(("unix:", "ipv4:", "ipv6:", "dns:"))
    return address if has_scheme else f"dns:///{address}"


def connect(
    address: str, credentials: grpc.ChannelCredentials | None, options: Options
) -> grpc.Channel:
    """No connection is made before the first call; without credentials nothing is encrypted."""
    if credentials:
        return grpc.secure_channel(target(address), credentials, options)
    return grpc.insecure_channel(target(address), options)


def worth_repeating(failed: grpc.RpcError) -> bool:
    """Whether a call that does the same twice as once may succeed when it is made again."""
    too_large = "larger than max" in (failed.details() or "")  # RESOURCE_EXHAUSTED, for ever
    return failed.code() in SAFE_TO_REPEAT and not too_large


@dataclass
class Patience:
    """How long one call is worth waiting for: until a deadline, and a number of attempts.

    A server that is there but busy is asked until the deadline, however often that is.
    """

    address: str
    timeout_s: float
    attempts: int
    now: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.now()
        self.failures = 0

    def remaining_s(self) -> float:
        """What is left for the next attempt; never quite nothing, so that gRPC words the error."""
        return max(0.001, self.started + self.timeout_s - self.now())

    def pause_s(self, failed: grpc.RpcError, *, cancelled_here: bool = False) -> float:
        """How long to wait before the next attempt: exponential or what the server said, jittered,
        within the deadline.

        Args:
            cancelled_here: it was this client that ended the call.

        Raises:
            UnfreezeClientError: there is no sense in another one.
        """
        self.failures += 1
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (self.failures - 1))
        pause = max(longest * random.uniform(0.5, 1), _pushback_s(failed) * random.uniform(1, 1.5))
        busy = failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        worn_out = self.failures >= self.attempts and not busy
        too_late = pause >= self.remaining_s()
        if cancelled_here or worn_out or too_late or not worth_repeating(failed):
            raise call_error(failed, self.address) from failed
        return pause


def _pushback_s(failed: grpc.RpcError) -> float:
    """When there is room again, by the server's own guess; 0 if it made none."""
    trailers: Any = failed.trailing_metadata() or ()  # pairs, of one type or another
    for key, value in trailers:
        if key == PUSHBACK and str(value).isdecimal():
            return int(value) / 1000
    return 0.0
