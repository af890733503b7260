"""What docs/recipe.md and README.md say is there, is there."""

import ast
import re
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+) \|$", PAGE, flags=re.MULTILINE)
CLIENTS = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
FROM_TRITON = (ROOT / "docs" / "from-triton.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_row_is_there_once_and_in_order():
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 66))


def test_every_row_says_where_it_stands():
    unsaid = [
        number
        for number, _, text in ROWS
        if not re.match(r"\*\*(done|partly|left out|open)\*\*", text)
    ]
    assert not unsaid


def test_what_is_done_names_a_test_and_what_is_left_out_a_reason():
    for number, feature, text in ROWS:
        if text.startswith(("**done**", "**partly**")):
            assert TEST.search(text), f"row {number}, {feature}: no test is named"
        if text.startswith("**left out**"):
            assert text.startswith("**left out**: "), f"row {number}, {feature}: no reason"


def test_every_test_that_is_named_exists():
    named = TEST.findall(PAGE)
    assert len(named) > 60
    missing = [f"{file}::{name}" for file, name in named if name not in names_in(file)]
    assert not missing


def test_the_way_through_the_service_names_files_that_exist():
    text = (ROOT / "service" / "__init__.py").read_text(encoding="utf-8")
    named = re.findall(r"[\w/]+\.py", text)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / "service" / name).is_file()] == []


def test_every_file_that_is_named_exists():
    named = set(re.findall(r"`(\w+/[\w/]+\.\w+)`", PAGE)) - {"report/test.csv"}
    assert {"training/presets.py", "training/recipe.py"} <= named
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_every_setting_that_is_named_exists():
    from training.settings import Settings

    named = set(re.findall(r"`(\w+)=\w+`", PAGE))
    assert {"keep", "schedule", "decay"} <= named
    assert named <= set(Settings.model_fields)


def test_the_page_for_fastai_names_only_what_exists():
    import training
    from training import looking, plots, tiles
    from training.settings import Settings

    page = (ROOT / "docs" / "from-fastai.md").read_text(encoding="utf-8")
    homes = {"learner": training.Learner, "looking": looking, "plots": plots, "tiles": tiles}
    named = [name for name in re.findall(r"\b(\w+)\.(\w+)", page) if name[0] in homes]
    fields = training.Learner.__dataclass_fields__
    missing = [
        name for name in named if not hasattr(homes[name[0]], name[1]) and name[1] not in fields
    ]
    assert len(named) > 20
    assert not missing
    right = re.findall(r"^\| .+? \| (.+) \|$", page, flags=re.MULTILINE)
    settings = set(re.findall(r"`(\w+)=[^`]+`", " ".join(right)))
    assert {"valid_fraction", "schedule", "keep"} <= settings <= set(Settings.model_fields)
    linked = re.findall(r"\]\((.+?)\)", page)
    assert not [link for link in linked if not (ROOT / "docs" / link).exists()]


def test_settings_named_on_the_page_for_fastai_can_be_set():
    from training.reading_settings import read_settings

    page = (ROOT / "docs" / "from-fastai.md").read_text(encoding="utf-8")
    right = re.findall(r"^\| .+? \| (.+) \|$", page, flags=re.MULTILINE)
    named = re.findall(r"`(\w+)=([^`]+)`", " ".join(right))
    assert len(named) > 30
    for name, value in named:
        size = {"size": "224"} if name == "sizes" else {}
        read_settings({name: value} | size)


def commands() -> list[list[str]]:
    """What the README would have a reader type, without `unfreeze`."""
    lines = [line.removesuffix("&").strip() for block in BLOCKS for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [each[1:] for each in words if each[:1] == ["unfreeze"]]


def parser(name: str) -> Callable[[list[str]], object]:
    from service.flags import read_flags
    from training.__main__ import _parser as training_parser
    from unfreeze.cli import _parser as client_parser

    parsers = {"train": training_parser().parse_args, "serve": read_flags}
    return parsers.get(name, client_parser().parse_args)


def test_every_command_of_the_readme_is_understood():
    found = commands()
    assert {each[0] for each in found} >= {"train", "serve", "predict", "retrain", "rollback"}
    for name, *arguments in found:
        is_program = name in ("train", "serve")
        parser(name)(arguments if is_program else [name, *arguments])  # SystemExit if not


def test_the_readmes_server_finds_what_its_reader_retrains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from service.jobs.data_roots import resolve_data

    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    given = {name: arguments for name, *arguments in commands()}
    serve, retrain = given["serve"], given["retrain"]
    root, data = serve[serve.index("--data-root") + 1], retrain[retrain.index("--data") + 1]
    assert resolve_data(data, [Path(root)]) == tmp_path / "photos"


def test_every_setting_of_the_readme_exists():
    from training.settings import Settings

    named = set(re.findall(r"(?:--set |`)(\w+)=[\w,]+", README)) - {"key"}
    assert {"sizes", "size_epochs", "balance", "keep"} <= named
    assert named <= set(Settings.model_fields)


def test_every_page_that_the_readme_links_to_exists():
    linked = set(re.findall(r"\]\(([^)#:]+)\)", README))
    assert {"docs/recipe.md", "benchmarks/RESULTS.md"} <= linked
    assert not [name for name in linked if not (ROOT / name).exists()]


def test_the_fields_that_other_languages_are_shown_exist():
    """proto-loader drops a field that it does not know, without an error."""
    from unfreeze.v1 import classifier_pb2 as pb

    shown = re.search(r"const request = \{ (.+) \}$", CLIENTS, flags=re.MULTILINE)
    assert shown
    asked = re.findall(r"(?:^|, )(\w+):", shown[1])
    assert asked == ["model", "images", "ttaViews"]
    assert set(asked) <= set(pb.ClassifyRequest.DESCRIPTOR.fields_by_camelcase_name)
    assert "classify(request" in CLIENTS
    assert "Classify" in pb.DESCRIPTOR.services_by_name["Classifier"].methods_by_name


def test_every_page_that_other_languages_are_sent_to_exists():
    linked = [link.partition("#")[0] for link in re.findall(r"\]\((.+?)\)", CLIENTS)]
    assert linked
    assert not [link for link in linked if not (ROOT / "docs" / link).exists()]


def code_on_the_page_for_triton() -> list[str]:
    """What its last columns have in code: ours."""
    rows = [line.split(" | ")[1] for line in FROM_TRITON.splitlines() if line.startswith("| ")]
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row)]


def test_every_command_of_the_page_for_triton_is_understood():
    commands = [shlex.split(code)[1:] for code in code_on_the_page_for_triton()]
    commands = [words for words in commands if words and words[0] in ("promote", "candidate")]
    assert {name for name, *_ in commands} == {"promote", "candidate"}
    for words in commands:
        parser(words[0])(words)  # SystemExit if not


def test_every_flag_of_the_page_for_triton_exists(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parser("serve")(["--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    flags = [code.split()[0] for code in code_on_the_page_for_triton() if code[:2] == "--"]
    of_the_candidate = {"--shadow"}
    assert len(set(flags) & known) > 7
    assert set(flags) <= known | of_the_candidate


def test_every_metric_of_the_page_for_triton_is_exposed():
    from prometheus_client import generate_latest

    from service.observability.metrics import Metrics

    named = set(re.findall(r"`((?:unfreeze|grpc_server)_\w+)`", FROM_TRITON))
    assert len(named) > 6
    page = generate_latest(Metrics().registry).decode()
    families = set(re.findall(r"^# TYPE (\S+)", page, flags=re.MULTILINE))
    assert {name.removesuffix("_count") for name in named} <= families
