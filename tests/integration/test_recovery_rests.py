"""Goal: caps and rests go on where they were when an engine was lost, and cost nobody the time in between.

Method: a store whose clock is moved by hand, on an engine that is emptied and rebuilt from the record.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from contract.shop import MINUTE_MS, SECOND_MS
from property.shop_with_record import ShopWithRecord, open_shop_with_record

from cartstore import Owner, Product, Variant
from cartstore.free_json import canonical_properties
from cartstore.model import Line, line_id_of
from cartstore.recovery.reconcile import Reconciler

ANN, BEN = Owner("user", "ann"), Owner("user", "ben")


@pytest.fixture
async def shop(redis_url: str, database_url: str) -> AsyncIterator[ShopWithRecord]:
    async with open_shop_with_record(redis_url, database_url) as shop:
        await shop.store.recover()
        variant = Variant(sku="tee", price_minor=1_000)
        await shop.store.put_product(Product(id="tee", title="Tee", currency="USD", variants=(variant,)))
        await shop.store.adjust_stock("tee", 2, reason="count", reference="first")
        yield shop


async def lose_the_engine(shop: ShopWithRecord, silent_ms: int) -> None:
    """It is gone right after everything was archived, and rebuilt so long after."""
    await shop.store.drain_outbox()
    await shop.store.snapshot_carts()
    shop.clock.now_ms += silent_ms
    await shop.replace_engine({})
    await shop.store.recover()


async def hold_to_the_cap(shop: ShopWithRecord) -> int:
    """Ann holds a unit until the cap ends it; when that was."""
    cap_at_ms = shop.clock.now_ms + shop.store.settings.hold_cap_seconds * SECOND_MS
    await shop.store.add_line(ANN, "tee")
    while shop.clock.now_ms < cap_at_ms:
        await shop.store.extend_holds(ANN)
        await shop.store.snapshot_carts()
        shop.clock.now_ms += min(5 * MINUTE_MS, cap_at_ms - shop.clock.now_ms)
    return cap_at_ms


async def line_of(shop: ShopWithRecord, owner: Owner = ANN) -> Line:
    (line,) = (await shop.store.read_cart(owner)).lines
    return line


async def test_first_hold_goes_on_when_the_engine_was_rebuilt(shop: ShopWithRecord) -> None:
    first_ms = shop.clock.now_ms
    await shop.store.add_line(ANN, "tee")
    shop.clock.now_ms += 8 * MINUTE_MS
    await shop.store.extend_holds(ANN)

    await lose_the_engine(shop, 60 * MINUTE_MS)

    line = await line_of(shop)
    assert (line.held, line.first_held_at_ms) == (1, first_ms + 60 * MINUTE_MS)
    assert line.hold_expires_at_ms == line.first_held_at_ms + shop.store.settings.hold_cap_seconds * SECOND_MS


@pytest.mark.parametrize("silent_ms", [SECOND_MS, 60 * MINUTE_MS])
async def test_rest_goes_on_when_the_engine_was_rebuilt(shop: ShopWithRecord, silent_ms: int) -> None:
    await hold_to_the_cap(shop)
    shop.clock.now_ms += 4 * SECOND_MS
    await shop.store.validate_cart(ANN)

    await lose_the_engine(shop, silent_ms)

    line = (await shop.store.extend_holds(ANN)).cart.lines[0]
    assert (line.held, line.rests_until_ms) == (0, shop.clock.now_ms + 6 * SECOND_MS)
    shop.clock.now_ms += 6 * SECOND_MS
    assert (await shop.store.extend_holds(ANN)).cart.lines[0].held == 1


async def test_rest_goes_on_when_it_was_told_to_the_buyer_before_the_loss(shop: ShopWithRecord) -> None:
    await hold_to_the_cap(shop)
    shop.clock.now_ms += 4 * SECOND_MS
    resting = await shop.store.set_quantity(ANN, "tee", 2)
    assert resting.line is not None
    assert resting.line.held == 0

    await lose_the_engine(shop, SECOND_MS)

    line = (await shop.store.set_quantity(ANN, "tee", 1)).line
    assert line is not None
    assert (line.held, line.rests_until_ms) == (0, shop.clock.now_ms + 6 * SECOND_MS)


async def test_hold_is_a_first_one_when_the_rest_was_over_before_the_loss(shop: ShopWithRecord) -> None:
    await hold_to_the_cap(shop)
    shop.clock.now_ms += 10 * SECOND_MS

    await lose_the_engine(shop, SECOND_MS)

    line = (await shop.store.validate_cart(ANN)).cart.lines[0]
    assert (line.held, line.first_held_at_ms) == (1, shop.clock.now_ms)


async def test_units_of_an_order_count_as_held_when_the_engine_was_rebuilt(shop: ShopWithRecord) -> None:
    await shop.store.add_line(ANN, "tee")
    shop.clock.now_ms += 8 * MINUTE_MS
    checkout = await shop.store.begin_checkout(
        ANN, idempotency_key="k", gateway="simulated", payment_method="card"
    )
    await lose_the_engine(shop, 0)
    shop.clock.now_ms += 8 * MINUTE_MS

    line = (await shop.store.add_line(ANN, "tee")).line

    assert line is not None
    assert (line.held, line.rests_until_ms) == (0, checkout.payment.expires_at_ms + 10 * SECOND_MS)
    assert not (await Reconciler(shop.store, confirm_seconds=0.0).run(repair=False)).drift
    await shop.store.cancel_order(checkout.orders[0].order_id, ANN)
    resting = await line_of(shop)
    assert (resting.held, resting.rests_until_ms) == (0, shop.clock.now_ms + 10 * SECOND_MS)
    assert not (await Reconciler(shop.store, confirm_seconds=0.0).run(repair=False)).drift


async def test_first_hold_is_that_of_the_order_when_the_snapshot_knows_an_older_one(
    shop: ShopWithRecord,
) -> None:
    engraved = {"text": "Ann"}
    await shop.store.add_line(ANN, "tee")
    await shop.store.add_line(ANN, "tee", properties=engraved)
    await shop.store.snapshot_carts()
    shop.clock.now_ms += 24 * 60 * MINUTE_MS
    # The cart has not changed since, so its snapshot stays as it is.
    await shop.store.snapshot_carts()
    line_id = line_id_of("tee", canonical_properties(engraved))
    await shop.store.begin_checkout(
        ANN, idempotency_key="k", gateway="simulated", payment_method="card", line_ids=[line_id]
    )
    ordered_at_ms = shop.clock.now_ms
    # The drain was here since, and the snapshot job was not.
    await shop.store.drain_outbox()
    await shop.replace_engine({})
    await shop.store.recover()

    line = (await shop.store.validate_cart(ANN)).cart.lines[0]

    assert (line.held, line.first_held_at_ms) == (1, ordered_at_ms)
