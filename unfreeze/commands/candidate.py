"""`unfreeze candidate`: tries a version on a share of the requests before it is promoted."""

import argparse

from unfreeze.admin import AdminClient
from unfreeze.bounds import MOST_64
from unfreeze.candidates import Candidate, CandidateMode
from unfreeze.commands.shared import (
    OK,
    Commands,
    UsageError,
    add_command,
    ask_admin,
    show_json,
    whole,
)

EXAMPLES = """\
  unfreeze candidate solar --version 4 --shadow 10   run it too on 10 % of the requests
  unfreeze models                                    see how often the two agree
  unfreeze candidate solar --version 4 --split 5     let it answer 5 % of the requests
  unfreeze promote solar 4                           let it answer them all
  unfreeze candidate solar --clear                   or stop trying it
"""


def add_to(commands: Commands) -> None:
    parser = add_command(
        commands,
        "candidate",
        "try a version on a share of the requests (shadow or canary), beside the live one",
        EXAMPLES,
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "--version", type=whole(1, MOST_64), metavar="VERSION", help="the version to try"
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--shadow",
        type=float,
        metavar="PERCENT",
        help="the live version answers; the candidate then runs too, for comparison only",
    )
    how.add_argument(
        "--split", type=float, metavar="PERCENT", help="the candidate answers this share"
    )
    how.add_argument("--clear", action="store_true", help="stop trying a version")
    parser.add_argument("--reason", default="", metavar="TEXT", help="recorded with the change")
    ask_admin(parser, 'one document, the candidate; with --clear {"model", "cleared"}', run)


def run(options: argparse.Namespace) -> int:
    if options.clear:
        return _clear(options)
    if options.version is None:
        raise UsageError("which version? name it: --version 4")
    mode: CandidateMode = "shadow" if options.split is None else "split"
    percent = options.shadow if options.split is None else options.split
    with AdminClient(options.admin_address) as admin:
        candidate = admin.set_candidate(
            options.model, options.version, mode=mode, percent=percent, reason=options.reason
        )
    if options.json:
        show_json(candidate)
    else:
        print(f"{options.model}: {in_words(candidate)}")
    return OK


def _clear(options: argparse.Namespace) -> int:
    if options.version is not None:
        raise UsageError("--clear takes no version: a model has one candidate at most")
    with AdminClient(options.admin_address) as admin:
        cleared = admin.clear_candidate(options.model, reason=options.reason)
    if options.json:
        show_json({"model": options.model, "cleared": cleared})
    else:
        what = f"version {cleared} is no longer tried" if cleared else "no version was being tried"
        print(f"{options.model}: {what}")
    return OK


def in_words(candidate: Candidate) -> str:
    """`version 4 shadows 10 %, agrees on 981 of 1003 images; 12 more passed over …`."""
    if not candidate.version:  # its pointer cannot be read
        return candidate.problem
    verb = "answers" if candidate.mode == "split" else "shadows"
    words = f"version {candidate.version} {verb} {candidate.percent:g} %"
    if candidate.problem:
        return f"{words}: {candidate.problem}"
    if candidate.compared:
        images = "image" if candidate.compared == 1 else "images"
        words += f", agrees on {candidate.agreed} of {candidate.compared} {images}"
    if candidate.dropped:
        images = "more" if candidate.compared else "image" if candidate.dropped == 1 else "images"
        words += f"; {candidate.dropped} {images} passed over while the server was busy"
    if candidate.note:
        words += f"; {candidate.note}"
    return words
