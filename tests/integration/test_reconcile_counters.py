"""Counters and holds that are not indexed, on the real engine and the real record.

Goal: a counter is set to what carts and orders claim only when nothing of the SKU moved since before the
claims were added up; a hold is indexed again only when its SKU's counter has it. Whatever buyers do
meanwhile, no hold that was taken, moved or given back during the visit is repaired away. Method: plant the
drift by writing past the scripts, and let buyers act at named instants of the visit, then at random ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from packed import line_held
from reconcile_shop import BUYER, Shop, expect_left, expect_repaired, found, open_shop
from redis.client import NEVER_DECODE

from cartstore import Owner
from cartstore.embedded import Database
from cartstore.errors import CartError, StoreRecovering
from cartstore.model import PutItem
from cartstore.recovery import counters
from cartstore.recovery.audits import SkuAudit
from cartstore.recovery.counters import Counted, CounterAudit
from cartstore.recovery.drift import DriftKind

GUEST = Owner("guest", "0" * 32)
LINE = "c\x1fu.buyer\x1fA"


@pytest.fixture
async def shop(redis_url: str, database: Database, database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(redis_url, database, database_url) as shop:
        yield shop


async def counters_of(shop: Shop, sku: str) -> tuple[int, int]:
    held = await shop.redis.hget(shop.keys.sku(sku), "held")
    return int(held or ""), (await shop.hold_state(sku)).guest_held


async def claimed(shop: Shop, sku: str) -> int:
    """Units of a SKU that all lines and pending orders hold, read without the code under test."""
    units = 0
    async for key in shop.redis.scan_iter(f"{shop.keys.prefix}*", _type="hash"):
        if key.startswith(shop.keys.cart("")):
            line = await shop.redis.execute_command("HGET", key, f"l:{sku}", **{NEVER_DECODE: True})
            units += line_held(line)
        elif key.startswith(shop.keys.order("")):
            fields = await shop.redis.hgetall(key)
            lines = [text.split("\x1f") for name, text in fields.items() if name[0] == "l"]
            if fields["status"] == "pending":
                units += sum(int(line[3]) for line in lines if line[1] == sku)
    return units


def during_the_visit(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Awaitable[object]], *, after: str
) -> None:
    """Let somebody act once, right after the visit's claims of carts, or of orders, were read."""
    read, acted = getattr(shop.store.engine, after), False

    async def and_then(holders: list[str]) -> object:
        nonlocal acted
        claims = await read(holders)
        if not acted:
            acted = True
            await act()
        return claims

    monkeypatch.setattr(shop.store.engine, after, and_then)


ACTS: dict[str, Callable[[Shop], Awaitable[object]]] = {
    "add": lambda shop: shop.store.add_line(GUEST, "A", 1),
    "set more": lambda shop: shop.store.set_quantity(BUYER, "A", 4),
    "set less": lambda shop: shop.store.set_quantity(BUYER, "A", 1),
    "put": lambda shop: shop.store.put_lines(BUYER, [PutItem(sku="A", quantity=5)], mode="all"),
    "clear": lambda shop: shop.store.clear_cart(BUYER),
    "check out": lambda shop: shop.check_out(BUYER, "second"),
    "pay": lambda shop: shop.store.apply_verdict(shop.payment_id, "succeeded"),
    "fail": lambda shop: shop.cancel(),
    "adjust": lambda shop: shop.store.adjust_stock("A", 1, reason="count", reference="second"),
    "release": lambda shop: shop.release_all(),
}


@pytest.mark.parametrize("act", ACTS)
async def test_rev_grows_when_units_move(shop: Shop, act: str) -> None:
    """What the repair of a counter rests on."""
    before = await shop.hold_state("A")

    await ACTS[act](shop)

    assert (await shop.hold_state("A")).rev > before.rev


async def test_rev_grows_when_a_counter_is_repaired(shop: Shop) -> None:
    await shop.redis.hincrby(shop.keys.sku("A"), "held", 2)
    before = await shop.hold_state("A")

    await shop.reconcile()

    assert (await shop.hold_state("A")).rev > before.rev


@pytest.mark.parametrize("seen", ["as it is", "another rev", "another held", "another guest_held", "nothing"])
async def test_counter_is_set_only_when_it_is_as_it_was_seen(shop: Shop, seen: str) -> None:
    found = await shop.audited.audit_sku("A")
    assert isinstance(found, SkuAudit)
    was = Counted(held=5 + (seen == "another held"), guest_held=int(seen == "another guest_held"))
    audit = CounterAudit(sku="A", epoch=found.epoch, rev=found.rev + (seen == "another rev"), counter=was)
    if seen == "nothing":
        await shop.redis.hdel(shop.keys.sku("A"), "hold_state")

    repaired = await shop.audited.repair_held(audit, Counted(held=4, guest_held=1))

    assert repaired is (seen == "as it is")
    if seen != "nothing":
        assert await counters_of(shop, "A") == ((4, 1) if repaired else (5, 0))


# --- counters: repaired -----------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "kind"), [(2, "counter_above_holds"), (-2, "counter_below_holds")])
async def test_counter_is_set_to_what_is_claimed(shop: Shop, change: int, kind: DriftKind) -> None:
    await shop.store.add_line(GUEST, "A", 1)
    await shop.redis.hincrby(shop.keys.sku("A"), "held", change)

    await expect_repaired(shop, (kind, "A"))

    assert await counters_of(shop, "A") == (6, 1)


@pytest.mark.parametrize(("change", "kind"), [(2, "counter_above_holds"), (-1, "counter_below_holds")])
async def test_counter_of_guests_is_set_to_what_they_claim(shop: Shop, change: int, kind: DriftKind) -> None:
    await shop.store.add_line(GUEST, "A", 1)
    await shop.check_out(GUEST, "guest")
    await shop.set_hold_state("A", guest_held=1 + change)
    await shop.store.drain_outbox()

    await expect_repaired(shop, (kind, "A"))

    assert await counters_of(shop, "A") == (6, 1)


async def test_repair_of_a_counter_is_an_event(shop: Shop) -> None:
    before, _ = await shop.store.archive.cursor()
    await shop.redis.hincrby(shop.keys.sku("A"), "held", 2)

    await shop.reconcile()
    await shop.store.drain_outbox()

    (event,) = await shop.store.archive.events_after(before, 10)
    assert event.type == "held_repaired"
    assert (event.body["sku"], event.body["held"], event.body["delta"]) == ("A", "5", "-2")
    assert (event.body["guest_held"], event.body["guest_delta"]) == ("0", "0")
    assert (await shop.reconcile()).drift == []


async def test_counter_is_set_by_a_visit_that_is_spread_over_runs(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        await shop.store.add_line(Owner("user", f"buyer-{number}"), "B", 1, properties={"n": number})
        await shop.redis.hset(shop.keys.sku("B"), "on_hand", 100)
    await shop.redis.hset(shop.keys.sku("B"), "on_hand", 10)
    await shop.redis.hincrby(shop.keys.sku("A"), "held", 2)
    monkeypatch.setattr(counters, "SCAN_COUNT", 10)
    monkeypatch.setattr("cartstore.recovery.reconcile.KEYS_PER_PIECE", 10)

    repaired = []
    runs = 0
    while not repaired and runs < 60:
        runs += 1
        report = await shop.reconciler.run(2)
        repaired += found(report.repaired)

    assert runs > 3
    assert repaired == [("counter_above_holds", "A")]
    assert await counters_of(shop, "A") == (5, 0)
    assert not any(shop.reconciler.open_by_kind().values())


async def test_counter_of_a_sku_with_too_many_holds_for_one_look_is_counted_too(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cartstore.redis.audit.AUDITED_HOLDS_MAX", 1)
    await shop.redis.hincrby(shop.keys.sku("A"), "held", 2)

    report = await shop.reconcile()

    assert found(report.repaired) == [("counter_above_holds", "A")]
    assert await counters_of(shop, "A") == (5, 0)


# --- counters: left, because somebody acted during the visit ----------------------------------------


@pytest.mark.parametrize("after", ["cart_claims", "order_claims"])
@pytest.mark.parametrize("change", [2, -2])
async def test_counter_is_left_when_a_passed_cart_takes_a_hold(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, change: int, after: str
) -> None:
    await shop.redis.hincrby(shop.keys.sku("A"), "held", change)
    with monkeypatch.context() as patch:
        during_the_visit(shop, patch, lambda: shop.store.add_line(BUYER, "A", 1), after=after)

        report = await shop.reconcile()

    assert report.repaired == []
    assert [kind for kind, _ in found(report.drift)] == [
        "counter_above_holds" if change > 0 else "counter_below_holds"
    ]
    assert await counters_of(shop, "A") == (6 + change, 0)
    # The next visit is undisturbed, and counts the new hold.
    assert [subject for _, subject in found((await shop.reconcile()).repaired)] == ["A"]
    assert await counters_of(shop, "A") == (6, 0)


async def test_counter_is_left_when_a_hold_moves_to_an_order(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout changes no sum, but whoever has read the cart and not the orders counts its units twice."""
    await shop.redis.hincrby(shop.keys.sku("A"), "held", -2)
    with monkeypatch.context() as patch:
        during_the_visit(shop, patch, lambda: shop.check_out(BUYER, "second"), after="cart_claims")

        report = await shop.reconcile()

    assert (report.repaired, found(report.drift)) == ([], [("counter_below_holds", "A")])
    await shop.store.drain_outbox()
    await shop.reconcile()
    assert await counters_of(shop, "A") == (5, 0)


async def test_counter_is_left_when_a_hold_is_given_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.redis.hincrby(shop.keys.sku("A"), "held", 2)
    with monkeypatch.context() as patch:
        during_the_visit(shop, patch, lambda: shop.store.clear_cart(BUYER), after="cart_claims")

        report = await shop.reconcile()

    assert (report.repaired, found(report.drift)) == ([], [("counter_above_holds", "A")])
    await shop.reconcile()
    assert await counters_of(shop, "A") == (2, 0)


async def test_counter_is_left_when_the_partition_was_recovered_meanwhile(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.redis.hincrby(shop.keys.sku("A"), "held", 2)

    async def restart() -> None:
        await shop.redis.hset(shop.keys.gate, "identity", "an engine that is gone")
        with pytest.raises(StoreRecovering):
            await shop.store.read_stock("A")
        await shop.store.recover()

    with monkeypatch.context() as patch:
        during_the_visit(shop, patch, restart, after="order_claims")

        report = await shop.reconcile()

    assert (report.repaired, found(report.drift)) == ([], [("counter_above_holds", "A")])
    assert await counters_of(shop, "A") == (7, 0)


@pytest.mark.parametrize("change", [2, -2])
@pytest.mark.parametrize("harm", ["cart's line", "order's status", "order's line", "order's type"])
async def test_counter_is_left_when_some_holder_cannot_be_read(
    shop: Shop, caplog: pytest.LogCaptureFixture, change: int, harm: str
) -> None:
    """The holder is of another SKU, as far as its index says: what it claims, nobody knows."""
    await shop.store.add_line(GUEST, "B", 1)
    payment_id = await shop.check_out(GUEST, "guest")
    await shop.store.add_line(GUEST, "B", 1)
    await shop.store.drain_outbox()
    checkout = await shop.store.read_payment(payment_id, GUEST)
    order = shop.keys.order(checkout.orders[0].order_id)
    if harm == "cart's line":
        await shop.redis.hset(shop.keys.cart(GUEST.cart_id), "l:B", "one")
    elif harm == "order's status":
        await shop.redis.hdel(order, "status")
    elif harm == "order's line":
        await shop.redis.hdel(order, "l1")
    else:
        await shop.redis.delete(order)
        await shop.redis.set(order, "nothing that a script writes")
    await shop.redis.hincrby(shop.keys.sku("A"), "held", change)

    report = await shop.reconcile()

    kind = "counter_above_holds" if change > 0 else "counter_below_holds"
    assert report.repaired == []
    assert (kind, "A") in found(report.drift)
    assert ("unreadable", "B") in found(report.drift)
    assert await counters_of(shop, "A") == (5 + change, 0)
    assert shop.reconciler.open_by_kind()[kind] == 1
    assert "no counter can be proved wrong" in caplog.text


async def test_counter_is_left_by_a_dry_run(shop: Shop) -> None:
    await shop.redis.hincrby(shop.keys.sku("A"), "held", 2)

    for _ in range(2):
        report = await shop.reconcile(repair=False)
        assert (report.repaired, found(report.drift)) == ([], [("counter_above_holds", "A")])

    assert shop.reconciler.open_by_kind()["counter_above_holds"] == 1
    assert await counters_of(shop, "A") == (7, 0)


async def test_counters_are_what_is_claimed_when_buyers_raced_the_repairs(shop: Shop) -> None:
    """Buyers take, move and give back units of both SKUs, while counters are planted wrong and repairs run as
    fast as they can. Whenever a repair went through, it took nobody's hold: at the end, undisturbed, the
    counters are the claims, and nothing was sold that was not there."""
    stop = asyncio.Event()

    async def buy(number: int) -> None:
        owner = Owner("user", f"racer-{number}")
        turn = 0
        while not stop.is_set():
            turn += 1
            try:
                await shop.store.add_line(owner, "AB"[turn % 2], 1)
                payment_id = await shop.check_out(owner, f"key-{turn}")
                if turn % 3:
                    checkout = await shop.store.read_payment(payment_id, owner)
                    await shop.store.cancel_order(checkout.orders[0].order_id, owner)
                    await shop.store.clear_cart(owner)
                else:
                    await shop.store.apply_verdict(payment_id, "succeeded")
                    await shop.store.adjust_stock(
                        "AB"[turn % 2], 1, reason="more", reference=f"{number}-{turn}"
                    )
            except CartError:
                await asyncio.sleep(0)
            # A pause now and then, so that some visits are undisturbed.
            await asyncio.sleep(0.05 if turn % 5 == 0 else 0)

    async def drain() -> None:
        while not stop.is_set():
            await shop.store.drain_outbox()
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(buy(number)) for number in range(4)] + [asyncio.create_task(drain())]
    for turn in range(15):
        # Above only: a counter below what is claimed lets more be held than there is, races or not.
        await shop.redis.hincrby(shop.keys.sku("AB"[turn % 2]), "held", 1)
        await shop.reconcile()
    stop.set()
    await asyncio.gather(*tasks)
    await shop.store.drain_outbox()
    await shop.reconcile()

    assert (await shop.reconcile()).drift == []
    for sku in "AB":
        level = await shop.store.read_stock(sku)
        assert level.held == await claimed(shop, sku)
        assert 0 <= level.held <= level.on_hand


# --- holds that are not indexed ---------------------------------------------------------------------


async def test_line_is_indexed_again_when_the_counter_has_its_hold(shop: Shop) -> None:
    (score,) = await shop.redis.zmscore(shop.keys.holds("A"), [LINE])
    await shop.redis.zrem(shop.keys.holds("A"), LINE)

    await expect_repaired(shop, ("unindexed_hold", BUYER.cart_id), ("counter_above_holds", "A"))

    assert await shop.redis.zmscore(shop.keys.holds("A"), [LINE]) == [score]
    assert await counters_of(shop, "A") == (5, 0)


async def test_order_is_indexed_again_when_the_counter_has_its_hold(shop: Shop) -> None:
    (payment,) = await shop.store.engine.list_payments(BUYER.cart_id)
    member = f"o\x1f{payment.orders[0].order_id}"
    await shop.redis.zrem(shop.keys.holds("A"), member)

    await expect_repaired(shop, ("unindexed_hold", shop.payment_id), ("counter_above_holds", "A"))

    assert await shop.redis.zmscore(shop.keys.holds("A"), [member]) == [payment.payment.expires_at_ms]


async def test_sku_is_found_by_the_sweep_when_its_only_hold_was_indexed_again(shop: Shop) -> None:
    await shop.store.add_line(BUYER, "B", 1)
    await shop.redis.delete(shop.keys.holds("B"))
    await shop.redis.zrem(shop.keys.holding, "B")
    await shop.set_hold_state("B", earliest=0, latest=0)

    await expect_repaired(shop, ("unindexed_hold", BUYER.cart_id), ("counter_above_holds", "B"))

    (score,) = await shop.redis.zmscore(shop.keys.holding, ["B"])
    *_, earliest, latest = await shop.hold_state("B")
    assert earliest == latest == score


async def test_payment_out_of_both_indexes_is_put_into_both(shop: Shop) -> None:
    (payment,) = await shop.store.engine.list_payments(BUYER.cart_id)
    await shop.redis.zrem(shop.keys.holds("A"), f"o\x1f{payment.orders[0].order_id}")
    await shop.redis.zrem(shop.keys.due, shop.payment_id)

    await expect_repaired(
        shop,
        ("unindexed_hold", shop.payment_id),
        ("payment_not_due", shop.payment_id),
        ("counter_above_holds", "A"),
    )


async def test_line_is_counted_first_when_the_counter_does_not_have_its_hold(shop: Shop) -> None:
    await shop.redis.zrem(shop.keys.holds("A"), LINE)
    await shop.redis.hincrby(shop.keys.sku("A"), "held", -3)

    report = await shop.reconcile()

    assert found(report.repaired) == [("counter_below_holds", "A"), ("unindexed_hold", BUYER.cart_id)]
    assert report.drift == []
    assert await counters_of(shop, "A") == (5, 0)
    assert (await shop.reconcile()).drift == []


async def test_line_is_left_when_the_counter_does_not_have_its_hold_and_moves(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.redis.zrem(shop.keys.holds("A"), LINE)
    await shop.redis.hincrby(shop.keys.sku("A"), "held", -3)
    with monkeypatch.context() as patch:
        during_the_visit(shop, patch, lambda: shop.store.add_line(GUEST, "A", 1), after="order_claims")

        report = await shop.reconcile()

    assert (report.repaired, found(report.drift)) == ([], [("unindexed_hold", BUYER.cart_id)])
    assert shop.reconciler.open_by_kind()["unindexed_hold"] == 1
    assert await shop.redis.zmscore(shop.keys.holds("A"), [LINE]) == [None]


async def test_line_is_left_when_its_index_is_too_long_for_the_proof(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cartstore.redis.audit.AUDITED_HOLDS_MAX", 1)
    await shop.store.add_line(GUEST, "A", 1)
    await shop.redis.zrem(shop.keys.holds("A"), LINE)

    await expect_left(shop, ("unindexed_hold", BUYER.cart_id))


async def test_order_is_left_when_its_payment_is_gone(shop: Shop) -> None:
    (payment,) = await shop.store.engine.list_payments(BUYER.cart_id)
    order_id = payment.orders[0].order_id
    audit = await shop.audited.audit_payment(shop.payment_id)
    await shop.redis.zrem(shop.keys.holds("A"), f"o\x1f{order_id}")
    (claim,) = (await shop.audited.audit_payment(shop.payment_id)).unindexed
    await shop.redis.delete(shop.keys.payment(shop.payment_id))

    assert audit.unindexed == ()
    assert not await shop.audited.repair_claim(claim)
    assert await shop.redis.zcard(shop.keys.holds("A")) == 1


async def test_nothing_is_indexed_when_the_hold_was_given_back_meanwhile(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the repair the buyer takes the line out; the repair must not put a hold back."""
    await shop.redis.zrem(shop.keys.holds("A"), LINE)
    repair = shop.audited.repair_claim

    async def after_the_buyer(claim: object) -> bool:
        await shop.store.clear_cart(BUYER)
        return bool(await repair(claim))

    monkeypatch.setattr(shop.store.engine, "repair_claim", after_the_buyer)
    report = await shop.reconcile()

    assert not any(drift.kind == "orphan_index_entry" for drift in report.drift)
    assert await shop.redis.zmscore(shop.keys.holds("A"), [LINE]) == [None]
    assert await counters_of(shop, "A") == (2, 0)
    assert (await shop.reconcile()).drift == []


async def test_counter_has_every_hold_when_one_that_is_due_is_not_indexed(
    redis_url: str, database: Database, database_url: str
) -> None:
    """The owner's limit makes the script look for what is due of him, and nothing comes of it."""
    settings = {"max_held_per_owner": 6, "hold_ttl_member_seconds": 1}
    async with open_shop(redis_url, database, database_url, **settings) as shop:
        await asyncio.sleep(1.1)
        await shop.redis.zrem(shop.keys.holds("A"), LINE)

        items = [PutItem(sku="B", quantity=1), PutItem(sku="A", quantity=4)]
        put = await shop.store.put_lines(BUYER, items, mode="partial")

        assert [outcome.code for outcome in put.outcomes] == ["OK", "LIMIT_EXCEEDED"]
        assert await counters_of(shop, "B") == (1, 0)
        assert (await shop.hold_state("B")).earliest > 0
