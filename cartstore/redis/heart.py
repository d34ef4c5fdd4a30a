"""The heart of a process: writes its beats into the engine, over a connection of its own.

Apart from the store's connections, because a process beats before its store is open (opening may take a whole
rebuild) and because the supervisor has no store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import msgspec
from redis.exceptions import RedisError

from cartstore.errors import CartStoreError, StoreFull, StoreUnavailable, WritesRefused
from cartstore.heartbeat import BEAT_SECONDS, Kind, process_name
from cartstore.model import Beats, Partition
from cartstore.redis.caller import ClientCaller
from cartstore.redis.clients import open_client
from cartstore.redis.facts import read_facts
from cartstore.redis.store import RedisEngine
from cartstore.settings import Settings
from cartstore.tasks import end

LEAVE_SECONDS: Final = 1.0

_log = logging.getLogger("cartstore.heart")


class Heart:
    """Beats of this process, named as `kind`."""

    def __init__(self, settings: Settings, kind: Kind) -> None:
        self.process = process_name(kind)
        self._client = open_client(settings.redis_url)
        self._engine = RedisEngine(ClientCaller(self._client), Partition(settings.namespace))

    async def beat(self, state: Mapping[str, Any]) -> Beats:
        """Note this process as alive; gives the beats of all.

        Raises StoreError; StoreFull while the disk has no room: the script would pass the bound of memory
        that keeps all others from writing then, and an engine that cannot write its log ends.
        """
        if (await read_facts(self._client)).memory_bytes_max == 1:
            raise StoreFull
        return await self._beat(msgspec.json.encode(state).decode())

    async def close(self) -> None:
        """Take the entry of this process out, if the engine answers at once, and close the connection."""
        with suppress(CartStoreError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._beat("")
        await self._client.aclose()

    async def _beat(self, state: str) -> Beats:
        try:
            return await self._engine.beat(self.process, state)
        except WritesRefused:
            raise
        except (RedisError, OSError, CartStoreError):
            # A connection that the engine closed while idle; beating twice changes nothing.
            try:
                return await self._engine.beat(self.process, state)
            except (RedisError, OSError) as error:
                raise StoreUnavailable from error


@asynccontextmanager
async def beating(
    settings: Settings, kind: Kind, state: Callable[[], Mapping[str, Any]] = dict
) -> AsyncIterator[None]:
    """Beat for as long as the context lives and the event loop turns, if the settings name an engine."""
    if not settings.redis_url:
        yield
        return
    heart = Heart(settings, kind)
    task = asyncio.create_task(_keep_beating(heart, state))
    try:
        yield
    finally:
        await end(task)
        await heart.close()


async def _keep_beating(heart: Heart, state: Callable[[], Mapping[str, Any]]) -> None:
    while True:
        try:
            await heart.beat(state())
        except CartStoreError:
            # Whoever watches sees the silence, and knows whether the engine was away.
            _log.debug("no sign of life reached the engine", exc_info=True)
        await asyncio.sleep(BEAT_SECONDS)
