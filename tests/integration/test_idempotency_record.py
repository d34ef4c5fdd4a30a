"""Repeated checkouts, payments and adjustments, on the real engine and the real record.

Goal: whatever was away or lost when a call was made or repeated, the same key or reference gives the first
result, nothing is done twice, and no acknowledged checkout is one that the record cannot take. Method: make
the call, take the record away, empty the engine or let it forget, and repeat.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import cast

import pytest
from reconcile_shop import BUYER, Shop, open_shop

from cartstore import Owner
from cartstore.embedded import Database
from cartstore.errors import IdempotencyKeyReused, OutcomeUnknown, StoreUnavailable
from cartstore.recovery import rebuild, used

ANN = Owner("user", "ann")


@pytest.fixture
async def shop(redis_url: str, database: Database, database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(redis_url, database, database_url) as shop:
        yield shop


@contextmanager
def record_away(shop: Shop) -> Iterator[None]:
    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable()

    with pytest.MonkeyPatch.context() as patch:
        for look_up in ("find_payment", "find_payments", "find_stock_adjustment"):
            patch.setattr(shop.store.archive, look_up, away)
        yield


async def buy(shop: Shop, key: str) -> str:
    """A checkout of one more unit, paid and archived."""
    await shop.store.add_line(ANN, "B", 1)
    payment_id = await shop.check_out(ANN, key)
    await shop.store.apply_verdict(payment_id, "succeeded")
    await shop.store.drain_outbox()
    return payment_id


async def forget(shop: Shop, payment_id: str) -> None:
    """What the engine does with a terminal, archived payment after a day."""
    orders = (await shop.redis.hget(shop.keys.payment(payment_id), "orders")).split()
    await shop.redis.delete(shop.keys.payment(payment_id), *map(shop.keys.order, orders))


async def empty_and_rebuild(shop: Shop) -> None:
    await shop.redis.flushdb()
    await shop.store.recover()


async def assert_checkouts(shop: Shop, *payment_ids: str) -> None:
    """These are ann's checkouts in the record, which has taken every event."""
    await shop.store.drain_outbox()
    recorded = await shop.store.archive.list_payments(ANN.cart_id)
    assert {payment.payment_id for payment, _ in recorded} == set(payment_ids)
    assert (await shop.store.archive.quarantine.counts()).rejected_events == 0
    assert (await shop.reconcile()).drift == []


# --- checkout ---------------------------------------------------------------------------------------


async def test_checkout_with_an_unknown_outcome_is_the_first_when_it_is_repeated(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.store.add_line(ANN, "B", 1)

    async def unanswered(*_: object, **__: object) -> None:
        raise OutcomeUnknown()

    with monkeypatch.context() as patch:
        patch.setattr(shop.store._acknowledgement, "wait", unanswered)
        with pytest.raises(OutcomeUnknown):
            await shop.check_out(ANN, "key")

    first = await shop.check_out(ANN, "key")

    await assert_checkouts(shop, first)
    # After a rebuild too: it is put back with its units, and the key still means it.
    await empty_and_rebuild(shop)
    assert await shop.check_out(ANN, "key") == first
    await assert_checkouts(shop, first)


async def test_checkout_that_began_while_the_record_was_away_is_the_first_for_ever(shop: Shop) -> None:
    await shop.store.add_line(ANN, "B", 1)
    with record_away(shop):
        first = await shop.check_out(ANN, "key")
        assert await shop.check_out(ANN, "key") == first

    # The record is back and has not heard of it yet; has it; is the only one that has it.
    assert await shop.check_out(ANN, "key") == first
    await shop.store.drain_outbox()
    assert await shop.check_out(ANN, "key") == first
    await shop.store.apply_verdict(first, "succeeded")
    await shop.store.drain_outbox()
    await forget(shop, first)
    assert await shop.check_out(ANN, "key") == first
    found = await shop.store.find_checkout(ANN, "key")
    assert found is not None
    assert found.payment.payment_id == first
    await assert_checkouts(shop, first)


async def test_checkout_that_began_with_the_record_is_the_first_when_that_is_away(shop: Shop) -> None:
    await shop.store.add_line(ANN, "B", 1)
    first = await shop.check_out(ANN, "key")

    with record_away(shop):
        assert await shop.check_out(ANN, "key") == first
        with pytest.raises(IdempotencyKeyReused):
            await shop.store.begin_checkout(
                ANN, idempotency_key="key", gateway="simulated", payment_method="other"
            )

    await assert_checkouts(shop, first)


async def assert_only_the_record_knows(shop: Shop, key: str, first: str) -> None:
    """Without the record nothing is begun under the key; with it the key means the first checkout."""
    await shop.store.add_line(ANN, "B", 1)
    before = await shop.store.read_cart(ANN)

    with record_away(shop):
        with pytest.raises(StoreUnavailable, match="only it knows"):
            await shop.check_out(ANN, key)
        assert (await shop.store.read_cart(ANN)).summary == before.summary

    assert await shop.check_out(ANN, key) == first


async def test_forgotten_key_begins_nothing_when_the_record_is_away(shop: Shop) -> None:
    first = await buy(shop, "key")
    await forget(shop, first)

    await assert_only_the_record_knows(shop, "key", first)

    # One that nobody has used begins a checkout all the same, and is forgotten in its turn.
    with record_away(shop):
        second = await shop.check_out(ANN, "another")
    await shop.store.apply_verdict(second, "succeeded")
    await shop.store.drain_outbox()
    await forget(shop, second)
    await assert_only_the_record_knows(shop, "another", second)
    await assert_checkouts(shop, first, second)


@pytest.mark.parametrize("end", ["cancelled", "paid late"])
async def test_forgotten_key_begins_nothing_when_its_checkout_was_released(shop: Shop, end: str) -> None:
    await shop.store.add_line(ANN, "B", 1)
    first = await shop.check_out(ANN, "key")
    await shop.store.engine.release_payment(first, "cancelled")
    if end == "paid late":
        await shop.store.apply_verdict(first, "succeeded")
    await shop.store.drain_outbox()
    await forget(shop, first)

    await assert_only_the_record_knows(shop, "key", first)
    await assert_checkouts(shop, first)


@pytest.mark.parametrize("page", [1, 2_000])
async def test_forgotten_key_begins_nothing_when_the_engine_was_rebuilt(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    payment_ids = [await buy(shop, f"key {number}") for number in range(3)]
    # As if all of them were older than a day.
    monkeypatch.setattr(rebuild, "TOMBSTONES_MAX", 0)
    monkeypatch.setattr(used, "PAGE_PAYMENTS", page)
    await empty_and_rebuild(shop)
    await shop.reconcile()

    for number, first in enumerate(payment_ids):
        await assert_only_the_record_knows(shop, f"key {number}", first)

    with record_away(shop):
        fourth = await shop.check_out(ANN, "another")
    await assert_checkouts(shop, *payment_ids, fourth)


async def test_walk_goes_on_where_another_left_it_when_payments_are_noted_in_pieces(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late writer that read its place before a rebuild, or beside another, changes nothing."""
    for number in range(3):
        await buy(shop, f"key {number}")
    monkeypatch.setattr(rebuild, "TOMBSTONES_MAX", 0)
    monkeypatch.setattr(used, "PAGE_PAYMENTS", 1)
    await empty_and_rebuild(shop)
    engine, archive = cast(used.NotingEngine, shop.store.engine), shop.store.archive
    epoch, place = await engine.noted_to()
    assert place == ""

    assert await used.note_used(engine, archive, payments_max=1) == 1
    assert not await engine.note_used("", after=place, epoch=epoch)
    _, place = await engine.noted_to()
    assert place == await archive.payment_ids("", 1)
    assert not await engine.note_used("", after=place, epoch=epoch - 1)
    left = (await archive.payment_ids(place, 100)).split()
    assert len(left) > 1
    assert await used.note_used(engine, archive) == len(left)
    assert await engine.noted_to() == (epoch, used.WHOLE)
    assert await used.note_used(engine, archive) == 0

    await empty_and_rebuild(shop)
    assert await engine.noted_to() == (epoch + 1, "")


@pytest.mark.parametrize("why", ["payments are not noted yet", "an engine of before"])
async def test_no_key_begins_a_checkout_without_the_record_when_the_engine_cannot_tell(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    first = await buy(shop, "key")
    if why == "an engine of before":
        await shop.redis.hdel(shop.keys.gate, "used")
        await forget(shop, first)
    else:
        monkeypatch.setattr(rebuild, "TOMBSTONES_MAX", 0)
        # An old copy of the engine's files: its gate is there, and said that all were noted.
        await shop.redis.hset(shop.keys.gate, "identity", "an engine that is gone")
        await shop.redis.delete(shop.keys.outbox)
        await shop.store.recover()

    await assert_only_the_record_knows(shop, "key", first)
    with record_away(shop), pytest.raises(StoreUnavailable, match="only it knows"):
        await shop.check_out(ANN, "another")

    # Once all are noted, checkouts go on again.
    monkeypatch.undo()
    second = await shop.check_out(ANN, "another")
    await shop.store.drain_outbox()
    await shop.store.snapshot_carts()
    await empty_and_rebuild(shop)
    await shop.reconcile()
    await shop.store.add_line(ANN, "B", 1)
    with record_away(shop):
        third = await shop.check_out(ANN, "third")
    await assert_checkouts(shop, first, second, third)


async def test_record_takes_both_when_an_engine_was_wrong_about_a_key(shop: Shop) -> None:
    """Should an engine ever take a used key for a new one: the two checkouts differ in all their ids."""
    first = await buy(shop, "key")
    await forget(shop, first)
    await shop.redis.delete(*[name async for name in shop.redis.scan_iter(f"{shop.keys.prefix}used:*")])
    await shop.store.add_line(ANN, "B", 1)

    with record_away(shop):
        second = await shop.check_out(ANN, "key")

    assert second != first
    await shop.store.drain_outbox()
    assert await shop.check_out(ANN, "key") == first
    await shop.store.apply_verdict(second, "succeeded")
    await assert_checkouts(shop, first, second)


async def test_paid_checkout_is_found_when_the_engine_was_rebuilt_and_the_record_is_away(shop: Shop) -> None:
    first = await buy(shop, "key")
    await shop.store.snapshot_carts()
    await empty_and_rebuild(shop)
    await shop.store.add_line(ANN, "B", 1)

    with record_away(shop):
        again = await shop.check_out(ANN, "key")

    assert again == first
    ttl_ms = await shop.redis.pttl(shop.keys.payment(first))
    assert 0 < ttl_ms <= 86_400_000
    assert await shop.redis.zscore(shop.keys.due, first) is None
    await assert_checkouts(shop, first)


# --- money ------------------------------------------------------------------------------------------


async def test_payment_with_an_unknown_outcome_is_settled_once_when_it_is_repeated(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unanswered(*_: object, **__: object) -> None:
        raise OutcomeUnknown()

    with monkeypatch.context() as patch:
        patch.setattr(shop.store._acknowledgement, "wait", unanswered)
        with pytest.raises(OutcomeUnknown):
            await shop.store.apply_verdict(shop.payment_id, "succeeded")
    await shop.store.drain_outbox()
    await empty_and_rebuild(shop)

    again = await shop.store.apply_verdict(shop.payment_id, "succeeded")

    assert (again.payment.status, again.changed) == ("paid", False)
    level = await shop.store.read_stock("A")
    assert (level.on_hand, level.sold) == (8, 2)


async def test_payment_is_settled_once_when_it_was_settled_and_forgotten_since_it_was_looked_at(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that slept between its look at a pending payment and its settlement: meanwhile another settled
    it, it was archived, and the engine forgot it. Put back as it was seen, it would be sold once more."""
    settle, slept = shop.store.engine.settle_payment, False

    async def after_another(payment_id: str) -> object:
        nonlocal slept
        if not slept:
            slept = True
            await settle(payment_id)
            await shop.store.drain_outbox()
            await forget(shop, payment_id)
        return await settle(payment_id)

    monkeypatch.setattr(shop.store.engine, "settle_payment", after_another)
    result = await shop.store.apply_verdict(shop.payment_id, "succeeded")

    assert (result.payment.status, result.changed) == ("paid", False)
    level = await shop.store.read_stock("A")
    assert (level.on_hand, level.held, level.sold) == (8, 3, 2)


async def test_payment_that_the_engine_lost_while_pending_is_not_put_back_by_a_settlement(
    shop: Shop,
) -> None:
    await forget(shop, shop.payment_id)

    with pytest.raises(StoreUnavailable, match="lost"):
        await shop.store.apply_verdict(shop.payment_id, "succeeded")

    assert (await shop.store.read_stock("A")).sold == 0
    recorded = await shop.store.archive.find_payment(shop.payment_id)
    assert recorded is not None
    assert recorded[0].status == "pending"


# --- stock ------------------------------------------------------------------------------------------


async def test_adjustment_needs_the_record(shop: Shop) -> None:
    """A reference is one adjustment for ever; an engine that has forgotten it must not count it again."""
    await shop.redis.delete(shop.keys.reference("A", "first"))
    before = (await shop.store.read_stock("A")).on_hand

    with record_away(shop):
        with pytest.raises(StoreUnavailable):
            await shop.store.adjust_stock("A", 10, reason="count", reference="first")
        with pytest.raises(StoreUnavailable):
            await shop.store.set_stock("A", 10, reason="count", reference="second")

    assert (await shop.store.adjust_stock("A", 10, reason="count", reference="first")).replayed
    assert (await shop.store.read_stock("A")).on_hand == before
    assert await shop.store.read_cart(BUYER)
