"""What is logged while the queue is away: one line for each outage, which says what to look at.

The queue's Redis is asked by several threads and by RQ, each of which fails in its own words and again and
again. They tell an outage, and it is logged once.
"""

from __future__ import annotations

import logging
import threading

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cartstore.causes import cause_of
from cartstore.embedded.parts import queue_url_beside
from cartstore.problems import variable_of
from cartstore.redis.clients import CONNECT_TIMEOUT_SECONDS
from cartstore.redis.diagnosis import credentials_fault
from cartstore.settings import Settings
from cartstore.urls import database_number, engine_place


class QueueOutage:
    """Whether the queue is away, and since when that is known. Safe for use by several threads."""

    def __init__(self, settings: Settings, log: logging.Logger, *, consequence: str) -> None:
        """`consequence`: what is so meanwhile, a sentence without its full stop."""
        self._url = settings.queue_url or queue_url_beside(settings.redis_url)
        self._setting = variable_of("queue_url" if settings.queue_url else "redis_url")
        self._log = log
        self._consequence = consequence
        self._lock = threading.Lock()
        self._cause = ""

    @property
    def is_away(self) -> bool:
        return bool(self._cause)

    def failed(self, error: BaseException) -> None:
        """Note that the queue could not be asked; logged when that is new, or has another cause."""
        cause = self._cause_of(error)
        with self._lock:
            if cause == self._cause:
                return
            self._cause = cause
        self._log.warning(
            "the queue (%s, %s) cannot be used: %s. %s.",
            self._setting,
            engine_place(self._url),
            cause,
            self._consequence,
        )

    def succeeded(self) -> None:
        """Note that the queue answered; logged when it was away."""
        if not self._cause:
            return
        with self._lock:
            was_away, self._cause = bool(self._cause), ""
        if was_away:
            self._log.warning("the queue is back")

    def _cause_of(self, error: BaseException) -> str:
        if "DB index is out of range" in str(error):
            return f"it has no database {database_number(self._url)}"
        return credentials_fault(error) or cause_of(
            error, authority_option="?ssl_ca_certs=", seconds=CONNECT_TIMEOUT_SECONDS
        )


class OutageFilter(logging.Filter):
    """Takes what RQ logs of an outage out of its log, and tells the outage."""

    def __init__(self, outage: QueueOutage) -> None:
        super().__init__()
        self._outage = outage

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args if isinstance(record.args, tuple) else ()
        raised = record.exc_info[1] if record.exc_info else None
        error = next((part for part in (raised, *arguments) if isinstance(part, RedisError)), None)
        if error is None and "Redis connection timeout" in str(record.msg):
            error = RedisTimeoutError()
        if error is None:
            return True
        self._outage.failed(error)
        return False
