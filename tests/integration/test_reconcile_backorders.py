"""Units that are free beside owed ones: what a version before left side by side, and what a lost engine
frees."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from property.shop_with_record import open_shop_with_record
from reconcile_shop import Shop, expect_left, expect_repaired, found, open_shop, product_of
from sqlalchemy import text

from cartstore import Owner
from cartstore.embedded import Database
from cartstore.model import Product

ANN, BEN = Owner("user", "ann"), Owner("user", "ben")


@pytest.fixture
async def shop(redis_url: str, database: Database, database_url: str) -> AsyncIterator[Shop]:
    """All ten units of B are sold, and two more."""
    async with open_shop(redis_url, database, database_url) as shop:
        await shop.store.put_product(with_policy("backorder"))
        await shop.store.add_line(ANN, "B", 12)
        await shop.store.apply_verdict(await shop.check_out(ANN, "b"), "succeeded")
        await shop.store.put_product(with_policy("deny"))
        await shop.store.drain_outbox()
        yield shop


def with_policy(policy: str) -> Product:
    product = product_of("B", 2_000)
    return replace(product, variants=(replace(product.variants[0], policy=policy),))


async def put_units(shop: Shop, units: int, **counters: int) -> None:
    """As a version before wrote a delivery: into on_hand, whatever is owed."""
    await shop.redis.hset(shop.keys.sku("B"), mapping={"on_hand": units, **counters})
    async with shop.store.archive.database.transaction() as connection:
        await connection.execute(text(f"UPDATE stock SET on_hand = {units} WHERE sku = 'B'"))


async def owed_of(shop: Shop) -> list[int]:
    async with shop.store.archive.database.reading() as connection:
        return list((await connection.execute(text("SELECT owed FROM backorders"))).scalars())


async def test_free_units_go_to_backorders_when_both_are_there(shop: Shop) -> None:
    await put_units(shop, 5)

    await expect_repaired(shop, ("backorder_unserved", "B"))

    await shop.store.drain_outbox()
    level = await shop.store.read_stock("B")
    assert (level.on_hand, level.held, level.sold, level.backordered) == (3, 0, 12, 0)
    assert await owed_of(shop) == [0]
    assert (await shop.reconcile()).drift == []


async def test_free_units_are_left_when_engine_and_ledger_differ(shop: Shop) -> None:
    await shop.redis.hset(shop.keys.sku("B"), "on_hand", 5)

    await expect_left(shop, ("backorder_unserved", "B"), ("engine_ahead", "B"))

    assert (await shop.store.read_stock("B")).backordered == 2


async def test_units_that_nobody_holds_go_to_backorders_when_the_counter_is_repaired(shop: Shop) -> None:
    await put_units(shop, 5, held=5)

    report = await shop.reconcile()

    assert found(report.repaired) == [("counter_above_holds", "B")]
    level = await shop.store.read_stock("B")
    assert (level.on_hand, level.held, level.backordered) == (3, 0, 0)
    await shop.store.drain_outbox()
    assert await owed_of(shop) == [0]
    assert (await shop.reconcile()).drift == []


async def test_drift_is_none_when_the_record_is_ahead_of_what_was_looked_at(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the record applied after the look is taken out of its counters again, owed units as well."""
    look = shop.audited.audit_sku

    async def looking(sku: str) -> object:
        audit = await look(sku)
        if sku == "B" and not deliveries:
            deliveries.append(sku)
            await shop.store.adjust_stock("B", 1, reason="truck", reference="truck")
            await shop.store.drain_outbox()
        return audit

    deliveries: list[str] = []
    monkeypatch.setattr(shop.store.engine, "audit_sku", looking)

    report = await shop.reconcile(repair=False)

    assert deliveries == ["B"]
    assert (report.drift, report.skipped) == ([], 0)


async def test_units_of_lost_holds_go_to_backorders_when_the_engine_is_rebuilt(
    redis_url: str, database_url: str
) -> None:
    async with open_shop_with_record(redis_url, database_url) as shop:
        store = shop.store
        await store.recover()
        await store.put_product(with_policy("deny"))
        await store.adjust_stock("B", 5, reason="count", reference="first")
        await store.add_line(BEN, "B", 4)
        await store.put_product(with_policy("backorder"))
        await store.add_line(ANN, "B", 3)
        checkout = await store.begin_checkout(
            ANN, idempotency_key="k", gateway="simulated", payment_method="card"
        )
        await store.apply_verdict(checkout.payment.payment_id, "succeeded")
        await store.put_product(with_policy("deny"))
        await store.drain_outbox()
        owing = await store.read_stock("B")
        # Ben's cart is in no snapshot yet.
        await shop.replace_engine({})

        await store.recover()

        level = await store.read_stock("B")
        assert (owing.on_hand, owing.held, owing.backordered) == (4, 4, 2)
        assert (level.on_hand, level.held, level.sold, level.backordered) == (2, 0, 3, 0)
        await store.drain_outbox()
        assert [row.owed for row in await shop.rows("SELECT owed FROM backorders")] == [0]
        assert await shop.rows("SELECT * FROM rejected_events") == []
