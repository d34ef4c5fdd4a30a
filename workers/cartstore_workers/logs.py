"""JSON lines on stderr, one event a line. Owns their form; refuses tracebacks of what is not a defect."""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import msgspec
import redis

from cartstore.errors import StoreError

_OUTAGES = (redis.RedisError, StoreError, OSError)
"""A server that is away is said in a line; where in our code it was noticed is of no interest."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One record as one JSON object; what a call gave as `extra` becomes members."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: value for name, value in vars(record).items() if name not in _STANDARD})
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line["error"] = describe(error)
            if not isinstance(error, _OUTAGES):
                line["traceback"] = "".join(traceback.format_exception(error))
        return msgspec.json.encode(line, enc_hook=str).decode()


def describe(error: BaseException) -> str:
    """Class and message in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def set_up_logs(level: int = logging.INFO) -> None:
    """Send everything that this process logs to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
