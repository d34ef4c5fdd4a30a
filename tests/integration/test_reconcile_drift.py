"""Reconcile on the real engine and the real record.

Goal: a healthy shop shows no drift however busy it is, and every kind of drift is found, repaired where that
is safe, and left and told where it is not. What makes each repair safe, and when it is not, is in the table
of docs/operations.md. Method: plant each kind by writing past the scripts, let buyers act between look and
repair, and take away what the proof of a repair rests on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from cartstore_workers.duties import Duties
from packed import cart_values, pack_cart, period_ordered
from reconcile_shop import BUYER, Shop, expect_left, expect_repaired, found, open_shop, product_of
from redis.client import NEVER_DECODE
from sqlalchemy import delete, insert, update

from cartstore import Owner, Product
from cartstore.archive.tables import frozen_skus, order_lines, orders, payments
from cartstore.cli import EXIT_FAILED, _reconcile_store
from cartstore.embedded import Database
from cartstore.errors import CartError, ContractError, ProductInactive, StoreRecovering, StoreUnavailable
from cartstore.model import PaymentStatus, SkuFields, checkout_ids
from cartstore.recovery.drift import Drift, DriftKind
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
    await shop.redis.hset(shop.keys.gate, "status", "fenced")

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


async def test_missing_sku_is_frozen_before_it_is_published_when_the_record_has_it_frozen(shop: Shop) -> None:
    await freeze_in_record(shop, "C")
    product = product_of("C", 100)
    (variant,) = product.variants
    on_order = msgspec.structs.replace(variant, policy="backorder")
    await shop.store.catalog.put_product(msgspec.structs.replace(product, variants=(on_order,)))

    await expect_repaired(shop, ("not_frozen", "C"), ("sku_missing", "C"))

    with pytest.raises(ProductInactive):
        await shop.store.add_line(BUYER, "C", 1)


async def test_frozen_sku_behind_the_catalog_is_published_and_stays_frozen(shop: Shop) -> None:
    await freeze_in_record(shop, "A")
    await shop.audited.freeze_skus(["A"], frozen=True)
    await shop.put("A", price_minor=1_700, publish=False)

    await expect_repaired(shop, ("catalog_behind", "A"))

    cart = await shop.store.read_cart(BUYER)
    assert [line.current_price_minor for line in cart.lines] == [1_700]
    with pytest.raises(ProductInactive):
        await shop.store.add_line(BUYER, "A", 1)


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


@pytest.mark.parametrize("bounds", [{"earliest": 2**42}, {"latest": 1}, {"earliest": 0, "latest": 0}])
async def test_sku_whose_bounds_do_not_cover_its_index_gets_them(shop: Shop, bounds: dict[str, int]) -> None:
    await shop.set_hold_state("A", **bounds)

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


@pytest.mark.parametrize("act", ["take", "give back", "check out", "pay", "give all back", "sweep"])
async def test_sku_is_put_into_holding_as_its_index_is_when_somebody_acts_before_the_repair(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """Whatever the looks saw, the repair writes what the index says in its own step."""
    other = Owner("user", "other")

    async def meanwhile() -> None:
        if act == "take":
            await shop.store.add_line(other, "A", 1)
        elif act == "give back":
            await shop.store.clear_cart(BUYER)
        elif act == "check out":
            await shop.check_out(BUYER, "second")
        elif act == "pay":
            await shop.store.apply_verdict(shop.payment_id, "succeeded")
        elif act == "give all back":
            await shop.store.clear_cart(BUYER)
            checkout = await shop.store.read_payment(shop.payment_id, BUYER)
            await shop.store.cancel_order(checkout.orders[0].order_id, BUYER)
        else:
            await shop.store.release_due(100)
        # What they did put the SKU there; take it out again, so that the repair has to.
        await shop.redis.zrem(shop.keys.holding, "A")
        await shop.set_hold_state("A", earliest=0, latest=0)

    await shop.redis.zrem(shop.keys.holding, "A")
    with monkeypatch.context() as patch:
        just_before(shop, patch, "repair_index", meanwhile)
        await shop.reconcile()

    entries = await shop.redis.zrange(shop.keys.holds("A"), 0, -1, withscores=True)
    scores = [score for _, score in entries]
    *_, earliest, latest = await shop.hold_state("A")
    assert bool(scores) is (act != "give all back")
    assert await shop.redis.zscore(shop.keys.holding, "A") == min(scores, default=None)
    assert (earliest, latest) == ((scores[0], scores[-1]) if scores else (0, 0))
    await shop.store.drain_outbox()
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


async def test_catalog_is_published_as_it_is_when_it_changes_before_the_repair(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both publishers died: the repair brings what the catalog says now, not what the looks saw."""
    await shop.put("A", price_minor=1_700, publish=False)
    find, looks = shop.store.catalog.find_sku, 0

    async def after_another(sku: str) -> Product | None:
        nonlocal looks
        looks += 1
        # The third time is the repair's.
        if looks == 3:
            await shop.put("A", price_minor=1_800, publish=False)
        return await find(sku)

    with monkeypatch.context() as patch:
        patch.setattr(shop.store.catalog, "find_sku", after_another)
        report = await shop.reconcile()

    assert found(report.repaired) == [("catalog_behind", "A")]
    cart = await shop.store.read_cart(BUYER)
    assert [line.current_price_minor for line in cart.lines] == [1_800]
    assert (await shop.reconcile()).repaired == []


async def test_nothing_is_repaired_when_what_it_needs_becomes_unreadable_before_the_repair(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.redis.zrem(shop.keys.due, shop.payment_id)
    just_before(
        shop, monkeypatch, "repair_due", lambda: shop.redis.hdel(shop.keys.payment(shop.payment_id), "status")
    )

    report = await shop.reconcile()

    assert (report.repaired, found(report.drift)) == ([], [("unreadable", shop.payment_id)])
    assert await shop.redis.zscore(shop.keys.due, shop.payment_id) is None


# --- left and told ----------------------------------------------------------------------------------


async def freeze_in_record(shop: Shop, sku: str) -> None:
    async with shop.store.archive.database.transaction() as connection:
        await connection.execute(insert(frozen_skus).values(sku=sku, epoch=1, seq=1, reason="a test's"))


async def record_status(shop: Shop, status: PaymentStatus) -> None:
    """Let the record tell another end of the shop's payment than its events did."""
    async with shop.store.archive.database.transaction() as connection:
        await connection.execute(
            update(payments).where(payments.c.payment_id == shop.payment_id).values(status=status)
        )


async def dump_of(shop: Shop, *keys: str) -> list[object]:
    return [await shop.redis.dump(key) for key in keys]


HARMS: dict[str, Callable[[Shop, str], Awaitable[object]]] = {
    "without_status": lambda shop, key: shop.redis.hdel(key, "status"),
    "with_a_strange_status": lambda shop, key: shop.redis.hset(key, "status", "perhaps"),
    "without_window": lambda shop, key: shop.redis.hdel(key, "expires"),
    "with_a_strange_window": lambda shop, key: shop.redis.hset(key, "expires", "soon"),
    "without_its_last_event": lambda shop, key: shop.redis.hdel(key, "event"),
    "of_another_type": lambda shop, key: replace(shop, key),
}
"""What a hand can do to a payment's hash."""


async def replace(shop: Shop, key: str) -> None:
    await shop.redis.delete(key)
    await shop.redis.set(key, "nothing that a script writes")


@pytest.mark.parametrize("is_due", [False, True])
@pytest.mark.parametrize("harm", HARMS)
async def test_payment_is_left_in_and_out_of_due_when_it_cannot_be_read(
    shop: Shop, harm: str, is_due: bool
) -> None:
    """It may be pending, and it may be over: neither putting it there nor taking it out is safe."""
    if is_due:
        await shop.redis.zadd(shop.keys.due, {shop.payment_id: 2**42})
    else:
        await shop.redis.zrem(shop.keys.due, shop.payment_id)
    await HARMS[harm](shop, shop.keys.payment(shop.payment_id))
    before = await dump_of(shop, shop.keys.due)

    await expect_left(shop, ("unreadable", shop.payment_id))

    if harm != "without_its_last_event":
        # Whoever has seen it before it was harmed changes nothing either.
        with pytest.raises(ContractError):
            await shop.audited.repair_due(shop.payment_id)
    assert await dump_of(shop, shop.keys.due) == before


@pytest.mark.parametrize("status", ["paid", "expired", None])
async def test_pending_payment_missing_from_due_is_left_when_the_record_differs(
    shop: Shop, status: PaymentStatus | None
) -> None:
    """In `due` it would expire, and give units back that are sold if the record is right."""
    await shop.redis.zrem(shop.keys.due, shop.payment_id)
    if status is not None:
        await record_status(shop, status)
    else:
        async with shop.store.archive.database.transaction() as connection:
            await connection.execute(delete(order_lines))
            await connection.execute(delete(orders))
            await connection.execute(delete(payments))

    await expect_left(shop, ("payment_differs", shop.payment_id))

    assert await shop.redis.zscore(shop.keys.due, shop.payment_id) is None


async def test_due_entry_of_an_ended_payment_is_left_when_the_record_has_it_pending(shop: Shop) -> None:
    await shop.store.apply_verdict(shop.payment_id, "succeeded")
    await shop.store.drain_outbox()
    await record_status(shop, "pending")
    await shop.redis.zadd(shop.keys.due, {shop.payment_id: 2**42})

    await expect_left(shop, ("payment_differs", shop.payment_id))

    assert await shop.redis.zscore(shop.keys.due, shop.payment_id) == 2**42


async def test_payment_is_put_back_when_its_orders_are_there_and_the_record_has_it_pending(
    shop: Shop,
) -> None:
    order_id = f"o{shop.payment_id[1:]}-1"
    before = await shop.redis.zscore(shop.keys.due, shop.payment_id)
    await shop.redis.delete(shop.keys.payment(shop.payment_id))

    await expect_repaired(shop, ("order_without_payment", order_id), ("payment_missing", shop.payment_id))

    assert before is not None
    assert await shop.redis.zscore(shop.keys.due, shop.payment_id) == before
    await shop.store.apply_verdict(shop.payment_id, "succeeded")
    await shop.store.drain_outbox()
    assert (await shop.reconcile()).drift == []


async def test_checkout_is_not_undone_when_its_event_came_after_the_record_was_asked(shop: Shop) -> None:
    """Two processes look at one checkout; the buyer repeats it between their looks, and is cut off again."""
    cursor, _ = await shop.store.archive.cursor()
    payment_id = await shop.check_out(BUYER, "another")
    await shop.redis.delete(shop.keys.payment(payment_id))

    assert not await shop.audited.void_orders(payment_id, cart_ttl_ms=1_000, unknown_at=cursor)

    assert await shop.redis.exists(shop.keys.order(f"o{payment_id[1:]}-1"))
    await shop.store.drain_outbox()
    assert (await shop.reconcile()).drift == []


async def test_payment_is_left_when_it_is_lost_with_its_orders(shop: Shop) -> None:
    before = await shop.redis.zscore(shop.keys.due, shop.payment_id)
    await shop.redis.delete(shop.keys.payment(shop.payment_id), shop.keys.order(f"o{shop.payment_id[1:]}-1"))

    report = await shop.reconcile(repair=False)

    assert ("payment_missing", shop.payment_id) in found(report.drift)
    assert await shop.redis.zscore(shop.keys.due, shop.payment_id) == before


async def test_payment_is_no_drift_when_the_record_is_behind_its_last_event(shop: Shop) -> None:
    await shop.store.apply_verdict(shop.payment_id, "succeeded")
    await shop.redis.zadd(shop.keys.due, {shop.payment_id: 2**42})

    report = await shop.reconcile()

    assert (found(report.repaired), report.drift) == ([("due_without_payment", shop.payment_id)], [])


async def test_hold_of_an_order_is_not_indexed_when_the_record_has_its_payment_at_an_end(shop: Shop) -> None:
    """Once indexed it would fall due, and give back what the record has sold."""
    (payment,) = await shop.store.engine.list_payments(BUYER.cart_id)
    await shop.redis.zrem(shop.keys.holds("A"), f"o\x1f{payment.orders[0].order_id}")
    await record_status(shop, "paid")

    await expect_left(shop, ("counter_above_holds", "A"), ("payment_differs", shop.payment_id))

    assert await shop.redis.zcard(shop.keys.holds("A")) == 1


@pytest.mark.parametrize("is_listed", [True, False])
async def test_sku_missing_from_holding_is_left_when_the_engine_lost_it(shop: Shop, is_listed: bool) -> None:
    """Published it would have counters of zero: a false "sold out", while carts hold units of it."""
    sku = "A" if is_listed else "stranger"
    if is_listed:
        await shop.redis.delete(shop.keys.sku(sku))
        await shop.redis.zrem(shop.keys.holding, sku)
    else:
        await shop.redis.zadd(shop.keys.holds(sku), {f"c\x1fu.buyer\x1f{sku}": 2**42})
        await shop.redis.zadd(shop.keys.holding, {sku: 2**42})
    before = await dump_of(shop, shop.keys.holding, shop.keys.holds(sku))

    await expect_left(shop, ("sku_lost", sku))
    await shop.audited.repair_index(sku)

    assert await dump_of(shop, shop.keys.holding, shop.keys.holds(sku)) == before
    assert not await shop.redis.exists(shop.keys.sku(sku))


async def test_missing_sku_is_left_when_the_record_counts_units_of_it(shop: Shop) -> None:
    await shop.redis.delete(shop.keys.sku("B"))

    await expect_left(shop, ("sku_lost", "B"))

    assert not await shop.redis.exists(shop.keys.sku("B"))


async def test_missing_sku_is_not_published_before_the_record_has_all_of_its_events(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cartstore.recovery.looks.LAG_SECONDS", 0.05)
    await shop.put("C", price_minor=100)
    await shop.store.adjust_stock("C", 3, reason="count", reference="first")
    await shop.redis.delete(shop.keys.sku("C"))

    behind = await shop.reconcile()

    # All three: an audit is as of the last event, whatever SKU that is about.
    assert (behind.drift, behind.repaired, behind.skipped) == ([], [], 3)
    await shop.store.drain_outbox()
    await expect_left(shop, ("sku_lost", "C"))


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("held", "many"),
        ("fields", "many"),
        ("revision", "many"),
        ("hold_state", "many"),
        ("hold_state", "one byte more, twenty-six."),
        ("hold_state", None),
    ],
)
async def test_sku_is_left_when_it_cannot_be_read(shop: Shop, field: str, text: str | None) -> None:
    await shop.put("A", price_minor=1_700, publish=False)
    await shop.redis.zrem(shop.keys.holding, "A")
    await shop.redis.zadd(shop.keys.holds("A"), {"c\x1fu.nobody\x1fA": 2**42})
    if text is None:
        await shop.redis.hdel(shop.keys.sku("A"), field)
    else:
        await shop.redis.hset(shop.keys.sku("A"), field, text)
    before = await dump_of(shop, shop.keys.sku("A"), shop.keys.holds("A"))

    await expect_left(shop, ("unreadable", "A"))

    assert await dump_of(shop, shop.keys.sku("A"), shop.keys.holds("A")) == before
    assert await shop.redis.zscore(shop.keys.holding, "A") is None


@pytest.mark.parametrize("harm", ["line", "status", "count", "order line", "type"])
async def test_index_entry_is_left_when_its_holder_cannot_be_read(shop: Shop, harm: str) -> None:
    """It claims units, or it does not; the true orphan beside it waits too, until somebody has looked."""
    (payment,) = await shop.store.engine.list_payments(BUYER.cart_id)
    order_id = payment.orders[0].order_id
    cart, order = shop.keys.cart(BUYER.cart_id), shop.keys.order(order_id)
    expected: list[tuple[DriftKind, str]] = [("unreadable", "A")]
    if harm == "line":
        await shop.redis.hset(cart, "l:A", "three")
        expected.append(("unreadable", BUYER.cart_id))
    elif harm == "type":
        await replace(shop, order)
        expected.append(("unreadable", shop.payment_id))
    elif harm == "status":
        await shop.redis.hdel(order, "status")
    else:
        await shop.redis.hdel(order, "count" if harm == "count" else "l1")
        expected.append(("unreadable", shop.payment_id))
    await shop.redis.zadd(shop.keys.holds("A"), {"c\x1fu.nobody\x1fA": 2**42})
    before = await dump_of(shop, shop.keys.holds("A"))

    await expect_left(shop, *expected)

    with pytest.raises(ContractError):
        await shop.audited.repair_index("A")
    assert await dump_of(shop, shop.keys.holds("A")) == before


async def test_cart_is_left_when_its_totals_are_gone(shop: Shop) -> None:
    await shop.redis.hdel(shop.keys.cart(BUYER.cart_id), "a")

    report = await shop.reconcile()

    (drift,) = (its for its in report.drift if its.kind == "unreadable" and its.subject == BUYER.cart_id)
    assert shop.keys.cart(BUYER.cart_id) in drift.found
    assert report.repaired == []


async def test_engine_ahead_of_the_catalog_is_left(shop: Shop) -> None:
    """The catalog was put back to an older state. Its revision would be ignored, and its price is not known
    to be the right one."""
    (fields,) = shop.store.catalog.published([product_of("A", 1_900)])
    await shop.store.engine.publish_skus([msgspec.structs.replace(fields, revision=1_000)])

    await expect_left(shop, ("catalog_ahead", "A"))

    cart = await shop.store.read_cart(BUYER)
    assert [line.current_price_minor for line in cart.lines] == [1_900]


async def test_engine_is_not_ahead_when_the_catalog_changed_after_the_walk_came_by(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, acted = shop.audited.audit_sku, False

    async def after_another(sku: str) -> object:
        nonlocal acted
        if not acted:
            acted = True
            await shop.put("A", price_minor=1_800)
            await shop.put("B", price_minor=2_800)
        return await audit(sku)

    monkeypatch.setattr(shop.store.engine, "audit_sku", after_another)
    # Nothing that a second look would have to take back.
    report = await shop.reconciler.run()

    assert acted
    assert report.drift == report.repaired == []


@pytest.mark.parametrize("place", [1, 2, 3, 4, 5], ids=["lines", "units", "subtotal", "held", "waiting"])
async def test_totals_that_are_not_the_sum_of_lines_and_orders_are_added_up_anew(
    shop: Shop, place: int
) -> None:
    key = shop.keys.cart(BUYER.cart_id)
    values = cart_values(await shop.redis.execute_command("HGET", key, "a", **{NEVER_DECODE: True}))
    before = values[place]
    values[place] += 1
    await shop.redis.hset(key, "a", pack_cart(values))

    await expect_repaired(shop, ("cart_totals", BUYER.cart_id))

    values = cart_values(await shop.redis.execute_command("HGET", key, "a", **{NEVER_DECODE: True}))
    assert values[place] == before


@pytest.mark.parametrize("is_lost", [True, False])
async def test_units_in_orders_of_a_hold_period_are_counted_anew(shop: Shop, is_lost: bool) -> None:
    cart_key, name = shop.keys.cart(BUYER.cart_id), "h:A"
    kept = await shop.redis.execute_command("HGET", cart_key, name, **{NEVER_DECODE: True})
    assert period_ordered(kept) == 2
    if is_lost:
        await shop.redis.hdel(cart_key, name)
    else:
        await shop.redis.hset(cart_key, name, kept[:-1] + b"\x05")

    await expect_repaired(shop, ("cart_totals", BUYER.cart_id))

    repaired = await shop.redis.execute_command("HGET", cart_key, name, **{NEVER_DECODE: True})
    assert period_ordered(repaired) == 2


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


async def test_what_is_left_is_alarmed_by_the_worker_and_by_the_command(
    shop: Shop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await shop.redis.hincrby(shop.keys.sku("A"), "on_hand", 5)
    await shop.redis.delete(shop.keys.sku("B"))
    duties = Duties(shop.store)
    monkeypatch.setattr(duties, "_reconciler", shop.reconciler)

    await duties.reconcile()
    status = await _reconcile_store(tmp_path, shop.store.settings, repair=True)

    left = {"engine_ahead": "A", "sku_lost": "B"}
    assert duties.drift == dict.fromkeys(left, 1)
    told = {
        record.__dict__["fields"]["kind"]: record
        for record in caplog.records
        if record.name == Duties.__module__
    }
    assert {kind: record.__dict__["fields"]["subject"] for kind, record in told.items()} == left
    assert {record.levelname for record in told.values()} == {"ERROR"}
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines() if line.startswith("drift")]
    assert sorted(rows) == [["drift", kind, subject] for kind, subject in sorted(left.items())]
    assert status == EXIT_FAILED


async def test_command_succeeds_when_everything_was_repaired(shop: Shop, tmp_path: Path) -> None:
    await shop.redis.zadd(shop.keys.due, {"p0-stranger": 2**42})

    assert await _reconcile_store(tmp_path, shop.store.settings, repair=False) == EXIT_FAILED
    assert await _reconcile_store(tmp_path, shop.store.settings, repair=True) == 0


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
        "2 cart_totals: a repair would add them up anew",
        "1 payment_not_due: a repair would put it there",
    ]
    assert table(ReconcileReport(checked=5, repaired=[], drift=[])) == "5 checked, 0 repaired, 0 left"
