"""The ranges of the numbers that callers give, checked before gRPC and protobuf see them."""

from unfreeze.errors import InvalidRequest

MOST_32, MOST_64 = (1 << 32) - 1, (1 << 64) - 1  # of protobuf's uint32 and uint64
LONGEST_S = 86_400.0  # a day; much more overflows in gRPC, which then gives up at once


def check_whole(name: str, number: int | None, least: int, most: int) -> None:
    """Raises InvalidRequest, which names the number, if it is out of range; None never is."""
    if number is not None and not least <= number <= most:
        raise InvalidRequest(f"{name} is {number}; use {least} to {most}")


def bounded(timeout_s: float) -> float:
    """`timeout_s`, or a day if that is less.

    Raises:
        InvalidRequest: it is no time at all, or not a number.
    """
    if not timeout_s > 0:  # nor is NaN
        raise InvalidRequest(f"timeout_s is {timeout_s}; use a number of seconds above 0")
    return min(timeout_s, LONGEST_S)
