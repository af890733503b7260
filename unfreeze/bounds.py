"""The ranges of the numbers that callers give, checked before gRPC and protobuf see them."""

from unfreeze.errors import InvalidRequest

MOST_32, MOST_64 = (1 << 32) - 1, (1 << 64) - 1  # of protobuf's uint32 and uint64


def check_whole(name: str, number: int | None, least: int, most: int) -> None:
    """Raises InvalidRequest, which names the number, if it is out of range; None never is."""
    if number is not None and not least <= number <= most:
        raise InvalidRequest(f"{name} is {number}; use {least} to {most}")
