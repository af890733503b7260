"""What the training process says: each line is an event, or comes from a library that prints."""

import asyncio
import subprocess
from collections.abc import AsyncIterator

from pydantic import ValidationError

from registry.jobs import EVENTS, Event

MAX_LINE = 1_000_000  # bytes; an event is far smaller


async def open_output(
    process: subprocess.Popen[bytes],
) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    """Its standard output, for the event loop to read, and what closes it."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    pipe, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), process.stdout
    )
    return reader, pipe


async def lines_of(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines without their ends; of one that is too long, the beginning."""
    rest = b""
    while chunk := await stream.read(65_536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        rest = rest[:MAX_LINE]
    if rest:
        yield rest


def read_event(line: bytes) -> Event | None:
    """The event that the line is; None if it is none."""
    try:
        return EVENTS.validate_json(line)
    except ValidationError:
        return None
