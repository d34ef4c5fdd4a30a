"""JSON logs on stderr: one object a line. Owns the form of a line; refuses to know what is logged.

Fields of a record come from `extra={"fields": {...}}`. No caller may put a token, a cookie, a body, an
address or a query string there.
"""

from __future__ import annotations

import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec

from cartstore.errors import CartStoreError

_logger = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: `at`, `level`, `logger`, `message`, its fields, `error`, `traceback`.

    `outages`: errors that tell of a server which is away; where in our code that was noticed is of no
    interest, so they get no traceback.
    """

    def __init__(self, *, outages: tuple[type[BaseException], ...] = ()) -> None:
        super().__init__()
        self._outages = outages

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _printable(record.getMessage()),
        }
        for name, value in getattr(record, "fields", {}).items():
            line[name] = _printable(value) if isinstance(value, str) else value
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = _printable(describe(record.exc_info[1]))
            if not isinstance(record.exc_info[1], self._outages):
                line["traceback"] = _printable(self.formatException(record.exc_info))
        return msgspec.json.encode(line, enc_hook=str).decode()


def set_up_logs(formatter: logging.Formatter, level: int = logging.INFO) -> None:
    """Send everything that this process logs to stderr, and nothing anywhere else: what libraries warn of by
    `warnings` (RQ and asyncio among them), and what ends a thread or the process, too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_ended_thread


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _logger.critical("the process ends by an exception", exc_info=(kind, error, trace))


def _log_ended_thread(given: threading.ExceptHookArgs) -> None:
    if given.exc_value is not None:
        name = given.thread.name if given.thread is not None else "?"
        _logger.critical(
            "the thread %s ended by an exception",
            name,
            exc_info=(given.exc_type, given.exc_value, given.exc_traceback),
        )


def describe(error: BaseException) -> str:
    """Class and message in one line; of an error of ours, what is meant for those who run the store."""
    text = " ".join((error.for_operators if isinstance(error, CartStoreError) else str(error)).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
