"""The errors of Unfreeze. Each says what is wrong, where, and what to do.

UnfreezeError
├── BadRequest          an invalid request
│   ├── BadImage        an image that cannot be read, or is over a limit
│   │   └── RequestFull over a limit of its whole request; may be sent in another
│   └── DataError       a data set that cannot be trained on
├── NotFound            a model, version or job that does not exist
├── NotAllowed          outside what this server is allowed to access
├── Conflict            a valid request, but not in the present state
├── NotOffered          a part of a protocol that this server does not implement
├── Overloaded          over a limit now; the same request may succeed later
│   └── Expired         queued for longer than the request allowed
├── Unavailable         a dependency is not available now
├── BundleError         a published bundle that is damaged, or newer than this program
├── TrainingError       training ran but gave no model worth publishing
└── InternalError       unexpected; only the log has the details

`service/status.py` alone turns them into gRPC status codes.
"""


class UnfreezeError(Exception):
    """Its message is written for whoever caused it."""


class BadRequest(UnfreezeError):
    pass


class BadImage(BadRequest):
    pass


class RequestFull(BadImage):
    pass


class DataError(BadRequest):
    pass


class NotFound(UnfreezeError):
    pass


class NotAllowed(UnfreezeError):
    pass


class Conflict(UnfreezeError):
    pass


class NotOffered(UnfreezeError):
    pass


class Overloaded(UnfreezeError):
    def __init__(
        self, message: str, retry_after_s: float = 0.1, reason: str = "queue_full"
    ) -> None:
        """`retry_after_s` estimates when there will be capacity again, and is sent to callers;
        `reason` names the limit in the metrics."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason


class Expired(Overloaded):
    pass


class Unavailable(UnfreezeError):
    pass


class BundleError(UnfreezeError):
    pass


class TrainingError(UnfreezeError):
    pass


class InternalError(UnfreezeError):
    pass
