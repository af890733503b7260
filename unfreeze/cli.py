"""The command `unfreeze`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from unfreeze.commands import candidate, data, jobs, predict, programs, versions
from unfreeze.commands.shared import (
    FAILED,
    INTERRUPTED,
    NOT_FOUND,
    OK,
    OUTPUT_CLOSED,
    UNREACHABLE,
    USAGE,
    UsageError,
    say,
)
from unfreeze.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotAllowed,
    NotFound,
    Unavailable,
    UnfreezeClientError,
)

DESCRIPTION = "Fine-tunes image classifiers, serves them over gRPC and retrains them on request."
EPILOG = f"""\
examples:
  unfreeze demo                                          everything below, on real photographs
  unfreeze train --data photos/ --model solar            train and publish version 1
  unfreeze import net.onnx --help                        or publish an existing ONNX model
  unfreeze serve --registry models                       serve it on 127.0.0.1:8001
  unfreeze predict cell.png --model solar                classify an image
  unfreeze retrain solar --data more-photos --watch      train a new version; live if better

exit codes:
  {OK:<4} success
  {FAILED:<4} failure: an image could not be classified, a job failed or could not be cancelled any
       more, a server refused
  {USAGE:<4} wrong usage or bad input
  {NOT_FOUND:<4} no such model, version or job
  {UNREACHABLE:<4} no server could be reached
  {INTERRUPTED:<4} interrupted
  {OUTPUT_CLOSED:<4} output pipe closed

environment:
  UNFREEZE_ADDRESS         the server (127.0.0.1:8001)
  UNFREEZE_ADMIN_ADDRESS   its admin listener (127.0.0.1:8003)
  UNFREEZE_CA              CA certificates (PEM) to trust, if a proxy terminates TLS
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # discard what is still buffered, or Python would print an error at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED
    except (UnfreezeClientError, UsageError) as error:
        say(f"unfreeze: {error}")
        return _exit_code(error)


def _run(arguments: list[str]) -> int:
    # these parse their own arguments and may need optional dependencies
    if arguments and arguments[0] in programs.PROGRAMS:
        return programs.enter(arguments[0], arguments[1:])
    options = _parser().parse_args(_spelled_out(arguments))
    command: Callable[[argparse.Namespace], int] = options.run
    return command(options)


def _spelled_out(arguments: list[str]) -> list[str]:
    """Inserts the default subcommand: `unfreeze versions MODEL` and `unfreeze jobs` mean `list`."""
    groups = {"jobs": jobs.GROUP, "versions": versions.GROUP}
    if arguments and arguments[0] in groups:
        known = (*groups[arguments[0]], "-h", "--help")
        if not arguments[1:] or arguments[1] not in known:
            return [arguments[0], "list", *arguments[1:]]
    return arguments


def _parser() -> argparse.ArgumentParser:
    from registry.argument_parser import ArgumentParser

    parser = ArgumentParser(
        prog="unfreeze",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"unfreeze {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    programs.add_to(commands)
    data.add_to(commands)
    predict.add_to(commands)
    jobs.add_to(commands)
    versions.add_to(commands)
    candidate.add_to(commands)
    return parser


def _version() -> str:
    try:
        return version("unfreeze")
    except PackageNotFoundError:
        return "(not installed, run from source)"


def _exit_code(error: Exception) -> int:
    match error:
        case UsageError() | InvalidRequest() | NotAllowed():
            return USAGE
        case NotFound():
            return NOT_FOUND
        case Unavailable() | DeadlineExceeded():
            return UNREACHABLE
        case _:
            return FAILED
