"""A training as a child process of the service: assignment in a file, events on standard output."""

import os
import sys
import threading
from pathlib import Path

from registry.errors import BadRequest, Conflict, UnfreezeError
from registry.jobs import CHECKPOINT, Assignment, Failed, Note, Staged
from registry.niceness import TRAINING, give_way
from training.fit.out_of_memory import is_out_of_memory
from training.recipe import train
from training.run.progress import json_lines


def work_for_service(file: Path) -> int:
    """Carries out an assignment, with events on standard output, one JSON object per line."""
    stop_with_parent()
    give_way(TRAINING)
    tell = json_lines(sys.stdout)
    try:
        assignment = Assignment.model_validate_json(file.read_bytes())
        try:
            train(assignment, tell)
        except Conflict as error:  # images or promoted version changed since the last attempt
            tell(Note(text=f"{error}; starting over"))
            (assignment.run / CHECKPOINT).unlink(missing_ok=True)
            train(assignment, tell)
    except UnfreezeError as error:
        tell(Failed(reason=str(error)))
        return 2 if isinstance(error, BadRequest) else 1
    except OSError as error:  # a full disk, for example
        tell(Failed(reason=str(error)))
        return 1
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        tell(Failed(reason="out of memory; set a smaller batch_size or size"))
        return 1
    tell(Staged(folder=assignment.stage))
    return 0


def stop_with_parent() -> None:
    """From now on this process exits when its parent does, for whatever reason.

    The parent holds the other end of standard input open, and never writes to it.
    """

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(143)

    threading.Thread(target=wait, name="stop-with-parent", daemon=True).start()
