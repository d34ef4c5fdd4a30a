"""Owns the watch over the disk that the servers of a data dir share.

Under `appendfsync always` the engine ends when a write finds no space, and PostgreSQL's log is on the same
disk. So writes stop before: below the reserve the gate says `low` (no adds, no checkouts; what is under way
is settled, released and archived from the reserve), below a quarter of it `out`. Then nothing is written
any more: scripts refuse, the engine takes no other writer's commands (its memory bound is below what it
has), and PostgreSQL's transactions are read-only. All of it is set again every second, for an engine or a
database that was started anew, and undone when there is space. Free space has to exceed a bound by some
more before a mark is taken back.

The engine's own rewriting of its log is off. It is started here, only while there is space for a second log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from cartstore.embedded.database import Database
from cartstore.embedded.engine import Engine
from cartstore.embedded.process import Process
from cartstore.errors import OtherProcess, StoreError
from cartstore.model import Partition
from cartstore.redis.caller import ClientCaller
from cartstore.redis.clients import open_client
from cartstore.redis.gate import DiskMark, mark_disk
from cartstore.redis.keys import Keys
from cartstore.settings import Settings
from cartstore.tasks import end

MIB: Final = 1024 * 1024
LOOK_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 2.0

REWRITE_BYTES_MIN: Final = 64 * MIB
"""A shorter log of the engine is left as it is."""

REWRITE_PAUSE_SECONDS: Final = 60.0
"""Between two attempts: one that failed is not repeated at once."""

_TEXTS: Final[dict[DiskMark, str]] = {
    "open": "There is space on the disk again ({free} MB): everything is taken in as before.",
    "low": "The disk of {folder} has {free} MB left, less than CARTSTORE_DISK_RESERVE_MB ({reserve}): adds "
    "and checkouts are refused with STORE_FULL until there is space.",
    "out": "The disk of {folder} has {free} MB left, less than a quarter of CARTSTORE_DISK_RESERVE_MB "
    "({reserve}): nothing is written until there is space.",
}

_log = logging.getLogger("cartstore.disk")


def mark_of(free: int, reserve: int, before: DiskMark) -> DiskMark:
    """What so many free bytes mean. `before`: a mark is taken back only above its bound and an eighth of the
    reserve, so that it does not change with every file that grows. A reserve of 0 marks nothing."""
    margin = reserve // 8
    if free < reserve // 4 + (margin if before == "out" else 0):
        return "out"
    if free < reserve + (margin if before != "open" else 0):
        return "low"
    return "open"


class DiskGuard:
    """Watches one data dir. Belongs to the event loop that runs it."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        parts: Sequence[Process],
        *,
        report: Callable[[str], None] = _log.warning,
        rewrite_bytes_min: int = REWRITE_BYTES_MIN,
    ) -> None:
        """`settings` with their URLs. `report` is told when the mark changes; it must not raise."""
        self._settings = settings
        self._folder = folder
        self._reserve = settings.disk_reserve_mb * MIB
        self._engine = next((part for part in parts if isinstance(part, Engine)), None)
        self._database = next((part for part in parts if isinstance(part, Database)), None)
        self._report = report
        self._rewrite_bytes_min = rewrite_bytes_min
        self._keys = Keys(Partition(settings.namespace))
        self._client = open_client(
            settings.redis_url,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._rewrote_at = float("-inf")
        self._database_pid: int | None = None
        """The server that was told last, and what."""
        self._database_takes: bool | None = None
        self.mark: DiskMark = "open"
        if self._engine is not None:
            # An engine that ended because the disk was full a moment ago is started before the next look.
            self._engine.takes_writes = self._has_room

    async def look(self) -> None:
        """Compare free space with the reserve, and make everything be as it says. Raises nothing: what cannot
        be reached now is told at the next look."""
        free = free_bytes(self._folder)
        before, self.mark = self.mark, mark_of(free, self._reserve, self.mark)
        if self.mark != before:
            self._report(
                _TEXTS[self.mark].format(
                    folder=self._folder, free=free // MIB, reserve=self._settings.disk_reserve_mb
                )
            )
        takes = self.mark != "out"
        for step in (self._tell_engine(takes), self._tell_gate(), self._tell_database(takes)):
            try:
                await step
            except (RedisError, StoreError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                # Away, or on its way up again.
                continue
        if self.mark == "open":
            try:
                await self._rewrite_log(free)
            except (RedisError, OSError):
                return

    async def run(self) -> None:
        """Look every second, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except OtherProcess:
                # A forked child that goes on with the loop; its parent looks.
                return
            except Exception:
                # Whatever went wrong with one look, only another one can see that the disk fills up.
                _log.exception("the disk could not be looked at")

    async def aclose(self) -> None:
        await self._client.aclose()

    def _has_room(self) -> bool:
        return mark_of(free_bytes(self._folder), self._reserve, self.mark) != "out"

    async def _tell_gate(self) -> None:
        await mark_disk(ClientCaller(self._client), self._keys, self.mark)

    async def _tell_engine(self, takes: bool) -> None:
        if self._engine is None:
            return
        wanted = str(self._engine.memory_bytes if takes else 1)
        found: dict[Any, Any] = await self._client.config_get("maxmemory")
        # A bound that an operator has set is left alone, but for the one that stops all writes.
        if found["maxmemory"] != wanted and (not takes or found["maxmemory"] == "1"):
            await self._client.config_set("maxmemory", wanted)

    async def _tell_database(self, takes: bool) -> None:
        database = self._database
        if database is None or (database.pid, takes) == (self._database_pid, self._database_takes):
            return
        connection = await asyncpg.connect(database.url(), timeout=ANSWER_SECONDS)
        try:
            # It stays in the server's files, so a server that was started anew has to be asked.
            if (await connection.fetchval("SHOW default_transaction_read_only") == "off") != takes:
                await connection.execute(
                    "ALTER SYSTEM RESET default_transaction_read_only"
                    if takes
                    else "ALTER SYSTEM SET default_transaction_read_only = on"
                )
                await connection.execute("SELECT pg_reload_conf()")
        finally:
            await connection.close(timeout=ANSWER_SECONDS)
        self._database_pid, self._database_takes = database.pid, takes

    async def _rewrite_log(self, free: int) -> None:
        """Start a rewrite when the log is twice as long as after the last one, and there is space for the
        new one beside it: at most what the data set takes in memory."""
        if self._engine is None or time.monotonic() - self._rewrote_at < REWRITE_PAUSE_SECONDS:
            return
        log: dict[str, Any] = await self._client.info("persistence")
        size, base = log.get("aof_current_size", 0), log.get("aof_base_size", 0)
        if size < max(self._rewrite_bytes_min, 2 * base) or log.get("aof_rewrite_in_progress"):
            return
        memory: dict[str, Any] = await self._client.info("memory")
        if free > self._reserve + int(memory["used_memory"]):
            self._rewrote_at = time.monotonic()
            await self._client.bgrewriteaof()


@asynccontextmanager
async def watched_disk(guard: DiskGuard) -> AsyncIterator[None]:
    """Look once, so that nobody starts on what an earlier guard has left, and then every second."""
    await guard.look()
    task = asyncio.create_task(guard.run())
    try:
        yield
    finally:
        await end(task)
        await guard.aclose()


def free_bytes(folder: Path) -> int:
    """What others than root may still write on the disk of a folder."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
