"""What a library would send to its maker, it does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("module", ["service.execution.session", "training.export.runtime"])
def test_onnx_runtime_neither_keeps_nor_sends_what_it_sees(module: str, tmp_path: Path):
    code = f"import {module}, onnxruntime, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"
    assert not list(tmp_path.rglob("*onnxruntime*"))
