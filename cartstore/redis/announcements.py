"""Listens to the drain's announcements. Owns the subscription and its renewal after a lost connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from cartstore.model import Position
from cartstore.redis.keys import Keys

RECONNECT_SECONDS: Final = 0.5


class RedisAnnouncements:
    """Cursors of one partition, for as long as somebody iterates."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._channel = keys.archived_channel

    async def positions(self) -> AsyncIterator[Position]:
        """Endless. What is announced while the connection is lost is lost; the listener polls as well."""
        while True:
            try:
                async with self._client.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(self._channel)
                    while True:
                        message = await pubsub.get_message(timeout=30.0)
                        if message is not None:
                            yield Position.parse(message["data"])
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(RECONNECT_SECONDS)
