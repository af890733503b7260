"""`unfreeze models`, `versions`, `promote` and `rollback`: what is published, and what is live."""

import argparse
import re

from unfreeze.admin import AdminClient
from unfreeze.bounds import MOST_32, MOST_64
from unfreeze.commands.candidate import in_words
from unfreeze.commands.shared import (
    OK,
    Commands,
    add_command,
    ask_admin,
    say,
    show_json,
    show_table,
    when,
    whole,
)
from unfreeze.versions import Model, Promoted, Version

# In a table: accuracy or an F score, whatever its beta, and the log loss; --json has the others.
MAIN_METRIC = re.compile(r"accuracy|f\d[\d.e+-]*|log_loss")

GROUP = ("list", "prune")


def add_to(commands: Commands) -> None:
    models = add_command(
        commands,
        "models",
        "list the models of a server",
        "  unfreeze models\n  unfreeze models --json | jq -r '.[] | select(.ready) | .name'\n",
    )
    ask_admin(models, "one document, an array of models", show_models)

    group = add_command(
        commands,
        "versions",
        "list the versions of a model, or delete old ones",
        "  unfreeze versions solar\n  unfreeze versions prune solar --keep 3\n",
    ).add_subparsers(metavar="COMMAND", required=True)
    listed = add_command(
        group, "list", "list the versions of a model, newest first", "  unfreeze versions solar\n"
    )
    listed.add_argument("model", metavar="MODEL")
    ask_admin(listed, "one document, an array of versions", show_versions)

    pruned = add_command(
        group,
        "prune",
        "delete all but the newest versions; the live one, its predecessor and a candidate stay",
        "  unfreeze versions prune solar --keep 3\n",
    )
    pruned.add_argument("model", metavar="MODEL")
    pruned.add_argument(
        "--keep",
        type=whole(1, MOST_32),
        required=True,
        metavar="N",
        help="how many to keep, at least 1",
    )
    ask_admin(pruned, 'one document, {"model", "deleted"}', prune)

    promoted = add_command(
        commands, "promote", "make a published version live", "  unfreeze promote solar 3\n"
    )
    promoted.add_argument("model", metavar="MODEL")
    promoted.add_argument("version", metavar="VERSION", type=whole(1, MOST_64))
    _add_reason(promoted)
    ask_admin(promoted, "one document, the new pointer", promote)

    rolled = add_command(
        commands,
        "rollback",
        "make the previous version live again; a second rollback undoes the first",
        "  unfreeze rollback solar --reason 'too many false alarms'\n",
    )
    rolled.add_argument("model", metavar="MODEL")
    _add_reason(rolled)
    ask_admin(rolled, "one document, the new pointer", rollback)


def show_models(options: argparse.Namespace) -> int:
    with AdminClient(options.admin_address) as admin:
        models = admin.models()
    if options.json:
        show_json(models)
        return OK
    columns = ["model", "promoted", "newest", "versions", "state", "candidate"]
    show_table(columns, [_model_row(model) for model in models])
    return OK


def show_versions(options: argparse.Namespace) -> int:
    with AdminClient(options.admin_address) as admin:
        versions = admin.versions(options.model)
    if options.json:
        show_json(versions)
        return OK
    show_table(["version", "", "made", "classes", "metrics"], [_version_row(v) for v in versions])
    return OK


def prune(options: argparse.Namespace) -> int:
    with AdminClient(options.admin_address) as admin:
        deleted = admin.prune(options.model, keep=options.keep)
    if options.json:
        show_json({"model": options.model, "deleted": deleted})
    else:
        print(f"deleted: {', '.join(map(str, deleted)) or 'nothing'}")
    return OK


def promote(options: argparse.Namespace) -> int:
    with AdminClient(options.admin_address) as admin:
        pointer = admin.promote(options.model, options.version, reason=options.reason)
    return _show_pointer(pointer, options)


def rollback(options: argparse.Namespace) -> int:
    with AdminClient(options.admin_address) as admin:
        pointer = admin.rollback(options.model, reason=options.reason)
    code = _show_pointer(pointer, options)
    if pointer.replaced:
        say(f"another rollback makes version {pointer.replaced} live again")
    return code


def _add_reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", default="", metavar="TEXT", help="recorded with the change")


def _model_row(model: Model) -> list[object]:
    state = _state(model)
    candidate = model.candidate and in_words(model.candidate)
    numbers = [model.promoted_version, model.newest_version, model.versions]
    return [model.name, *numbers, state, candidate]


def _state(model: Model) -> str:
    if not model.ready:
        return f"not ready: {model.problem}"
    return f"version {model.live_version} answers: {model.problem}" if model.problem else "ready"


def _version_row(version: Version) -> list[object]:
    names = sorted(version.metrics)
    shown = [name for name in names if MAIN_METRIC.fullmatch(name)] or names
    metrics = "  ".join(f"{name} {version.metrics[name]:.4g}" for name in shown)
    live = "live" if version.promoted else ""
    return [version.version, live, when(version.created_at), len(version.labels), metrics]


def _show_pointer(pointer: Promoted, options: argparse.Namespace) -> int:
    if options.json:
        show_json(pointer)
    else:
        before = f" (before: {pointer.replaced})" if pointer.replaced else ""
        print(f"{pointer.model}: version {pointer.version} is live{before}")
        if pointer.note:
            say(pointer.note)
    return OK
