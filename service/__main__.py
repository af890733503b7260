"""The life cycle of a server: the entry point of `python -m service` and `unfreeze serve`."""

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
from collections.abc import Iterable, Sequence
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
  unfreeze serve --registry models --state state --data-root photos     training as well
  UNFREEZE_REGISTRY=models unfreeze serve --precision auto

Defaults are in parentheses. Each flag can also be set by an environment variable, such as
UNFREEZE_DRAIN_SECONDS for --drain-seconds; the flag takes precedence. Exceptions:
UNFREEZE_DATA_ROOTS stands for --data-root and separates several folders with colons, and
UNFREEZE_REFLECTION=false stands for --no-reflection. UNFREEZE_TRAINER_COMMAND, the command that
runs a training job, has no flag.
"""

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
            raise Unavailable(f"{ports_file} cannot be written: {error.strerror}") from error


def read_flags(argv: Sequence[str] | None) -> dict[str, object]:
    """The flags given on the command line; None for those that were not."""
    parser = argparse.ArgumentParser(
        prog="unfreeze serve",
        description="Serves the promoted version of every model in a registry.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--registry", metavar="PATH", help="the model registry, a folder (required)")
    add("--state", metavar="PATH", help="folder for training jobs and caches; enables training")
    add(
        "--data-root",
        dest="data_roots",
        metavar="PATH",
        action="append",
        help="existing folder that training jobs may read data from; may be repeated",
    )
    add("--host", help="address to serve predictions and metrics on (127.0.0.1)")
    add("--port", help="port for predictions; 0: any free one (8001)")
    add("--metrics-port", help="port for /metrics (8002)")
    add("--admin-host", help="address of the admin listener; loopback only (127.0.0.1)")
    add("--admin-port", help="port of the admin listener (8003)")
    add("--ports-file", metavar="PATH", help="write the actual ports here, as JSON, once ready")
    add(
        "--no-reflection",
        dest="reflection",
        action="store_const",
        const=False,
        help="turn gRPC server reflection off",
    )
    add(
        "--provider",
        choices=("auto", *EXECUTION_PROVIDERS),
        help="ONNX Runtime execution provider; if it cannot be initialised, the server does not "
        "start (auto)",
    )
    add(
        "--precision",
        choices=("auto", *FILES),
        help="which of a version's models to run; auto: int8 on a CPU and fp16 on a GPU where a "
        "version has them: usually faster, at most half a point less accurate when they were "
        "exported; individual probabilities differ (fp32)",
    )
    add("--gpu-memory-mb", metavar="N", help="GPU memory limit per loaded model (none)")
    add(
        "--plan",
        metavar="THREADSxRUNSxBATCH",
        help="execution plan: threads per run, concurrent runs, images per run (measured)",
    )
    add(
        "--max-batch",
        metavar="N",
        help="largest batch that a measured plan may use (8 on a CPU, 32 on a GPU)",
    )
    add(
        "--pinned-versions",
        metavar="N",
        help="most versions of a model kept in memory only because they were requested by number; "
        "the least recently used one makes room (2)",
    )
    add("--poll-seconds", metavar="S", help="how often to poll the registry (1)")
    add("--drain-seconds", metavar="S", help="how long to keep serving after SIGTERM (5)")
    add(
        "--grace-seconds",
        metavar="S",
        help="how long requests in flight may still take after that (20)",
    )
    add(
        "--max-connection-age-seconds",
        metavar="S",
        help="make clients reconnect after this time; 0: never (1800)",
    )
    add("--max-message-mb", metavar="N", help="largest request, in megabytes (64)")
    add("--max-images", metavar="N", help="most images in a request (128)")
    add(
        "--max-pixels",
        metavar="N",
        help="most pixels in an image; in a WebP, a quarter of that (100000000)",
    )
    add(
        "--max-queue",
        metavar="N",
        help="most views queued or running per loaded version; without test-time augmentation, "
        "one per image (1024)",
    )
    add(
        "--max-queue-mb",
        metavar="N",
        help="most megabytes of images queued or running per loaded version (512)",
    )
    add(
        "--max-queue-seconds",
        metavar="S",
        help="expected queueing time above which requests are refused (5)",
    )
    add(
        "--max-model-requests",
        metavar="N",
        help="most requests in flight per loaded version; 0: no limit (0)",
    )
    add("--max-wait-ms", metavar="MS", help="how long an image may wait to fill a batch (0)")
    add(
        "--cache-entries",
        metavar="N",
        help="size of the cache of answers, keyed by image content; 0: off (0)",
    )
    add(
        "--max-rpcs",
        metavar="N",
        help="most RPCs in flight, separately for predictions and administration (1024)",
    )
    add(
        "--slo-seconds",
        metavar="S",
        help="latency objective; becomes a bucket boundary of the latency histograms (0.25)",
    )
    add("--otlp-endpoint", metavar="URL", help="trace collector, such as http://host:4317")
    add(
        "--trace-ratio",
        metavar="R",
        help="sampling ratio of traces that start at this server (1)",
    )
    add(
        "--cancel-seconds",
        metavar="S",
        help="how long a cancelled job may take to exit before it is killed (10)",
    )
    add(
        "--log-level",
        choices=("DEBUG", "INFO", "WARNING", "ERROR"),
        help="lowest level that is logged (INFO)",
    )
    return vars(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
