"""`train`, `import`, `serve`, `demo`: need packages that the base install leaves out, and so are
imported only when asked for."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from unfreeze.commands.shared import Commands, UsageError


@dataclass(frozen=True)
class Program:
    """A program with its own arguments: `main(arguments)` of `module` returns the exit code."""

    module: str
    summary: str
    needs: tuple[str, ...]  # packages missing from the base install
    install: str
    anew: bool = False  # run in a fresh interpreter that has imported nothing yet, not even gRPC


PROGRAMS = {
    "train": Program(
        "training.__main__",
        "train a model on folders or a CSV of labelled images, and publish it",
        ("torch", "torchvision", "timm", "onnx", "onnxruntime"),
        "pip install 'unfreeze[train,cpu]'",
    ),
    "import": Program(
        "training.foreign.__main__",
        "package an existing ONNX classifier as a bundle, verify it by running it, and publish it",
        ("numpy", "PIL", "pydantic", "onnx", "onnxruntime"),
        "pip install 'unfreeze[import,cpu]'",
    ),
    "serve": Program(
        "service.__main__",
        "serve the promoted versions of a registry over gRPC",
        ("onnxruntime", "grpc_health", "grpc_reflection", "prometheus_client", "pydantic"),
        "pip install 'unfreeze[cpu]' (or 'unfreeze[gpu]')",
        anew=True,
    ),
    "demo": Program(
        "unfreeze.demo",
        "run everything on real photographs: train, serve, predict, retrain, swap",
        ("torch", "timm", "onnxruntime", "grpc_health", "elpv_dataset"),
        "pip install 'unfreeze[train,cpu]' elpv-dataset",
    ),
}


def add_to(commands: Commands) -> None:
    """Only for `unfreeze --help` to list them: each parses its own arguments."""
    for name, program in PROGRAMS.items():
        commands.add_parser(name, help=program.summary, add_help=False)


def enter(name: str, arguments: list[str]) -> int:
    """Runs the program behind a command and returns its exit code; one with `anew` replaces this
    process instead.

    Raises:
        UsageError: a package that it needs is not installed.
    """
    program = PROGRAMS[name]
    missing = [package for package in program.needs if importlib.util.find_spec(package) is None]
    if missing:
        raise UsageError(
            f"`unfreeze {name}` needs {', '.join(missing)}, which is not installed; "
            f"install it with: {program.install}"
        )
    if program.anew:
        # -P, unless the current folder is on sys.path already: a file in it must not shadow ours
        safely = [] if {"", os.getcwd()} & {*sys.path} else ["-P"]
        os.execv(sys.executable, [sys.executable, *safely, "-m", program.module, *arguments])
    main: Callable[[list[str]], int] = importlib.import_module(program.module).main
    return main(arguments)
