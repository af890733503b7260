"""A temporary Prometheus: Debian's, downloaded without installing it."""

import json
import math
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load.debian import fetched

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 30
EVERY_S = 1


@dataclass(frozen=True)
class Series:
    """A labelled time series; times in seconds since 1970."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]


def program() -> Path:
    """The path of Prometheus, from the PATH or from Debian's package."""
    if found := shutil.which("prometheus"):
        return Path(found)
    return fetched("prometheus", ROOT / ".venv") / "usr" / "bin" / "prometheus"


class Prometheus:
    """Scrapes one server every second, and evaluates the rules."""

    def __init__(self, folder: Path, target: str, rules: dict[str, Any]) -> None:
        """`folder` is for its files; `target` is the host:port of /metrics."""
        (folder / "rules.yml").write_text(json.dumps(rules))
        config = {
            "global": {"scrape_interval": f"{EVERY_S}s", "evaluation_interval": f"{2 * EVERY_S}s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "unfreeze", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self._address = f"127.0.0.1:{free_port()}"
        self._log = (folder / "prometheus.log").open("wb")
        command = [str(program()), f"--config.file={folder / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={folder / 'tsdb'}"]
        self._process = subprocess.Popen(
            [*command, f"--web.listen-address={self._address}"], stderr=self._log
        )
        until = time.monotonic() + READY_WITHIN_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((folder / "prometheus.log").read_text()[-2000:])
            time.sleep(0.2)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def _ask(self, path: str, **parameters: object) -> Any:
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def over_time(self, query: str, begin: float, end: float) -> list[Series]:
        """The query's value at every second from `begin` to `end`, where it has one."""
        found = self._ask("query_range", query=query, start=begin, end=end, step=EVERY_S)["result"]
        return [series for one in found if (series := _series(one)).values]

    def fired(self) -> dict[str, str]:
        """The state of each active alert: pending or firing."""
        alerts = self._ask("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert["state"] for alert in alerts}

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()


def _series(found: dict[str, Any]) -> Series:
    points = [(float(at), float(value)) for at, value in found["values"]]
    points = [(at, value) for at, value in points if not math.isnan(value)]
    return Series(found["metric"], [at for at, _ in points], [value for _, value in points])


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
