"""Obeys the contract of the training process in a blink, and misbehaves when the settings say so.

Settings: `mode` is one of MODES; `bias` (three numbers, for tiny.stage), `accuracy`, `champion`
(the accuracy that the promoted version is given) and `golden_shift` make the model. Asked before
the job, it objects to `refused` with the words that are its value, and never answers `silent`.
Asked for the settings of a bundle, it gives those of its provenance.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

if "--check-settings" in sys.argv:  # callers wait, so before what takes long to import
    asked = json.load(sys.stdin)
    if "silent" in asked:
        time.sleep(600)
    if "refused" in asked:
        print("a library says hello")
        print(json.dumps({"kind": "failed", "reason": asked["refused"]}))
    sys.exit()

if "--settings-of" in sys.argv:
    bundle = json.loads((Path(sys.argv[-1]) / "bundle.json").read_text())
    before = json.loads(bundle["provenance"]["settings"])
    print(json.dumps({"kind": "resolved", "settings": before | json.load(sys.stdin)}))
    sys.exit()

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tiny

from registry.jobs import (
    CHECKPOINT,
    Assignment,
    EpochFinished,
    Event,
    Failed,
    Note,
    Progress,
    Score,
    Scored,
    Staged,
    StageStarted,
)

MODES = (
    *("good", "fail", "hang", "stubborn", "crash", "killed", "garbage", "half", "grandchild"),
    *("killed once", "hang once"),
)


def tell(event: Event) -> None:
    print(event.model_dump_json(), flush=True)


def end_with_parent() -> None:
    """Ends this process when whoever started it has gone, however that came."""
    while os.read(0, 1):
        pass
    os._exit(3)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--assignment", type=Path, required=True)
    path = parser.parse_args().assignment
    threading.Thread(target=end_with_parent, daemon=True).start()
    assignment = Assignment.model_validate_json(path.read_bytes())
    return train(assignment, assignment.settings.get("mode", "good"))


def train(assignment: Assignment, mode: str) -> int:
    if mode not in MODES:
        tell(Failed(reason=f"mode: {mode!r} is none of {', '.join(MODES)}"))
        return 2
    tell(StageStarted(stage="audit", number=1, of=2))
    match mode:
        case "fail":
            tell(Failed(reason="class 'green' has no images; add some"))
            return 2
        case "hang":
            time.sleep(600)
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            tell(Note(text="not listening"))
            time.sleep(600)
        case "crash":
            raise RuntimeError("a bug in the trainer")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "killed once" | "hang once":
            before = assignment.run / CHECKPOINT
            if not before.exists():
                before.touch()
                if mode == "killed once":
                    os.kill(os.getpid(), signal.SIGKILL)
                tell(Note(text="hangs"))
                time.sleep(600)
            tell(Note(text="goes on"))
        case "half":
            tell(Staged(folder=assignment.stage))
            return 0
        case "garbage":
            print('a library says hello\n{"kind": "nonsense"}\n' + "x" * 3_000_000, flush=True)
        case "grandchild":  # it holds on to our standard output
            subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL)
    fit(assignment)
    tell(Staged(folder=assignment.stage))
    return 0


def fit(assignment: Assignment) -> None:
    settings = assignment.settings
    accuracy = float(settings.get("accuracy", "0.9"))
    tell(StageStarted(stage="fit", number=2, of=2))
    for done in range(0, 101, 10):
        tell(Progress(stage="fit", done=done, total=100, images_per_second=50.0, seconds_left=1.0))
        time.sleep(float(settings.get("seconds", "0")) / 11)
    tell(
        EpochFinished(
            stage="fit",
            epoch=1,
            epochs=1,
            train_loss=0.3,
            valid_loss=0.4,
            metric="accuracy",
            metric_value=accuracy,
            images_per_second=50.0,
        )
    )
    tiny.stage(
        assignment.stage,
        model=assignment.model,
        bias=[float(part) for part in settings.get("bias", "0,0,0").split(",")],
        golden_shift=float(settings.get("golden_shift", "0")),
        metrics={"accuracy": accuracy},
    )
    champion = Score(metric="accuracy", value=float(settings.get("champion", "0.8")), log_loss=0.5)
    tell(
        Scored(
            candidate=Score(metric="accuracy", value=accuracy, log_loss=0.4),
            promoted=champion if assignment.champion else None,
            promoted_version=assignment.champion_version,
            images=100,
            gained=12,
            lost=2,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
