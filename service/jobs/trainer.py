"""The training process: a child with a process group of its own, and what came of it.

Its standard output carries events (service/jobs/trainer_output.py), its standard error goes to the
job's log. It reads its standard input, which this process holds open: when the server dies, the
pipe closes, and the child ends.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from registry.errors import TrainingError
from registry.files import write_durably
from registry.jobs import EpochFinished, Event, Failed, Note, Progress, Scored, Staged, StageStarted
from service.jobs.trainer_output import lines_of, open_output, read_event

TAIL = 2_000  # bytes of the log that explain a crash
LINGER_S = 5.0  # for what is left in the pipe after the end of the process
LOOK_S = 0.05

# Threads of the trainer that wait asleep, and not in a loop, leave the cores to those who answer.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}

TOLD_BY_TRAINER = (StageStarted, Progress, EpochFinished, Note, Scored)


@dataclass(frozen=True)
class Outcome:
    """How the process ended: it staged a bundle, or it failed for a reason."""

    staged: bool
    reason: str = ""
    killed: bool = False  # by a signal, before it could say anything


class Trainer:
    """One training process."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        output: tuple[asyncio.StreamReader, asyncio.ReadTransport],
        log: Path,
    ) -> None:
        self._process = process
        self._output, self._pipe = output
        self._telling = False
        self._log = log

    @classmethod
    async def start(
        cls, command: Sequence[str], assignment: Path, log: Path, pid: Path
    ) -> "Trainer":
        """The process runs, and `pid` holds its number for a server that comes after this one.

        Raises:
            TrainingError: it cannot be started.
        """
        try:
            process = await asyncio.to_thread(
                _spawn, [*command, "--assignment", str(assignment)], log, pid
            )
        except OSError as error:
            raise TrainingError(f"{command[0]} cannot be started: {error}") from error
        return cls(process, await open_output(process), log)

    async def follow(self, tell: Callable[[Event], Awaitable[None]]) -> Outcome:
        """Passes on every event until the process has ended, and gives its outcome."""
        endings: list[Staged | Failed] = []
        reader = asyncio.create_task(self._read(tell, endings))
        try:
            # not wait(): it would also wait for grandchildren that hold the pipe
            while self._process.poll() is None and not (reader.done() and reader.exception()):
                await asyncio.sleep(LOOK_S)
        finally:
            self.signal(signal.SIGKILL)  # whatever the process left behind
            if self._process.stdin:
                self._process.stdin.close()
        while self._process.poll() is None:  # the next attempt works in the same folder
            await asyncio.sleep(LOOK_S)
        await self._linger(reader)
        self._pipe.close()
        if reader.done():
            reader.result()  # an event that could not be written down is not passed over
        reader.cancel()
        return await asyncio.to_thread(self._outcome, endings[-1] if endings else None)

    async def _linger(self, reader: asyncio.Task[None]) -> None:
        """What was left in the pipe has been read, or somebody else holds it open.

        Only the wait for the pipe is limited: a disk may take longer to write an event down.
        """
        left_s = LINGER_S
        while left_s > 0 and not reader.done():
            await asyncio.wait({reader}, timeout=LOOK_S)
            if not self._telling:
                left_s -= LOOK_S

    def signal(self, number: signal.Signals) -> None:
        """The whole group gets the signal; nothing happens when it has gone."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def stop(self, grace_s: float) -> None:
        """Has been asked to end, and been made to after `grace_s`."""
        self.signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self._process.poll() is None:
                    await asyncio.sleep(0.02)
        self.signal(signal.SIGKILL)

    async def _read(
        self, tell: Callable[[Event], Awaitable[None]], endings: list[Staged | Failed]
    ) -> None:
        async for line in lines_of(self._output):
            self._telling = True
            event = read_event(line)
            if isinstance(event, Staged | Failed):
                endings.append(event)
            elif isinstance(event, TOLD_BY_TRAINER):
                await tell(event)
            else:
                await asyncio.to_thread(self._note, line)
            self._telling = False

    def _note(self, line: bytes) -> None:
        """A library that prints does no harm; what it printed is in the log."""
        with self._log.open("ab") as log:
            log.write(b"[stdout] " + line + b"\n")

    def _outcome(self, ending: Staged | Failed | None) -> Outcome:
        code = self._process.returncode
        if isinstance(ending, Failed):
            return Outcome(False, ending.reason)
        if isinstance(ending, Staged) and code == 0:
            return Outcome(True)
        reason = f"{_ending(code)}; the end of its log: {tail(self._log)}"
        return Outcome(False, reason, killed=code is not None and code < 0)


def _spawn(command: Sequence[str], log: Path, pid: Path) -> subprocess.Popen[bytes]:
    # Not the event loop's own: uvloop forks, and gRPC does not survive that. Of 300 children that
    # it started beside a busy server 26 crashed; of those that asyncio's loop started, which goes
    # through Popen, none.
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=os.environ | PATIENT,
        )
    try:
        write_durably(pid, str(process.pid).encode())
    except OSError:
        discard(process)
        raise
    return process


def discard(process: subprocess.Popen[bytes]) -> None:
    """It runs no more, and its pipes are closed."""
    with process:
        process.kill()


def kill_leftover(pid_file: Path, assignment: Path) -> None:
    """A process that outlived the server that started it is gone.

    Its number may belong to somebody else by now, so it must name `assignment` as its argument.
    """
    with suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if str(assignment).encode() in arguments:
            os.killpg(pid, signal.SIGKILL)


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"training ended with exit code {code} and no bundle"
    name = signal.Signals(-code).name
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"training was ended by {name}{hint}"


def tail(log: Path) -> str:
    """What stands at the end of a log, however long it is."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            text = file.read(TAIL).decode(errors="replace").strip()
    except OSError:
        text = ""
    return text or "(empty)"
