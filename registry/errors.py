"""The errors of Unfreeze. Each says what is wrong, where, and what to do.

UnfreezeError
├── BadRequest          the caller asked for something that makes no sense
│   ├── BadImage        an image that cannot be read, or is over a limit
│   └── DataError       a data set that cannot be trained on
├── NotFound            a model, version or job that does not exist
├── NotAllowed          outside what this server was told to touch
├── Conflict            a request that makes sense, but not in the present state
├── NotOffered          a part of a protocol that this server does not have
├── Overloaded          over a limit now; the same request may pass later
│   └── Expired         it waited in the queue for longer than it wanted to
├── Unavailable         something this needs is not there now
├── BundleError         a published bundle that is damaged, or newer than this program
├── TrainingError       training ran and could not give a model worth publishing
└── InternalError       nobody expected it, and the log alone tells what it was

`service/status.py` alone turns them into gRPC status codes.
"""


class UnfreezeError(Exception):
    """Its message is written for the person who caused it."""


class BadRequest(UnfreezeError):
    pass


class BadImage(BadRequest):
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
        """`retry_after_s` is a guess of when there is room again; callers are told of it.
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
