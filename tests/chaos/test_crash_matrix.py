"""Goal: a process that dies after any step of checkout, settle, drain, quarantine, snapshot, recovery,
rebuild, reconcile or loading purchases leaves work that is finished later, never work that is lost or done
twice.

Method: for every failpoint a process tells that failpoint's story and is killed there by SIGKILL. What is
left running (another store on the same servers) recovers, the caller repeats its call under the same key,
and then engine and record are looked at: one paid order, every unit accounted for, no drift, carts as they
were. After a quarantine the one drift that is left is what the refused event was about, and its SKU is
frozen.
"""

from __future__ import annotations

import pytest
import redis.asyncio as redis

from cartstore.errors import ProductInactive
from cartstore.failpoints import FAILPOINTS
from cartstore.recovery import gate
from cartstore.recovery.reconcile import Reconciler
from cartstore.recovery.report import table
from cartstore.store import CartStore

from .actors import ANN, BEN, act_until_death, check_out, put_tee
from .shop import opened, until_open

UNITS = 10


async def stock_the_shop(store: CartStore) -> None:
    """Three SKUs with ten units each, one of them with a purchase limit; ann has two lines to buy and one to
    keep, ben holds a unit."""
    await put_tee(store, limited={"b"})
    for sku in ("a", "b", "c"):
        await store.adjust_stock(sku, UNITS, reason="delivery", reference="1")
        await store.add_line(ANN, sku, 2)
    await store.add_line(BEN, "a", 1)


async def break_what_the_story_needs_broken(story: str, store: CartStore, client: redis.Redis) -> None:
    if story == "recovery":
        await client.hset("{main:0}:gate", "identity", "an engine that is gone")
    elif story == "rebuild":
        await store.snapshot_carts()
        await client.flushdb()
    elif story == "reconcile":
        # A hold in the index that nobody claims, and a hold in the counter that nobody has.
        await client.zadd("{main:0}:holds:a", {"c\x1fu.nobody\x1fa": 4_000_000_000_000})
        await client.hincrby("{main:0}:sku:a", "held", 3)
    elif story == "quarantine":
        # A reference that the engine forgot and takes again, and the record does not.
        await client.delete("{main:0}:reference:c:1")
        await store.engine.adjust_stock(
            "c", delta=5, reason="count", reference="1", fingerprint="of another adjustment"
        )
    elif story == "snapshot":
        await client.zadd("{main:0}:activity", {"u.gone": 1})
        # Events that the record has not: no cart is stored before them.
        await store.adjust_stock("c", 1, reason="count", reference="2")
        await store.adjust_stock("c", -1, reason="count", reference="3")


async def break_the_outbox(client: redis.Redis) -> None:
    """An entry that no history of this shop has: what is acknowledged behind it cannot be applied."""
    [(last, _)] = await client.xrevrange("{main:0}:outbox", count=1)
    epoch, _, seq = last.partition("-")
    foreign = {"nonce": "foreign", "type": "payment_failed", "at": 1, "previous": "1-1 nobody", "body": "{}"}
    await client.xadd("{main:0}:outbox", foreign, f"{epoch}-{int(seq) + 1}")


async def assert_that_purchases_count(client: redis.Redis, *limited: str) -> None:
    """What ann bought counts against the limits, once."""
    for sku in limited:
        bought = await client.hvals(f"{{main:0}}:bought:{sku}:{ANN.cart_id}")
        assert [entry.split(" ")[1] for entry in bought] == ["2"], sku
    assert await client.zcard("{main:0}:unloaded") == 0


def story_of(failpoint: str) -> str:
    return failpoint.split(".")[0]


TAKE_OVER = {failpoint for failpoint in FAILPOINTS if story_of(failpoint) == "take_over"}
"""Of an engine that an earlier version filled: tests/upgrade."""

QUARANTINE = {failpoint for failpoint in FAILPOINTS if story_of(failpoint) == "quarantine"}
BREAK = {"drain.fenced"}


async def die(failpoint: str, redis_url: str, database_url: str) -> None:
    """Open a shop, and tell the failpoint's story in it up to its death."""
    story = story_of(failpoint)
    async with opened(redis_url, database_url) as store:
        await stock_the_shop(store)
        await store.drain_outbox()
        async with redis.Redis.from_url(redis_url, decode_responses=True) as client:
            await break_what_the_story_needs_broken(story, store, client)
            if failpoint in BREAK:
                await break_the_outbox(client)

    exit_code = await act_until_death(redis_url, database_url, failpoint)

    assert exit_code == -9, f"the story of {story} does not reach {failpoint}"


@pytest.mark.parametrize("failpoint", sorted(FAILPOINTS - QUARANTINE - BREAK - TAKE_OVER))
async def test_nothing_is_lost_or_doubled_when_a_process_dies(
    failpoint: str, redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "REBUILD_SILENCE_SECONDS", 0.2)

    await die(failpoint, redis_url, database_url)

    async with opened(redis_url, database_url) as store:
        await until_open(store)
        result = await check_out(store)
        await store.drain_outbox()
        await store.snapshot_carts()
        repaired = await Reconciler(store, confirm_seconds=0.05).run()
        proof = await Reconciler(store, confirm_seconds=0.05).run()

        assert not repaired.drift, table(repaired)
        assert not proof.drift, table(proof)
        assert not proof.repaired, table(proof)
        assert result.payment.status == "paid"
        await assert_that_the_books_balance(store)
        async with redis.Redis.from_url(redis_url, decode_responses=True) as client:
            limited = ("a", "b") if story_of(failpoint) == "purchases" else ("b",)
            await assert_that_purchases_count(client, *limited)


async def test_events_behind_a_break_are_put_aside_when_the_process_that_met_it_dies(
    redis_url: str, database_url: str
) -> None:
    await die("drain.fenced", redis_url, database_url)

    async with opened(redis_url, database_url) as store:
        await until_open(store)
        aside = await store.archive.quarantine.counts()
        report = await Reconciler(store, confirm_seconds=0.05).run()

        # The foreign entry, the checkout and its payment.
        assert (aside.rejected_events, aside.frozen_skus) == (3, 2)
        assert not report.drift, table(report)
        assert not report.repaired, table(report)


@pytest.mark.parametrize("failpoint", sorted(QUARANTINE))
async def test_rejected_once_and_frozen_when_a_process_dies(
    failpoint: str, redis_url: str, database_url: str
) -> None:
    await die(failpoint, redis_url, database_url)

    async with opened(redis_url, database_url) as store:
        assert (await check_out(store)).payment.status == "paid"
        await store.drain_outbox()
        report = await Reconciler(store, confirm_seconds=0.05).run()
        aside = await store.archive.quarantine.counts()

        assert (aside.rejected_events, aside.frozen_skus) == (1, 1)
        assert [(its.kind, its.subject) for its in report.drift] == [("engine_ahead", "c")], table(report)
        with pytest.raises(ProductInactive):
            await store.add_line(BEN, "c", 1)
        # What came behind the event is archived, once.
        checkouts = await store.archive.list_payments(ANN.cart_id, limit=10)
        assert [payment.status for payment, _ in checkouts] == ["paid"]
        for sku in ("a", "b"):
            level = await store.read_stock(sku)
            _, totals = await store.archive.stock_totals([sku])
            assert (level.on_hand, level.sold) == (totals[sku].on_hand, totals[sku].sold) == (8, 2)


async def assert_that_the_books_balance(store: CartStore) -> None:
    """Ann bought two of a and of b once, keeps two of c; ben still holds his unit of a."""
    expected = {"a": (8, 1, 2), "b": (8, 0, 2), "c": (10, 2, 0)}
    _, totals = await store.archive.stock_totals(list(expected))
    for sku, (on_hand, held, sold) in expected.items():
        level = await store.read_stock(sku)
        assert (level.on_hand, level.held, level.sold) == (on_hand, held, sold), sku
        assert (totals[sku].on_hand, totals[sku].sold) == (on_hand, sold), sku
        rows, _ = await store.archive.ledger(sku, limit=10)
        assert sum(row.delta for row in rows) == on_hand
    checkouts, _ = await store.list_checkouts(ANN)
    assert [checkout.payment.status for checkout in checkouts] == ["paid"]
    assert len(await store.archive.list_payments(ANN.cart_id, limit=10)) == 1
    assert {line.line_id: line.quantity for line in (await store.read_cart(ANN)).lines} == {"c": 2}
    assert {line.line_id: line.held for line in (await store.read_cart(BEN)).lines} == {"a": 1}
    snapshot = await store.archive.snapshots.find(ANN.cart_id)
    assert snapshot is not None
    assert [line.line_id for line in snapshot.lines] == ["c"]
