"""Lets go of what the tracebacks of handled errors keep in memory."""


def drop_tracebacks(error: BaseException) -> None:
    """Removes the traceback of an error, and those of the errors that it came from. The errors
    themselves stay: several callers may be given the same one, and each logs it.

    A traceback holds the frames that the error went through, and so a request and its images. If
    one of those frames leads back to the error, as it does wherever an error is stored with the
    request that it answers, only Python's cyclic garbage collector would free them: perhaps many
    requests later.
    """
    left, seen = [error], {id(error)}
    while left:
        one = left.pop()
        one.__traceback__ = None
        for cause in (one.__cause__, one.__context__):
            if cause and id(cause) not in seen:
                seen.add(id(cause))
                left.append(cause)
