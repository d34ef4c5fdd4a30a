"""The ways of carrying a script call, by name: the two that the service has, and one of the bare app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Final

from cartstore.redis.caller import PooledCaller, ScriptCaller, open_pool

POOLED: Final = "redis-py"
WIRE: Final = "wire"
EAGER: Final = "wire, sent by eights"
"""What serves the bare app best, which lets all that came begin at once (baselines/eager.py)."""


def has_wire() -> bool:
    """Whether this version has the multiplexed connection."""
    return find_spec("cartstore.redis.wire") is not None


def best_kind() -> str:
    """What the baselines use: the best connection that there is."""
    return WIRE if has_wire() else POOLED


def best_kind_of_bare() -> str:
    return EAGER if has_wire() else POOLED


@asynccontextmanager
async def caller_of(kind: str, url: str) -> AsyncIterator[ScriptCaller]:
    """An open caller; closed when the context ends."""
    if kind == WIRE:
        from cartstore.redis.wire import WireCaller

        async with WireCaller.open(url) as caller:
            yield caller
        return
    if kind == EAGER:
        from benchmarks.baselines.eager import EagerCaller

        async with EagerCaller.open(url) as caller:
            yield caller
        return
    pool = open_pool(url)
    try:
        yield PooledCaller(pool)
    finally:
        await pool.disconnect()
