"""Trains a classifier: `unfreeze train …`, or as a child process of the service with
`--assignment FILE`, `--check-settings` or `--settings-of BUNDLE`.

Exit codes: 0 a version was published (or staged, for a service), 1 training failed, 2 the data or
the settings are unusable.
"""

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from registry.argument_parser import ArgumentParser
from registry.errors import BadRequest, UnfreezeError

if TYPE_CHECKING:
    from training.run.request import Request

EXAMPLES = """examples:
  unfreeze train --data photos/ --model birds
  unfreeze train --data labels.csv --model birds --size 160 --set cycle_len=4 --set seed=7
  unfreeze train --data photos/ --model birds --backbone resnet34 --promote
  unfreeze train --data photos/ --model birds --same-settings --set size=160
  unfreeze train --data photos/ --model birds --recipe fastai2018
  unfreeze train --data labels.csv --model dogs --set images=train --set suffix=.jpg --set test=test
  unfreeze train --data scans/ --model lungs --set group='patient(\\d+)' --set balance=weights
  unfreeze train --resume ~/.cache/unfreeze/runs/birds-20260102-030405

PATH is a folder of class folders; a folder with train/, and optionally valid/ and test/; a CSV or
TSV of file,label; or Parquet or Arrow files of image,label.
The first version of a model is promoted; later ones only with --promote.

Several processes, one GPU each, can share one training (data parallel):
  torchrun --standalone --nproc-per-node 4 --max-restarts 3 -m training --data photos/ --model birds
All of them need the same folders. If a process dies, all restart from the last checkpoint.
"""


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.assignment:
        from training.run.job import work_for_service

        return work_for_service(arguments.assignment)
    if arguments.check_settings:
        from training.checking import check_for_service

        return check_for_service()
    if arguments.settings_of:
        from training.checking import resolve_for_service

        return resolve_for_service(arguments.settings_of)
    if arguments.resume:
        _check_nothing_else(argv)
    elif arguments.data is None:
        parser.error("--data is required")
    elif arguments.model is None:
        parser.error("--model is required")
    try:
        _work_for_person(arguments)
    except BadRequest as error:
        print(f"unfreeze train: {error}", file=sys.stderr)
        return 2
    except (UnfreezeError, OSError) as error:  # a full disk, for example
        print(f"unfreeze train: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> ArgumentParser:
    from training.presets import PRESETS
    from training.reading_settings import list_settings
    from training.settings import default_cache

    listed = "\n  ".join(list_settings())
    parser = ArgumentParser(
        prog="unfreeze train",
        description="Fine-tunes an image classifier and publishes it as a new version.",
        epilog=f"{EXAMPLES}\nsettings for --set, with the values of the recipe modern\n"
        "(what fastai2018 sets is in training/presets.py):\n"
        f"  {listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, metavar="PATH", help="the labelled images, see below")
    parser.add_argument("--model", metavar="NAME", help="the model to publish a version of")
    parser.add_argument(
        "--recipe",
        choices=sorted(PRESETS),
        help="a named set of settings (default: modern), see training/presets.py; --set "
        "overrides it",
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="a name in timm or torchvision (default: efficientnet_lite0; with --recipe "
        "fastai2018: resnet34)",
    )
    parser.add_argument("--size", metavar="PIXELS", help="side of the network's square input")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="one of the settings below; repeat it for more",
    )
    parser.add_argument(
        "--same-settings",
        action="store_true",
        help="the settings that the promoted version was trained with; those that are given "
        "override them",
    )
    parser.add_argument("--registry", type=Path, default=Path("models"), help="default: models")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="default: %(default)s")
    parser.add_argument(
        "--run",
        "--run-folder",  # torchrun takes the short name for an abbreviation of its own
        type=Path,
        help="folder for torch weights and checkpoints; default: inside the cache",
    )
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="resume an interrupted training from its --run folder, with the arguments that it was "
        "started with",
    )
    parser.add_argument(
        "--promote",
        action="store_true",
        help="make the new version live even if the model has a live version",
    )
    parser.add_argument(
        "--json", action="store_true", help="print events as JSON lines, the published version last"
    )
    parser.add_argument("--assignment", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--check-settings", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--settings-of", type=Path, help=argparse.SUPPRESS)
    return parser


def _check_nothing_else(argv: list[str] | None) -> None:
    """Exits if the command gives an argument that `--resume` would ignore."""
    parser = _parser()
    parser.set_defaults(**dict.fromkeys(vars(parser.parse_args(argv))))
    given = parser.parse_args(argv)
    flags = [
        f"--{'set' if name == 'settings' else name.replace('_', '-')}"
        for name, value in vars(given).items()
        if value is not None and name not in ("resume", "json")
    ]
    if flags:
        reason = f"--resume takes everything else from {given.resume}"
        parser.error(f"{reason}; leave out {' and '.join(flags)}")


def _work_for_person(arguments: argparse.Namespace) -> None:
    from training.distributed.parallel import joined
    from training.run.command import learn_along, train_and_publish

    with joined() as world:
        request = world.broadcast(_request(arguments) if world.is_main else None)
        assert request is not None
        if world.is_main:
            train_and_publish(request, world, as_json=arguments.json)
        else:
            learn_along(request.assignment, world)


def _request(arguments: argparse.Namespace) -> "Request":
    """What to train, as the arguments say or as the folder to resume from does."""
    from training.data.paths import check_there
    from training.distributed.parallel import launch_name
    from training.run.request import find_request, make_request

    if arguments.resume:
        found = find_request(arguments.resume)
        check_there(found.assignment.data)
        return found
    given = dict(_key_value(text) for text in arguments.settings)
    for name in ("recipe", "backbone", "size"):
        if getattr(arguments, name) is not None:
            given[name] = getattr(arguments, name)
    name = launch_name() or f"{datetime.now():%Y%m%d-%H%M%S}"
    return make_request(
        arguments.registry,
        arguments.model,
        arguments.data,
        given,
        arguments.cache,
        arguments.run or arguments.cache / "runs" / f"{arguments.model}-{name}",
        promote=arguments.promote,
        same_settings=arguments.same_settings,
    )


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadRequest(f"--set {text}: write it as KEY=VALUE")
    return key.strip(), value  # which may be a blank, such as label_separator


if __name__ == "__main__":
    sys.exit(main())
