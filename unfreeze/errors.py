"""The client's exceptions. Each carries the server's message, which is written for people.

UnfreezeClientError
├── InvalidRequest        the request is invalid; do not send it again unchanged
│   ├── ImageError        one of its images cannot be used
│   └── RequestTooLarge   it has more images or bytes than the server takes at once
├── NotFound              no such model, version or job
├── NotAllowed            the caller may not do this
├── Conflict              not possible in the current state, e.g. nothing to roll back to
├── Overloaded            the server is at its limit; try later
├── Unavailable           no server could be reached, or the connection was lost
├── DeadlineExceeded      no answer before the deadline
└── ServerError           the server failed; see its log
"""

import grpc


class UnfreezeClientError(Exception):
    """The message says what is wrong and, where possible, what to do."""


class InvalidRequest(UnfreezeClientError):
    pass


class ImageError(InvalidRequest):
    pass


class RequestTooLarge(InvalidRequest):
    pass


class NotFound(UnfreezeClientError):
    pass


class NotAllowed(UnfreezeClientError):
    pass


class Conflict(UnfreezeClientError):
    pass


class Overloaded(UnfreezeClientError):
    pass


class Unavailable(UnfreezeClientError):
    pass


class DeadlineExceeded(UnfreezeClientError):
    pass


class ServerError(UnfreezeClientError):
    pass


BY_CODE: dict[grpc.StatusCode, type[UnfreezeClientError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.UNAUTHENTICATED: NotAllowed,
    grpc.StatusCode.FAILED_PRECONDITION: Conflict,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}
TOO_LARGE = "larger than max"  # in gRPC's words, whose code for it is RESOURCE_EXHAUSTED
TOO_MANY = "images in one request, and the limit is"  # in the server's
BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}

# What gRPC itself says when no server answers, and what that means.
NOBODY = "no server answers at this address; is it running, and is the address right?"
NOWHERE = "the host name cannot be resolved; is it spelled right?"
GONE = "the connection to the server was lost during the call"
ELSEWHERE = (
    "this port does not answer that; predictions are on 8001 and administration on 8003, unless "
    "the server was told otherwise"
)
OTHER_PROTOCOL = (
    "no gRPC server answers at this address; is the port right? For TLS, credentials are needed "
    "(`unfreeze predict --ca`)"
)
# A client that connects again as it is will not succeed.
WRONG_TLS = {
    "CERTIFICATE_VERIFY_FAILED": (
        "the server's certificate is not trusted; is it still valid, and signed by one of the "
        "authorities given (--ca)?"
    ),
    "Hostname Verification Check failed": (
        "the server's certificate is for another host name; connect to the one that it names"
    ),
    "WRONG_VERSION_NUMBER": (
        "this port does not speak TLS; connect without credentials (--ca), if the port is right"
    ),
    "NO_APPLICATION_PROTOCOL": "this port speaks TLS, but not HTTP/2, which gRPC needs",
}
# An answer of HTTP and not of gRPC, so from a proxy; its status follows.
HTTP_STATUS = "Received http2 header with status: "
HTTP_TOO_LARGE = f"{HTTP_STATUS}413"
MEANING = WRONG_TLS | {
    "HTTP proxy returned": (
        "the HTTP proxy of this environment (http_proxy or https_proxy) does not connect to this "
        "address; add it to no_proxy"
    ),
    "Failed parsing HTTP/2": OTHER_PROTOCOL,
    "Connection refused": NOBODY,
    "failed to connect": NOBODY,
    "DNS resolution failed": NOWHERE,
    "errors resolving": NOWHERE,
    "Socket closed": GONE,
    "recvmsg": GONE,
}


def call_error(failed: grpc.RpcError, address: str) -> UnfreezeClientError:
    """The exception for a failed call."""
    code, details = failed.code(), failed.details() or ""
    if HTTP_STATUS in details:
        return _proxy_error(code, details, address)
    if code is grpc.StatusCode.UNAVAILABLE:
        meaning = (meant for said, meant in MEANING.items() if said in details)
        return Unavailable(f"{address}: {next(meaning, details)}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"{address}: no answer before the deadline ({details})")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ServerError(f"{address}: {ELSEWHERE} ({details or code.name})")
    if TOO_LARGE in details or TOO_MANY in details:
        return RequestTooLarge(details)
    return BY_CODE.get(code, ServerError)(details or code.name)


def _proxy_error(code: grpc.StatusCode, details: str, address: str) -> UnfreezeClientError:
    if HTTP_TOO_LARGE in details:
        return RequestTooLarge(
            f"{address}: a proxy refuses requests of this size (HTTP status 413); raise its limit, "
            "in nginx client_max_body_size"
        )
    status = details.partition(HTTP_STATUS)[2]
    return BY_CODE.get(code, ServerError)(
        f"{address}: a proxy answered instead of the server, with HTTP status {status}"
    )


def image_error(number: int, message: str) -> UnfreezeClientError:
    """The exception for an image that failed; `number` is a google.rpc.Code."""
    code = BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN)
    kind = BY_CODE.get(code, ServerError)
    return (ImageError if kind is InvalidRequest else kind)(message)
