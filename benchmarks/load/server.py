"""A server in a process of its own, whose memory, threads and open files can be measured."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from load.flat import Usage, look

ROOT = Path(__file__).parents[2]
# so that child processes import this checkout's modules, whatever is installed
MODULES = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "benchmarks")))}
SERVICE = ("-m", "service")
READY_WITHIN_S = 60


class ServerProcess:
    """`python -m service` on free ports; `ready_s` is how long it took to announce them."""

    def __init__(
        self,
        registry: Path,
        folder: Path,
        flags: Sequence[str] = (),
        program: Sequence[str] = SERVICE,
        environment: dict[str, str] | None = None,
    ) -> None:
        """`folder` is for its log and the file with its ports.

        Raises:
            RuntimeError: it exited, or did not become ready.
        """
        self.log = folder / "server.log"
        ports_file = folder / "ports.json"
        ports_file.unlink(missing_ok=True)
        command = [sys.executable, *program, "--registry", str(registry), "--port", "0"]
        command += ["--metrics-port", "0", "--admin-port", "0", "--ports-file", str(ports_file)]
        variables = os.environ | MODULES | (environment or {})
        self.began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, *flags], stderr=log, env=variables, cwd=ROOT)
        while not ports_file.exists():
            if self.process.poll() is not None or self.age_s() > READY_WITHIN_S:
                self.process.kill()
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)
        self.ready_s = self.age_s()
        ports = json.loads(ports_file.read_text())
        self.address = f"127.0.0.1:{ports['port']}"
        self.admin_address = f"127.0.0.1:{ports['admin_port']}"
        self.metrics_address = f"127.0.0.1:{ports['metrics_port']}"

    def age_s(self) -> float:
        return time.monotonic() - self.began

    def usage(self) -> Usage:
        return look(self.process.pid, self.age_s())

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=30) as page:
            return str(page.read().decode())

    def events(self) -> list[dict[str, object]]:
        """The lines of its log; a line that is not JSON becomes an event of its own."""
        return [_event(line) for line in self.log.read_text().splitlines()]

    def stop(self, within_s: float = 30) -> int:
        """Sends SIGTERM and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(within_s)
        finally:
            self.process.kill()


def _event(line: str) -> dict[str, object]:
    try:
        found: dict[str, object] = json.loads(line)
    except ValueError:
        return {"level": "not JSON", "event": line}
    return found
