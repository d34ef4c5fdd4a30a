"""The two ways of carrying a script call that the service has, by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Final

from cartstore.redis.caller import PooledCaller, ScriptCaller, open_pool

POOLED: Final = "redis-py"
WIRE: Final = "wire"


def has_wire() -> bool:
    """Whether this version has the multiplexed connection."""
    return find_spec("cartstore.redis.wire") is not None


def best_kind() -> str:
    """What the baselines use: the best connection that there is."""
    return WIRE if has_wire() else POOLED


@asynccontextmanager
async def caller_of(kind: str, url: str) -> AsyncIterator[ScriptCaller]:
    """An open caller; closed when the context ends."""
    if kind == WIRE:
        from cartstore.redis.wire import WireCaller

        async with WireCaller.open(url) as caller:
            yield caller
        return
    pool = open_pool(url)
    try:
        yield PooledCaller(pool)
    finally:
        await pool.disconnect()
