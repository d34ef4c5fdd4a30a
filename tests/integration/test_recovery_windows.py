"""The windows of pending payments after writes were fenced, on the real engine and the real record.

Goal: nobody loses an order because its window passed while the shop could not be paid: every payment that was
pending when the engine fell silent gets that time back, once, whether the engine came back whole or empty.
Method: let a short window pass behind a fence, then recover, and read what the engine wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from reconcile_shop import BUYER, Shop, open_shop

from cartstore import Owner
from cartstore.embedded import Database
from cartstore.errors import StoreRecovering
from cartstore.recovery import gate
from cartstore.recovery.reconcile import Reconciler

WINDOW_MS = 1_000
OTHER = Owner("user", "other")


@pytest.fixture
async def shop(redis_url: str, database: Database, database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(
        redis_url, database, database_url, payment_window_seconds=WINDOW_MS // 1_000
    ) as shop:
        yield shop


async def engine_ms(shop: Shop) -> int:
    seconds, micros = await shop.redis.time()
    return int(seconds) * 1_000 + int(micros) // 1_000


async def window_end(shop: Shop, payment_id: str) -> int:
    """As payment, `due` and the index of holds have it, which must be one."""
    status, expires, orders = await shop.redis.hmget(
        shop.keys.payment(payment_id), "status", "expires", "orders"
    )
    assert status == "pending"
    due = await shop.redis.zscore(shop.keys.due, payment_id)
    held = await shop.redis.zscore(shop.keys.holds("A"), f"o\x1f{orders}")
    assert int(expires) == due == held
    return int(expires)


async def fall_silent(shop: Shop, *, with_fence: bool = True) -> None:
    """The engine is another one from now on; the payment's window passes before anybody recovers."""
    await shop.store.snapshot_carts()
    await shop.redis.hset(shop.keys.gate, "identity", "an engine that is gone")
    if with_fence:
        with pytest.raises(StoreRecovering):
            await shop.store.add_line(OTHER, "A", 1)
    await asyncio.sleep(1.2 * WINDOW_MS / 1_000)


@pytest.mark.parametrize("with_fence", [True, False])
async def test_window_gets_the_fenced_time_back_when_the_gate_opens(shop: Shop, with_fence: bool) -> None:
    before = await window_end(shop, shop.payment_id)
    await fall_silent(shop, with_fence=with_fence)
    opening = await engine_ms(shop)
    assert before < opening

    await shop.store.recover()

    after = await window_end(shop, shop.payment_id)
    assert opening < after
    assert WINDOW_MS < after - before <= await engine_ms(shop) - before + WINDOW_MS
    sweeper = await shop.redis.zscore(shop.keys.holding, "A")
    assert sweeper == (await shop.redis.zrange(shop.keys.holds("A"), 0, 0, withscores=True))[0][1]
    assert (await Reconciler(shop.store, confirm_seconds=0.01).run(repair=False)).drift == []


async def test_window_gets_the_silent_time_back_when_the_engine_was_emptied(shop: Shop) -> None:
    before = await window_end(shop, shop.payment_id)
    await fall_silent(shop)
    await shop.redis.flushdb()
    opening = await engine_ms(shop)

    await shop.store.recover()

    assert before < opening < await window_end(shop, shop.payment_id)


async def test_window_that_was_over_before_the_fence_stays_over(shop: Shop) -> None:
    await asyncio.sleep(1.2 * WINDOW_MS / 1_000)
    before = await window_end(shop, shop.payment_id)
    await fall_silent(shop)

    await shop.store.recover()

    assert await window_end(shop, shop.payment_id) == before
    payment = await shop.store.read_payment(shop.payment_id, BUYER)
    assert payment.payment.status == "expired"


async def test_window_is_extended_once_when_a_recoverer_died_before_it_opened_the_gate(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fall_silent(shop)

    async def dies(*_: object, **__: object) -> bool:
        raise StoreRecovering()

    with monkeypatch.context() as patch:
        patch.setattr(gate, "open_gate", dies)
        with pytest.raises(StoreRecovering):
            await shop.store.recover()
    extended = await window_end(shop, shop.payment_id)

    await shop.store.recover()

    assert await window_end(shop, shop.payment_id) == extended


async def test_windows_are_left_when_another_opened_the_gate(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recoverer that slept since it measured the silence must not extend what buyers live with again."""
    await fall_silent(shop)
    extend, before = gate.extend_windows, 0

    async def after_another(*args: object, **seen: object) -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(gate, "extend_windows", extend)
            await shop.store.recover()
        nonlocal before
        before = await window_end(shop, shop.payment_id)
        await shop.redis.hdel(shop.keys.payment(shop.payment_id), "extended_in")
        return await extend(*args, **seen)  # type: ignore[arg-type]

    monkeypatch.setattr(gate, "extend_windows", after_another)
    with pytest.raises(StoreRecovering):
        await shop.store.recover()

    assert await window_end(shop, shop.payment_id) == before
