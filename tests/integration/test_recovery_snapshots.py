"""Goal: a changed cart is in the record within one run of the job, in the state that it is in, and dies there
when it dies in the engine, never before it was there.

Method: a store on the shared servers; time is moved by giving the record another time to judge by, or the
engine's key another lifetime.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import pytest
import redis.asyncio as redis
from chaos.shop import buy, check_out, opened, stock_up, until_open
from sqlalchemy import text

from cartstore import Owner
from cartstore.archive.snapshots import SnapshotState
from cartstore.errors import StoreRecovering
from cartstore.model import CartSnapshot, CartStatus, Position
from cartstore.recovery import snapshots
from cartstore.recovery.snapshots import DumpingEngine
from cartstore.store import CartStore

ANN, BEN, GUS = Owner("user", "ann"), Owner("user", "ben"), Owner("guest", "gus")
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@pytest.fixture
async def store(redis_url: str, database_url: str) -> AsyncIterator[CartStore]:
    async with opened(redis_url, database_url) as store:
        await stock_up(store)
        yield store


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.Redis]:
    async with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


async def found(store: CartStore, owner: Owner) -> CartSnapshot:
    snapshot = await store.archive.snapshots.find(owner.cart_id)
    assert snapshot is not None
    return snapshot


async def statuses(store: CartStore, *owners: Owner) -> list[CartStatus]:
    return [(await found(store, owner)).status for owner in owners]


async def age_by(store: CartStore, elapsed_ms: int) -> None:
    """What the job does with carts that nobody has touched for so long."""
    now_ms = (await store.archive.snapshots.state()).at_ms
    await store.archive.snapshots.age(now_ms + elapsed_ms, store.settings.abandoned_after_hours * HOUR_MS)


async def test_cart_is_stored_as_the_engine_has_it_when_it_changed(store: CartStore) -> None:
    await store.add_line(ANN, "a", 2, properties={"text": "Ann"})
    await store.add_line(ANN, "b", 1)
    assert await store.snapshot_carts() == 1

    cart, snapshot = await store.read_cart(ANN), await found(store, ANN)

    assert (snapshot.status, snapshot.version) == ("active", cart.summary.version)
    assert snapshot.total_items == cart.summary.total_items
    assert [
        (line.line_id, line.quantity, line.held, line.properties_json)
        for line in sorted(snapshot.lines, key=lambda line: line.ordinal)
    ] == [(line.line_id, line.quantity, line.held, line.properties_json) for line in cart.lines]
    assert await store.snapshot_carts() == 0


async def test_all_carts_are_stored_when_they_are_more_than_a_batch(
    store: CartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "BATCH_CARTS", 3)
    owners = [Owner("user", f"o{number}") for number in range(8)]
    for owner in owners:
        await store.add_line(owner, "a")

    assert await store.snapshot_carts() == 8

    assert await statuses(store, *owners) == ["active"] * 8


async def test_older_state_changes_nothing_when_it_is_stored_late(store: CartStore) -> None:
    await store.add_line(ANN, "a", 1)
    await store.snapshot_carts()
    old, old_state = await found(store, ANN), await store.archive.snapshots.state()
    await store.add_line(ANN, "a", 1)
    await store.snapshot_carts()
    state = await store.archive.snapshots.state()

    late = SnapshotState(change=old_state.change, at_ms=0)
    await store.archive.snapshots.save(
        [old], late, epoch=await store.archive.fence_epoch(), position=Position(0, 0)
    )

    assert (await found(store, ANN)).total_items == 2
    assert await store.archive.snapshots.state() == state


async def test_carts_of_a_lost_engine_are_refused_when_they_are_stored_late(
    store: CartStore, client: redis.Redis
) -> None:
    """The engine that took its place has what the record had: a cart that it does not know must not appear in
    the record, nor may one that it keeps be called expired."""
    engine = cast(DumpingEngine, store.engine)
    await store.add_line(BEN, "a")
    await store.drain_outbox()
    await store.snapshot_carts()
    await store.add_line(ANN, "a", 2)
    late = await engine.dump_carts(0, 100)
    assert [cart.cart_id for cart in late.carts] == [BEN.cart_id, ANN.cart_id]
    await client.flushdb()
    await until_open(store)
    state = await store.archive.snapshots.state()

    with pytest.raises(StoreRecovering):
        await store.archive.snapshots.save(
            late.carts,
            SnapshotState(change=late.change, at_ms=late.at_ms),
            epoch=late.epoch,
            position=late.position,
        )
    with pytest.raises(StoreRecovering):
        await store.archive.snapshots.expire([BEN.cart_id], epoch=late.epoch)

    assert await store.archive.snapshots.find(ANN.cart_id) is None
    assert await statuses(store, BEN) == ["active"]
    assert await store.archive.snapshots.state() == state
    # News of the engine that is there now are taken.
    assert (await engine.find_gone_carts(0, 100)).epoch == (await engine.dump_carts(0, 100)).epoch
    await store.add_line(ANN, "b")
    assert await store.snapshot_carts() >= 1


@pytest.mark.parametrize("job_is_first", [True, False])
async def test_cart_is_converted_when_a_checkout_took_its_last_line(
    store: CartStore, job_is_first: bool
) -> None:
    await store.add_line(ANN, "b")
    await store.snapshot_carts()
    await buy(store, ANN, "a")

    for job in (
        (store.snapshot_carts, store.drain_outbox)
        if job_is_first
        else (store.drain_outbox, store.snapshot_carts)
    ):
        await job()

    assert await statuses(store, ANN) == ["converted"]
    await store.add_line(ANN, "c")
    await store.snapshot_carts()
    assert await statuses(store, ANN) == ["active"]


async def test_cart_is_active_again_when_its_order_was_given_up(store: CartStore) -> None:
    order = (await check_out(store, ANN, "a", 2)).orders[0]
    await store.snapshot_carts()
    await store.drain_outbox()
    assert await statuses(store, ANN) == ["converted"]

    await store.cancel_order(order.order_id, ANN)
    await store.drain_outbox()

    snapshot = await found(store, ANN)
    assert (snapshot.status, snapshot.total_items) == ("active", 2)


async def test_cart_is_abandoned_then_expired_when_nobody_touches_it(store: CartStore) -> None:
    """A member's cart after seven days and after thirty; a guest's is dead after seven, as it is said."""
    for owner in (ANN, GUS):
        await store.add_line(owner, "a")
    await store.snapshot_carts()

    await age_by(store, 7 * DAY_MS - HOUR_MS)
    assert await statuses(store, ANN, GUS) == ["active", "active"]
    await age_by(store, 7 * DAY_MS + HOUR_MS)
    assert await statuses(store, ANN, GUS) == ["abandoned", "expired"]
    await age_by(store, 30 * DAY_MS - HOUR_MS)
    assert await statuses(store, ANN) == ["abandoned"]
    await age_by(store, 30 * DAY_MS + HOUR_MS)
    assert await statuses(store, ANN) == ["expired"]


async def test_abandoned_cart_is_active_when_its_owner_comes_back(store: CartStore) -> None:
    await store.add_line(ANN, "a")
    await store.snapshot_carts()
    await age_by(store, 8 * DAY_MS)

    await store.add_line(ANN, "a")
    await store.snapshot_carts()

    assert await statuses(store, ANN) == ["active"]


async def test_lifetimes_are_those_of_the_settings_when_they_are_set(
    redis_url: str, database_url: str, client: redis.Redis
) -> None:
    async with opened(
        redis_url, database_url, guest_cart_ttl_days=2, member_cart_ttl_days=3, abandoned_after_hours=24
    ) as store:
        await stock_up(store)
        for owner in (ANN, GUS):
            await store.add_line(owner, "a")
            # With a hold it has no end; a cart without one has from then on.
            assert await client.pttl(f"{{main:0}}:cart:{owner.cart_id}") == -1
            await store.clear_cart(owner)
        await store.snapshot_carts()

        for owner, days in ((ANN, 3), (GUS, 2)):
            left = await client.pttl(f"{{main:0}}:cart:{owner.cart_id}")
            assert days * DAY_MS - HOUR_MS < left <= days * DAY_MS
            assert (await found(store, owner)).lifetime_ms == days * DAY_MS
        await age_by(store, DAY_MS + HOUR_MS)
        assert await statuses(store, ANN, GUS) == ["abandoned", "abandoned"]
        await age_by(store, 2 * DAY_MS + HOUR_MS)
        assert await statuses(store, ANN, GUS) == ["abandoned", "expired"]


async def test_cart_is_in_the_record_with_its_lines_when_the_engine_let_it_go(
    store: CartStore, client: redis.Redis
) -> None:
    """Archived before it goes: what it held at the end can still be read, as that of an expired cart."""
    await store.add_line(GUS, "a", 2)
    await store.snapshot_carts()
    await client.hset("{main:0}:sku:a", "held", 0)
    await client.delete("{main:0}:cart:g.gus", "{main:0}:holds:a")

    await store.snapshot_carts()

    snapshot = await found(store, GUS)
    assert (snapshot.status, snapshot.total_items) == ("expired", 2)
    assert await client.zscore("{main:0}:activity", "g.gus") is None


@pytest.mark.parametrize(
    ("status", "comes_back"),
    [("active", True), ("abandoned", True), ("converted", False), ("merged", False), ("expired", False)],
)
async def test_rebuild_brings_back_only_carts_that_are_not_over(
    store: CartStore, client: redis.Redis, status: str, comes_back: bool
) -> None:
    """`merged` is what the record may say of a cart; a verb that says it is yet to come."""
    await store.add_line(ANN, "a", 2)
    await store.drain_outbox()
    await store.snapshot_carts()
    async with store.archive.database.transaction() as connection:
        await connection.execute(text("UPDATE cart_snapshots SET status = :status"), {"status": status})

    await client.flushdb()
    await until_open(store)

    assert (await store.read_cart(ANN)).summary.total_items == (2 if comes_back else 0)


@pytest.mark.parametrize("status", ["merged", "converted"])
async def test_end_of_a_cart_stays_what_it_was_when_the_engine_lets_it_go(
    store: CartStore, status: CartStatus
) -> None:
    await store.add_line(GUS, "a")
    await store.snapshot_carts()
    async with store.archive.database.transaction() as connection:
        await connection.execute(text("UPDATE cart_snapshots SET status = :status"), {"status": status})

    await store.archive.snapshots.expire([GUS.cart_id], epoch=await store.archive.fence_epoch())
    await age_by(store, 60 * DAY_MS)

    assert await statuses(store, GUS) == [status]
