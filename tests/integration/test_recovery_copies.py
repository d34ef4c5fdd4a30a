"""Goal: an engine that is a copy of an earlier one, or an earlier one itself, is told apart from the one that
the record follows, and a hold that no clock can tell to be over does not come back.

Method: a store on the shared servers; its engine is given other contents, its clock is moved by hand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from contract.shop import LIFETIME_MS, MINUTE_MS
from property.shop_with_record import Died, ShopWithRecord, dying_at, open_shop_with_record

from cartstore import Owner, Product, Variant
from cartstore.archive.acknowledgement import Acknowledgement
from cartstore.archive.drain import drain
from cartstore.archive.snapshots import SnapshotState
from cartstore.errors import OutcomeUnknown, StoreRecovering
from cartstore.recovery import gate

ANN, BEN = Owner("user", "ann"), Owner("user", "ben")


@pytest.fixture
async def shop(redis_url: str, database_url: str) -> AsyncIterator[ShopWithRecord]:
    async with open_shop_with_record(redis_url, database_url) as shop:
        await shop.store.recover()
        variant = Variant(sku="a", price_minor=1_000, policy="deny")
        await shop.store.put_product(Product(id="a", title="A", currency="USD", variants=(variant,)))
        await shop.store.adjust_stock("a", 3, reason="delivery", reference="1")
        yield shop


async def is_open(shop: ShopWithRecord) -> bool:
    return bool((await shop.store.readiness())["checks"]["gate"]["ok"])


@pytest.mark.parametrize("is_archived", [False, True])
async def test_gate_opens_when_a_copy_has_events_from_before_another_engine_took_over(
    shop: ShopWithRecord, is_archived: bool
) -> None:
    """The copy goes on where the record stopped, with events that the record refuses since another engine was
    opened. They are not waited for: the copy is put right from the record."""
    if is_archived:
        await shop.store.drain_outbox()
        await shop.store.adjust_stock("a", 1, reason="delivery", reference="2")
    copy = await shop.copy_engine()
    await shop.replace_engine({})
    await shop.store.recover()
    assert await is_open(shop)

    await shop.replace_engine(copy)
    await shop.store.recover()

    assert await is_open(shop)
    assert (await shop.store.read_stock("a")).on_hand == (3 if is_archived else 0)


@pytest.mark.parametrize("job", ["drain_outbox", "snapshot_carts"])
async def test_gate_opens_anew_when_an_engine_is_back_that_another_took_over_from(
    shop: ShopWithRecord, job: str
) -> None:
    """It was never restarted, so that its gate is open for it, and the record takes neither its events nor
    its carts any more. A worker recovers when it is told so; what the engine did meanwhile is put right from
    the record, and it is of use again."""
    await shop.store.drain_outbox()
    gate_key = shop.outbox._keys.gate
    identity = await shop.client.hget(gate_key, "identity")
    first = await shop.copy_engine()
    await shop.replace_engine(first)
    await shop.store.recover()
    await shop.replace_engine(first)
    await shop.client.hset(gate_key, "identity", identity)
    assert await is_open(shop)
    await shop.store.adjust_stock("a", 1, reason="delivery", reference="2")

    with pytest.raises(StoreRecovering):
        await getattr(shop.store, job)()
    assert await shop.store.recover()

    assert await is_open(shop)
    assert (await shop.store.read_stock("a")).on_hand == 3
    await shop.store.add_line(ANN, "a", 1)
    await shop.store.adjust_stock("a", 1, reason="delivery", reference="2")
    assert (await shop.store.drain_outbox(), await shop.store.snapshot_carts()) == (1, 1)


async def test_event_proves_nothing_of_a_lost_one_when_the_record_never_heard_of_its_epoch(
    shop: ShopWithRecord,
) -> None:
    """The gate was opened, and the transaction that was to tell the record was lost; then the engine lost
    that gate and all that came after it. Who still waits for an event of then must not take the next engine's
    for it."""
    await shop.store.drain_outbox()
    before = await shop.copy_engine()
    await shop.replace_engine(before)
    with dying_at("recovery.opened", 1), pytest.raises(Died):
        await shop.store.recover()
    lost = await shop.store.adjust_stock("a", 1, reason="delivery", reference="lost")

    await shop.replace_engine(before)
    await shop.store.recover()
    await shop.store.adjust_stock("a", 1, reason="delivery", reference="2")
    await shop.store.drain_outbox()

    waiting = Acknowledgement("archived", shop.store.archive, timeout_ms=200, ring=lambda: None)
    with pytest.raises(OutcomeUnknown):
        await waiting.wait(lost.position)


async def test_engine_goes_on_when_it_only_forgot_that_it_was_opened_again(shop: ShopWithRecord) -> None:
    """The gate of the new epoch was lost with the last second, as an append-only file may lose it. All events
    are in the record, so the carts that it has are the latest there are."""
    await shop.store.add_line(ANN, "a", 2)
    before = await shop.copy_engine()
    await shop.replace_engine(before)
    await shop.store.recover()

    await shop.replace_engine(before)
    await shop.store.recover()

    assert [line.held for line in (await shop.store.read_cart(ANN)).lines] == [2]
    assert (await shop.store.read_stock("a")).on_hand == 3


async def test_hold_does_not_come_back_when_the_clock_was_set_back_and_took_it(shop: ShopWithRecord) -> None:
    """Once the clock is right again, the time that the snapshot has of the hold says nothing of its end."""
    await shop.store.add_line(ANN, "a", 2)
    await shop.store.snapshot_carts()
    shop.clock.now_ms -= LIFETIME_MS + MINUTE_MS
    assert (await shop.store.read_stock("a")).held == 0
    shop.clock.now_ms += 15 * MINUTE_MS
    await shop.store.drain_outbox()
    await shop.store.snapshot_carts()

    await shop.replace_engine({})
    await shop.store.recover()

    assert [line.held for line in (await shop.store.read_cart(ANN)).lines] == [0]


async def test_payment_is_kept_when_the_engine_lost_only_carts_and_the_drain_was_behind(
    shop: ShopWithRecord,
) -> None:
    """Carts whose snapshots are newer than what the engine has of them need a rebuild. The events that it
    wrote before them are all there, and were acknowledged."""
    await shop.store.drain_outbox()
    await shop.store.add_line(ANN, "a", 2)
    checkout = await shop.store.begin_checkout(
        ANN, idempotency_key="k", gateway="simulated", payment_method="card"
    )
    await shop.store.apply_verdict(checkout.payment.payment_id, "succeeded")
    before = await shop.copy_engine()
    await shop.store.add_line(BEN, "a", 1)
    await shop.store.snapshot_carts()

    await shop.replace_engine(before)
    await shop.store.recover()

    assert (await shop.store.read_payment(checkout.payment.payment_id, ANN)).payment.status == "paid"
    assert [line.held for line in (await shop.store.read_cart(BEN)).lines] == [1]
    level = await shop.store.read_stock("a")
    assert (level.on_hand, level.held, level.sold) == (1, 1, 2)


@pytest.mark.parametrize("kind", ["event", "carts"])
async def test_gate_stays_shut_when_a_worker_writes_what_only_the_engine_before_had(
    shop: ShopWithRecord, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A replica took over that missed the last of it, which another worker has read from the old primary. It
    writes it while this recovery drains, which has proved by then that the engine continues the record."""
    await shop.store.drain_outbox()
    missed = await shop.copy_engine()
    cursor, _ = await shop.store.archive.cursor()
    if kind == "event":
        # Carts are stored only beside the events that came before them.
        await shop.store.adjust_stock("a", 1, reason="delivery", reference="2")
    await shop.store.add_line(ANN, "a", 2)
    events = await shop.outbox.read(cursor, 10)
    dump = await shop.store.engine.dump_carts(0, 10)  # type: ignore[attr-defined]
    await shop.replace_engine(missed)

    async def drain_beside_the_other(*args: Any, **options: Any) -> Any:
        drained = await drain(*args, **options)
        if kind == "event":
            await shop.store.archive.apply_events(events)
        else:
            state = SnapshotState(change=dump.change, at_ms=dump.at_ms)
            await shop.store.archive.snapshots.save(
                dump.carts, state, epoch=dump.epoch, position=dump.position
            )
        return drained

    with monkeypatch.context() as during:
        during.setattr(gate, "drain", drain_beside_the_other)
        with pytest.raises(StoreRecovering):
            await shop.store.recover()
    assert not await is_open(shop)

    assert await shop.store.recover()
    assert (await shop.store.read_stock("a")).on_hand == (4 if kind == "event" else 3)
    assert [line.quantity for line in (await shop.store.read_cart(ANN)).lines] == (
        [2] if kind == "carts" else []
    )
