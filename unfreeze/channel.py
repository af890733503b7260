"""How a client connects to its servers, and when it retries."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from unfreeze.bounds import bounded
from unfreeze.errors import (
    HTTP_STATUS,
    MEANING,
    TOO_LARGE,
    WRONG_TLS,
    InvalidRequest,
    call_error,
)

# Round-robin over all addresses of the name, leaving out those that report not serving (draining,
# say). Not gRPC's own retryPolicy: it does not retry a request larger than its buffer (256 KiB,
# which is one photograph), nor a CANCELLED that came from the server. `RetryPolicy` handles both.
IN_TURN: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
HEALTHY_IN_TURN = IN_TURN | {"healthCheckConfig": {"serviceName": ""}}
Options = list[tuple[str, int | str]]
MAX_SEND_BYTES = 64 << 20
MAX_RECEIVE_BYTES = 64 << 20
COMMON: Options = [
    ("grpc.max_send_message_length", MAX_SEND_BYTES),
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    # reconnect to a restarted server within seconds (by default after up to two minutes)
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]
OPTIONS = [*COMMON, ("grpc.service_config", json.dumps(HEALTHY_IN_TURN))]
# Without health checks: for when no server is healthy, since a draining one still answers; and for
# the admin listener, which has no health service, so that gRPC would log an error. Channels to the
# same address share their connections.
UNCHECKED_OPTIONS = [*COMMON, ("grpc.service_config", json.dumps(IN_TURN))]
NONE_HEALTHY = "connections to all backends failing"
# In the words of gRPC, which gives such failures the same codes as a server.
CONNECTION_FAILURES = (
    *MEANING,
    NONE_HEALTHY,
    HTTP_STATUS,  # of a proxy that does not reach the server, if it is to be retried at all
    "GOAWAY",
    "Stream removed",
    "Connection reset",
)
PERMANENT = (TOO_LARGE, *WRONG_TLS)
SAFE_TO_REPEAT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,  # what a stopping server answers late streams with
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
PUSHBACK = "grpc-retry-pushback-ms"  # gRPC proposal A6: when the server wants a retry
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
MOST_DOUBLINGS = 10  # of the pause; a float overflows after a thousand


def target(address: str) -> str:
    """`address` as a gRPC target: a bare host:port becomes a DNS name with all its addresses.

    Raises:
        InvalidRequest: it is a URL of the web, or a port alone.
    """
    if address.startswith(("http://", "https://")) or address.isdecimal():
        raise InvalidRequest(f"{address}: write the address as HOST:PORT, such as 127.0.0.1:8001")
    has_scheme = "://" in address or address.startswith(("unix:", "ipv4:", "ipv6:", "dns:"))
    return address if has_scheme else f"dns:///{address}"


def connect(
    address: str, credentials: grpc.ChannelCredentials | None, options: Options
) -> grpc.Channel:
    """No connection is made before the first call; without credentials nothing is encrypted."""
    if credentials:
        return grpc.secure_channel(target(address), credentials, options)
    return grpc.insecure_channel(target(address), options)


def connect_async(
    address: str, credentials: grpc.ChannelCredentials | None, options: Options
) -> grpc.aio.Channel:
    """The same for asyncio; inside a running event loop."""
    if credentials:
        return grpc.aio.secure_channel(target(address), credentials, options)
    return grpc.aio.insecure_channel(target(address), options)


def is_retryable(failed: grpc.RpcError) -> bool:
    """Whether an idempotent call may succeed when it is retried."""
    is_permanent = any(said in (failed.details() or "") for said in PERMANENT)
    return failed.code() in SAFE_TO_REPEAT and not is_permanent


def no_server_is_healthy(failed: grpc.RpcError) -> bool:
    """Whether the call was not sent, because no address has a server that reports serving."""
    unavailable = failed.code() is grpc.StatusCode.UNAVAILABLE
    return unavailable and NONE_HEALTHY in (failed.details() or "")


def is_unreachable(failed: grpc.RpcError) -> bool:
    """Whether gRPC itself ended the call, because it lost or did not get a connection; not the
    server, with a reason of its own."""
    return any(said in (failed.details() or "") for said in CONNECTION_FAILURES)


@dataclass
class RetryPolicy:
    """The retry policy of one call: up to a deadline and a number of attempts.

    If the server is merely overloaded, or cannot be reached any more and so may be restarting, the
    call is retried until the deadline, however often.

    Raises:
        InvalidRequest: the timeout is not a number above 0.
    """

    address: str
    timeout_s: float
    attempts: int
    now: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.timeout_s = bounded(self.timeout_s)
        self.started = self.now()
        self.failures = 0  # since the call began; and those of them that use up attempts
        self.attempts_used = 0

    def remaining_s(self) -> float:
        """The time left for the next attempt; never quite 0, so that gRPC reports the deadline."""
        return max(0.001, self.started + self.timeout_s - self.now())

    def pause_s(
        self, failed: grpc.RpcError, *, answered_before: bool = False, cancelled_here: bool = False
    ) -> float:
        """How long to wait before the next attempt: exponential backoff, or longer if the server
        asked for that, with jitter.

        Args:
            answered_before: this client has had an answer from this address.
            cancelled_here: this client itself ended the call.

        Raises:
            UnfreezeClientError: another attempt is pointless, not allowed or too late.
        """
        self.failures += 1
        doublings = min(self.failures - 1, MOST_DOUBLINGS)
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**doublings)
        pause = max(longest * random.uniform(0.5, 1), _pushback_s(failed) * random.uniform(1, 1.5))
        busy = failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        restarting = answered_before and is_unreachable(failed)
        self.attempts_used += not (busy or restarting)
        worn_out = self.attempts_used >= self.attempts
        too_late = pause >= self.remaining_s()
        if cancelled_here or worn_out or too_late or not is_retryable(failed):
            raise call_error(failed, self.address) from failed
        return pause


def _pushback_s(failed: grpc.RpcError) -> float:
    """The pause before a retry that the server asked for; 0 if it did not."""
    trailers: Any = failed.trailing_metadata() or ()  # pairs, of one type or another
    for key, value in trailers:
        if key == PUSHBACK and str(value).isdecimal():
            return int(value) / 1000
    return 0.0
