"""JSON logs on stderr: one object a line. Owns the format; refuses to know what is logged.

Fields of a record come from `extra={"fields": {...}}`. No caller may put a token, a cookie, a body, an
address or a query string there.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

FORMATTED: Final = "is_formatted"
"""A record with this attribute brings ready lines as its message."""


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: `at`, `level`, `logger`, `message`, then its fields."""

    def format(self, record: logging.LogRecord) -> str:
        if getattr(record, FORMATTED, False):
            return str(record.msg)
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _printable(record.getMessage()),
        }
        for name, value in getattr(record, "fields", {}).items():
            line[name] = _printable(value) if isinstance(value, str) else value
        if record.exc_info:
            line["traceback"] = _printable(self.formatException(record.exc_info))
        return msgspec.json.encode(line).decode()


def configure_logging(level: int = logging.INFO) -> None:
    """Send every logger of this process to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
