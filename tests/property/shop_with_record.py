"""A whole store on a real engine and a real database, with a clock that is moved by hand.

Owns what a machine does to such a store from outside: give the engine other contents, take a copy of it, let
a process die at a failpoint. Everything else goes through the store's own verbs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

from contract.shop import LIFETIME_MS, PARTITION, Clock
from redis.asyncio import Redis
from sqlalchemy import text

from cartstore import failpoints
from cartstore.archive import Archive
from cartstore.archive.acknowledgement import Acknowledgement
from cartstore.archive.tables import metadata
from cartstore.catalog.repository import CatalogRepository
from cartstore.model import Partition, owner_kind_of
from cartstore.payments import SimulatedGateway
from cartstore.recovery.gate import Recovery
from cartstore.redis.audit import AuditedRedisEngine
from cartstore.redis.caller import PooledCaller, open_pool
from cartstore.redis.outbox import RedisOutbox
from cartstore.settings import Settings
from cartstore.store import CartStore, terms_of

_KEPT = ("meta", "outbox_cursor")
_EMPTY_CURSOR = (
    "UPDATE outbox_cursor SET written_in_layout = 5, epoch = 0, seq = 0, nonce = '', fence_epoch = 0,"
    " drawn_epoch = 0,"
    " snapshot_change = 0, snapshot_at_ms = 0"
)


class Died(BaseException):
    """The process ended here. No Exception, so that nothing on the way out takes it for one."""


class ShopWithRecord:
    """The store, its clock, and the servers behind it."""

    def __init__(
        self,
        store: CartStore,
        clock: Clock,
        outbox: RedisOutbox,
        client: Redis,
        copier: Redis,
    ) -> None:
        self.store = store
        self.clock = clock
        self.outbox = outbox
        self.client = client
        self._copier = copier

    async def copy_engine(self) -> dict[bytes, bytes]:
        """All that the engine has now."""
        return {key: await self._copier.dump(key) async for key in self._copier.scan_iter()}

    async def replace_engine(self, contents: dict[bytes, bytes]) -> None:
        """Another engine is in this one's place, with these contents."""
        await self._copier.flushdb()
        for key, value in contents.items():
            await self._copier.restore(key, 0, value)
        if contents:
            await self.client.hset(self.outbox._keys.gate, "identity", "an engine that is gone")

    async def rows(self, query: str) -> list[Any]:
        async with self.store.archive.database.reading() as connection:
            return list((await connection.execute(text(query))).all())

    async def empty(self) -> None:
        tables = ", ".join(table.name for table in metadata.sorted_tables if table.name not in _KEPT)
        await self._copier.flushdb()
        async with self.store.archive.database.transaction() as connection:
            await connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY"))
            await connection.execute(text(_EMPTY_CURSOR))


@asynccontextmanager
async def open_shop_with_record(redis_url: str, database_url: str) -> AsyncIterator[ShopWithRecord]:
    settings = Settings(
        redis_url=redis_url,
        database_url=database_url,
        checkout_ack="engine",
        max_held_per_owner=20,
        hold_ttl_guest_seconds=600,
        hold_ttl_member_seconds=600,
        hold_cap_seconds=900,
    )
    clock = Clock()
    pool = open_pool(redis_url)
    client: Redis = Redis.from_url(redis_url, decode_responses=True, encoding_errors="backslashreplace")
    copier: Redis = Redis.from_url(redis_url)
    archive = await Archive.open(database_url, Partition("main"))
    try:
        engine = AuditedRedisEngine(PooledCaller(pool), PARTITION, client, now_ms=clock)
        outbox = RedisOutbox(engine, client)
        catalog = CatalogRepository(archive.database)
        store = CartStore(
            settings=settings,
            partition=PARTITION,
            engine=engine,
            archive=archive,
            catalog=catalog,
            outbox=outbox,
            acknowledgement=Acknowledgement("engine", archive, timeout_ms=1_000, ring=lambda: None),
            gateways={"simulated": SimulatedGateway(webhook_secret="none")},
            recovery=Recovery(
                client=client,
                caller=engine.caller,
                engine=engine,
                outbox=outbox,
                archive=archive,
                catalog=catalog,
                partition=PARTITION,
                lifetime_ms=LIFETIME_MS,
                terms_of=lambda cart_id: terms_of(settings, owner_kind_of(cart_id)),
                now_ms=clock,
            ),
        )
        shop = ShopWithRecord(store, clock, outbox, client, copier)
        await shop.empty()
        yield shop
    finally:
        await archive.close()
        await copier.aclose()
        await client.aclose()
        await pool.disconnect()


@contextmanager
def dying_at(failpoint: str, passes: int) -> Iterator[None]:
    """Whoever reaches this failpoint for so many times dies, in place of the whole process. What the dead one
    would have gone on to do is not done, as after a real death."""
    kept = failpoints.os

    def die(*_: object) -> None:
        failpoints.arm("")
        raise Died

    failpoints.os = SimpleNamespace(kill=die, getpid=lambda: 0)  # type: ignore[assignment]
    failpoints.arm(f"{failpoint}:{passes}")
    try:
        yield
    finally:
        failpoints.arm("")
        failpoints.os = kept  # type: ignore[assignment]
