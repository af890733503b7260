"""Identifies the CPUs or GPUs that networks run on, so that plans and compiled engines are not
reused on others."""

import re
from pathlib import Path

from service.execution.cpus import ROOT, cpu_set
from service.execution.providers import GPUS, ActiveProvider


def processors(provider: ActiveProvider, root: Path = ROOT) -> str:
    """The hardware that `provider` runs on, by name; empty if the system does not say.

    Args:
        root: where `proc` is.
    """
    return _gpus(root) if provider in GPUS else f"{cpu_set()} {_cpu_model(root)}"


def _gpus(root: Path) -> str:
    """The models of all GPUs that this process can see, and their driver."""
    folder = root / "proc/driver/nvidia"
    texts = sorted(map(_read, folder.glob("gpus/*/information")))
    models = [
        found[1] for text in texts if (found := re.search(r"^Model:\s*(.+?)\s*$", text, re.M))
    ]
    driver = _read(folder / "version").partition("\n")[0]
    return f"{', '.join(models)}; {driver}" if models and driver else ""


def _cpu_model(root: Path) -> str:
    """The CPU's model name on x86; other architectures have no such line."""
    found = re.search(r"^model name\s*:\s*(.+)$", _read(root / "proc/cpuinfo"), re.M)
    return found[1] if found else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
