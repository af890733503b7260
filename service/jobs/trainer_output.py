"""Reads a training process's output: each line is an event, or was printed by a library."""

import asyncio
import subprocess
from collections.abc import AsyncIterator

from pydantic import ValidationError

from registry.jobs import EVENTS, Event

MAX_LINE = 1_000_000  # bytes; an event is far smaller


async def open_output(
    process: subprocess.Popen[bytes],
) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    """Its standard output as a stream for the event loop, and the transport that closes it."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    pipe, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), process.stdout
    )
    return reader, pipe


async def lines_of(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines without their line endings; of one that is too long, the first `MAX_LINE` bytes."""
    line = b""
    while chunk := await stream.read(65_536):
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield (line + end)[:MAX_LINE]
            line = b""
        line = (line + rest)[:MAX_LINE]
    if line:
        yield line


def read_event(line: bytes) -> Event | None:
    """The event in a line; None if it is not an event."""
    try:
        return EVENTS.validate_json(line)
    except ValidationError:
        return None
