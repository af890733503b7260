"""Structured logs: one JSON object per line on standard error, with an `event` and its fields.

log.warning("load_failed", extra={"model": "solar", "version": 3})
"""

import json
import logging
import math
import sys
import time
import warnings
from collections import Counter
from datetime import UTC, datetime

MAX_TEXT = 2_000  # characters of one value
MAX_TRACE = 8_000
REPEATED_AFTER_S = 60.0

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


class Seldom(logging.Filter):
    """Lets what each line of a library's code logs through once in REPEATED_AFTER_S.

    The next record to pass has the field `left_out`, how many did not. OpenTelemetry logs every
    attempt to reach a collector that is down.
    """

    def __init__(self, library: str) -> None:
        super().__init__(library)
        # by line of code, since there may be any number of texts
        self._passed_at: dict[tuple[str, int], float] = {}
        self._left_out: Counter[tuple[str, int]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        if not super().filter(record):
            return True  # of another library
        line, now = (record.pathname, record.lineno), time.monotonic()
        if now - self._passed_at.get(line, -math.inf) < REPEATED_AFTER_S:
            self._left_out[line] += 1
            return False
        self._passed_at[line] = now
        if left_out := self._left_out.pop(line, 0):
            record.left_out = left_out
        return True


def log_as_json(level: str) -> None:
    """Makes every logger of this process write JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(Seldom("opentelemetry"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # clients' images decide what Pillow warns of, and Python keeps every distinct warning in memory
    warnings.filterwarnings("ignore", module="PIL")
