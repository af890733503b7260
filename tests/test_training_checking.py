"""What the trainer says to settings before there is a job."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from registry.errors import BadRequest
from training.checking import check_settings

ASK = """
import sys
from training.__main__ import main
code = main(sys.argv[1:])
print("heavy:", sorted({"torch", "timm", "matplotlib", "onnx", "rich"} & set(sys.modules)))
sys.exit(code)
"""


def ask(settings: dict[str, str], *question: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", ASK, *question],
        input=json.dumps(settings),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).resolve().parent.parent,
    )
    return done.returncode, done.stdout.splitlines()


def test_settings_are_checked_without_torch() -> None:
    assert ask({"size": "160"}, "--check-settings") == (0, ["heavy: []"])
    code, (told, heavy) = ask({"lerning_rate": "1"}, "--check-settings")
    assert (code, heavy) == (2, "heavy: []")
    assert json.loads(told) == {
        "kind": "failed",
        "reason": "no setting is called 'lerning_rate'; did you mean learning_rate?",
    }


def test_a_backbone_that_there_is_not_is_refused_with_what_is_near() -> None:
    check_settings({"backbone": "resnet34"})
    with pytest.raises(BadRequest, match=r"no backbone is called 'resnet43'.*resnet34"):
        check_settings({"backbone": "resnet43"})


def test_a_file_of_weights_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no such file of weights"):
        check_settings({"weights": str(tmp_path / "none.safetensors")})
