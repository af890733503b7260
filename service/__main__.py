"""The life cycle of a server: the entry point of `python -m service` and `unfreeze serve`."""

import service.one_poller  # noqa: F401  # before grpc

# isort: split
import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import uvloop

from registry.errors import BadRequest, Unavailable, UnfreezeError
from registry.files import write_durably
from service.flags import read_flags
from service.listener import raise_file_limit
from service.observability.logs import log_as_json
from service.server import Service
from service.settings import Settings, misspelt, read_settings

log = logging.getLogger("service")

EXIT_FAILED = 1
EXIT_USAGE = 2
CLOSING_S = 5.0  # for closing everything besides requests and a trainer


def main(argv: list[str] | None = None) -> int:
    """Serves until a signal ends it; returns the exit code."""
    try:
        settings = read_settings(read_flags(argv))
        check_data_roots(settings.data_roots)
    except BadRequest as error:
        print(f"unfreeze serve: {error}", file=sys.stderr)
        return EXIT_USAGE
    log_as_json(settings.log_level)
    for problem in misspelt(os.environ):
        log.warning("variable_ignored", extra={"problem": problem})
    raise_file_limit()
    try:
        uvloop.run(serve(settings))
    except UnfreezeError as error:
        log.error("start_failed", extra={"problem": str(error)})
        return EXIT_FAILED
    except Exception:  # a bug; the log must stay JSON all the same
        log.exception("failed")
        return EXIT_FAILED
    return 0


def check_data_roots(folders: Iterable[Path]) -> None:
    """Raises BadRequest if one is not there: every job would be refused, but not before somebody
    wants to train. A registry may appear later, once it is published to; data is there first."""
    for folder in folders:
        if not folder.is_dir():
            raise BadRequest(
                f"--data-root {folder} (or UNFREEZE_DATA_ROOTS): no such folder; create it or "
                "mount its volume first, or leave it out"
            )


async def serve(settings: Settings) -> None:
    """Starts a server, waits for a signal, drains and stops it."""
    forget_ports(settings.ports_file)
    service = Service(settings)
    longest_s = settings.drain_seconds + settings.grace_seconds + settings.cancel_seconds
    ended = listen_for_signals(longest_s + CLOSING_S)
    if await has_started(service, ended):
        try:
            announce(service, settings.ports_file)
            if await ended is signal.SIGTERM:
                await service.drain()
        finally:
            await service.stop()
    log.info("stopped")


def listen_for_signals(end_within_s: float) -> asyncio.Future[signal.Signals]:
    """Resolves to the first SIGTERM or SIGINT. A second one exits at once. If the process is still
    running `end_within_s` seconds after the first, because of a hung disk for example, it is cut
    off."""
    loop = asyncio.get_running_loop()
    first: asyncio.Future[signal.Signals] = loop.create_future()

    def on_signal(number: signal.Signals) -> None:
        if first.done():
            os._exit(128 + number)  # a trainer sees its stdin close, and exits too
        log.info("signal", extra={"signal": number.name})
        last = threading.Timer(end_within_s, cut_off, (end_within_s,))
        last.daemon = True
        last.start()
        first.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return first


def cut_off(after_s: float) -> None:
    """Exits without cleaning up; whatever is still going on is lost."""
    log.error("stop_overran", extra={"seconds": after_s})
    os._exit(EXIT_FAILED)


async def has_started(service: Service, ended: asyncio.Future[signal.Signals]) -> bool:
    """Starts the service; False if a signal came first, which aborts the start: no client depends
    on this server yet.

    Raises:
        UnfreezeError: it cannot start.
    """
    starting = asyncio.create_task(service.start())
    ended.add_done_callback(lambda _: starting.cancel())
    await asyncio.wait({starting})
    if starting.cancelled():
        return False
    await starting
    return True


def forget_ports(ports_file: Path | None) -> None:
    """Removes the ports file of the server before, or it would announce this one too early.

    Raises:
        Unavailable: the ports file cannot be removed, and so not be written either.
    """
    if ports_file:
        try:
            ports_file.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(ports_file, error) from error


def announce(service: Service, ports_file: Path | None) -> None:
    """Announces that the server is ready, and on which ports: in the log and in the ports file.

    Raises:
        Unavailable: the ports file cannot be written.
    """
    ports = {
        "port": service.port,
        "metrics_port": service.metrics_port,
        "admin_port": service.admin_port,
    }
    log.info("ready", extra=ports)
    if ports_file:  # last: once it is there, all else is done
        try:
            write_durably(ports_file, json.dumps(ports).encode() + b"\n")
        except OSError as error:
            raise unwritable(ports_file, error) from error


def unwritable(ports_file: Path, error: OSError) -> Unavailable:
    return Unavailable(f"{ports_file} cannot be written: {error.strerror}")


if __name__ == "__main__":
    sys.exit(main())
