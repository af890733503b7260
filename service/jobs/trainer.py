"""The training process: a child in a process group of its own, and its outcome.

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
LINGER_S = 5.0  # to read what is left in the pipe after the process has ended
LOOK_S = 0.05

# The trainer's threads sleep instead of spinning when idle, which leaves the cores to serving.
PASSIVE_WAIT = {"OMP_WAIT_POLICY": "PASSIVE"}

EVENTS_TO_RECORD = (StageStarted, Progress, EpochFinished, Note, Scored)


@dataclass(frozen=True)
class Outcome:
    """How the process ended: it staged a bundle, or it failed for a reason."""

    staged: bool
    reason: str = ""
    killed: bool = False  # by a signal, before it could report a failure


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
        self._recording = False
        self._log = log

    @classmethod
    async def start(
        cls, command: Sequence[str], assignment: Path, log: Path, pid: Path
    ) -> "Trainer":
        """Starts the process, and writes its id to the file `pid` for the next server.

        Raises:
            TrainingError: it cannot be started.
            OSError: its log or its id cannot be written, for example because the disk is full.
        """
        process = await asyncio.to_thread(
            _spawn, [*command, "--assignment", str(assignment)], log, pid
        )
        return cls(process, await open_output(process), log)

    async def follow(self, record: Callable[[Event], Awaitable[None]]) -> Outcome:
        """Passes on every event until the process has ended; returns its outcome."""
        endings: list[Staged | Failed] = []
        reader = asyncio.create_task(self._read(record, endings))
        try:
            # not wait(), which would also wait for grandchildren that hold the pipe
            while self._process.poll() is None and not (reader.done() and reader.exception()):
                await asyncio.sleep(LOOK_S)
        finally:
            self.signal(signal.SIGKILL)  # kills what is left of its group
            if self._process.stdin:
                self._process.stdin.close()
        while self._process.poll() is None:  # the next attempt works in the same folder
            await asyncio.sleep(LOOK_S)
        await self._linger(reader)
        self._pipe.close()
        if reader.done():
            reader.result()  # raises if an event could not be recorded
        reader.cancel()
        return await asyncio.to_thread(self._outcome, endings[-1] if endings else None)

    async def _linger(self, reader: asyncio.Task[None]) -> None:
        """Reads what is left in the pipe, unless another process holds it open for too long.

        Only waiting for the pipe is limited: recording an event may take a disk longer.
        """
        left_s = LINGER_S
        while left_s > 0 and not reader.done():
            await asyncio.wait({reader}, timeout=LOOK_S)
            if not self._recording:
                left_s -= LOOK_S

    def signal(self, number: signal.Signals) -> None:
        """Sends the signal to the whole process group; does nothing if it has gone."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def stop(self, grace_s: float) -> None:
        """Asks it to exit, and kills it after `grace_s`."""
        self.signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self._process.poll() is None:
                    await asyncio.sleep(0.02)
        self.signal(signal.SIGKILL)

    async def _read(
        self, record: Callable[[Event], Awaitable[None]], endings: list[Staged | Failed]
    ) -> None:
        async for line in lines_of(self._output):
            self._recording = True
            event = read_event(line)
            if isinstance(event, Staged | Failed):
                endings.append(event)
            elif isinstance(event, EVENTS_TO_RECORD):
                await record(event)
            else:
                await asyncio.to_thread(self._note, line)
            self._recording = False

    def _note(self, line: bytes) -> None:
        """Logs a line that is not an event, such as one printed by a library."""
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
    # Not the event loop's subprocess: uvloop forks, which gRPC does not survive. Of 300 children
    # that it started beside a busy server, 26 crashed; with asyncio's own loop, which uses Popen,
    # none did.
    with log.open("ab") as errors:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env=os.environ | PASSIVE_WAIT,
            )
        except OSError as error:
            raise TrainingError(f"{command[0]} cannot be started: {error}") from error
    try:
        write_durably(pid, str(process.pid).encode())
    except OSError:
        discard(process)
        raise
    return process


def discard(process: subprocess.Popen[bytes]) -> None:
    """Kills it, waits for it, and closes its pipes."""
    with process:
        process.kill()


def kill_leftover(pid_file: Path, assignment: Path) -> None:
    """Kills a trainer that outlived the server that started it.

    Its process id may have been reused, so the process must have `assignment` as an argument.
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
    """The end of a log, however long it is."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            text = file.read(TAIL).decode(errors="replace").strip()
    except OSError:
        text = ""
    return text or "(empty)"
