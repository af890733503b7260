"""Benchmarks of training: ablations of settings, solar cells, a comparison with fastai, and speed.

    .venv/bin/python benchmarks/training.py ablate --size 128 --seeds 3 --cores 0
    .venv/bin/python benchmarks/training.py elpv --seeds 5 --recipe modern
    .venv/bin/python benchmarks/training.py fastai --peers DIR --recipe modern
    .venv/bin/python benchmarks/training.py speed
    .venv/bin/python benchmarks/training.py show --write

Every run is a process of its own and a line of WORK/training.jsonl, or of the file of --results.
Runs that are in it are not repeated: you can kill this at any time and start it again. Runs with
the same seed are paired. benchmarks/training.jsonl has the runs behind RESULTS.md.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # `training` is the package, not this file

from bench import training_tables
from bench.ablations import CHANGES
from bench.cells import PROTOCOLS
from bench.flags import absolute
from bench.results import write_section
from bench.rounds import measure_speed, speed_runs
from bench.runs import Run, Runs
from bench.trials import (
    Place,
    ablate,
    ablation_runs,
    protocol_runs,
    score_protocols,
)
from bench.versus import FASTAI, Scale, compare, versus_runs
from registry.errors import BadRequest
from training.reading_settings import read_settings

RESULTS = Path(__file__).parent / "RESULTS.md"


def main() -> int:
    options = read_flags()
    os.sched_setaffinity(0, options.cores)
    os.environ["OMP_NUM_THREADS"] = str(len(options.cores))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the training that runs, too
    place = Place(options.work, Runs(options.results or options.work / "training.jsonl"))
    failed: list[str] = []
    if options.what == "ablate":
        wanted = ablation_runs(options.size, options.seeds, options.base, options.only)
        check(wanted)
        failed = ablate(place, wanted)
    elif options.what == "elpv":
        wanted = protocol_runs(options.only, options.name, options.seeds, options.base)
        check(wanted)
        failed = score_protocols(place, wanted)
    elif options.what == "fastai":
        scale = Scale(options.size, options.frozen, options.unfrozen, options.every)
        with_fastai = options.peers is not None
        timed = not options.untimed
        wanted = versus_runs(options.seeds, options.base, scale, fastai=with_fastai, timed=timed)
        check([run for run in wanted if run.name != FASTAI])
        failed = compare(place, wanted, scale, options.peers)
    elif options.what == "speed":
        wanted = speed_runs(options.seeds, options.base, gpu=torch.cuda.is_available())
        failed = measure_speed(place, wanted)
    text = training_tables.document(place.runs)
    print(text)
    if options.write:
        write_section(RESULTS, "Training", text)
    for one in failed:
        print(f"failed: {one}", file=sys.stderr)
    return 1 if failed else 0


def check(wanted: list[Run]) -> None:
    """Parses every run's settings, so that a misspelt one fails now and not after hours."""
    for run in wanted:
        try:
            read_settings(dict(run.settings))
        except BadRequest as error:
            raise SystemExit(f"{run.name}: {error}") from error


def read_flags() -> argparse.Namespace:
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add("--work", type=absolute, default="benchmark-out", help="results, tables and caches")
    add("--results", type=absolute, help="the file of runs to resume (WORK/training.jsonl)")
    add("--cores", type=numbers, default=os.sched_getaffinity(0), help="cores to run on: 0 or 0,1")
    add("--write", action="store_true", help="write the tables to benchmarks/RESULTS.md")
    runs = argparse.ArgumentParser(add_help=False, parents=[shared])
    add = runs.add_argument
    add("--seeds", type=int, default=3, help="how many seeds, from 0 on")
    add("--recipe", metavar="NAME", help="as for unfreeze train")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="given")
    add(
        "--only", type=lambda text: text.split(","), help="only these changes or protocols, by name"
    )
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="what", required=True)
    kind = kinds.add_parser(
        "ablate", parents=[runs], help="ablations: one change of a setting at a time"
    )
    kind.add_argument("--size", type=int, default=128)
    kind = kinds.add_parser("elpv", parents=[runs], help="the solar cells by three protocols")
    kind.add_argument("--name", default="default", help="of the settings, for the table")
    kind = kinds.add_parser(
        "fastai", parents=[runs], help="the same task with fastai and with Unfreeze"
    )
    kind.add_argument(
        "--peers", type=absolute, help="the DIR given to setup.sh; without, no fastai"
    )
    kind.add_argument(
        "--untimed", action="store_true", help="do not time (shared cores), and without fastai"
    )
    for name, value in Scale().settings.items():
        kind.add_argument(f"--{name}", type=int, default=int(value), help="to try it out on less")
    kinds.add_parser("speed", parents=[runs], help="speed of head epochs, activations and a GPU")
    kinds.add_parser("show", parents=[shared], help="print the tables of all runs so far")
    options = parser.parse_args()
    if options.what != "show":
        options.base = dict(one.split("=", 1) for one in options.given)
        options.base |= {"recipe": options.recipe} if options.recipe else {}
        known = {"ablate": CHANGES, "elpv": PROTOCOLS}.get(options.what, {})
        options.only = options.only or list(known)
        if unknown := set(options.only) - set(known):
            parser.error(f"no {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    return options


def numbers(text: str) -> set[int]:
    return {int(part) for part in text.split(",")}


if __name__ == "__main__":
    raise SystemExit(main())
