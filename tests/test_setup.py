"""The repository is what it says: generated files are fresh, and imports keep to their arrows."""

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import RunningServer

from unfreeze.v1 import admin_pb2

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PROTOS = ["unfreeze/v1/classifier.proto", "unfreeze/v1/admin.proto"]
PACKAGES = ("registry", "training", "service", "unfreeze")

# What a package may import of ours when it is loaded; DESIGN's `training -> registry <- service`.
ARROWS = {
    "registry": {"registry"},
    "training": {"training", "registry"},
    "service": {"service", "registry", "unfreeze.v1"},
    "unfreeze": {"unfreeze"},
}
# A command may start any package, but only when it is called.
LAZILY = ARROWS | {"unfreeze": {"unfreeze", "service", "training", "registry"}}
GENERATED = ROOT / "unfreeze" / "v1"


def protoc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True, cwd=ROOT)


def test_the_generated_modules_are_those_of_the_protos(tmp_path: Path):
    plugins = [
        f"--plugin={name}={BIN / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    ]
    kinds = ("python", "grpc_python", "mypy", "mypy_grpc")
    protoc("-I", "protos", *plugins, *(f"--{kind}_out={tmp_path}" for kind in kinds), *PROTOS)
    fresh = {path.name: path.read_text() for path in (tmp_path / "unfreeze" / "v1").iterdir()}
    committed = {path.name: path.read_text() for path in GENERATED.glob("*_pb2*")}
    assert sorted(committed) == sorted(fresh)
    stale = [name for name in fresh if committed[name] != fresh[name]]
    assert not stale, f"run `make protos`: {stale} are not what protos/ gives"


def test_a_client_made_from_the_protos_alone_can_do_what_the_command_can(
    server: RunningServer, data: Path, tmp_path: Path
):
    generated = tmp_path / "generated"
    generated.mkdir()
    protoc("-I", "protos", f"--python_out={generated}", f"--grpc_python_out={generated}", *PROTOS)
    told = bare_client(generated, server, tiny.picture("green"), data / "colours")
    assert told["generated"].startswith(str(generated))
    assert {"unfreeze.v1.Classifier", "grpc.health.v1.Health"} <= set(told["services"])
    assert told["label"] == told["streamed"] == "green"
    assert told["state"] == admin_pb2.JOB_STATE_SUCCEEDED
    assert {"scored", "gate_decided", "epoch_finished"} <= set(told["events"])
    assert (told["jobs"], told["back"], told["forth"]) == (1, 1, 2)
    assert (told["models"], told["versions"], told["pruned"]) == (["colours"], [2, 1], [])


def bare_client(generated: Path, server: RunningServer, image: bytes, data: Path) -> Any:
    """What `bare_client.py` saw with the generated modules, and without this repository, wherever
    PYTHONPATH leads."""
    picture = generated / "picture.jpg"
    picture.write_bytes(image)
    script = shutil.copy(ROOT / "tests" / "bare_client.py", generated)
    arguments = [script, server.address, server.admin_address, picture, data]
    return json.loads(subprocess.check_output([sys.executable, "-E", *arguments], cwd=generated))


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_keep_to_their_arrows(package: str):
    strays = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for name, is_lazy in imports(path):
            allowed = (LAZILY if is_lazy else ARROWS)[package]
            if name.split(".")[0] in PACKAGES and not within(name, allowed):
                strays.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not strays


def test_every_room_has_files():
    assert all(list((ROOT / package).glob("*.py")) for package in PACKAGES)


def test_imports_are_found_wherever_they_hide(tmp_path: Path):
    source = tmp_path / "source.py"
    source.write_text("import a.b\nif a:\n    from c import d\ndef f():\n    import e\n")
    assert list(imports(source)) == [("a.b", False), ("c.d", False), ("e", True)]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether a function does it when it is called."""
    yield from _imports(ast.parse(path.read_text()), is_lazy=False)


def _imports(node: ast.AST, *, is_lazy: bool) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, is_lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, "relative imports hide where they lead"
            yield from ((f"{child.module}.{alias.name}", is_lazy) for alias in child.names)
        in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(child, is_lazy=is_lazy or in_function)


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
