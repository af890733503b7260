"""Structured logs: one JSON object per line on standard error, with an `event` and its fields.

log.warning("load_failed", extra={"model": "solar", "version": 3})
"""

import json
import logging
import sys
import warnings
from datetime import UTC, datetime

MAX_TEXT = 2_000  # characters of one value
MAX_TRACE = 8_000

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Escapes everything, so that no value can forge a line, and truncates long values."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage()[:MAX_TEXT],
        }
        facts = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        line |= {name: _capped(value) for name, value in facts.items()}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)[-MAX_TRACE:]
        return json.dumps(line, default=str)


def _capped(value: object) -> object:
    return value if isinstance(value, bool | int | float | dict | None) else str(value)[:MAX_TEXT]


def log_as_json(level: str) -> None:
    """Makes every logger of this process write JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # clients' images decide what Pillow warns of, and Python keeps every distinct warning in memory
    warnings.filterwarnings("ignore", module="PIL")
