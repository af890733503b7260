"""What the command line prints of a training as it happens."""

import pytest

from unfreeze import events
from unfreeze.commands.job_output import JobOutput


def test_a_stages_name_commands_neither_the_terminal_nor_the_progress_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    with JobOutput() as output:
        output.show(
            events.Progress(
                stage="\x1b[2J[/b]", done=1, total=2, images_per_second=3, seconds_left=1
            )
        )
    shown = capsys.readouterr().out
    assert r"\x1b[2J[/b]" in shown
    assert "\x1b[2J" not in shown
