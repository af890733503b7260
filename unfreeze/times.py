"""Moments in time, as messages have them."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp


def time_of(told: Timestamp) -> datetime | None:
    """The moment in UTC; None where none was told."""
    return told.ToDatetime(UTC) if told.ByteSize() else None
