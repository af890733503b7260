"""Renders every panel of the dashboard over a real run, on one page, without Grafana.

    .venv/bin/python benchmarks/panels.py --seconds 90 --png panels.png

A real server gets a mixed load, with swaps, a candidate, trainings and rejections. Debian's
Prometheus scrapes it every second (downloaded into .venv if it is not installed). The page is
plotted from Prometheus's answers to the panels' queries; a panel without data is a failure.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

sys.path.insert(0, str(Path(__file__).parents[1]))

import grpc
import yaml

import unfreeze
from load.crowds import Crowd
from load.dashboard import Found, Panel, draw, legend_of
from load.prometheus import Prometheus
from load.server import ServerProcess
from load.swapper import Swapper
from load.truth import publish_models, tiny
from unfreeze.v1 import admin_pb2 as pb
from unfreeze.v1 import admin_pb2_grpc as pb_grpc

ROOT = Path(__file__).parents[1]
MONITORING = ROOT / "deploy" / "components" / "monitoring"
CROWD = {
    **{"unary": 2, "many": 1, "tta": 1, "stream": 1, "protocol": 2, "protocol_stream": 1},
    **{"malformed": 1, "bad_images": 1, "cancelling": 1, "impatient": 1, "crash": 1},
}
FLAGS = ("--plan", "1x1x4", "--max-queue", "48", "--max-message-mb", "4")
WORK = 400  # makes an image take about two milliseconds
TRIED = "tried"  # a model that has a candidate, and whose images change
TRAINER = {"UNFREEZE_TRAINER_COMMAND": f"{sys.executable} {ROOT / 'tests/stand_in_trainer.py'}"}
RATE_INTERVAL = "10s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--pace", type=float, default=1, help="2: half as many requests")
    parser.add_argument("--png", type=Path, default=Path("panels.png"))
    options = parser.parse_args()
    panels: list[Panel] = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        server = start(folder, running)
        prometheus = Prometheus(folder, server.metrics_address, rules)
        running.callback(prometheus.stop)
        begin = time.time()
        live(server, folder, options.seconds, options.pace)
        end = time.time()
        found = {
            panel["id"]: answers(prometheus, panel, begin, end)
            for panel in panels
            if panel["type"] != "row"
        }
        print(f"alerts pending or firing: {prometheus.fired()}")
    draw(options.png, panels, found, begin)
    empty = [panel["title"] for panel in panels if not found.get(panel["id"], True)]
    print(f"{len(found)} panels on {options.png}; without data: {', '.join(empty) or 'none'}")
    return 1 if empty else 0


def start(folder: Path, running: ExitStack) -> ServerProcess:
    """A server with three models and training enabled."""
    registry, data = folder / "registry", folder / "data"
    registry.mkdir()
    (data / "colours").mkdir(parents=True)
    (data / "colours" / "red.png").write_bytes(tiny.picture("red", format="PNG"))
    publish_models(registry, WORK)
    tiny.publish(registry, model=TRIED, promote=True)
    tiny.publish(registry, model=TRIED, bias=(0.0, 0.0, 1.0))
    state = ("--state", str(folder / "state"), "--data-root", str(data))
    server = ServerProcess(registry, folder, (*FLAGS, *state), environment=TRAINER)
    running.callback(server.process.kill)
    return server


def live(server: ServerProcess, folder: Path, seconds: float, pace: float) -> None:
    """Runs the load from start to end."""
    crowd = Crowd(server.address, pace, CROWD, folder / "clients.log")
    swapper = Swapper(server.admin_address, seconds / 6)
    ended = Event()
    change = Thread(target=ask_as_the_world_changes, args=(server.address, seconds, ended))
    change.start()
    try:
        administer(server.admin_address, seconds)
    finally:
        ended.set()
        change.join()
        swapper.stop()
        crowd.kill()


def ask_as_the_world_changes(address: str, seconds: float, ended: Event) -> None:
    """Sends mostly red images at first, mostly noise in the end: drift."""
    began = time.monotonic()
    with unfreeze.Client(address) as client:
        for i in range(sys.maxsize):
            share = min(1.0, (time.monotonic() - began) / seconds)
            image = tiny.noise(i) if i % 10 < 10 * share else tiny.picture("red")
            client.classify(image, model=TRIED)
            if ended.wait(0.03):
                return


def administer(address: str, seconds: float) -> None:
    """Sets a candidate, and starts jobs that succeed and fail."""
    with grpc.insecure_channel(address) as channel:
        admin = pb_grpc.AdminStub(channel)
        shadow = pb.SetCandidateRequest(
            model=TRIED, version=2, mode=pb.CANDIDATE_MODE_SHADOW, percent=50
        )
        admin.SetCandidate(shadow, timeout=20)
        for settings in jobs(seconds):
            never = pb.PROMOTION_POLICY_NEVER
            request = pb.StartTrainingRequest(
                model=TRIED, data="colours", settings=settings, promotion=never
            )
            admin.StartTraining(request, timeout=20)
            time.sleep(seconds / 4)


def jobs(seconds: float) -> Iterator[dict[str, str]]:
    yield {"mode": "good", "seconds": str(seconds / 6)}
    yield {"mode": "fail"}
    yield {"mode": "good", "seconds": str(seconds / 3)}
    yield {"mode": "good"}


def answers(prometheus: Prometheus, panel: Panel, begin: float, end: float) -> Found:
    """The series of all queries of a panel, each with its legend."""
    return [
        (legend_of(target["legendFormat"], series.labels), series)
        for target in panel["targets"]
        for series in prometheus.over_time(filled_in(target["expr"]), begin, end)
    ]


def filled_in(expression: str) -> str:
    """The query as Grafana sends it, with every model selected."""
    filled = expression.replace("$__rate_interval", RATE_INTERVAL)
    return filled.replace("$namespace", ".*").replace("$model", ".*")


if __name__ == "__main__":
    sys.exit(main())
