"""JSON logs on stderr: one object a line. Owns the form of a line; refuses to know what is logged.

A flood is counted and not written: of one kind of line (logger, level and text before its values are put
in) the first RECORDS_MAX of WINDOW_SECONDS are written, then one that says how many more there were.

Fields of a record come from `extra={"fields": {...}}`. No caller may put a token, a cookie, a body, an
address or a query string there.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

import msgspec

from cartstore.errors import CartStoreError

FORMATTED: Final = "is_formatted"
"""A record with this attribute brings ready lines as its message, and whoever made it has bounded them."""

RECORDS_MAX: Final = 20
WINDOW_SECONDS: Final = 10.0
KINDS_MAX: Final = 1_000
"""Kinds of lines that are counted apart; beyond, those of one logger and level are one."""

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


class BoundedHandler(logging.StreamHandler[Any]):
    """Writes records to a stream, and of a flood of one kind only its beginning and its size."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._kinds: dict[tuple[Any, ...], list[float]] = {}
        """By kind: when its window began, and how many records came in it."""
        self._swept_at = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        # Called under the handler's lock.
        now = time.monotonic()
        if now - self._swept_at >= WINDOW_SECONDS:
            self._sweep(now)
        if getattr(record, FORMATTED, False):
            super().emit(record)
            return
        kind: tuple[Any, ...] = (record.name, record.levelno, record.msg)
        if kind not in self._kinds and len(self._kinds) >= KINDS_MAX:
            kind = (record.name, record.levelno, "")
        window = self._kinds.setdefault(kind, [now, 0])
        window[1] += 1
        if window[1] <= RECORDS_MAX:
            super().emit(record)

    def close(self) -> None:
        with self.lock or _no_lock:
            self._sweep(float("inf"))
        super().close()

    def _sweep(self, now: float) -> None:
        """Say how many records of each kind were not written, where its window is over."""
        self._swept_at = now
        for kind, (began, count) in list(self._kinds.items()):
            if now - began < WINDOW_SECONDS:
                continue
            del self._kinds[kind]
            if count > RECORDS_MAX:
                name, level, text = kind
                more = logging.LogRecord(name, level, "", 0, "more of these were not written", None, None)
                more.fields = {"what": str(text), "count": int(count) - RECORDS_MAX}
                super().emit(more)


_no_lock: Final = nullcontext()


def level_of(name: str) -> int:
    """The number of a level that the setting LOG_LEVEL names."""
    return logging.getLevelNamesMapping()[name.upper()]


def set_up_logs(formatter: logging.Formatter, level: int = logging.INFO) -> None:
    """Send everything that this process logs to stderr, and nothing anywhere else: what libraries warn of by
    `warnings` (RQ and asyncio among them), and what ends a thread or the process, too."""
    handler = BoundedHandler(sys.stderr)
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
