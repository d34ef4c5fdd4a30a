"""Goal: a checkout that was begun is in the record, or its lines are back in the cart, when the engine's
files are lost right after its cart was saved.

Method: a store on the shared servers whose drain runs only when it is told to; the engine is emptied, which
is what a recoverer meets when its files are gone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import redis.asyncio as redis

from cartstore import Owner
from cartstore.archive import drain
from cartstore.errors import NotFound, StoreUnavailable
from cartstore.store import CartStore

from .shop import assert_sound, check_out, opened, stock_up, until_open

ANN = Owner("user", "ann")


@pytest.fixture
async def store(redis_url: str, database_url: str) -> AsyncIterator[CartStore]:
    async with opened(redis_url, database_url, checkout_ack="engine") as store:
        await stock_up(store)
        await store.add_line(ANN, "a", 2)
        await store.drain_outbox()
        await store.snapshot_carts()
        yield store


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.Redis]:
    async with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


async def lose_the_engine(store: CartStore, client: redis.Redis) -> None:
    await client.flushdb()
    await until_open(store)


async def units_of(store: CartStore, order_id: str) -> tuple[int, int]:
    """Units of the order, and units in the cart."""
    ordered = 0
    with suppress(NotFound):
        _, order = await store.read_order(order_id, ANN)
        ordered = sum(line.quantity for line in order.lines)
    return ordered, (await store.read_summary(ANN)).total_items


async def test_order_is_in_the_record_when_its_cart_was_saved_and_the_engine_is_lost(
    store: CartStore, client: redis.Redis
) -> None:
    order = (await check_out(store, ANN, "a")).orders[0]

    assert await store.snapshot_carts() == 1
    await lose_the_engine(store, client)

    assert await units_of(store, order.order_id) == (3, 0)
    await assert_sound(store)


async def test_lines_are_back_when_the_drain_cannot_go_on_and_the_engine_is_lost(
    store: CartStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = (await check_out(store, ANN, "a")).orders[0]

    async def refuse(_events: object) -> None:
        raise StoreUnavailable("The database takes no events.")

    with monkeypatch.context() as during:
        during.setattr(store.archive, "apply_events", refuse)
        with pytest.raises(StoreUnavailable):
            await store.snapshot_carts()
    await lose_the_engine(store, client)

    assert await units_of(store, order.order_id) == (0, 2)
    await assert_sound(store)


async def test_lines_are_back_when_a_drain_ends_early_and_the_engine_is_lost(
    store: CartStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It carries a bounded number of events in one run."""
    order = (await check_out(store, ANN, "a")).orders[0]
    monkeypatch.setattr(drain, "DRAIN_ROUNDS_MAX", 0)

    assert await store.snapshot_carts() == 0
    await lose_the_engine(store, client)

    assert await units_of(store, order.order_id) == (0, 2)


async def test_carts_are_stored_when_buyers_check_out_faster_than_the_drain_ends(
    store: CartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is issued after the carts were read is not waited for, or a busy shop would never save one."""
    await check_out(store, ANN, "a")
    drain_outbox = store.drain_outbox

    async def drain_a_busy_shop() -> int:
        moved = await drain_outbox()
        await check_out(store, Owner("guest", "late"), "b")
        return moved

    monkeypatch.setattr(store, "drain_outbox", drain_a_busy_shop)

    assert await store.snapshot_carts() == 1


async def test_carts_are_stored_when_the_gate_is_ahead_of_the_outbox(
    store: CartStore, client: redis.Redis
) -> None:
    """A command that the engine refused has used up numbers. No event of them ever comes."""
    await client.hincrby("{main:0}:gate", "seq", 5)
    await store.add_line(ANN, "a")

    assert await store.snapshot_carts() == 1
