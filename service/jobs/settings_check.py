"""The trainer's word on the settings of a job, before the job is accepted.

The program that would run the job is asked, for it alone knows what it takes. It is given
`--check-settings`, reads them as a JSON object on its standard input, and tells why they cannot
work by the event with which the job would fail.
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

LONGEST_S = 20.0  # whoever asks waits; clients do so for 30 s


class SettingsCheck:
    """Asks one trainer at a time: a backbone's name takes it seconds, and the memory of torch."""

    def __init__(self, command: Sequence[str]) -> None:
        """`command` starts a trainer."""
        self._command = command
        self._one = asyncio.Lock()

    async def check(self, settings: Mapping[str, str]) -> None:
        """The trainer does not object. One that says nothing does not: it may know of no such
        question, or not be installed here, and then the job will tell.

        Raises:
            BadRequest: it does.
        """
        if not settings:
            return
        try:
            async with asyncio.timeout(LONGEST_S), self._one:
                code, output = await self._ask(json.dumps(dict(settings)).encode())
        except (OSError, TimeoutError) as error:
            log.warning("settings_unchecked", extra={"problem": repr(error)})
            return
        for line in output.splitlines():
            if isinstance(event := read_event(line), Failed):
                raise BadRequest(event.reason)
        if code:
            log.warning("settings_unchecked", extra={"problem": f"exit code {code}"})

    async def _ask(self, settings: bytes) -> tuple[int, bytes]:
        """The trainer's exit code, and what it says. Its process ends when this is cancelled."""
        starting = asyncio.ensure_future(asyncio.to_thread(_spawn, self._command))
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:  # its thread does not hear of it
            starting.add_done_callback(_discard_started)
            raise
        try:
            output, _ = await asyncio.to_thread(process.communicate, settings)
        finally:
            process.kill()  # does nothing to one that has ended
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
