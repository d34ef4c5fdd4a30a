"""Goal: no event that is in the engine's stream is lost by a recovery, whatever is wrong with the stream.

Method: a store on the shared servers acknowledges checkouts that nobody has drained; the stream is damaged by
hand, then recovery runs. What chains on from the last applied event is in the record afterwards, everything
else is in `rejected_events` with the reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from chaos.shop import assert_sound, check_out, stock_up
from property.shop_with_record import Died, ShopWithRecord, dying_at, open_shop_with_record
from sqlalchemy import text

from cartstore import Owner, progress
from cartstore.errors import ProductInactive, StoreRecovering
from cartstore.model import Checkout

ANN, BEN, CLEO, DAN = (Owner("user", name) for name in ("ann", "ben", "cleo", "dan"))


@pytest.fixture
async def shop(redis_url: str, database_url: str) -> AsyncIterator[ShopWithRecord]:
    async with open_shop_with_record(redis_url, database_url) as shop:
        await shop.store.recover()
        await stock_up(shop.store)
        await shop.store.drain_outbox()
        yield shop


async def three_checkouts(shop: ShopWithRecord) -> list[Checkout]:
    return [await check_out(shop.store, owner, sku) for owner, sku in ((ANN, "a"), (BEN, "b"), (CLEO, "c"))]


async def entries(shop: ShopWithRecord) -> list[tuple[str, dict[str, str]]]:
    found: Any = await shop.client.xrange(shop.outbox._keys.outbox)
    return list(found)


async def delete_entry(shop: ShopWithRecord, place: int) -> None:
    position, _ = (await entries(shop))[place]
    await shop.client.xdel(shop.outbox._keys.outbox, position)


async def rejected(shop: ShopWithRecord) -> list[tuple[str, str]]:
    rows = await shop.rows("SELECT type, reason FROM rejected_events ORDER BY epoch, seq")
    return [(row.type, row.reason) for row in rows]


async def is_recorded(shop: ShopWithRecord, checkout: Checkout) -> bool:
    return await shop.store.archive.find_payment(checkout.payment.payment_id) is not None


async def frozen(shop: ShopWithRecord) -> list[str]:
    return await shop.store.archive.quarantine.frozen()


async def test_events_behind_a_gap_are_put_aside_and_those_before_it_are_applied(
    shop: ShopWithRecord,
) -> None:
    first, lost, behind = await three_checkouts(shop)
    await delete_entry(shop, 2)

    with pytest.raises(StoreRecovering, match="gap or a fork"):
        await shop.store.drain_outbox()
    readiness = await shop.store.readiness()
    assert await shop.store.recover()

    assert not readiness["ready"]
    assert "cannot follow" in readiness["checks"]["gate"]["detail"]
    assert [await is_recorded(shop, its) for its in (first, lost, behind)] == [True, False, False]
    [(kind, reason)] = await rejected(shop)
    assert kind == "checkout_begun"
    assert "gap or a fork" in reason
    # Somebody was promised a unit of it; a person decides before it is sold on.
    assert await frozen(shop) == ["c"]
    with pytest.raises(ProductInactive):
        await shop.store.add_line(DAN, "c")
    await shop.store.add_line(DAN, "b")
    await assert_sound(shop.store)


async def test_gap_ends_in_a_rebuild_when_recovery_meets_it_first(shop: ShopWithRecord) -> None:
    first, _, behind = await three_checkouts(shop)
    await delete_entry(shop, 2)
    await shop.client.hset(shop.outbox._keys.gate, "identity", "before a restart")

    assert await shop.store.recover()

    assert (await shop.store.readiness())["checks"]["gate"]["ok"]
    assert [await is_recorded(shop, its) for its in (first, behind)] == [True, False]
    assert len(await rejected(shop)) == 1


async def test_events_are_applied_when_only_the_entry_of_the_last_applied_one_is_gone(
    shop: ShopWithRecord,
) -> None:
    checkouts = await three_checkouts(shop)
    await delete_entry(shop, 0)

    with pytest.raises(StoreRecovering, match="is missing"):
        await shop.store.drain_outbox()
    assert await shop.store.recover()

    assert [await is_recorded(shop, its) for its in checkouts] == [True, True, True]
    assert await rejected(shop) == []
    await assert_sound(shop.store)


async def test_events_of_a_closed_epoch_are_put_aside_and_freeze_nothing(shop: ShopWithRecord) -> None:
    [checkout, *_] = await three_checkouts(shop)
    copy = await shop.copy_engine()
    await shop.replace_engine({})
    await shop.store.recover()
    await shop.replace_engine(copy)

    assert await shop.store.recover()

    assert not await is_recorded(shop, checkout)
    assert [kind for kind, _ in await rejected(shop)] == ["checkout_begun"] * 3
    assert all("epoch was closed" in reason for _, reason in await rejected(shop))
    assert await frozen(shop) == []
    await assert_sound(shop.store)


async def test_events_of_a_closed_epoch_are_put_aside_when_the_record_keeps_none_so_old(
    shop: ShopWithRecord,
) -> None:
    """An engine that comes back after longer than events are kept: what it alone has is still not lost."""
    archived = await check_out(shop.store, DAN, "a")
    await shop.store.cancel_order(archived.orders[0].order_id, DAN)
    archive = shop.store.archive
    cursor = (await archive.cursor())[0]
    # Nothing is trimmed: its stream has every event that there was.
    while events := await shop.outbox.read(cursor, 100):
        cursor = await archive.apply_events(events)
    await three_checkouts(shop)
    copy = await shop.copy_engine()
    await shop.replace_engine({})
    await shop.store.recover()
    await check_out(shop.store, DAN, "b")
    await shop.store.drain_outbox()
    async with archive.database.transaction() as connection:
        await connection.execute(text("DELETE FROM events WHERE epoch = :epoch"), {"epoch": cursor.epoch})
    await shop.replace_engine(copy)

    assert await shop.store.recover()

    assert [kind for kind, _ in await rejected(shop)] == ["checkout_begun"] * 3
    assert await frozen(shop) == []
    await assert_sound(shop.store)


async def test_events_freeze_nothing_when_the_record_is_of_another_time(shop: ShopWithRecord) -> None:
    """A database that was restored from a backup: the engine's stream begins behind what the record has."""
    [checkout, *_] = await three_checkouts(shop)
    await shop.store.drain_outbox()
    await shop.store.adjust_stock("a", 1, reason="delivery", reference="late")
    async with shop.store.archive.database.transaction() as connection:
        await connection.execute(text("DELETE FROM order_lines"))
        await connection.execute(text("DELETE FROM orders"))
        await connection.execute(text("DELETE FROM payments"))
        await connection.execute(text("DELETE FROM events WHERE type <> 'stock_adjusted'"))
        await connection.execute(
            text(
                "UPDATE outbox_cursor SET written_in_layout = 5,"
                " (seq, nonce) = (SELECT seq, nonce FROM events WHERE seq = 3)"
            )
        )

    with pytest.raises(StoreRecovering):
        await shop.store.drain_outbox()
    assert await shop.store.recover()

    assert not await is_recorded(shop, checkout)
    kinds, reasons = zip(*await rejected(shop), strict=True)
    # The last applied event is still in the stream, and the one behind it.
    assert kinds == ("checkout_begun", "stock_adjusted")
    assert all("another history" in reason for reason in reasons)
    assert await frozen(shop) == []
    await assert_sound(shop.store)


@pytest.mark.parametrize("failpoint", ["rebuild.events_kept", "rebuild.cleared", "rebuild.anchored"])
async def test_events_are_kept_once_when_the_rebuild_dies_and_another_takes_over(
    shop: ShopWithRecord, failpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cartstore.recovery.gate.REBUILD_SILENCE_SECONDS", 0.0)
    first, _, behind = await three_checkouts(shop)
    await delete_entry(shop, 2)
    await shop.client.hset(shop.outbox._keys.gate, "identity", "before a restart")

    with dying_at(failpoint, 1), pytest.raises(Died):
        await shop.store.recover()
    for _ in range(2):
        if (await shop.store.readiness())["checks"]["gate"]["ok"]:
            break
        try:
            await shop.store.recover()
        except StoreRecovering:
            # The first look at a rebuild only begins to watch it.
            continue

    assert [await is_recorded(shop, its) for its in (first, behind)] == [True, False]
    assert len(await rejected(shop)) == 1
    await assert_sound(shop.store)


async def test_every_waiting_event_is_applied_when_a_rebuild_is_asked_for(shop: ShopWithRecord) -> None:
    checkouts = await three_checkouts(shop)

    assert await shop.store.recover(rebuilds=True)

    assert [await is_recorded(shop, its) for its in checkouts] == [True, True, True]
    assert await rejected(shop) == []
    await assert_sound(shop.store)


@pytest.mark.parametrize(
    "damaged", [{"type": b"a\x00b"}, {"nonce": b"a\x00b"}, {"at": "9" * 25}, {"body": b"\x00\xff"}], ids=repr
)
async def test_entry_that_postgresql_would_not_store_blocks_nothing(
    shop: ShopWithRecord, damaged: dict[str, Any]
) -> None:
    first = await check_out(shop.store, ANN, "a")
    position, fields = (await entries(shop))[-1]
    epoch, _, seq = position.partition("-")
    entry = {
        "nonce": "n",
        "type": "odd",
        "at": "1",
        "body": "{}",
        "previous": f"{position} {fields['nonce']}",
    }
    await shop.client.xadd(shop.outbox._keys.outbox, {**entry, **damaged}, f"{epoch}-{int(seq) + 1}")
    second = await check_out(shop.store, BEN, "b")

    await shop.store.drain_outbox()

    assert [await is_recorded(shop, its) for its in (first, second)] == [True, True]
    assert len(await rejected(shop)) == 1
    await assert_sound(shop.store)


async def test_events_behind_an_unreadable_entry_are_applied_and_it_is_put_aside(
    shop: ShopWithRecord,
) -> None:
    first = await check_out(shop.store, ANN, "a")
    (position, _), gate = (await entries(shop))[-1], shop.outbox._keys.gate
    epoch, _, seq = position.partition("-")
    await shop.client.xadd(
        shop.outbox._keys.outbox, {b"nonce": b"a hand's", b"text": b"\xff\x00"}, f"{epoch}-{int(seq) + 1}"
    )
    await shop.client.hset(gate, "seq", int(seq) + 1)
    second = await check_out(shop.store, BEN, "b")

    await shop.store.drain_outbox()

    assert [await is_recorded(shop, its) for its in (first, second)] == [True, True]
    [(kind, _)] = await rejected(shop)
    assert kind == "unreadable"
    await assert_sound(shop.store)


async def test_checkouts_are_archived_when_a_sequence_number_was_used_up_without_an_event(
    shop: ShopWithRecord,
) -> None:
    """What a script of the version before left that was cut off between the number and the event."""
    await shop.client.hincrby(shop.outbox._keys.gate, "seq", 1)

    checkouts = await three_checkouts(shop)
    await shop.store.drain_outbox()

    assert [await is_recorded(shop, its) for its in checkouts] == [True, True, True]
    await assert_sound(shop.store)


async def test_placeholder_is_not_put_aside_when_its_event_was_archived(shop: ShopWithRecord) -> None:
    """A salvaged log has one for an event that cannot be read, whether the record has it or not."""
    checkout = await check_out(shop.store, ANN, "a")
    await shop.store.drain_outbox()
    (position, _), outbox = (await entries(shop))[-1], shop.outbox._keys.outbox
    await shop.client.delete(outbox)
    await shop.client.xadd(outbox, {"nonce": "", "type": "unreadable", "at": 0, "body": "{}"}, position)
    await shop.client.hset(shop.outbox._keys.gate, "identity", "damaged")

    assert await shop.store.recover()

    assert await is_recorded(shop, checkout)
    assert await rejected(shop) == []
    await assert_sound(shop.store)


async def test_event_follows_the_stream_when_the_gate_is_behind_it(shop: ShopWithRecord) -> None:
    """What is left where the number could not be written after the event."""
    first = await check_out(shop.store, ANN, "a")
    await shop.client.hincrby(shop.outbox._keys.gate, "seq", -1)

    second = await check_out(shop.store, BEN, "b")
    await shop.store.drain_outbox()

    assert [await is_recorded(shop, its) for its in (first, second)] == [True, True]
    await assert_sound(shop.store)


async def test_recovery_tells_its_progress_while_it_takes_a_long_stream(
    shop: ShopWithRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that tells none for a minute is replaced, and its successor would begin anew."""
    monkeypatch.setattr("cartstore.recovery.gate.OUTBOX_BATCH_EVENTS", 1)
    await three_checkouts(shop)
    await delete_entry(shop, 0)
    told: list[int] = []
    async with shop.store.archive.raising_epoch(100) as raised:
        progress.tell(lambda: told.append(1))
        await shop.store._recovery._keep_events(raised)

    assert len(told) == 3
