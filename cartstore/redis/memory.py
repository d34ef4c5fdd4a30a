"""Owns what the engine says of its memory: how much of its bound (`maxmemory`) is left."""

from __future__ import annotations

from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cartstore.redis.caller import translate


class EngineMemory(msgspec.Struct, frozen=True):
    """Of an engine that has a bound."""

    used_bytes: int
    bound_bytes: int

    @property
    def available_bytes(self) -> int:
        """0 at the bound, where adds and checkouts are refused with STORE_FULL."""
        return max(0, self.bound_bytes - self.used_bytes)


async def read_memory(client: Redis) -> EngineMemory | None:
    """None for an engine without a bound, which the host kills when it takes too much. StoreUnavailable."""
    try:
        found: dict[str, Any] = await client.info("memory")
    except (RedisError, OSError, TimeoutError) as error:
        raise translate(error, sent=False) from error
    # What the engine counts against its bound, as far as a client can see it.
    bound = int(found.get("maxmemory", 0))
    return EngineMemory(int(found.get("used_memory", 0)), bound) if bound else None
