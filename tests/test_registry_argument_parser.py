"""Mistakes on a command line: one line that says what is wrong, and where help is."""

import pytest

from registry.argument_parser import ArgumentParser


@pytest.fixture
def parser() -> ArgumentParser:
    parser = ArgumentParser(prog="bake")
    parser.add_argument("--minutes", required=True)
    parser.add_argument("--oven-rack")
    parser.add_argument("dish", nargs="*")
    return parser


@pytest.fixture
def commands() -> ArgumentParser:
    parser = ArgumentParser(prog="kitchen")
    parser.add_argument("--quiet", action="store_true")
    cook = parser.add_subparsers(required=True).add_parser("cook")
    cook.add_argument("--minutes")
    return parser


def told(capsys: pytest.CaptureFixture[str], parser: ArgumentParser, *arguments: str) -> str:
    """The first line of the error of wrong arguments; the second one says where help is."""
    with pytest.raises(SystemExit) as end:
        parser.parse_args(arguments)
    assert end.value.code == 2
    out, error = capsys.readouterr()
    problem, help_is = error.splitlines()
    assert not out
    assert help_is == f"see `{problem.partition(':')[0]} --help`"
    return problem


def test_a_misspelt_flag_is_named_with_the_nearest_one(
    capsys: pytest.CaptureFixture[str], parser: ArgumentParser
):
    problem = told(capsys, parser, "--minuts", "5", "pie")
    assert problem == "bake: there is no flag --minuts; did you mean --minutes?"
    problem = told(capsys, parser, "--minutes=5", "--over-rack=2")
    assert problem == "bake: there is no flag --over-rack; did you mean --oven-rack?"


def test_a_flag_unlike_any_other_is_named_alone(
    capsys: pytest.CaptureFixture[str], parser: ArgumentParser
):
    assert told(capsys, parser, "--zzz") == "bake: there is no flag --zzz"


def test_a_missing_flag_is_asked_for(capsys: pytest.CaptureFixture[str], parser: ArgumentParser):
    assert "required: --minutes" in told(capsys, parser, "pie")


def test_a_subcommand_reports_its_own_misspelt_flags(
    capsys: pytest.CaptureFixture[str], commands: ArgumentParser
):
    problem = told(capsys, commands, "cook", "--minuts", "5")
    assert problem == "kitchen cook: there is no flag --minuts; did you mean --minutes?"
    assert told(capsys, commands, "cook", "pie") == "kitchen cook: unrecognized arguments: pie"


def test_what_was_right_before_still_is(parser: ArgumentParser, commands: ArgumentParser):
    parsed = parser.parse_args(["--min", "5", "--oven-rack=2", "--", "--pie"])
    assert (parsed.minutes, parsed.oven_rack, parsed.dish) == ("5", "2", ["--pie"])
    assert commands.parse_args(["--quiet", "cook", "--minutes", "5"]).quiet
