"""`unfreeze retrain` and `unfreeze jobs`: training jobs on a server."""

import argparse
import shlex
from collections.abc import Sequence
from difflib import get_close_matches

from unfreeze.admin import AdminClient
from unfreeze.bounds import MOST_32
from unfreeze.commands.job_output import JobOutput
from unfreeze.commands.shared import (
    FAILED,
    INTERRUPTED,
    OK,
    Commands,
    UsageError,
    add_command,
    add_settings,
    ask_admin,
    say,
    settings_of,
    show_json,
    show_table,
    when,
    whole,
)
from unfreeze.jobs import PROMOTIONS, Job

GROUP = ("list", "show", "watch", "cancel")

PREFIX = 6  # letters of an id that may stand for it, if no other job's begins with them
ID = 32  # letters of a whole one
MANY = 8  # models that a remark names
NEWEST = 1000  # jobs among which a prefix is looked up: no server lists more

RETRAIN_EXAMPLES = """\
  unfreeze retrain solar --data photos --watch
  unfreeze retrain solar --data photos --set size=160 --set cycle_len=4 --promotion never
  unfreeze retrain solar --data photos --same-settings --watch      as the promoted version was
  unfreeze retrain solar --data photos --key nightly-2026-03-01     safe to repeat: runs once
"""


def add_to(commands: Commands) -> None:
    retrain_parser = add_command(
        commands,
        "retrain",
        "have the server train a new version, which goes live if it is better",
        RETRAIN_EXAMPLES,
    )
    retrain_parser.add_argument("model", metavar="MODEL")
    retrain_parser.add_argument(
        "--data", required=True, metavar="PATH", help="a path below one of the server's data roots"
    )
    add_settings(
        retrain_parser,
        "a setting of the recipe; what differs from the promoted version's is reported",
    )
    retrain_parser.add_argument(
        "--same-settings",
        action="store_true",
        help="train with the settings that the promoted version was trained with; --set overrides "
        "them, and without this flag they are not taken over",
    )
    retrain_parser.add_argument(
        "--promotion",
        choices=sorted(PROMOTIONS),
        default="if_better",
        help="when the new version goes live (if_better)",
    )
    retrain_parser.add_argument(
        "--key", metavar="TEXT", help="idempotency key: requests with the same key start one job"
    )
    retrain_parser.add_argument("--watch", action="store_true", help="follow the job to its end")
    output = "the job as one document; with --watch JSON lines: job, events, job"
    ask_admin(retrain_parser, output, retrain)

    group = add_command(
        commands,
        "jobs",
        "list, show, watch or cancel training jobs",
        "  unfreeze jobs\n  unfreeze jobs watch ID\n  unfreeze jobs cancel ID\n",
    ).add_subparsers(metavar="COMMAND", required=True)
    listed = add_command(group, "list", "list jobs, newest first", "  unfreeze jobs --limit 5\n")
    listed.add_argument("--model", default="", metavar="MODEL", help="only jobs of this model")
    listed.add_argument(
        "--limit", type=whole(1, MOST_32), default=20, metavar="N", help="at most this many (20)"
    )
    ask_admin(listed, "one document, an array of jobs", show_jobs)

    for name, summary, output, run in (
        ("show", "show one job", "one document, the job", show_job),
        ("watch", "follow a job to its end", "JSON lines: events, then the job", watch_job),
        (
            "cancel",
            "stop a job; exit code 1 if it had ended already",
            "one document, the job",
            cancel_job,
        ),
    ):
        parser = add_command(group, name, summary, f"  unfreeze jobs {name} ID\n")
        parser.add_argument("job_id", metavar="ID", help=f"or its first {PREFIX} letters or more")
        ask_admin(parser, output, run)


def retrain(options: argparse.Namespace) -> int:
    """With --watch the exit code tells how the job ended."""
    with AdminClient(options.admin_address) as admin:
        known = [model.name for model in admin.models()]
        job = admin.start_training(
            options.model,
            options.data,
            settings=settings_of(options.settings),
            same_settings=options.same_settings,
            promotion=options.promotion,
            idempotency_key=options.key,
        )
        if options.json:
            show_json(job)
        else:
            print(job.id, flush=True)
        if options.model not in known:
            say(new_model(options.model, known))
        if options.same_settings:
            say(f"settings: {_settings(job)}")
        if options.watch:
            return _follow(admin, job.id, as_json=options.json)
        say(f"follow it: unfreeze jobs watch {job.id}")
        return OK


def new_model(name: str, known: Sequence[str]) -> str:
    """A remark that no model has this name yet, with those that there are: near ones first, because
    the name may be misspelt."""
    if not known:
        return f"{name} is a new model, the first one here"
    near = get_close_matches(name, known, len(known), 0.6)
    models = [*near, *sorted(set(known) - set(near))]
    more = f" and {len(models) - MANY} more" if len(models) > MANY else ""
    return f"{name} is a new model; models here: {', '.join(models[:MANY])}{more}"


def show_jobs(options: argparse.Namespace) -> int:
    with AdminClient(options.admin_address) as admin:
        jobs = admin.jobs(model=options.model, limit=options.limit)
    if options.json:
        show_json(jobs)
        return OK
    columns = ["job", "model", "state", "version", "queued", "message"]
    show_table(columns, [_row(job) for job in jobs])
    return OK


def show_job(options: argparse.Namespace) -> int:
    with AdminClient(options.admin_address) as admin:
        job = admin.get_job(_whole_id(admin, options.job_id))
    return _show(job, as_json=options.json)


def cancel_job(options: argparse.Namespace) -> int:
    """Exit code 1 if the job had succeeded or failed before; it may be cancelled twice."""
    with AdminClient(options.admin_address) as admin:
        job = admin.cancel(_whole_id(admin, options.job_id))
    _show(job, as_json=options.json)
    if job.state == "cancelled":
        return OK
    say(f"job {job.id} had already {job.state}; nothing was cancelled")
    return FAILED


def watch_job(options: argparse.Namespace) -> int:
    with AdminClient(options.admin_address) as admin:
        return _follow(admin, _whole_id(admin, options.job_id), as_json=options.json)


def _whole_id(admin: AdminClient, given: str) -> str:
    if not PREFIX <= len(given) < ID:
        return given
    return only(given, [job.id for job in admin.jobs(limit=NEWEST)])


def only(given: str, ids: Sequence[str]) -> str:
    """The one of `ids` that begins with `given`; `given` itself if none does, for the server to
    refuse.

    Raises:
        UsageError: several do.
    """
    found = [one for one in ids if one.startswith(given)]
    if len(found) > 1:
        raise UsageError(f"{given} is ambiguous: the ids {', '.join(found)} begin with it")
    return found[0] if found else given


def _follow(admin: AdminClient, job_id: str, *, as_json: bool) -> int:
    """Prints the job's events as they happen, of which the last is its outcome; the exit code tells
    how the job ended."""
    try:
        with JobOutput(quiet=as_json) as output:
            for event in admin.watch(job_id):
                if as_json:
                    show_json(event)
                else:
                    output.show(event.event)
        job = admin.get_job(job_id)
    except KeyboardInterrupt:
        say(f"the job goes on; to follow it again: unfreeze jobs watch {job_id}")
        return INTERRUPTED
    if as_json:
        show_json(job)
    return OK if job.state == "succeeded" else FAILED


def _settings(job: Job) -> str:
    return shlex.join(f"{key}={value}" for key, value in sorted(job.settings.items()))


def _row(job: Job) -> list[object]:
    return [job.id, job.model, job.state, job.version, when(job.created_at), job.message]


def _show(job: Job, *, as_json: bool) -> int:
    if as_json:
        show_json(job)
        return OK
    fields: dict[str, object] = {
        "job": job.id,
        "model": job.model,
        "data": job.data,
        "settings": _settings(job),
        "promotion": job.promotion,
        "state": job.state,
        "message": job.message,
        "version": job.version,
        "promoted": "yes" if job.promoted else "no",
        "attempt": job.attempt,
        "queued": when(job.created_at),
        "started": when(job.started_at),
        "finished": when(job.finished_at),
    }
    show_table(["", ""], [[name, value] for name, value in fields.items()])
    return OK
