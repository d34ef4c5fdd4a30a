"""How many connections a process takes, and how long each may take for what it does.

Owns the limits and their defaults, the caps on connections (of the process and per client address), the
clock that connections are measured by, and the log and metric of every connection that was cut. How a
connection is cut is its own business (connection.py).
"""

from __future__ import annotations

import asyncio
import logging
import resource
from contextlib import suppress
from typing import Final, Protocol

import msgspec

from cartstore.settings import Settings
from cartstore_api import metrics
from cartstore_api.caching import Caching
from cartstore_api.client_address import ClientAddresses
from cartstore_api.cors import Cors
from cartstore_api.observing import Observer

logger = logging.getLogger("cartstore.api.connections")

DESCRIPTORS_RESERVED: Final = 128
"""File descriptors that connections of clients leave free: for engine, database, logs and metric files, and
for what is accepted in the same turn of the loop before the cap can be applied."""

LOG_SECONDS: Final = 60.0
"""Between two lines about the same reason; what happened meanwhile is counted."""

_LATE_FACTOR: Final = 2
"""A look that comes later than this many intervals found the process stopped or starved: clients get the
time that it could not listen to them."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection may take. Times in seconds."""

    head_bytes_max: int = 32 * 1_024
    head_fields_max: int = 100
    head_seconds: float = 20.0
    """From accepting a connection, and from the first byte of a later request, to the end of the head."""
    body_bytes_per_second_min: int = 4_096
    body_window_seconds: float = 10.0
    """A body that grew by less than the rate over this time is cut."""
    answer_seconds: float = 30.0
    """Time in which a client must take at least one byte of an answer that waits for it."""
    drain_seconds: float = 1.0
    """How long a half-closed connection still takes bytes that nobody reads."""
    discarded_bytes_max: int = 1_024 * 1_024
    """Bytes of a body that are read after its request was answered, to keep the connection."""
    connections_max: int = 10_000
    connections_per_address_max: int = 1_000
    watch_seconds: float = 1.0
    """Time between two looks at all connections: how exact the times above are."""


def limits_of(settings: Settings) -> Limits:
    """The limits of a process: the cap on connections is lowered to what its descriptors allow."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    cap = settings.max_connections
    if soft != resource.RLIM_INFINITY:
        cap = min(cap, max(soft - DESCRIPTORS_RESERVED, soft // 2))
    if cap < settings.max_connections:
        logger.info("connections capped", extra={"fields": {"connections_max": cap, "descriptors": soft}})
    return Limits(connections_max=cap, connections_per_address_max=settings.max_connections_per_address)


def raise_descriptor_limit() -> None:
    """Raise the soft limit on open files to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Where the hard limit is infinite, some kernels refuse to take that as the soft one.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Watched(Protocol):
    """A connection, as the registry sees it."""

    def watch(self, now: float) -> None:
        """Cut what takes too long; `now` in seconds of the registry's clock."""

    def unfinished_since(self) -> float | None:
        """Since when there is no whole request to be answered; None while there is one."""

    def evict(self) -> None:
        """Close at once, for a newer connection."""

    def refuse(self, code: str, detail: str) -> None:
        """Answer with a problem and close, before anything was read."""


class ConnectionRegistry:
    """The connections of one server, which belongs to one event loop."""

    def __init__(
        self,
        limits: Limits,
        addresses: ClientAddresses,
        observer: Observer,
        caching: Caching | None = None,
        cors: Cors | None = None,
    ) -> None:
        """`caching` and `cors` give the headers of what connections refuse by themselves."""
        self.limits = limits
        self.observer = observer
        self.caching = caching or Caching(has_cors=cors is not None)
        self.cors = cors
        self.now = 0.0
        """Seconds that this process has been listening. Goes on with each look, so that time in which the
        process was stopped or starved is nobody's fault."""

        self._addresses = addresses
        self._groups: dict[Watched, str | None] = {}
        self._of_group: dict[str, dict[Watched, None]] = {}
        self._oldest: list[tuple[float, Watched]] = []
        """Connections that may be evicted, oldest last, as of the last scan of all."""
        self._barren_at = -1.0
        """When a scan found nobody to evict: not repeated before the next look."""
        self._looked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._unlogged: dict[str, int] = {}
        self._logged_at: dict[str, float] = {}

    @property
    def count(self) -> int:
        """Connections that are open."""
        return len(self._groups)

    def add(self, connection: Watched, peer: str | None) -> None:
        """Take a new connection, or refuse it; older ones that have no whole request make room."""
        limits = self.limits
        group = self._addresses.group_of(peer)
        of_group = self._of_group.setdefault(group, {}) if group else {}
        if len(of_group) >= limits.connections_per_address_max and not self._evict_of(of_group):
            self.note("address_full")
            connection.refuse("RATE_LIMITED", "This address has as many connections as it may have.")
            return
        if len(self._groups) >= limits.connections_max and not self._evict_oldest():
            self.note("process_full")
            connection.refuse("STORE_UNAVAILABLE", "The service has no connection free; nothing was applied.")
            return
        self._groups[connection] = group
        if group:
            # Again: evicting the last one of a group drops it.
            self._of_group.setdefault(group, {})[connection] = None
        if self._timer is None:
            self._looked_at = asyncio.get_running_loop().time()
            self._arm()

    def remove(self, connection: Watched) -> None:
        """Forget a connection; nothing happens when it is not known (any more)."""
        group = self._groups.pop(connection, None)
        if group is not None:
            of_group = self._of_group[group]
            del of_group[connection]
            if not of_group:
                del self._of_group[group]

    def note(self, reason: str) -> None:
        """Count a connection that was cut or refused; logged at once, then once a minute with the count."""
        metrics.CUT.labels(reason).inc()
        self._unlogged[reason] = self._unlogged.get(reason, 0) + 1
        self._log_due(reason)

    def _log_due(self, reason: str) -> None:
        logged_at = self._logged_at.get(reason)
        if logged_at is None or self.now - logged_at >= LOG_SECONDS:
            self._logged_at[reason] = self.now
            count = self._unlogged.pop(reason)
            logger.warning("connections cut", extra={"fields": {"reason": reason, "count": count}})

    def _evict_of(self, connections: dict[Watched, None]) -> bool:
        """Evict the oldest unfinished connection of an address. Whether there was one."""
        found = [(since, other) for other in connections if (since := other.unfinished_since()) is not None]
        if not found:
            return False
        self._evict(min(found, key=_since)[1], "evicted_address")
        return True

    def _evict_oldest(self) -> bool:
        while not self._pop_oldest():
            # All are sorted at once, so that a crowd of new connections does not cost a scan each.
            if self._barren_at == self.now:
                return False
            self._oldest = sorted(
                ((since, other) for other in self._groups if (since := other.unfinished_since()) is not None),
                key=_since,
                reverse=True,
            )
            if not self._oldest:
                self._barren_at = self.now
        return True

    def _pop_oldest(self) -> bool:
        while self._oldest:
            since, connection = self._oldest.pop()
            if connection in self._groups and connection.unfinished_since() == since:
                self._evict(connection, "evicted")
                return True
        return False

    def _evict(self, connection: Watched, reason: str) -> None:
        # Before it is lost, which takes a turn of the loop: its place is given away now.
        self.remove(connection)
        self.note(reason)
        connection.evict()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.limits.watch_seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        at, interval = asyncio.get_running_loop().time(), self.limits.watch_seconds
        self.now += min(at - self._looked_at, _LATE_FACTOR * interval)
        self._looked_at = at
        self._oldest.clear()
        for connection in list(self._groups):
            connection.watch(self.now)
        for reason in list(self._unlogged):
            self._log_due(reason)
        if self._groups or self._unlogged:
            self._arm()


def _since(entry: tuple[float, Watched]) -> float:
    return entry[0]
