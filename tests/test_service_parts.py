"""The parts of the service that can be tried alone: settings, logs, statuses."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from registry.errors import BadRequest, UnfreezeError
from service.observability import logs
from service.observability.logs import JsonFormatter, Seldom
from service.predict import top
from service.settings import Settings, read_settings
from service.status import CODES, code_of


def test_of_equal_probabilities_the_first_label_wins() -> None:
    assert top(np.array([0.2, 0.4, 0.4, 0.0], np.float32), 3) == [1, 2, 0]


def test_every_error_has_a_code() -> None:
    for kind in UnfreezeError.__subclasses__():
        assert code_of(kind("")) is CODES[kind]


def test_flags_win_over_the_environment(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNFREEZE_REGISTRY", "/elsewhere")
    monkeypatch.setenv("UNFREEZE_PORT", "1")
    monkeypatch.setenv("UNFREEZE_DATA_ROOTS", "/a:/b")
    monkeypatch.setenv("UNFREEZE_TRAINER_COMMAND", "python 'my trainer.py'")
    settings = read_settings({"registry": str(tmp_path), "port": None})
    assert (settings.registry, settings.port) == (tmp_path, 1)
    assert settings.data_roots == (Path("/a"), Path("/b"))
    assert settings.trainer_command == ("python", "my trainer.py")


def test_a_registry_is_required(monkeypatch) -> None:
    monkeypatch.delenv("UNFREEZE_REGISTRY", raising=False)
    with pytest.raises(BadRequest, match="no registry given; use --registry PATH"):
        read_settings({})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.com", "10.0.0.1", ""])
def test_administration_stays_on_this_machine(host: str) -> None:
    with pytest.raises(ValidationError, match="has no authentication"):
        Settings(registry=Path("x"), admin_host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"])
def test_loopback_addresses_are_accepted(host: str) -> None:
    assert Settings(registry=Path("x"), admin_host=host).admin_host == host.strip("[]")


def test_a_log_line_cannot_be_forged_and_is_capped() -> None:
    record = logging.makeLogRecord({"msg": "load_failed", "levelname": "ERROR", "name": "x"})
    record.model = 'a\r\n{"event": "forged"}' + "z" * 10_000
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert len(line) < 3_000
    assert json.loads(line)["model"].startswith("a\r\n{")


def test_what_a_library_repeats_is_logged_once_a_while_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def passes(name: str, line: int, text: str) -> logging.LogRecord | None:
        record = logging.LogRecord(name, logging.ERROR, "code.py", line, text, (), None)
        return record if seldom.filter(record) else None

    seldom = Seldom("chatty")
    assert passes("chatty.exporter", 1, "no answer from a")
    assert not passes("chatty.exporter", 1, "no answer from b")
    assert not passes("chatty.exporter", 1, "no answer from c")
    assert passes("chatty.exporter", 2, "another problem")
    assert passes("ours", 1, "no answer from a")
    assert passes("ours", 1, "no answer from a")
    monkeypatch.setattr(logs, "REPEATED_AFTER_S", 0)
    later = passes("chatty.exporter", 1, "no answer from d")
    assert later
    assert vars(later)["left_out"] == 2
