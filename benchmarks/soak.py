"""A soak test: half an hour of well-behaved and misbehaving clients, while versions are swapped.

    .venv/bin/python benchmarks/soak.py --minutes 30 [--write] [--json soak.json] [--png soak.png]
    .venv/bin/python benchmarks/soak.py --seconds 20 --plant memory,files,threads,answers

A real server process answers good clients (every answer is compared with NumPy's) beside clients
that crash, cancel, time out, read slowly, hang half-open or send garbage. The second command
injects faults into the server, and must fail.
"""

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.results import write_section
from load.bad import MAX_MESSAGE_MB
from load.crowds import Crowd, Killed, add_up, begun
from load.flat import WARM_UP, Usage
from load.measurements import Measurements, as_json, report
from load.section import add_write, section
from load.server import SERVICE, ServerProcess
from load.swapper import Swapper
from load.tally import Tally, since, total
from load.truth import publish_models
from load.verdict import (
    EXIT_0,
    Check,
    check_bad,
    check_flat,
    check_good,
    check_log,
    check_metrics,
    check_returned,
)

# How many clients of each kind.
GOOD = {
    "unary": 3,
    "many": 2,
    "tta": 1,
    "pinned": 1,
    "stream": 2,
    "library": 1,
    "health_check": 1,
    "health_watch": 2,
    "protocol": 2,
    "protocol_tensor": 1,
    "protocol_stream": 1,
    "protocol_metadata": 1,
}
BAD = {
    "malformed": 2,
    "bad_images": 1,
    "cancelling": 2,
    "impatient": 2,
    "slow_reader": 2,
    "half_open": 3,
}
FLAGS = (
    *("--plan", "1x2x4", "--poll-seconds", "0.5", "--drain-seconds", "0"),
    *("--max-message-mb", str(MAX_MESSAGE_MB), "--max-connection-age-seconds", "15"),
)
PLANTED = ("-m", "load.planted")
LOOK_EVERY_S = 0.25
SCRAPE_EVERY_S = 2.0
BEGUN_WITHIN_S = 90.0
QUIET_WITHIN_S = 6.0  # after the load, until its connections are gone


def main() -> int:
    options = read_options()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        registry = folder / "registry"
        registry.mkdir()
        publish_models(registry)
        program = (*PLANTED, options.plant) if options.plant else SERVICE
        server = ServerProcess(registry, folder, FLAGS, program)
        try:
            measured, checks = soak(server, folder, options)
        finally:
            server.process.kill()
    finally:
        if options.keep_log:
            shutil.copy(folder / "server.log", options.keep_log)
        shutil.rmtree(folder)
    report(measured, checks)
    if options.write:
        write_section(options.write, "Soak", section(what_ran(measured, options), checks))
    if options.json:
        options.json.write_text(json.dumps(as_json(measured, checks), indent=1))
    if options.png:
        from load.picture import draw

        draw(options.png, measured.samples, measured.latencies)
    return 0 if all(check.holds for check in checks) else 1


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seconds", type=float, help="instead of minutes")
    parser.add_argument("--pace", type=float, default=1, help="2: half as many requests")
    parser.add_argument("--swap-seconds", type=float, default=0.5, help="between two swaps")
    parser.add_argument("--kill-seconds", type=float, default=4, help="life of a crashing client")
    parser.add_argument("--plant", help="faults to inject: any of memory,files,threads,answers")
    parser.add_argument("--json", type=Path, help="where to write all measurements")
    parser.add_argument("--png", type=Path, help="where to plot them; needs matplotlib")
    add_write(parser, "Soak")
    parser.add_argument("--keep-log", type=Path, help="where to copy the server's log")
    options = parser.parse_args()
    options.seconds = options.seconds or 60 * options.minutes
    if options.write and options.plant:
        parser.error("--write is for results without --plant: injected faults are no result")
    return options


def soak(
    server: ServerProcess, folder: Path, options: argparse.Namespace
) -> tuple[Measurements, list[Check]]:
    """Runs the load and waits for quiet after it; returns the measurements and the checks."""
    measured = Measurements(server.ready_s, server.usage())
    errors = folder / "clients.log"
    crowds = [Crowd(server.address, options.pace, some, errors) for some in (*halves(GOOD), BAD)]
    killed = Killed(server.address, options.pace, options.kill_seconds, errors)
    swapper = Swapper(server.admin_address, options.swap_seconds)
    try:
        watch(server, measured, crowds, swapper, options.seconds)
    finally:
        killed.stop()
        swapper.stop()
        codes = [crowd.send_home() for crowd in crowds]
    measured.tallies = add_up(crowds)
    measured.kills, measured.swaps, measured.rollbacks = (
        killed.kills,
        swapper.swaps,
        swapper.rollbacks,
    )
    n_swaps = swapper.swaps + swapper.rollbacks
    after = quiet(server, measured.idle)
    page = server.metrics()
    exit_code = server.stop()
    gone = f"exit codes {codes}: {errors.read_text()[-1000:]}"
    swapped = f"{swapper.swaps} swaps, {swapper.rollbacks} rollbacks, slowest "
    swapped += f"{swapper.slowest_s:.2f} s {'; '.join(swapper.problems[:5])}"
    checks = [
        *check_good(measured.tallies, GOOD),
        *check_bad(measured.tallies, BAD),
        Check(
            "bad: killed",
            killed.kills > 0,
            f"{killed.kills} in the middle of a request",
            "at least 1",
        ),
        Check(
            "clients ended",
            not any(codes),
            gone if any(codes) else f"{len(codes)} processes",
            "every process of clients with exit code 0",
        ),
        Check(
            "swapped",
            swapper.swaps > 1 and not swapper.problems,
            swapped,
            "more than 1 swap, none failed",
        ),
        Check("scraped", measured.scrapes > 1, f"{measured.scrapes} times", "more than once"),
        *check_flat(measured.samples),
        check_returned(measured.idle, after),
        *check_metrics(page, measured.tallies, GOOD, n_swaps),
        check_log(server.events()),
        Check("ended well", exit_code == 0, f"exit code {exit_code}", EXIT_0),
    ]
    return measured, checks


def what_ran(measured: Measurements, options: argparse.Namespace) -> str:
    """The clients, the time and the server's usage, for RESULTS.md."""
    last = measured.samples[-1]
    return (
        f"One server with two tiny models, asked for {options.seconds:g} s by "
        f"{sum(GOOD.values())} well-behaved clients, {sum(BAD.values())} misbehaving ones and "
        "others that were killed in the middle of a request, while versions were swapped and "
        "rolled back. Every answer was compared with NumPy's. The clients are processes of their "
        f"own on the same cores. The server was ready in {measured.ready_s:.2f} s, took "
        f"{measured.idle.memory_mb:.0f} MB when idle, and used {last.cpu_s:.0f} s of CPU in "
        f"{last.at_s:.0f} s. Growth is measured after a warm-up, which is the first "
        f"{100 * WARM_UP:.0f} % of the samples. Written by `benchmarks/soak.py --write`."
    )


def halves(weights: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Splits the good clients into two processes, so that one process is not the bottleneck."""
    kinds = list(weights)
    return tuple({kind: weights[kind] for kind in kinds[i::2]} for i in (0, 1))  # type: ignore


def watch(
    server: ServerProcess,
    measured: Measurements,
    crowds: list[Crowd],
    swapper: Swapper,
    seconds: float,
) -> None:
    """Samples and scrapes the server until the time is up, and prints progress."""
    ended = threading.Event()
    scraper = threading.Thread(target=scrape, args=(server, measured, ended))
    scraper.start()
    wait_until_begun(server, crowds)
    begin = time.monotonic()
    print_every_s = max(2.0, seconds / 60)
    printed_at, before = begin, Tally()
    try:
        while (now := time.monotonic()) < begin + seconds:
            if server.process.poll() is not None:
                raise SystemExit(f"the server has exited: {server.log.read_text()[-2000:]}")
            measured.samples.append(server.usage())
            if now - printed_at >= print_every_s:
                before = print_progress(
                    measured, crowds, swapper, now - begin, now - printed_at, before
                )
                printed_at = now
            time.sleep(LOOK_EVERY_S)
    finally:
        ended.set()
        scraper.join()


def wait_until_begun(server: ServerProcess, crowds: list[Crowd]) -> None:
    """The duration counts from when every client has started."""
    until = time.monotonic() + BEGUN_WITHIN_S
    while not begun(crowds) and server.process.poll() is None and time.monotonic() < until:
        time.sleep(LOOK_EVERY_S)


def scrape(server: ServerProcess, measured: Measurements, ended: threading.Event) -> None:
    while not ended.wait(SCRAPE_EVERY_S):
        measured.scrapes += "unfreeze_live_version" in server.metrics()


def print_progress(
    measured: Measurements,
    crowds: list[Crowd],
    swapper: Swapper,
    at_s: float,
    for_s: float,
    before: Tally,
) -> Tally:
    """Prints a line of progress; returns the good clients' counts so far."""
    tallies = add_up(crowds)
    now = total(tally for kind, tally in tallies.items() if kind in GOOD)
    asking = total(tallies[kind] for kind in ("unary", "many", "tta", "pinned") if kind in tallies)
    lately = since(asking, before)
    rate, p50, p99 = lately.answered / for_s, lately.latency_ms(0.5), lately.latency_ms(0.99)
    measured.latencies.append((at_s, rate, p50, p99))
    usage = measured.samples[-1]
    print(
        f"{int(at_s) // 60:02}:{int(at_s) % 60:02}  {now.answered} answered, {now.failed} failed  "
        f"{rate:.0f}/s p50 {p50:.1f} ms p99 {p99:.1f} ms  {usage.memory_mb:.0f} MB "
        f"{usage.threads} threads {usage.files} files  {swapper.swaps + swapper.rollbacks} swaps",
        flush=True,
    )
    for problem in dict.fromkeys([*now.problems, *swapper.problems[:5]]):
        print(f"       {problem}", flush=True)
    return asking


def quiet(server: ServerProcess, before: Usage) -> Usage:
    """The server's usage after the load, once it is back to what it was before or time is up."""
    until = time.monotonic() + QUIET_WITHIN_S
    while not check_returned(before, after := server.usage()).holds:
        if time.monotonic() > until:
            break
        time.sleep(LOOK_EVERY_S)
    return after


if __name__ == "__main__":
    raise SystemExit(main())
