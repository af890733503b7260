"""The life of a server; `python -m service` and `unfreeze serve` both begin here."""

import service.one_poller  # noqa: F401  # before grpc

# isort: split
import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import uvloop

from registry.bundle import FILES
from registry.errors import BadRequest, Unavailable, UnfreezeError
from registry.files import write_durably
from service.execution.providers import EXECUTION_PROVIDERS
from service.listener import raise_file_limit
from service.observability.logs import log_as_json
from service.server import Service
from service.settings import Settings, misspelt, read_settings

EPILOG = """examples:
  unfreeze serve --registry models
  unfreeze serve --registry models --state state --data-root photos     trains, too
  UNFREEZE_REGISTRY=models unfreeze serve --precision auto

A flag's variable is its name behind UNFREEZE_, as UNFREEZE_DRAIN_SECONDS; a flag wins over it.
Otherwise named: UNFREEZE_DATA_ROOTS, for --data-root, has all of them with colons between, and
UNFREEZE_REFLECTION=false is --no-reflection. Without a flag: UNFREEZE_TRAINER_COMMAND, the program
that trains.
"""

log = logging.getLogger("service")

EXIT_FAILED = 1
EXIT_USAGE = 2
CLOSING_S = 5.0  # for what is closed besides requests and a trainer


def main(argv: list[str] | None = None) -> int:
    """Serves until a signal ends it; gives the exit code."""
    try:
        settings = read_settings(read_flags(argv))
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
    except Exception:  # nobody knew of this one, and the log stays JSON all the same
        log.exception("failed")
        return EXIT_FAILED
    return 0


async def serve(settings: Settings) -> None:
    """A server's life, from its first to its last moment."""
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
    """The first SIGTERM or SIGINT, when it comes. A second one ends the process at once, and so
    does what has not ended it `end_within_s` seconds after the first, such as a disk that hangs."""
    loop = asyncio.get_running_loop()
    first: asyncio.Future[signal.Signals] = loop.create_future()

    def on_signal(number: signal.Signals) -> None:
        if first.done():
            os._exit(128 + number)  # a trainer sees its input close, and ends too
        log.info("signal", extra={"signal": number.name})
        last = threading.Timer(end_within_s, cut_off, (end_within_s,))
        last.daemon = True
        last.start()
        first.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return first


def cut_off(after_s: float) -> None:
    """Whatever still goes on is lost."""
    log.error("stop_overran", extra={"seconds": after_s})
    os._exit(EXIT_FAILED)


async def has_started(service: Service, ended: asyncio.Future[signal.Signals]) -> bool:
    """Whether it has; a signal meanwhile ends the start, for nobody counts on this server yet.

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


def announce(service: Service, ports_file: Path | None) -> None:
    """Whoever waits for this server knows that it is ready, and where.

    Raises:
        Unavailable: the ports file cannot be written.
    """
    ports = {
        "port": service.port,
        "metrics_port": service.metrics_port,
        "admin_port": service.admin_port,
    }
    log.info("ready", extra=ports)
    if ports_file:  # last: who has seen it finds the rest done
        try:
            write_durably(ports_file, json.dumps(ports).encode() + b"\n")
        except OSError as error:
            raise Unavailable(f"{ports_file} cannot be written: {error.strerror}") from error


def read_flags(argv: Sequence[str] | None) -> dict[str, object]:
    """What was given on the command line; None where nothing was."""
    parser = argparse.ArgumentParser(
        prog="unfreeze serve",
        description="Serves the promoted version of every model in a registry.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--registry", metavar="PATH", help="folder of models (required)")
    add("--state", metavar="PATH", help="folder for training jobs; without it, training is off")
    add(
        "--data-root",
        dest="data_roots",
        metavar="PATH",
        action="append",
        help="folder that training may read; may be repeated",
    )
    add("--host", help="address of predictions and metrics (127.0.0.1)")
    add("--port", help="port of predictions (8001; 0: any free one)")
    add("--metrics-port", help="port of /metrics (8002)")
    add("--admin-host", help="address of administration (127.0.0.1); loopback only")
    add("--admin-port", help="port of administration (8003)")
    add("--ports-file", metavar="PATH", help="where to write the actual ports, as JSON, once ready")
    add(
        "--no-reflection",
        dest="reflection",
        action="store_const",
        const=False,
        help="do not describe the services to callers",
    )
    add(
        "--provider",
        choices=("auto", *EXECUTION_PROVIDERS),
        help="where networks run; one that does not come up is an error (auto)",
    )
    add(
        "--precision",
        choices=("auto", *FILES),
        help="which of a version's models runs; auto: int8 on a CPU and fp16 on a GPU, where a "
        "version has them: at most half a point less accurate when they were made, usually faster; "
        "single probabilities move (fp32)",
    )
    add("--gpu-memory-mb", metavar="N", help="most that one model may take of a GPU (all)")
    add("--plan", metavar="THREADSxRUNSxBATCH", help="execution plan; otherwise it is measured")
    add(
        "--max-batch",
        metavar="N",
        help="most images in a run that a measured plan may have (8 on a CPU, 32 on a GPU)",
    )
    add("--poll-seconds", metavar="S", help="how often the registry is looked at (1)")
    add("--drain-seconds", metavar="S", help="how long to serve on after SIGTERM (5)")
    add(
        "--grace-seconds",
        metavar="S",
        help="how long requests under way may still take after that (20)",
    )
    add(
        "--max-connection-age-seconds",
        metavar="S",
        help="after which clients have to connect anew; 0: never (1800)",
    )
    add("--max-message-mb", metavar="N", help="largest request (64)")
    add("--max-images", metavar="N", help="images in a request (128)")
    add("--max-pixels", metavar="N", help="pixels in an image, of a WebP a quarter (100000000)")
    add(
        "--max-queue",
        metavar="N",
        help="views under way of each loaded version of a model; without test-time augmentation, "
        "images (1024)",
    )
    add(
        "--max-queue-mb",
        metavar="N",
        help="megabytes of images under way of each loaded version (512)",
    )
    add("--max-queue-seconds", metavar="S", help="expected wait at which more are refused (5)")
    add(
        "--max-model-requests",
        metavar="N",
        help="requests under way of each loaded version of a model; 0: any number (0)",
    )
    add("--max-wait-ms", metavar="MS", help="how long an image waits to make up a batch (0)")
    add("--cache-entries", metavar="N", help="answers remembered, by image content; 0: none (0)")
    add("--max-rpcs", metavar="N", help="calls under way; of administration as many again (1024)")
    add(
        "--slo-seconds",
        metavar="S",
        help="promised latency; becomes a bucket's edge in the metrics (0.25)",
    )
    add("--otlp-endpoint", metavar="URL", help="collector of traces, such as http://host:4317")
    add("--trace-ratio", metavar="R", help="share of the traces beginning here that is sent (1)")
    add(
        "--cancel-seconds",
        metavar="S",
        help="how long a cancelled job may take to end by itself (10)",
    )
    add(
        "--log-level",
        choices=("DEBUG", "INFO", "WARNING", "ERROR"),
        help="the least severe that is logged (INFO)",
    )
    return vars(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
