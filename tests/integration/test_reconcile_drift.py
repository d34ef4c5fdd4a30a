"""Reconcile on the real engine and the real record.

Goal: a healthy shop shows no drift however busy it is, and every kind of drift is found, repaired where that
is safe, and left and told where it is not. Method: plant each kind by writing past the scripts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec
import pytest
from reconcile_shop import BUYER, Shop, expect_left, expect_repaired, found, open_shop, product_of

from cartstore import Owner
from cartstore.embedded import Database
from cartstore.errors import CartError, StoreRecovering, StoreUnavailable
from cartstore.model import SkuFields, checkout_ids
from cartstore.recovery.drift import Drift
from cartstore.recovery.reconcile import Reconciler
from cartstore.recovery.report import ReconcileReport, table


@pytest.fixture
async def shop(redis_url: str, database: Database, database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(redis_url, database, database_url) as shop:
        yield shop


# --- a healthy shop ---------------------------------------------------------------------------------


async def test_run_finds_nothing_when_all_is_well(shop: Shop) -> None:
    report = await shop.reconcile()

    assert (report.drift, report.repaired, report.skipped) == ([], [], 0)
    # Two SKUs, one payment, one cart.
    assert report.checked == 4


async def test_run_finds_nothing_after_every_kind_of_event(shop: Shop) -> None:
    await shop.store.apply_verdict(shop.payment_id, "succeeded")
    cancelled = await shop.check_out(BUYER, "cancelled")
    payment = await shop.store.read_payment(cancelled, BUYER)
    await shop.store.cancel_order(payment.orders[0].order_id, BUYER)
    await shop.store.apply_verdict(cancelled, "succeeded")
    await shop.store.adjust_stock("B", -4, reason="broken", reference="second")
    await shop.put("A", price_minor=1_500)

    # Behind the engine first, then level with it.
    behind = await shop.reconcile()
    await shop.store.drain_outbox()
    level = await shop.reconcile()

    assert behind.drift == level.drift == []
    assert behind.skipped > 0
    assert level.skipped == 0


async def test_run_finds_nothing_while_buyers_and_drain_are_at_work(shop: Shop) -> None:
    stop = asyncio.Event()

    async def buy(number: int) -> None:
        owner = Owner("user", f"buyer-{number}")
        turn = 0
        while not stop.is_set():
            turn += 1
            try:
                await shop.store.add_line(owner, "B", 1)
                payment_id = await shop.check_out(owner, f"key-{turn}")
                if turn % 2:
                    await shop.store.apply_verdict(payment_id, "succeeded")
                    await shop.store.adjust_stock("B", 1, reason="more", reference=f"{number}-{turn}")
                else:
                    checkout = await shop.store.read_payment(payment_id, owner)
                    await shop.store.cancel_order(checkout.orders[0].order_id, owner)
                    await shop.store.clear_cart(owner)
            except CartError:
                await asyncio.sleep(0)

    async def drain() -> None:
        while not stop.is_set():
            await shop.store.drain_outbox()

    tasks = [asyncio.create_task(buy(number)) for number in range(8)] + [asyncio.create_task(drain())]
    reports = [await shop.reconcile() for _ in range(10)]
    stop.set()
    await asyncio.gather(*tasks)
    await shop.store.drain_outbox()

    assert [report.drift + report.repaired for report in reports] == [[]] * 10
    assert (await shop.reconcile()).drift == []
    assert (await shop.store.read_stock("B")).sold > 0


async def test_run_waits_for_a_record_that_is_a_moment_behind(shop: Shop) -> None:
    await shop.store.adjust_stock("B", 4, reason="more", reference="second")

    running = asyncio.create_task(shop.reconcile())
    await asyncio.sleep(0.2)
    await shop.store.drain_outbox()

    assert (await running).skipped == 0


async def test_next_run_begins_a_new_round_when_one_was_cut(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.redis.zadd(shop.keys.due, {"p0-stranger": 1})

    async def away(*_: object) -> None:
        raise StoreUnavailable()

    with monkeypatch.context() as patch:
        patch.setattr(shop.store.engine, "scan_due", away)
        with pytest.raises(StoreUnavailable):
            await shop.reconciler.run(1_000)
    report = await shop.reconciler.run(1_000)

    assert report.checked == 5


async def test_run_refuses_while_the_gate_is_shut(shop: Shop) -> None:
    await shop.redis.hset(shop.keys.gate, "state", "fenced")

    with pytest.raises(StoreRecovering):
        await shop.reconcile()


async def test_run_continues_where_the_last_one_stopped(shop: Shop) -> None:
    await shop.store.catalog.put_products([product_of(f"S{number:03}", 1) for number in range(300)])
    async for fields in shop.store.catalog.all_sku_fields():
        await shop.store.engine.publish_skus(fields)
    await shop.redis.hset(shop.keys.sku("S299"), "held", 7)

    reports = [await shop.reconciler.run(100, repair=False) for _ in range(5)]

    # A page of subjects is the least that is looked at.
    assert all(0 < report.checked <= 200 for report in reports)
    assert [found(report.drift) for report in reports if report.drift] == [[("counter_above_holds", "S299")]]
    assert shop.reconciler.open_by_kind()["counter_above_holds"] == 1


async def test_gauge_returns_to_zero_when_the_subject_is_gone(shop: Shop) -> None:
    await shop.redis.zadd(shop.keys.due, {"p0-stranger": 1})
    await shop.reconcile(repair=False)
    assert shop.reconciler.open_by_kind()["due_without_payment"] == 1

    await shop.redis.zrem(shop.keys.due, "p0-stranger")
    await shop.reconcile()

    assert shop.reconciler.open_by_kind()["due_without_payment"] == 0


async def test_suspicion_that_passes_is_not_reported(shop: Shop) -> None:
    shop.reconciler = Reconciler(shop.store, confirm_seconds=0.5)
    await shop.put("A", price_minor=1_700, publish=False)

    running = asyncio.create_task(shop.reconcile())
    await asyncio.sleep(0.2)
    await shop.put("A", price_minor=1_700)
    report = await running

    assert report.drift == report.repaired == []


# --- repaired ---------------------------------------------------------------------------------------


async def test_catalog_behind_is_published(shop: Shop) -> None:
    await shop.put("A", price_minor=1_700, publish=False)

    await expect_repaired(shop, ("catalog_behind", "A"))

    cart = await shop.store.read_cart(BUYER)
    assert [line.current_price_minor for line in cart.lines] == [1_700]


async def test_missing_sku_is_published(shop: Shop) -> None:
    await shop.put("C", price_minor=100, publish=False)

    await expect_repaired(shop, ("sku_missing", "C"))

    assert (await shop.store.read_stock("C")).on_hand == 0


async def test_missing_sku_with_a_ledger_is_published_and_told(shop: Shop) -> None:
    await shop.redis.delete(shop.keys.sku("B"))

    report = await shop.reconcile()
    assert found(report.repaired) == [("sku_missing", "B")]

    await expect_left(shop, ("ledger_ahead", "B"))


@pytest.mark.parametrize("member", ["c\x1fu.nobody\x1fA", "c\x1fu.buyer\x1fB", "o\x1fo0-nothing-1"])
async def test_index_entry_without_a_claim_is_removed(shop: Shop, member: str) -> None:
    ((_, score), *_) = await shop.redis.zrange(shop.keys.holds("A"), 0, 0, withscores=True)
    await shop.redis.zadd(shop.keys.holds("A"), {member: score})

    await expect_repaired(shop, ("orphan_index_entry", "A"))

    assert await shop.redis.zcard(shop.keys.holds("A")) == 2


@pytest.mark.parametrize("score", [None, 2**42])
async def test_sku_missing_from_holding_is_put_there(shop: Shop, score: int | None) -> None:
    if score is None:
        await shop.redis.zrem(shop.keys.holding, "A")
    else:
        await shop.redis.zadd(shop.keys.holding, {"A": score})

    await expect_repaired(shop, ("not_in_holding", "A"))


@pytest.mark.parametrize("bounds", [{"earliest": 2**42}, {"latest": 1}, None])
async def test_sku_whose_bounds_do_not_cover_its_index_gets_them(
    shop: Shop, bounds: dict[str, int] | None
) -> None:
    if bounds is None:
        await shop.redis.hdel(shop.keys.sku("A"), "earliest", "latest")
    else:
        await shop.redis.hset(shop.keys.sku("A"), mapping=bounds)

    await expect_repaired(shop, ("not_in_holding", "A"))


@pytest.mark.parametrize("score", [None, 1])
async def test_pending_payment_missing_from_due_is_put_there(shop: Shop, score: int | None) -> None:
    if score is None:
        await shop.redis.zrem(shop.keys.due, shop.payment_id)
    else:
        await shop.redis.zadd(shop.keys.due, {shop.payment_id: score})

    await expect_repaired(shop, ("payment_not_due", shop.payment_id))


async def test_due_entry_without_payment_is_removed(shop: Shop) -> None:
    await shop.redis.zadd(shop.keys.due, {"p0-stranger": 2**42})

    await expect_repaired(shop, ("due_without_payment", "p0-stranger"))


async def test_due_entry_of_a_settled_payment_is_removed(shop: Shop) -> None:
    await shop.store.apply_verdict(shop.payment_id, "succeeded")
    await shop.store.drain_outbox()
    await shop.redis.zadd(shop.keys.due, {shop.payment_id: 2**42})

    await expect_repaired(shop, ("due_without_payment", shop.payment_id))


# --- a buyer was faster ------------------------------------------------------------------------------


def just_before(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, repair: str, act: Callable[[], Awaitable[object]]
) -> None:
    """Let somebody act between the second look and the repair of what it found."""
    original = getattr(shop.store.engine, repair)

    async def after(*args: object) -> object:
        await act()
        return await original(*args)

    monkeypatch.setattr(shop.store.engine, repair, after)


async def test_index_entry_is_kept_when_a_buyer_claims_it_before_the_repair(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Owner("user", "other")
    await shop.redis.zadd(shop.keys.holds("A"), {"c\x1fu.other\x1fA": 1})
    # Not due yet, so that nobody takes it out on the way.
    ((_, score),) = await shop.redis.zrange(shop.keys.holds("A"), -1, -1, withscores=True)
    await shop.redis.zadd(shop.keys.holds("A"), {"c\x1fu.other\x1fA": score})
    just_before(shop, monkeypatch, "repair_index", lambda: shop.store.add_line(other, "A", 1))

    await shop.reconcile()

    assert await shop.redis.zscore(shop.keys.holds("A"), "c\x1fu.other\x1fA")
    assert (await shop.store.read_stock("A")).held == 6
    assert (await shop.reconcile()).drift == []


async def test_payment_is_not_put_into_due_when_it_is_settled_before_the_repair(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.redis.zrem(shop.keys.due, shop.payment_id)
    just_before(
        shop, monkeypatch, "repair_due", lambda: shop.store.apply_verdict(shop.payment_id, "succeeded")
    )

    await shop.reconcile()

    assert await shop.redis.zscore(shop.keys.due, shop.payment_id) is None
    await shop.store.drain_outbox()
    assert (await shop.reconcile()).drift == []


async def test_due_entry_is_kept_when_its_payment_begins_before_the_repair(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, payment_id = checkout_ids(shop.store.partition, BUYER.cart_id, "second")
    await shop.redis.zadd(shop.keys.due, {payment_id: 2**42})
    just_before(shop, monkeypatch, "repair_due", lambda: shop.check_out(BUYER, "second"))

    await shop.reconcile()

    expires = await shop.redis.hget(shop.keys.payment(payment_id), "expires")
    assert await shop.redis.zscore(shop.keys.due, payment_id) == int(expires)


async def test_catalog_is_not_set_back_when_a_newer_revision_is_published_before_the_repair(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.put("A", price_minor=1_700, publish=False)
    publish, acted = shop.store.engine.publish_skus, False

    async def after_another(skus: Sequence[SkuFields]) -> None:
        nonlocal acted
        if not acted:
            acted = True
            await shop.put("A", price_minor=1_800)
        await publish(skus)

    monkeypatch.setattr(shop.store.engine, "publish_skus", after_another)
    await shop.reconcile()

    cart = await shop.store.read_cart(BUYER)
    assert [line.current_price_minor for line in cart.lines] == [1_800]


# --- left and told ----------------------------------------------------------------------------------


async def test_totals_that_are_not_the_sum_of_lines_are_left(shop: Shop) -> None:
    key = shop.keys.cart(BUYER.cart_id)
    version, lines, units, subtotal, *rest = (await shop.redis.hget(key, "a")).split(" ")
    await shop.redis.hset(key, "a", " ".join([version, lines, units, str(int(subtotal) + 1), *rest]))

    await expect_left(shop, ("cart_totals", BUYER.cart_id))


async def test_engine_ahead_of_ledger_is_left(shop: Shop) -> None:
    await shop.redis.hincrby(shop.keys.sku("B"), "on_hand", 5)

    await expect_left(shop, ("engine_ahead", "B"))


async def test_ledger_ahead_of_engine_is_left(shop: Shop) -> None:
    await shop.redis.hincrby(shop.keys.sku("B"), "on_hand", -5)

    await expect_left(shop, ("ledger_ahead", "B"))


async def test_record_of_events_that_the_engine_lost_is_told(shop: Shop) -> None:
    await shop.redis.delete(shop.keys.outbox)
    await shop.redis.hset(shop.keys.gate, "seq", 1)

    await expect_left(shop, *[("ledger_ahead", shop.store.partition.tag)] * 2)


async def test_pending_payment_that_the_engine_lost_is_told(shop: Shop) -> None:
    (payment,) = await shop.store.engine.list_payments(BUYER.cart_id)
    await shop.redis.delete(shop.keys.payment(shop.payment_id))

    report = await shop.reconcile()

    assert ("payment_missing", shop.payment_id) in found(report.drift)
    assert payment.payment.status == "pending"


async def test_drift_found_together_is_told_together(shop: Shop) -> None:
    await shop.put("A", price_minor=1_700, publish=False)
    await shop.redis.hincrby(shop.keys.sku("A"), "sold", 1)

    report = await shop.reconcile()

    assert found(report.repaired) == [("catalog_behind", "A")]
    assert found(report.drift) == [("engine_ahead", "A")]


def test_table_names_every_drift_and_what_a_repair_would_do() -> None:
    drift = Drift(kind="cart_totals", subject="u.1", detail="", expected="1 line", found="2 lines")
    due = Drift(kind="payment_not_due", subject="p0-1", detail="", expected="7", found="nothing")
    report = ReconcileReport(
        checked=5,
        repaired=[],
        drift=[drift, msgspec.structs.replace(drift, subject="u.22"), due],
        skipped=1,
    )

    assert table(report).splitlines() == [
        "state  kind             subject  expected  found",
        "drift  cart_totals      u.1      1 line    2 lines",
        "drift  cart_totals      u.22     1 line    2 lines",
        "drift  payment_not_due  p0-1     7         nothing",
        "5 checked, 0 repaired, 3 left",
        "1 looks were not whole: the record was behind, or too many holds",
        "2 cart_totals: a repair would leave it: who is right, a person decides",
        "1 payment_not_due: a repair would put it there",
    ]
    assert table(ReconcileReport(checked=5, repaired=[], drift=[])) == "5 checked, 0 repaired, 0 left"
