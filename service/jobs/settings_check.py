"""Has the trainer validate a job's settings before the job is accepted.

Only the program that would run the job knows which settings it accepts. It is started with
`--check-settings`, reads them as a JSON object from its standard input, and rejects them with the
event with which the job would fail.
"""

import asyncio
import json
import logging
import subprocess
from collections.abc import Mapping, Sequence

from registry.errors import BadRequest
from registry.jobs import Failed
from service.jobs.trainer import discard
from service.jobs.trainer_output import read_event

log = logging.getLogger(__name__)

LONGEST_S = 20.0  # the caller waits meanwhile, and clients give up after 30 s


class SettingsCheck:
    """Runs one trainer at a time: checking a backbone's name takes seconds, and torch in memory."""

    def __init__(self, command: Sequence[str]) -> None:
        """`command` starts a trainer."""
        self._command = command
        self._one = asyncio.Lock()

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
            async with asyncio.timeout(LONGEST_S), self._one:
                code, output = await self._ask(json.dumps(dict(settings)).encode())
        except TimeoutError:
            return f"the trainer did not answer within {LONGEST_S:g} s"
        except OSError as error:
            return f"the trainer could not be asked: {error}"
        for line in output.splitlines():
            if isinstance(event := read_event(line), Failed):
                raise BadRequest(event.reason)
        if code:
            return f"the trainer that was asked ended with exit code {code}"
        return ""

    async def _ask(self, settings: bytes) -> tuple[int, bytes]:
        """The trainer's exit code and output. Cancelling this kills its process."""
        starting = asyncio.ensure_future(asyncio.to_thread(_spawn, self._command))
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:  # the thread that starts it cannot be cancelled
            starting.add_done_callback(_discard_started)
            raise
        try:
            output, _ = await asyncio.to_thread(process.communicate, settings)
        finally:
            process.kill()  # a no-op if it has ended
        return process.returncode, output


def _discard_started(starting: asyncio.Future[subprocess.Popen[bytes]]) -> None:
    if not starting.exception():
        discard(starting.result())


def _spawn(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # not the event loop's own: see service/jobs/trainer.py
        [*command, "--check-settings"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
