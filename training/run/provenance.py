"""Where a bundle comes from: the command, and the code, packages and machine it ran on."""

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

import torch

LOCKS = Path(__file__).parents[2] / "requirements"
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "onnx", "onnxscript", "safetensors")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
PIN = re.compile(r"^([\w.-]+)(?:\[[^]]*\])?==([^\s;]+)", re.MULTILINE)


def machine_facts(device: torch.device) -> dict[str, str]:
    """What results depend on besides data and settings; for people, not for parsing."""
    return {
        "versions": versions(),
        "packages": _packages(),
        "lock": locked(installed(), LOCKS),
        "code": commit_of(Path(__file__)),
        "command": shlex.join(sys.orig_argv),
        "hardware": hardware(device),
        "device": str(device),
        "threads": f"{torch.get_num_threads()} intra-op, "
        f"{torch.get_num_interop_threads()} inter-op",
        "determinism": determinism(),
        "platform": platform.platform(),
    }


def seconds_each(durations: Mapping[str, float]) -> str:
    """As in `decode the images 1.2 s, head on activations 0.4 s`."""
    return ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in durations.items())


# Code


def versions() -> str:
    """Of Python, of this package, and of those that results depend on."""
    names = ("unfreeze", *PACKAGES, *RUNTIMES)
    found = {name: found for name in names if (found := _version(name))}
    return ", ".join([f"python {platform.python_version()}", *map(" ".join, found.items())])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def installed() -> dict[str, str]:
    """Every distribution of this environment by its normalised name, and its version."""
    return {_normal(found.name): found.version for found in distributions() if found.name}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _packages() -> str:
    """How many are installed, and a digest of what `pip freeze` would list."""
    lines = sorted(f"{name}=={number}" for name, number in installed().items())
    return (
        f"{len(lines)} installed, sha256 {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"
    )


def locked(packages: Mapping[str, str], folder: Path) -> str:
    """The longest lock file of `folder` that `packages` match exactly, and its digest."""
    best, n_best = "none that matches", 0
    for path in sorted(folder.glob("*.txt")):
        pins = PIN.findall(path.read_text(encoding="utf-8"))
        if len(pins) > n_best and all(packages.get(_normal(name)) == pin for name, pin in pins):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            best, n_best = f"{path.name}, sha256 {digest}", len(pins)
    return best


def commit_of(file: Path) -> str:
    """The commit that `file` is part of, `-dirty` if anything has changed since."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(file.parent), *arguments], capture_output=True, text=True, timeout=10
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        ours = git("ls-files", "--error-unmatch", file.name)
        described = git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.TimeoutExpired):  # no git
        return "not committed"
    return described if ours and described else "not committed"


# Machine


def hardware(device: torch.device) -> str:
    """Processor, how many cores we may use, memory, and the accelerator if there is one."""
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = f"{_processor()}, {cores}, {memory:.1f} GiB"
    if device.type != "cuda":
        return found
    gpu = torch.cuda.get_device_properties(device)
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    cuda = f"CUDA {torch.version.cuda}, cuDNN {cudnn}"
    return f"{found}; {gpu.name}, {gpu.total_memory / 2**30:.1f} GiB, {cuda}"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    named = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return named.group(1).strip() if named else platform.machine()


def determinism() -> str:
    """The switches that trade reproducibility or precision for speed in torch."""
    cudnn = torch.backends.cudnn
    said = {
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "cuDNN deterministic": cudnn.deterministic,
        "cuDNN benchmark": cudnn.benchmark,
        "TF32": torch.backends.cuda.matmul.allow_tf32 or cudnn.allow_tf32,
    }
    switches = [f"{name} {'on' if on else 'off'}" for name, on in said.items()]
    precision = torch.get_float32_matmul_precision()
    return ", ".join([*switches, f"float32 matmul precision {precision}"])
