"""Has the trainer validate a job's settings before the job is accepted.

Only the program that would run the job knows which settings it accepts. It is started with
`--check-settings`, reads them as a JSON object from its standard input, and rejects them with the
event with which the job would fail. Started with `--settings-of BUNDLE`, it answers with those that
the bundle was trained with, overridden by those that it has read.
"""

import asyncio
import json
import logging
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from registry.errors import BadRequest, Conflict, Unavailable
from registry.jobs import Failed, Resolved
from service.jobs.trainer import discard
from service.jobs.trainer_output import read_event

log = logging.getLogger(__name__)

# The caller waits meanwhile, and clients give up after 30 s.
LONGEST_S = 20.0
RESOLVING_S = 8.0


class SettingsCheck:
    """Asks one trainer at a time: checking a backbone's name takes seconds, and torch in memory.
    The other question, which takes no torch, need not wait for that."""

    def __init__(self, command: Sequence[str]) -> None:
        """`command` starts a trainer."""
        self._command = command
        self._one_checking, self._one_resolving = asyncio.Lock(), asyncio.Lock()

    async def check(self, settings: Mapping[str, str]) -> str:
        """Why there is no verdict; empty if the trainer does not object. No verdict is no
        objection: the trainer may not support the check, or not be installed here, and then the
        job itself will fail.

        Raises:
            BadRequest: it objects.
        """
        if not settings:
            return ""
        problem = await self._problem(settings)
        if problem:
            log.warning("settings_unchecked", extra={"problem": problem})
        return problem

    async def _problem(self, settings: Mapping[str, str]) -> str:
        try:
            async with asyncio.timeout(LONGEST_S), self._one_checking:
                code, _ = await self._ask(settings, "--check-settings")
        except TimeoutError:
            return f"the trainer did not answer within {LONGEST_S:g} s"
        except OSError as error:
            return f"the trainer could not be asked: {error}"
        if code:
            return f"the trainer that was asked ended with exit code {code}"
        return ""

    async def resolve(self, settings: Mapping[str, str], bundle: Path) -> dict[str, str]:
        """The settings that `bundle` was trained with, overridden by `settings`; to be checked.

        Raises:
            BadRequest: the trainer objects.
            Conflict: it does not answer this.
            Unavailable: it cannot be started now, or does not answer in time.
        """
        try:
            async with asyncio.timeout(RESOLVING_S), self._one_resolving:
                code, resolved = await self._ask(settings, "--settings-of", str(bundle))
        except (OSError, TimeoutError) as error:
            raise Unavailable(
                "the trainer has not said in time which settings the promoted version was trained "
                "with; try again"
            ) from error
        if resolved is None:
            raise Conflict(
                "this server's trainer does not say which settings a version was trained with "
                f"(exit code {code}); give the settings by name, without same_settings"
            )
        return resolved

    async def _ask(
        self, settings: Mapping[str, str], *question: str
    ) -> tuple[int, dict[str, str] | None]:
        """The trainer's exit code, and the settings with which it answers, if it does.

        Raises:
            BadRequest: it objects.
        """
        given = json.dumps(dict(settings)).encode()
        code, output = await _run([*self._command, *question], given)
        resolved = None
        for line in output.splitlines():
            event = read_event(line)
            if isinstance(event, Failed):
                raise BadRequest(event.reason)
            if isinstance(event, Resolved):
                resolved = event.settings
        return code, resolved


async def _run(command: Sequence[str], given: bytes) -> tuple[int, bytes]:
    """The exit code and the output of a trainer that is given this on its standard input.
    Cancelling this kills its process."""
    starting = asyncio.ensure_future(asyncio.to_thread(_spawn, command))
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:  # the thread that starts it cannot be cancelled
        starting.add_done_callback(_discard_started)
        raise
    try:
        output, _ = await asyncio.to_thread(process.communicate, given)
    finally:
        process.kill()  # a no-op if it has ended
    return process.returncode, output


def _discard_started(starting: asyncio.Future[subprocess.Popen[bytes]]) -> None:
    if not starting.exception():
        discard(starting.result())


def _spawn(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # not the event loop's own: see service/jobs/trainer.py
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
