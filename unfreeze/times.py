"""Timestamps of messages."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp


def time_of(proto: Timestamp) -> datetime | None:
    """The time in UTC; None if it is not set."""
    return proto.ToDatetime(UTC) if proto.ByteSize() else None
