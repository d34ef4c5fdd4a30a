"""What the record removes when its retention is over, and what it never does. On the real parts; rows are
made old by hand, because days do not pass in a test."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from reconcile_shop import BUYER, Shop, open_shop, product_of
from sqlalchemy import text

from cartstore import Owner
from cartstore.archive import rejected_details
from cartstore.archive.fulfilment import append_record_event
from cartstore.archive.retention import RETENTION_KINDS
from cartstore.embedded import Database
from cartstore.errors import EventsGone
from cartstore.model import FeedPosition, Partition, Position

OTHER = Owner("user", "other")
DETAILS = {"contact": {"email": "ada@example.org"}, "metadata": {"note": "ring twice"}}


@pytest.fixture
async def shop(redis_url: str, database: Database, database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(redis_url, database, database_url) as shop:
        # Without a snapshot the engine's time is not known, and nothing is removed.
        await shop.store.snapshot_carts()
        yield shop


async def execute(shop: Shop, sql: str, **parameters: Any) -> list[Any]:
    async with shop.store.archive.database.transaction() as connection:
        result = await connection.execute(text(sql), parameters)
        return list(result.scalars()) if result.returns_rows else []


async def remove(shop: Shop, kind: Any) -> int:
    """Batches of one kind until none finds more."""
    removed = 0
    while True:
        batch = await shop.store.apply_retention(kind)
        removed += batch.removed
        if not batch.is_more:
            return removed


async def positions(shop: Shop) -> list[int]:
    return [event.position.position.seq for event in await shop.store.archive.feed.read(None, 100)]


async def age_events(shop: Shop, days: float, where: str = "true") -> None:
    await execute(shop, f"UPDATE events SET at_ms = at_ms - {int(days * 86_400_000)} WHERE {where}")


# --- events -----------------------------------------------------------------------------------------


async def test_events_go_in_their_order_when_they_are_older_than_the_retention(shop: Shop) -> None:
    before = await positions(shop)
    await age_events(shop, 91, f"seq < {before[2]}")
    await age_events(shop, 89, f"seq = {before[2]}")

    removed = await remove(shop, "events")

    assert (removed, await positions(shop)) == (2, before[2:])


async def test_newest_event_stays_when_all_are_old(shop: Shop) -> None:
    before = await positions(shop)
    await age_events(shop, 400)

    removed = await remove(shop, "events")
    again = await remove(shop, "events")

    assert (removed, again, await positions(shop)) == (len(before) - 1, 0, before[-1:])
    assert await shop.store.recover() is False
    assert await shop.store.drain_outbox() == 0, "the cursor's event is there, and proves the stream"


async def test_event_from_the_future_keeps_no_later_one_when_the_clock_was_set_back(shop: Shop) -> None:
    before = await positions(shop)
    await age_events(shop, 91)
    await age_events(shop, -1_000, f"seq = {before[0]}")

    removed = await remove(shop, "events")

    assert removed == len(before) - 1


async def test_young_event_keeps_all_later_ones_when_the_clock_was_behind(shop: Shop) -> None:
    before = await positions(shop)
    await age_events(shop, 91, f"seq > {before[0]}")

    assert await remove(shop, "events") == 0


async def test_nothing_goes_early_when_the_database_runs_ahead_of_the_engine(shop: Shop) -> None:
    await age_events(shop, 91)
    await execute(
        shop, "UPDATE outbox_cursor SET written_in_layout = 5, snapshot_at_ms = snapshot_at_ms - 2 * 86400000"
    )

    assert await remove(shop, "events") == 0


async def test_read_feed_tells_where_it_begins_when_events_are_gone(shop: Shop) -> None:
    archive = shop.store.archive
    before = await positions(shop)
    await age_events(shop, 91, f"seq <= {before[1]}")
    await remove(shop, "events")

    with pytest.raises(EventsGone) as gone:
        await archive.feed.read(FeedPosition(Position(1, before[0])), 100)
    with pytest.raises(EventsGone):
        await archive.feed.read(FeedPosition(Position(0, 0)), 100)

    # Who has read the last that is gone has missed nothing.
    kept = await archive.feed.read(FeedPosition.parse(gone.value.after), 100)
    assert [event.position.position.seq for event in kept] == before[2:]
    assert gone.value.oldest == str(kept[0].position)


async def _tell(shop: Shop, seq: int, days: int) -> None:
    """An event of the record behind the engine's event with this seq, so many days ago."""
    async with shop.store.archive.database.transaction() as connection:
        at_ms = int(time.time() * 1_000) - days * 86_400_000
        body: dict[str, object] = {"days": days}
        await append_record_event(
            connection, Partition("main"), Position(1, seq), "fulfilment_changed", at_ms, body
        )


async def test_events_of_the_record_go_with_those_before_them_and_not_early(shop: Shop) -> None:
    for number in range(2):
        await shop.store.adjust_stock("A", 1, reason="r", reference=f"more-{number}")
    await shop.store.drain_outbox()
    first, second, third, *_ = await positions(shop)
    await age_events(shop, 91)
    await _tell(shop, first, 91)
    await _tell(shop, second, 91)
    await _tell(shop, second, 2)

    await remove(shop, "events")
    kept = await shop.store.archive.feed.read(None, 3)
    resumed = await shop.store.archive.feed.read(FeedPosition(Position(1, second)), 2)

    # The young one keeps the third event, though that is old; the other one behind its event stays with it.
    assert [str(event.position) for event in kept] == [f"1-{second}.1", f"1-{second}.2", f"1-{third}"]
    assert resumed == kept[:2]
    with pytest.raises(EventsGone):
        await shop.store.archive.feed.read(FeedPosition(Position(1, first)), 2)


# --- snapshots --------------------------------------------------------------------------------------


async def test_snapshots_go_when_their_carts_ended_long_ago(shop: Shop) -> None:
    snapshots = shop.store.archive.snapshots
    await execute(
        shop,
        """
        INSERT INTO cart_snapshots (cart_id, version, status, currency, lines, lines_count, total_items,
            subtotal_minor, created_at_ms, updated_at_ms, lifetime_ms)
        SELECT status || days, 1, status, 'USD', '[]', 0, 0, 0, 0,
            (extract(epoch FROM now()) * 1000)::bigint - days * 86400000::bigint, 1
        FROM unnest(ARRAY['active', 'abandoned', 'converted', 'merged', 'expired']) AS status,
             unnest(ARRAY[89, 91]) AS days
        """,
    )
    # Its pending order's lines may come back to it.
    await execute(
        shop,
        "UPDATE cart_snapshots SET status = 'converted', updated_at_ms = 1 WHERE cart_id = :cart",
        cart=BUYER.cart_id,
    )

    removed = await remove(shop, "snapshots")

    assert removed == 3
    left = await execute(shop, "SELECT cart_id FROM cart_snapshots WHERE cart_id ~ '[0-9]$' ORDER BY 1")
    assert left == [
        "abandoned89",
        "abandoned91",
        "active89",
        "active91",
        "converted89",
        "expired89",
        "merged89",
    ]
    assert await snapshots.find(BUYER.cart_id) is not None


# --- address, contact and metadata ------------------------------------------------------------------


async def released_payment(shop: Shop, key: str) -> str:
    await shop.store.add_line(OTHER, "B", 1)
    checkout = await shop.store.begin_checkout(
        OTHER, idempotency_key=key, gateway="simulated", payment_method="card", details=DETAILS
    )
    await shop.store.cancel_order(checkout.orders[0].order_id, OTHER)
    await shop.store.drain_outbox()
    return checkout.payment.payment_id


async def age_payment(shop: Shop, payment_id: str, days: float) -> None:
    age = int(days * 86_400_000)
    await execute(
        shop,
        f"UPDATE payments SET created_at_ms = created_at_ms - {age} WHERE payment_id = :payment",
        payment=payment_id,
    )
    # The engine has forgotten it by now.
    await shop.redis.delete(shop.keys.payment(payment_id))


async def stored_details(shop: Shop, payment_id: str) -> tuple[str, str]:
    """In the row, and in the event of the checkout."""
    payment, _ = await shop.store.archive.find_payment(payment_id) or (None, None)
    assert payment is not None
    (event,) = [
        event
        for event in await shop.store.archive.events_after(Position(0, 0), 100)
        if event.type == "checkout_begun" and event.body["payment_id"] == payment_id
    ]
    return payment.details_json, event.body["details_json"]


async def test_details_go_when_the_order_was_never_paid(shop: Shop) -> None:
    old, young = await released_payment(shop, "old"), await released_payment(shop, "young")
    await age_payment(shop, old, 31.1)
    await age_payment(shop, young, 29)

    removed = await remove(shop, "order_details")
    again = await remove(shop, "order_details")

    assert (removed, again) == (1, 0)
    assert await stored_details(shop, old) == ("{}", "{}")
    kept = await stored_details(shop, young)
    assert all("ada@example.org" in text and "ring twice" in text for text in kept)
    assert await shop.store.find_checkout(OTHER, "old") is not None, "the key is good for ever"


async def test_late_money_is_owed_back_when_the_details_are_gone(shop: Shop) -> None:
    payment_id = await released_payment(shop, "old")
    await age_payment(shop, payment_id, 31.1)
    await remove(shop, "order_details")

    result = await shop.store.apply_verdict(payment_id, "succeeded")
    await shop.store.drain_outbox()

    assert result.payment.status == "refund_due"
    recorded = await shop.store.archive.find_payment(payment_id)
    assert recorded is not None
    assert (recorded[0].status, [order.status for order in recorded[1]]) == ("refund_due", ["refund_due"])
    assert (await shop.store.read_stock("B")).sold == 0


async def test_details_stay_when_the_money_is_on_its_way_to_the_record(shop: Shop) -> None:
    payment_id = await released_payment(shop, "paid late")
    await shop.store.apply_verdict(payment_id, "succeeded")
    await age_payment(shop, payment_id, 31.1)

    removed = await remove(shop, "order_details")
    await shop.store.drain_outbox()

    assert removed == 0
    assert await remove(shop, "order_details") == 0
    assert all("ada@example.org" in text for text in await stored_details(shop, payment_id))


async def test_details_stay_when_the_stream_is_another_one(shop: Shop) -> None:
    payment_id = await released_payment(shop, "old")
    await age_payment(shop, payment_id, 31.1)
    await shop.redis.delete(shop.keys.outbox)

    assert await remove(shop, "order_details") == 0


async def rejected_checkout(shop: Shop, key: str, days: float, *, is_aside_ms: bool = False) -> str:
    """A checkout that was put aside so long ago, as a fork's or one of a closed epoch; its payment."""
    payment_id = await released_payment(shop, key)
    ago = int(days * 86_400_000)
    await execute(
        shop,
        f"""
        INSERT INTO rejected_events (epoch, seq, nonce, type, at_ms, body, reason, rejected_at)
        SELECT epoch, seq, 'fork', type, {"0" if is_aside_ms else f"at_ms - {ago}"}, body::text, 'a fork',
            now() - interval '{days if is_aside_ms else 0} days'
        FROM events WHERE type = 'checkout_begun' AND body ->> 'payment_id' = :payment
        """,
        payment=payment_id,
    )
    return payment_id


async def rejected_bodies(shop: Shop) -> list[str]:
    return await execute(
        shop, "SELECT body FROM rejected_events WHERE type = 'checkout_begun' ORDER BY epoch, seq"
    )


async def test_details_of_rejected_checkouts_go_when_nobody_paid(shop: Shop, monkeypatch: Any) -> None:
    monkeypatch.setattr(rejected_details, "REJECTED_PER_BATCH", 2)
    old = await rejected_checkout(shop, "old", 31.1)
    undated = await rejected_checkout(shop, "undated", 31.1, is_aside_ms=True)
    young = await rejected_checkout(shop, "young", 29)
    recorded_paid = await rejected_checkout(shop, "paid", 31.1)
    await execute(
        shop, "UPDATE payments SET status = 'paid' WHERE payment_id = :payment", payment=recorded_paid
    )
    settled = await rejected_checkout(shop, "settled", 31.1)
    unknown = await rejected_checkout(shop, "unknown", 31.1)
    await execute(
        shop,
        """
        INSERT INTO rejected_events (epoch, seq, nonce, type, at_ms, body, reason)
        VALUES (1, 900, 'fork', 'payment_settled', 1, :body, 'a fork')
        """,
        body=f'{{"payment_id":"{settled}","amount":1}}',
    )
    damaged = await rejected_checkout(shop, "damaged", 31.1)
    await execute(
        shop,
        """
        UPDATE rejected_events SET body = left(body, strpos(body, 'twice') + 2)
        WHERE strpos(body, :payment) > 0
        """,
        payment=damaged,
    )

    removed = await remove(shop, "order_details")
    again = await remove(shop, "order_details")

    with_details = [body for body in await rejected_bodies(shop) if "ada@example.org" in body]
    assert (removed, again) == (4, 0)
    assert [
        name
        for name in (old, undated, young, recorded_paid, settled, unknown, damaged)
        if any(name in body for body in with_details)
    ] == [young, recorded_paid, settled]
    blanked = [body for body in await rejected_bodies(shop) if old in body]
    assert [json.loads(body)["details_json"] for body in blanked] == ["{}"]
    assert json.loads(blanked[0])["orders"], "what else the event says stays"


async def test_details_of_a_rejected_checkout_stay_when_its_money_is_on_its_way(shop: Shop) -> None:
    payment_id = await rejected_checkout(shop, "paid late", 31.1)
    await execute(shop, "DELETE FROM events WHERE body ->> 'payment_id' = :payment", payment=payment_id)
    await shop.store.apply_verdict(payment_id, "succeeded")

    removed = await remove(shop, "order_details")

    assert removed == 0
    assert "ada@example.org" in (await rejected_bodies(shop))[0]


# --- product revisions ------------------------------------------------------------------------------


async def revise(shop: Shop, sku: str, price_minor: int) -> int:
    return (await shop.store.put_product(product_of(sku, price_minor))).revision


async def age_revisions(shop: Shop, days: int) -> None:
    await execute(shop, f"UPDATE product_revisions SET created_at = created_at - interval '{days} days'")


async def revisions(shop: Shop) -> set[int]:
    return set(await execute(shop, "SELECT revision FROM product_revisions"))


async def test_revisions_go_when_nothing_names_them(shop: Shop) -> None:
    # An order and a cart of the shop name the first revision of A; nothing names that of B.
    of_cart = await revise(shop, "A", 1_100)
    await shop.store.add_line(OTHER, "A", 1)
    await shop.store.snapshot_carts()
    of_event = await revise(shop, "B", 2_100)
    await shop.store.add_line(Owner("user", "third"), "B", 1)
    await shop.check_out(Owner("user", "third"), "third")
    unnamed = await revise(shop, "B", 2_200)
    await age_revisions(shop, 31)
    before = await revisions(shop)
    current = {await revise(shop, "A", 1_200), await revise(shop, "B", 2_300)}
    nothing_yet = await remove(shop, "product_revisions")
    await age_revisions(shop, 31)
    # As a worker does that starts anew; this one has walked through all of them a moment ago.
    shop.store._retention._revisions_due_at = 0

    removed = await remove(shop, "product_revisions")

    left = await revisions(shop)
    assert nothing_yet == 1, "only the first of B was superseded for long"
    assert removed == 1
    assert left == (before | current) - {unnamed, 2}
    assert {1, of_cart, of_event} <= left
    await shop.store.drain_outbox()
    shop.store._retention._revisions_due_at = 0
    assert await remove(shop, "product_revisions") == 0, "an order names what only an event named"


# --- beside everything else -------------------------------------------------------------------------


async def test_retention_and_drain_end_when_they_run_beside_each_other(shop: Shop) -> None:
    payment_ids = [await released_payment(shop, f"key {number}") for number in range(8)]
    for payment_id in payment_ids:
        await age_payment(shop, payment_id, 31.1)
    await age_events(shop, 91)

    async def settle_all() -> None:
        for payment_id in payment_ids:
            await shop.store.apply_verdict(payment_id, "succeeded")
            await shop.store.drain_outbox()
            await shop.store.snapshot_carts()

    async def remove_all() -> None:
        for _ in range(8):
            await asyncio.gather(*(shop.store.apply_retention(kind) for kind in RETENTION_KINDS * 2))

    await asyncio.gather(settle_all(), remove_all())

    for payment_id in payment_ids:
        recorded = await shop.store.archive.find_payment(payment_id)
        assert recorded is not None
        assert recorded[0].status == "refund_due", "its time was over before the money came"
    assert (await shop.store.read_stock("B")).sold == 0
    assert not (await shop.reconcile()).drift
