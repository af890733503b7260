"""The demo's own server, on free ports, for as long as it is needed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unfreeze.demo.errors import DemoError

START_S = 60.0
STOP_S = 60.0


@dataclass(frozen=True)
class Addresses:
    public: str
    admin: str


def environment(out: Path) -> dict[str, str]:
    """This process's environment, with the libraries' caches moved below `out`."""
    return os.environ | {"MPLCONFIGDIR": str(out / "cache" / "matplotlib")}


@contextmanager
def serving(out: Path, data: Path) -> Iterator[Addresses]:
    """Runs a server on `out/registry`, with its jobs in `out/state`, and stops it at the end.

    Raises:
        DemoError: it does not start, or does not stop.
    """
    ports_file, log = out / "ports.json", out / "service.log"
    command = [
        *(sys.executable, "-m", "service", "--port", "0", "--admin-port", "0"),
        *("--metrics-port", "0", "--registry", str(out / "registry")),
        *("--state", str(out / "state"), "--data-root", str(data)),
        *("--ports-file", str(ports_file), "--drain-seconds", "1"),
    ]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stderr=errors, stdin=subprocess.DEVNULL, env=environment(out)
        )
    try:
        yield _wait_for_ports(process, ports_file, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise DemoError(f"the service did not stop in {STOP_S:.0f} s; see {log}") from error
        ports_file.unlink(missing_ok=True)


def _wait_for_ports(process: subprocess.Popen[bytes], ports_file: Path, log: Path) -> Addresses:
    deadline = time.monotonic() + START_S
    while not ports_file.is_file():
        if process.poll() is not None or time.monotonic() > deadline:
            raise DemoError(f"the service did not start; its log is {log}")
        time.sleep(0.05)
    ports = json.loads(ports_file.read_bytes())
    return Addresses(f"127.0.0.1:{ports['port']}", f"127.0.0.1:{ports['admin_port']}")
