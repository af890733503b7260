"""Compares Unfreeze with the in-process limit, kserve and mlserver, on this machine, in turns.

    benchmarks/setup.sh peers
    .venv/bin/python benchmarks/serving.py --peers peers --write

Clients are separate processes on the same cores: closed loops of `tritonclient.grpc` over loopback.
Every answer is checked. An interrupted run resumes where it stopped; --name starts another one.
Exits with 0 if every condition holds.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # `training` is the package, not training.py

from bench import rows
from bench.contest import Pace
from bench.flags import absolute
from bench.judge import conditions, wrong_answers
from bench.prepare import prepare_work
from bench.record import Record
from bench.results import write_section
from bench.rows import Bench
from bench.servers import unfreeze
from bench.table import document

RESULTS = Path(__file__).parent / "RESULTS.md"
QUICK = Pace(rounds=1, warm_s=0.2, seconds=0.4)


def main() -> int:
    options = read_flags()
    prepare_work(options.work, quick=options.quick, gpu=rows.has_gpu())
    record = Record(options.work / f"{options.name}.jsonl")
    pace = QUICK if options.quick else Pace(options.rounds, warm_s=1.0, seconds=options.seconds)
    bench = Bench(options.work, options.peers, None, pace, record)
    rows.start(bench)
    with unfreeze(options.work / "registry", "--provider", "cpu") as server:
        rows.plans(bench, server)
        asked = replace(bench, server=server)
        for row in (rows.images, rows.tensors, rows.protocol, rows.tta, rows.overload):
            row(asked)
    if rows.has_gpu():
        rows.gpu(bench)
    judged = [] if options.quick else conditions(record)
    text = document(record, judged, pace, options.peers)
    print(text)
    if options.write:
        write_section(RESULTS, "Serving", text)
    wrong = wrong_answers(record)
    for problem in wrong:
        print(problem, file=sys.stderr)
    return 1 if wrong or not all(one.holds for one in judged) else 0


def read_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--peers", type=absolute, help="the DIR given to setup.sh; without it, no peers")
    add("--work", type=absolute, default="benchmark-out", help="networks, inputs and results")
    add("--name", default="serving", help="of the run; an existing one is resumed")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=4.0, help="per measurement")
    add("--quick", action="store_true", help="a few seconds, tiny networks, no conditions checked")
    add("--write", action="store_true", help="write the tables to benchmarks/RESULTS.md")
    options = parser.parse_args()
    if options.quick and options.peers:
        parser.error(
            "--quick makes no networks for the peers; leave out one of --quick and --peers"
        )
    for peer in ("kserve", "mlserver") if options.peers else ():
        if not (options.peers / peer / "bin" / "python").exists():
            parser.error(f"no {peer} in {options.peers}; run benchmarks/setup.sh {options.peers}")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
