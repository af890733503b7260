"""`train`, `import`, `serve`, `demo`: what the base install leaves out, started when asked."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from unfreeze.commands.shared import Commands, UsageError


@dataclass(frozen=True)
class Program:
    """A program of its own: `main(arguments)` of `module` gives the exit code."""

    module: str
    summary: str
    needs: tuple[str, ...]  # packages that the base install does not bring
    install: str
    anew: bool = False  # in a Python that has not imported anything yet, not even gRPC


PROGRAMS = {
    "train": Program(
        "training.__main__",
        "train a model on folders or a CSV of labelled images, and publish it",
        ("torch", "torchvision", "timm", "onnx", "onnxruntime"),
        "pip install 'unfreeze[train,cpu]'",
    ),
    "import": Program(
        "training.foreign.__main__",
        "wrap a foreign ONNX classifier into a bundle, prove it, and publish it",
        ("numpy", "PIL", "pydantic", "onnx", "onnxruntime"),
        "pip install 'unfreeze[import,cpu]'",
    ),
    "serve": Program(
        "service.__main__",
        "answer over gRPC with the promoted versions of a registry",
        ("onnxruntime", "grpc_health", "grpc_reflection", "prometheus_client", "pydantic"),
        "pip install 'unfreeze[cpu]' (or 'unfreeze[gpu]')",
        anew=True,
    ),
    "demo": Program(
        "unfreeze.demo",
        "show the whole path on real photographs: train, serve, predict, retrain, swap",
        ("torch", "timm", "onnxruntime", "grpc_health", "elpv_dataset"),
        "pip install 'unfreeze[train,cpu]' elpv-dataset",
    ),
}


def add_to(commands: Commands) -> None:
    """Only so that `unfreeze --help` lists them: each parses its own arguments."""
    for name, program in PROGRAMS.items():
        commands.add_parser(name, help=program.summary, add_help=False)


def enter(name: str, arguments: list[str]) -> int:
    """The exit code of the program behind a command; one that begins anew takes this one's place.

    Raises:
        UsageError: what it needs is not installed.
    """
    program = PROGRAMS[name]
    missing = [package for package in program.needs if importlib.util.find_spec(package) is None]
    if missing:
        raise UsageError(
            f"`unfreeze {name}` needs {', '.join(missing)}, which is not installed; "
            f"install it with: {program.install}"
        )
    if program.anew:
        # -P: no file in the caller's folder is taken for one of ours, if it was not before
        safely = [] if {"", os.getcwd()} & {*sys.path} else ["-P"]
        os.execv(sys.executable, [sys.executable, *safely, "-m", program.module, *arguments])
    main: Callable[[list[str]], int] = importlib.import_module(program.module).main
    return main(arguments)
