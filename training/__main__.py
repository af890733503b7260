"""Trains a classifier: `unfreeze train …`, or as a service's child with `--assignment FILE`.

Exit codes: 0 a version was published (or staged, for a service), 1 training failed, 2 the data or
the settings cannot work.
"""

import argparse
import sys
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import BadRequest, UnfreezeError
from registry.jobs import Assignment, Event, Note, Scored, StageStarted
from registry.store import Registry

if TYPE_CHECKING:
    from training.orders import Order
    from training.parallel import World

EXAMPLES = """examples:
  unfreeze train --data photos/ --model birds
  unfreeze train --data labels.csv --model birds --size 160 --set cycles=1 --set seed=7
  unfreeze train --data photos/ --model birds --backbone resnet34 --promote
  unfreeze train --data photos/ --model birds --recipe fastai2018
  unfreeze train --data labels.csv --model dogs --set images=train --set suffix=.jpg --set test=test
  unfreeze train --data scans/ --model lungs --set group='patient(\\d+)' --set balance=weights
  unfreeze train --resume ~/.cache/unfreeze/runs/birds-20260102-030405

PATH is a folder with train/ and valid/ (and perhaps test/), a folder of class folders, a CSV of
file,label, or Parquet files of image,label.
The first version of a model is promoted; later ones with --promote.

Several processes, a GPU each, divide the work of one training:
  torchrun --standalone --nproc-per-node 4 --max-restarts 3 -m training --data photos/ --model birds
They need the same folders; a process that is lost has all begin again at the last checkpoint.
"""


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.assignment:
        from training.child import work_for_service

        return work_for_service(arguments.assignment)
    missing = [name for name in ("data", "model") if getattr(arguments, name) is None]
    if missing and not arguments.resume:
        _parser().error(f"--{missing[0]} is needed")
    try:
        return _work_for_person(arguments)
    except BadRequest as error:
        print(f"unfreeze train: {error}", file=sys.stderr)
        return 2
    except (UnfreezeError, OSError) as error:  # a disk that is full, for example
        print(f"unfreeze train: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    from training.presets import PRESETS
    from training.settings import Settings, default_cache

    parser = argparse.ArgumentParser(
        prog="unfreeze train",
        description="Fine-tunes an image classifier and publishes it as a new version.",
        epilog=f"{EXAMPLES}\nsettings for --set: {', '.join(sorted(Settings.model_fields))}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, metavar="PATH")
    parser.add_argument("--model", metavar="NAME")
    parser.add_argument(
        "--recipe",
        choices=sorted(filter(None, PRESETS)),
        help="settings by name, from training/presets.py; --set goes before them",
    )
    parser.add_argument("--backbone", metavar="NAME", help="default: efficientnet_lite0")
    parser.add_argument("--size", metavar="PIXELS", help="side of the network's input")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--registry", type=Path, default=Path("models"), help="default: models")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="default: %(default)s")
    parser.add_argument(
        "--run",
        "--run-folder",  # torchrun takes the short name for an abbreviation of its own
        type=Path,
        help="keeps torch weights; default: below the cache",
    )
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="goes on with an interrupted training, from the folder that was its --run",
    )
    parser.add_argument(
        "--promote", action="store_true", help="also if it is not the first version"
    )
    parser.add_argument("--json", action="store_true", help="events as JSON lines on stdout")
    parser.add_argument("--assignment", type=Path, help=argparse.SUPPRESS)
    return parser


def _work_for_person(arguments: argparse.Namespace) -> int:
    from training.parallel import joined

    with joined() as world:
        order = world.told(_order(arguments, world) if world.first else None)
        assert order is not None
        if world.first:
            return _train_and_publish(order, world, arguments)
        return _take_part(order.assignment, world)


def _order(arguments: argparse.Namespace, world: "World") -> "Order":
    """What the arguments say is to be trained, or the folder that they name."""
    from training.items import check_there
    from training.orders import find_order, order
    from training.parallel import launch_name

    if arguments.resume:
        found = find_order(arguments.resume)
        check_there(found.assignment.data)
        return found
    check_there(arguments.data)
    given = dict(_key_value(text) for text in arguments.settings)
    for name in ("recipe", "backbone", "size"):
        if getattr(arguments, name) is not None:
            given[name] = getattr(arguments, name)
    name = launch_name() or f"{datetime.now():%Y%m%d-%H%M%S}"
    return order(
        arguments.registry,
        arguments.model,
        arguments.data,
        given,
        arguments.cache,
        arguments.run or arguments.cache / "runs" / f"{arguments.model}-{name}",
        promote=arguments.promote,
    )


def _train_and_publish(order: "Order", world: "World", arguments: argparse.Namespace) -> int:
    """What is trained is published, by the only process or the first of several."""
    from training.journal import journaled
    from training.orders import find_order, fulfil, withdraw
    from training.progress import Terminal, json_lines
    from training.recipe import train_alone

    assignment = order.assignment
    with (
        nullcontext(json_lines(sys.stdout)) if arguments.json else Terminal() as tell,
        journaled(assignment, tell) as tell_and_write,
    ):
        find_order(assignment.run)  # another process may have fulfilled it since
        tell(Note(text=f"if it is interrupted: unfreeze train --resume {assignment.run}"))
        try:
            bundle, scored = train_alone(assignment, tell_and_write, world)
        except UnfreezeError:  # so that its folder is free for what works
            withdraw(order)
            raise
        version, promoted = fulfil(order, bundle)
    if not arguments.json:
        folder = Registry(order.registry).folder(assignment.model, version)
        _summarise(folder, version, scored, promoted=promoted)
    return 0


def _take_part(assignment: Assignment, world: "World") -> int:
    """Every other process learns with the first, and tells nothing unless it fails."""
    from training.recipe import take_part

    stages = ["before the first stage"]

    def note(event: Event) -> None:
        if isinstance(event, StageStarted):
            stages.append(event.stage)

    try:
        take_part(assignment, note, world)
    except UnfreezeError as error:
        where = f"process {world.rank + 1} of {world.size}, {stages[-1]}"
        raise type(error)(f"{where}: {error}") from error
    return 0


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise BadRequest(f"--set {text}: write it as key=value")
    return key.strip(), value.strip()


def _summarise(folder: Path, version: int, scored: Scored, *, promoted: bool) -> None:
    mine, rival = scored.candidate, scored.promoted
    print(f"version {version}: {mine.metric} {mine.value:.4f}, log loss {mine.log_loss:.4f}")
    if rival:
        print(
            f"version {scored.promoted_version} on the same {scored.images} images: "
            f"{rival.metric} {rival.value:.4f}, log loss {rival.log_loss:.4f}"
        )
    print(f"report: {folder / 'report' / 'index.html'}")
    print("promoted" if promoted else "published, not promoted; promote it with --promote")


if __name__ == "__main__":
    sys.exit(main())
