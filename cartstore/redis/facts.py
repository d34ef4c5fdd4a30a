"""What an engine says of itself that decides whether it can be sold from. Owns the reading of INFO."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cartstore.redis.caller import translate

POLICY: Final = "noeviction"


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One engine at one moment."""

    is_primary: bool
    policy: str
    """`maxmemory-policy`; anything but `noeviction` throws stock away."""
    memory_bytes: int
    """What counts against the limit."""
    memory_bytes_max: int
    """0: no limit."""

    @property
    def is_full(self) -> bool:
        return 0 < self.memory_bytes_max <= self.memory_bytes


async def read_facts(client: Redis) -> EngineFacts:
    """Raises StoreUnavailable."""
    try:
        memory: dict[str, Any] = await client.info("memory")
        replication: dict[str, Any] = await client.info("replication")
    except (RedisError, OSError, TimeoutError) as error:
        raise translate(error, sent=False) from error
    return EngineFacts(
        is_primary=replication.get("role", "master") == "master",
        policy=str(memory.get("maxmemory_policy", POLICY)),
        memory_bytes=int(memory.get("used_memory", 0)) - int(memory.get("mem_not_counted_for_evict", 0)),
        memory_bytes_max=int(memory.get("maxmemory", 0)),
    )
