"""`unfreeze demo`: everything end to end on real photographs, up to a swap under load.

Which solar cells are defective? `demonstrate` goes through the steps in order.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from unfreeze.admin import AdminClient
from unfreeze.client import Client
from unfreeze.commands.job_output import JobOutput
from unfreeze.demo.comparison import Comparison, ask_and_compare
from unfreeze.demo.errors import DemoError
from unfreeze.demo.photographs import lay_out
from unfreeze.demo.server import environment, serving
from unfreeze.demo.traffic import SteadyCaller
from unfreeze.errors import UnfreezeClientError

MODEL = "solar-cells"
VIEWS = 4

# The first version, quick to train: the head alone, at a learning rate that is searched for. The
# second, better one: all images and all layers, most epochs on a third of the pixels. The cells
# are photographed upright, so they may be flipped but not rotated.
COMMON = {
    **{"augmentation": "flips", "max_zoom": "1.05", "tta_views": str(VIEWS)},
    "variants": "",  # what is served is compared with PyTorch to the last digit
}
FIRST = COMMON | {"learning_rate": "", "head_epochs": "1", "cycles": "0"}
SECOND = COMMON | {"sizes": "128,224", "size_epochs": "7,3"}


def main(argv: list[str] | None = None) -> int:
    from registry.argument_parser import ArgumentParser

    parser = ArgumentParser(
        prog="unfreeze demo",
        description="Trains, publishes, serves, retrains and swaps a classifier of solar cells.",
        epilog="examples:\n  unfreeze demo --out demo-out",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-out"),
        metavar="FOLDER",
        help="a new or empty folder for everything that it writes (demo-out)",
    )
    arguments = parser.parse_args(argv)
    try:
        summary = demonstrate(arguments.out.resolve(), Console(highlight=False))
    except (DemoError, UnfreezeClientError) as error:
        print(f"unfreeze demo: {error}", file=sys.stderr)
        return 1
    print(json.dumps(summary))
    return 0


def demonstrate(out: Path, console: Console) -> dict[str, Any]:
    """Runs every step in the order in which a team would; writes only below `out`."""
    if out.exists() and any(out.iterdir()):
        raise DemoError(f"{out} is not empty; remove it, or name another folder with --out")

    console.rule("photographs of solar cells")
    photographs = lay_out(out / "data")
    console.print(f"{len(photographs.held_out)} of them are held out and never trained on")

    console.rule("a first version, from half of the images")
    first_s = train_first(photographs.first, out)

    console.rule("serving it over gRPC")
    with serving(out, out / "data") as addresses, Client(addresses.public) as client:
        registry = out / "registry"
        first = ask_and_compare(client, MODEL, VIEWS, photographs, out / "first", registry)
        console.print(f"version 1: accuracy {first.accuracy:.4f} on the held-out images")

        console.rule("retraining on all of the images, under steady requests")
        with SteadyCaller(addresses.public, MODEL, photographs.held_out) as caller:
            second_s, run = retrain(addresses.admin, photographs.all, out)
            caller.wait_for_version(2)
        console.print(f"{caller.served} answers meanwhile; failed requests: {len(caller.failures)}")

        console.rule("the second version, live")
        second = ask_and_compare(client, MODEL, VIEWS, photographs, run, registry)

    summary = {
        "accuracy": round(second.accuracy, 4),
        "accuracy_tta": round(second.accuracy_tta, 4),
        "train_seconds": round(first_s + second_s, 1),
        "served": first.served + caller.served + second.served,
        "failed": first.failed + len(caller.failures) + second.failed,
        "max_abs_diff": max(first.max_abs_diff, second.max_abs_diff),
        "versions": sorted({first.version, second.version} | caller.versions),
        "report": str(registry / MODEL / str(second.version) / "report" / "index.html"),
    }
    details = {"first": asdict(first), "second": asdict(second), "failures": caller.failures}
    text = json.dumps(summary | details, indent=2)
    (out / "summary.json").write_text(text + "\n", encoding="utf-8")
    console.print(_table(first, second, first_s, second_s))
    return summary


def train_first(data: Path, out: Path) -> float:
    """Trains, publishes and promotes version 1; returns the seconds it took."""
    began = time.monotonic()
    settings = [f"--set={key}={value}" for key, value in FIRST.items()]
    command = [
        *(sys.executable, "-m", "training", "--data", str(data), "--model", MODEL, *settings),
        *("--registry", str(out / "registry"), "--cache", str(out / "cache")),
        *("--run", str(out / "first")),
    ]
    if subprocess.run(command, check=False, env=environment(out)).returncode:
        raise DemoError("the first training failed; see its output above")
    shutil.rmtree(out / "cache")
    return time.monotonic() - began


def retrain(admin_address: str, data: Path, out: Path) -> tuple[float, Path]:
    """Trains, publishes and promotes version 2; returns the seconds and the run's folder."""
    began = time.monotonic()
    with AdminClient(admin_address) as admin, JobOutput() as output:
        job = admin.start_training(MODEL, str(data), settings=SECOND, promotion="if_better")
        for event in admin.watch(job.id):
            output.show(event.event)
        job = admin.get_job(job.id)
    if not job.promoted:
        raise DemoError(f"the second version did not go live: {job.state}, {job.message}")
    return time.monotonic() - began, out / "state" / "jobs" / job.id / "run"


def _table(first: Comparison, second: Comparison, first_s: float, second_s: float) -> Table:
    table = Table(title="held-out solar cells, classified over gRPC")
    table.add_column("version")
    headings = ("accuracy", f"with {VIEWS} views", "seconds", "failed", "differs from PyTorch by")
    for heading in headings:
        table.add_column(heading, justify="right")
    for comparison, seconds in ((first, first_s), (second, second_s)):
        table.add_row(
            str(comparison.version),
            f"{comparison.accuracy:.4f}",
            f"{comparison.accuracy_tta:.4f}",
            f"{seconds:.0f}",
            str(comparison.failed),
            f"{comparison.max_abs_diff:.1e}",
        )
    return table
