"""A server's flags, made from its settings: names, help and defaults are those in settings.py."""

import argparse
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from registry.argument_parser import ArgumentParser
from service.settings import Settings

EPILOG = """examples:
  unfreeze serve --registry models
  unfreeze serve --registry models --state state --data-root photos     training as well
  UNFREEZE_REGISTRY=models unfreeze serve --precision auto

Defaults are in parentheses. Each flag can also be set by an environment variable, such as
UNFREEZE_DRAIN_SECONDS for --drain-seconds; the flag takes precedence. Exceptions:
UNFREEZE_DATA_ROOTS stands for --data-root and separates several folders with colons, and
UNFREEZE_REFLECTION=false stands for --no-reflection. UNFREEZE_TRAINER_COMMAND, the command that
runs a training job, has no flag.
"""


def read_flags(argv: Sequence[str] | None) -> dict[str, object]:
    """The flags given on the command line, by setting; None for those that were not."""
    parser = ArgumentParser(
        prog="unfreeze serve",
        description="Serves the promoted version of every model in a registry.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, field in Settings.model_fields.items():
        if field.description:
            flag, options = _argument(name, field)
            parser.add_argument(flag, dest=name, help=_help(field), **options)
    return vars(parser.parse_args(argv))


def _argument(name: str, field: FieldInfo) -> tuple[str, dict[str, Any]]:
    """The flag of a setting, and how argparse reads its value; settings.py validates it."""
    flag, kind = name.replace("_", "-"), get_origin(field.annotation) or field.annotation
    metavar = field.title or "N"
    if kind is bool:  # on by default
        return f"--no-{flag}", {"action": "store_const", "const": False}
    if kind is tuple:
        return f"--{flag.removesuffix('s')}", {"action": "append", "metavar": metavar}
    if kind is Literal:
        return f"--{flag}", {"choices": get_args(field.annotation)}
    return f"--{flag}", {"metavar": metavar}


def _help(field: FieldInfo) -> str:
    shown = isinstance(field.default, str | int | float) and not isinstance(field.default, bool)
    return f"{field.description} ({field.default})" if shown else f"{field.description}"
