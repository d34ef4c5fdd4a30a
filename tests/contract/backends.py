"""Opens a fresh, empty shop on each kind of engine. One function per backend, and nothing else knows them.

`CARTSTORE_TEST_BACKENDS` (comma-separated) narrows the suite to some of them while developing.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from cartstore.memory_store import MemoryEngine
from cartstore.model import Event

from .shop import LIFETIME_MS, PARTITION, Clock, Shop

BACKENDS = tuple(os.environ.get("CARTSTORE_TEST_BACKENDS", "memory").split(","))


@asynccontextmanager
async def open_memory() -> AsyncIterator[Shop]:
    clock = Clock()
    engine = MemoryEngine(PARTITION, now_ms=clock, lifetime_ms=LIFETIME_MS)

    async def read_events() -> list[Event]:
        return list(engine.events)

    yield Shop(engine, clock, read_events)


def open_shop(backend: str, find_redis_url: Callable[[], str]) -> AbstractAsyncContextManager[Shop]:
    """A shop on `backend`. `find_redis_url` is only called for the backend that has a server."""
    return open_memory()
