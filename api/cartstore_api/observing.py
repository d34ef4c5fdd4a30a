"""What is noted of every answered request: a line of the access log, and the counts of the metrics.

Both are gathered in this process and handed on together, at most FLUSH_SECONDS later and at the end: a write
to the log and the shared metrics for each request would cost more than the request itself. Under load
requests that are alike are counted and not all written (setting ACCESS_LOG); the metrics count every one.
Owns the form of an access line, which is that of cartstore.logs, and never has a token, a body, an address
or a query string in it."""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from typing import Any, Final, Literal

import msgspec

from cartstore.logs import FORMATTED
from cartstore_api import metrics
from cartstore_api.context import RequestContext

access_logger = logging.getLogger("cartstore.access")

FLUSH_SECONDS: Final = 0.5
LINES_MAX: Final = 256
"""Lines that wait; more are written at once, so that no single write holds up requests for long."""

SAMPLED_MAX: Final = 10
"""Lines of requests that are alike, between two times that notes are handed on. More are only counted."""

_UNBOUNDED: Final = 1 << 62

AccessLog = Literal["off", "sampled", "all"]

_bucket_of = bisect_left
_BOUNDS = metrics.SECONDS_BOUNDS


class _Kind:
    """Requests that differ in nothing but id and time: the fixed part of their lines, and their counts."""

    __slots__ = (
        *("buckets", "code", "count", "fields", "lines_left", "lines_max", "method", "route", "seconds"),
        "status",
    )

    def __init__(self, method: str, route: str, status: int, code: str | None, lines_max: int) -> None:
        self.method = method
        self.route = route
        self.status = status
        self.code = code
        self.lines_max = lines_max
        told = {"method": method, "route": route, "status": status, "code": code}
        self.fields = msgspec.json.encode(told).decode()[1:-1]
        self.reset()

    def reset(self) -> None:
        self.count = 0
        self.lines_left = self.lines_max
        self.seconds = 0.0
        self.buckets = [0] * (len(_BOUNDS) + 1)


class Observer:
    """Notes the requests of one application. Belongs to the event loop of the first one it notes."""

    def __init__(self, access_log: AccessLog = "all") -> None:
        self._access_log = access_log
        self._kinds: dict[tuple[str, str, int, str | None], _Kind] = {}
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._at_s, self._second = 0, ""
        """The beginning of lines up to the second that it is of."""

    def note(self, context: RequestContext, method: str, route: str, status: int, seconds: float) -> None:
        """Note one answered request; `route` is its template, so that no id gets into a label."""
        key = (method, route, status, context.code)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kind(key)
        kind.count += 1
        kind.seconds += seconds
        kind.buckets[_bucket_of(_BOUNDS, seconds)] += 1
        if self._timer is None:
            self._arm()
        if kind.lines_left <= 0:
            if self._is_closed:
                self.flush()
            return
        kind.lines_left -= 1
        at_s, at_ms = divmod(time.time_ns() // 1_000_000, 1_000)
        if at_s != self._at_s:
            self._at_s, self._second = at_s, _second_of(at_s)
        lines = self._lines
        # Hundredths of a millisecond; writing a float as text would cost as much as all of the rest.
        hundredths = int(seconds * 100_000 + 0.5)
        lines.append(
            f'{self._second}{_MILLISECONDS[at_ms]}{context.request_id}",{kind.fields},'
            f'"ms":{hundredths // 100}{_HUNDREDTHS[hundredths % 100]}}}'
        )
        if self._is_closed:
            self.flush()
        elif len(lines) >= LINES_MAX:
            self._write()

    def flush(self) -> None:
        """Hand on everything that was noted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for kind in self._kinds.values():
            if kind.count:
                if self._access_log != "off" and kind.count > kind.lines_max:
                    self._lines.append(_rest_of(kind))
                metrics.add(
                    kind.method,
                    kind.route,
                    kind.status,
                    kind.code,
                    count=kind.count,
                    seconds=kind.seconds,
                    buckets=kind.buckets,
                )
                kind.reset()
        self._write()

    def close(self) -> None:
        """The end: what was noted is handed on, and what still comes is handed on at once."""
        self._is_closed = True
        self.flush()

    def _kind(self, key: tuple[str, str, int, str | None]) -> _Kind:
        method, route, status, code = key
        if method not in metrics.METHODS:
            # Callers make up methods; neither what is kept nor what is written must grow with them.
            key = ("other", route, status, code)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(*key, self._lines_max(code))
        return kind

    def _lines_max(self, code: str | None) -> int:
        if self._access_log == "off":
            return 0
        return _UNBOUNDED if self._access_log == "all" and code is None else SAMPLED_MAX

    def _arm(self) -> None:
        if not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def _write(self) -> None:
        if self._lines:
            lines, self._lines = "\n".join(self._lines), []
            access_logger.info(lines, extra=_EXTRA)


_EXTRA: Final[dict[str, Any]] = {FORMATTED: True}


_MILLISECONDS: Final = tuple(
    f'.{number:03d}+00:00","level":"info","logger":"cartstore.access","message":"request","request_id":"'
    for number in range(1_000)
)
_HUNDREDTHS: Final = tuple(f".{number:02d}" for number in range(100))


def _rest_of(kind: _Kind) -> str:
    """The line that stands for the requests of a kind that have none of their own."""
    at_s, at_ms = divmod(time.time_ns() // 1_000_000, 1_000)
    head = _MILLISECONDS[at_ms].replace('"request","request_id":"', '"more requests",')
    more, ms_mean = kind.count - kind.lines_max, 1_000 * kind.seconds / kind.count
    return f'{_second_of(at_s)}{head}{kind.fields},"count":{more},"ms_mean":{ms_mean:.2f}}}'


def _second_of(at_s: int) -> str:
    return time.strftime('{"at":"%Y-%m-%dT%H:%M:%S', time.gmtime(at_s))
