"""Opens a fresh, empty shop on each kind of engine. One function per backend, and nothing else knows them.

    memory      the reference model
    fakeredis   the scripts on fakeredis, in this process: a guest, for speed
    real        the scripts on the real engine, through redis-py: the authority
    wire        the same engine, through the multiplexed connection
    carried     the same again, each call in a command that could carry several (`Script.several`)

`TEST_BACKENDS` (comma-separated) narrows the suite to some of them while developing.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from unittest.mock import patch

from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis

from cartstore.memory_store import MemoryEngine
from cartstore.model import Event, Position
from cartstore.redis.caller import ClientCaller, PooledCaller, ScriptCaller, open_pool
from cartstore.redis.gate import DiskMark, Gate, mark_disk, open_gate
from cartstore.redis.outbox import RedisOutbox
from cartstore.redis.store import RedisEngine
from cartstore.redis.wire import WireCaller, connection

from .shop import LIFETIME_MS, PARTITION, UNPAID_KEPT_MS, Clock, Shop

BACKENDS = tuple(os.environ.get("TEST_BACKENDS", "memory,fakeredis,real,wire,carried").split(","))

_EVENTS_READ = 10_000

# Where fakeredis finds what it lacks (lua_modules).
os.environ["LUA_PATH"] = f"{Path(__file__).parents[1] / 'lua'}/?.lua;;"


@asynccontextmanager
async def open_memory() -> AsyncIterator[Shop]:
    clock = Clock()
    engine = MemoryEngine(PARTITION, now_ms=clock, lifetime_ms=LIFETIME_MS, unpaid_kept_ms=UNPAID_KEPT_MS)

    async def read_events() -> list[Event]:
        return list(engine.events)

    async def read_holders(skus: Sequence[str]) -> list[set[str]]:
        return [engine.holders(sku) for sku in skus]

    async def mark(disk: DiskMark) -> None:
        engine.is_disk_low = disk == "low"

    yield Shop(engine, clock, read_events, read_holders, mark)


@asynccontextmanager
async def open_fakeredis() -> AsyncIterator[Shop]:
    server = FakeServer()
    client = FakeAsyncRedis(
        server=server,
        version=(7,),
        decode_responses=True,
        encoding_errors="surrogateescape",
        lua_modules={"cmsgpack", "struct"},
    )
    try:
        yield await _open_on(ClientCaller(client), client)
    finally:
        await client.aclose()


@asynccontextmanager
async def open_real(url: str) -> AsyncIterator[Shop]:
    pool = open_pool(url)
    client: Redis = Redis.from_url(url, decode_responses=True)
    try:
        # The property test opens many shops within one test, and only the test found the engine empty.
        await client.flushdb()
        yield await _open_on(PooledCaller(pool), client)
    finally:
        await client.aclose()
        await pool.disconnect()


@asynccontextmanager
async def open_wire(url: str) -> AsyncIterator[Shop]:
    client: Redis = Redis.from_url(url, decode_responses=True)
    try:
        await client.flushdb()
        async with WireCaller.open(url) as caller:
            yield await _open_on(caller, client)
    finally:
        await client.aclose()


@asynccontextmanager
async def open_carried(url: str) -> AsyncIterator[Shop]:
    with patch.object(connection, "SEVERAL_MIN", 1):
        async with open_wire(url) as shop:
            yield shop


async def _open_on(caller: ScriptCaller, client: Redis) -> Shop:
    clock = Clock()
    engine = RedisEngine(caller, PARTITION, now_ms=clock, unpaid_kept_ms=UNPAID_KEPT_MS)
    outbox = RedisOutbox(engine, client)
    is_open = await open_gate(
        caller, engine.keys, seen=Gate(), epoch=1, seq=0, change=0, lifetime_ms=LIFETIME_MS
    )
    assert is_open, "a fresh engine has no gate that another could have opened"

    async def read_events() -> list[Event]:
        return await outbox.read(Position(0, 0), _EVENTS_READ)

    async def read_holders(skus: Sequence[str]) -> list[set[str]]:
        pipeline = client.pipeline(transaction=False)
        for sku in skus:
            pipeline.zrange(engine.keys.holds(sku), 0, -1)
        return [set(members) for members in await pipeline.execute()]

    async def mark(disk: DiskMark) -> None:
        assert await mark_disk(caller, engine.keys, disk)

    return Shop(engine, clock, read_events, read_holders, mark)


def open_shop(backend: str, find_redis_url: Callable[[], str]) -> AbstractAsyncContextManager[Shop]:
    """A shop on `backend`. `find_redis_url` is only called for the backend that has a server."""
    if backend == "real":
        return open_real(find_redis_url())
    if backend == "wire":
        return open_wire(find_redis_url())
    if backend == "carried":
        return open_carried(find_redis_url())
    return open_fakeredis() if backend == "fakeredis" else open_memory()
