"""A small shop on the real engine and the real record, to plant drift in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from packed import HoldState, pack_hold_state, read_hold_state
from redis.asyncio import Redis
from redis.client import NEVER_DECODE

import cartstore
from cartstore import CartStore, Owner, Product, Settings, Variant
from cartstore.embedded import Database
from cartstore.recovery.audits import AuditedEngine
from cartstore.recovery.drift import DRIFT_KINDS, Drift, DriftKind
from cartstore.recovery.reconcile import Reconciler
from cartstore.recovery.report import ReconcileReport
from cartstore.redis.keys import Keys

BUYER = Owner("user", "buyer")


def product_of(sku: str, price_minor: int, *, is_active: bool = True) -> Product:
    return Product(
        id=f"product-{sku}",
        title=sku,
        currency="USD",
        active=is_active,
        variants=(Variant(sku=sku, price_minor=price_minor),),
    )


class Shop:
    """A store with two SKUs, one of them held by a cart and by a pending order."""

    def __init__(self, store: CartStore, engine: Redis) -> None:
        self.store = store
        self.redis = engine
        self.keys = Keys(store.partition)
        self.reconciler = Reconciler(store, confirm_seconds=0.01)
        self.payment_id = ""

    @property
    def audited(self) -> AuditedEngine:
        """The store's engine, with what reconcile asks of it."""
        return cast(AuditedEngine, self.store.engine)

    async def open(self) -> None:
        await self.put("A", price_minor=1_000)
        await self.put("B", price_minor=2_000)
        await self.store.adjust_stock("A", 10, reason="count", reference="first")
        await self.store.adjust_stock("B", 10, reason="count", reference="first")
        await self.store.add_line(BUYER, "A", 2)
        self.payment_id = await self.check_out(BUYER, "order")
        await self.store.add_line(BUYER, "A", 3)
        await self.store.drain_outbox()

    async def put(self, sku: str, *, price_minor: int, publish: bool = True, is_active: bool = True) -> None:
        product = product_of(sku, price_minor, is_active=is_active)
        await (self.store if publish else self.store.catalog).put_product(product)

    async def check_out(self, owner: Owner, key: str) -> str:
        checkout = await self.store.begin_checkout(
            owner, idempotency_key=key, gateway="simulated", payment_method="card"
        )
        return checkout.payment.payment_id

    async def cancel(self) -> None:
        """The pending order."""
        checkout = await self.store.read_payment(self.payment_id, BUYER)
        await self.store.cancel_order(checkout.orders[0].order_id, BUYER)

    async def release_all(self) -> None:
        """Let the holds of A fall due, and release them."""
        members = await self.redis.zrange(self.keys.holds("A"), 0, -1)
        await self.redis.zadd(self.keys.holds("A"), dict.fromkeys(members, 1))
        await self.set_hold_state("A", earliest=1)
        await self.redis.zadd(self.keys.holding, {"A": 1})
        await self.store.release_due(100)

    async def hold_state(self, sku: str) -> HoldState:
        packed = await self.redis.execute_command(
            "HGET", self.keys.sku(sku), "hold_state", **{NEVER_DECODE: True}
        )
        return read_hold_state(packed)

    async def set_hold_state(self, sku: str, **changes: int) -> None:
        state = (await self.hold_state(sku))._replace(**changes)
        await self.redis.hset(self.keys.sku(sku), "hold_state", pack_hold_state(state))

    async def reconcile(self, *, repair: bool = True) -> ReconcileReport:
        return await self.reconciler.run(repair=repair)


@asynccontextmanager
async def open_shop(
    redis_url: str, database: Database, database_url: str, **settings: Any
) -> AsyncIterator[Shop]:
    # The test server gives up durability, which the record refuses; this database of it does not.
    name = database_url.partition("?")[0].rpartition("/")[2]
    database.execute(f"ALTER DATABASE {name} SET synchronous_commit = on")
    settings = Settings(redis_url=redis_url, database_url=database_url, checkout_ack="engine", **settings)
    async with (
        cartstore.open_store(settings, doorbell=lambda: None) as store,
        Redis.from_url(redis_url, decode_responses=True) as engine,
    ):
        shop = Shop(store, engine)
        await shop.open()
        yield shop


def found(drifts: list[Drift]) -> list[tuple[DriftKind, str]]:
    return sorted((drift.kind, drift.subject) for drift in drifts)


def assert_gauge(shop: Shop, *expected: tuple[DriftKind, str]) -> None:
    kinds = [kind for kind, _ in expected]
    assert shop.reconciler.open_by_kind() == {kind: kinds.count(kind) for kind in DRIFT_KINDS}


async def expect_left(shop: Shop, *expected: tuple[DriftKind, str]) -> None:
    """A run finds exactly this, repairs nothing of it, and the gauge shows it."""
    report = await shop.reconcile()

    assert found(report.drift) == sorted(expected)
    assert report.repaired == []
    assert_gauge(shop, *expected)


async def expect_repaired(shop: Shop, *expected: tuple[DriftKind, str]) -> None:
    """A run that may not repair finds this, one that may repairs it, and the next one finds nothing."""
    watched = await shop.reconcile(repair=False)
    assert found(watched.drift) == sorted(expected)
    assert watched.repaired == []
    assert_gauge(shop, *expected)

    report = await shop.reconcile()
    assert found(report.repaired) == sorted(expected)
    assert report.drift == []

    after = await shop.reconcile()
    assert after.drift == after.repaired == []
    assert not any(shop.reconciler.open_by_kind().values())
