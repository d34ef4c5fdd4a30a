"""Goal: an engine of the key layout before is taken over with everything that it had, whoever dies.
Processes of the version before that still run can do nothing to it any more.

Method: the shop of the text fixtures, which the code of that layout has filled (make.py), and the calls and
statements of its processes, word for word.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import pytest
from property.shop_with_record import Died, ShopWithRecord, dying_at, open_shop_with_record
from redis.exceptions import ResponseError

from cartstore import Owner
from cartstore.errors import ConfigurationError, StoreRecovering
from cartstore.failpoints import FAILPOINTS
from cartstore.layout import LAYOUT, LAYOUT_BEFORE
from cartstore.model import owner_kind_of
from cartstore.recovery.gate import Recovery
from cartstore.recovery.rebuild import Progress
from cartstore.recovery.reconcile import Reconciler
from cartstore.recovery.report import table
from cartstore.redis.gate import Gate

from .old_shop import GATE, OldProcess, contents, fixture, load_engine, load_record, open_gate

AT = fixture("at")
BEATS = "{main:0}:beats"
JOBS = sorted(fixture("statements"))


@pytest.fixture
async def shop(redis_url: str, database_url: str) -> AsyncIterator[ShopWithRecord]:
    """The old shop, on an engine that was restarted since."""
    async with open_shop_with_record(redis_url, database_url) as shop:
        await load_record(database_url)
        await load_engine(redis_url)
        shop.clock.now_ms = AT["now_ms"]
        yield shop


@pytest.fixture
async def old(shop: ShopWithRecord, redis_url: str, database_url: str) -> OldProcess:
    """A process of the old shop, which is open."""
    identity = await shop.store.engine.caller.identity()
    await open_gate(redis_url, identity)
    return OldProcess(redis_url, database_url, identity)


async def take_over(shop: ShopWithRecord) -> None:
    await shop.store.archive.claim(namespace="main", partitions=1, key_layout=LAYOUT)
    assert await shop.store.recover()


def owner_of(cart_id: str) -> Owner:
    return Owner(owner_kind_of(cart_id), cart_id[2:])


async def assert_whole(shop: ShopWithRecord) -> None:
    """Carts, holds and stock are as the old shop had them, and the books balance."""
    store = shop.store
    for cart_id, lines in AT["carts"].items():
        cart = await store.read_cart(owner_of(cart_id))
        assert {line.line_id: [line.quantity, line.held] for line in cart.lines} == lines, cart_id
    for sku, counters in AT["stock"].items():
        level = await store.read_stock(sku)
        assert [level.on_hand, level.held, level.sold, level.backordered] == counters, sku
    await store.drain_outbox()
    await store.snapshot_carts()
    report = await Reconciler(store, confirm_seconds=0.01).run(repair=False)
    assert not report.drift, table(report)


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "restarted"])
async def test_engine_of_the_layout_before_is_taken_over_with_all_that_it_had(
    shop: ShopWithRecord, old: OldProcess, is_open: bool
) -> None:
    if is_open:
        assert (await old.call("cart_read"))[0] == b"OK"
    else:
        await shop.client.hset(GATE, "identity", "an engine that is gone")

    await take_over(shop)

    await assert_whole(shop)
    gate = await shop.client.hgetall(GATE)
    assert (gate["layout"], gate["status"], "state" in gate) == (str(LAYOUT), "open", False)
    checkouts, _ = await shop.store.list_checkouts(Owner("guest", "dan"))
    assert [checkout.payment.status for checkout in checkouts] == ["paid"]
    assert await shop.rows("SELECT key_layout FROM meta") == [(LAYOUT,)]


@pytest.mark.parametrize(
    "failpoint",
    [*sorted(its for its in FAILPOINTS if its.startswith("take_over.")), "rebuild.shut"],
)
async def test_take_over_begins_anew_when_the_process_died(
    shop: ShopWithRecord, old: OldProcess, failpoint: str
) -> None:
    with dying_at(failpoint, 1), pytest.raises(Died):
        await take_over(shop)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await old.write_cursor("recover")
    while not (await shop.store.readiness())["checks"]["gate"]["ok"]:
        with suppress(StoreRecovering):
            await shop.store.recover()

    await assert_whole(shop)


async def test_take_over_is_done_once_when_two_processes_begin_it(
    shop: ShopWithRecord, old: OldProcess
) -> None:
    await shop.store.archive.claim(namespace="main", partitions=1, key_layout=LAYOUT)

    outcomes = await asyncio.gather(shop.store.recover(), shop.store.recover(), return_exceptions=True)

    assert True in outcomes
    assert all(outcome is True or isinstance(outcome, StoreRecovering) for outcome in outcomes), outcomes
    await assert_whole(shop)


async def test_rebuild_begins_nothing_when_another_process_has_opened_the_gate_meanwhile(
    shop: ShopWithRecord, old: OldProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one took over between the look at the gate and the rebuild, and sells since."""
    rebuild = Recovery._rebuild

    async def rebuild_late(self: Recovery, seen: Gate, on_progress: Progress) -> bool:
        monkeypatch.undo()
        await shop.store.recover()
        await shop.store.add_line(Owner("user", "new"), "b", 1)
        return await rebuild(self, seen, on_progress)

    await shop.store.archive.claim(namespace="main", partitions=1, key_layout=LAYOUT)
    monkeypatch.setattr(Recovery, "_rebuild", rebuild_late)

    with pytest.raises(StoreRecovering):
        await shop.store.recover()

    assert (await shop.store.read_summary(Owner("user", "new"))).total_items == 1


async def test_carts_are_those_of_the_snapshots_when_the_engine_is_older_than_they_are(
    shop: ShopWithRecord, old: OldProcess
) -> None:
    """Its carts prove nothing then; its events are drained all the same."""
    await shop.client.hset(GATE, "change", 1)

    await take_over(shop)

    ann = await shop.store.read_cart(Owner("user", "ann"))
    assert [line.quantity for line in ann.lines] == [2, 1]
    checkouts, _ = await shop.store.list_checkouts(Owner("guest", "dan"))
    assert [checkout.payment.status for checkout in checkouts] == ["paid"]


async def test_carts_are_those_of_the_snapshots_when_not_all_events_can_be_drained(
    shop: ShopWithRecord, old: OldProcess
) -> None:
    """Behind a gap no event is applied, so no cart may be saved that has lost its lines to one."""
    entries = await shop.client.xrange("{main:0}:outbox")
    begun = next(position for position, its in reversed(entries) if its["type"] == "checkout_begun")
    await shop.client.xdel("{main:0}:outbox", begun)

    await take_over(shop)

    dan = await shop.store.read_cart(Owner("guest", "dan"))
    assert {line.line_id: line.quantity for line in dan.lines} == {"b": 3}


async def test_other_carts_are_saved_when_one_cannot_be_read(
    shop: ShopWithRecord, old: OldProcess, caplog: pytest.LogCaptureFixture
) -> None:
    await shop.client.hset("{main:0}:cart:u.ann", "l:a", "no line")

    await take_over(shop)

    ann = await shop.store.read_cart(Owner("user", "ann"))
    assert [line.quantity for line in ann.lines] == [2, 1]
    ben = await shop.store.read_cart(Owner("user", "ben"))
    assert {line.line_id: line.quantity for line in ben.lines} == {"d": 1, "pdf": 5}
    assert "cart u.ann cannot be read" in caplog.text


# --- processes of the version before ---------------------------------------------------------------


async def test_scripts_of_the_version_before_change_nothing_after_the_take_over(
    shop: ShopWithRecord, old: OldProcess, redis_url: str
) -> None:
    """A sign of life is the only thing that such a process still writes."""
    await take_over(shop)
    before = await contents(redis_url, without=(BEATS,))

    for name in sorted(fixture("scripts")["calls"]):
        with suppress(ResponseError):
            await old.call(name)
        assert await contents(redis_url, without=(BEATS,)) == before, name

    assert (await old.call("cart_add_line"))[0] == b"FENCED"
    assert (await old.call("cart_dump"))[0] == b"FENCED"
    await shop.store.add_line(Owner("user", "new"), "b", 1)


async def test_cursor_is_refused_to_the_version_before_after_the_take_over(
    shop: ShopWithRecord, old: OldProcess
) -> None:
    for job in JOBS:
        await old.write_cursor(job)
    await take_over(shop)
    before = await shop.rows("SELECT * FROM outbox_cursor")

    for job in JOBS:
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="this process of 4"):
            await old.write_cursor(job)

    assert await shop.rows("SELECT * FROM outbox_cursor") == before


async def test_gate_is_refused_to_a_recoverer_of_the_version_before_when_it_wakes_late(
    shop: ShopWithRecord, old: OldProcess, redis_url: str
) -> None:
    """It drew its epoch before the take-over, and its transaction was lost."""
    await take_over(shop)
    before = await contents(redis_url)
    now_open = await shop.client.hgetall(GATE)

    drawn = ["2", "21", "9000022", "7200000", "1", "4"]
    assert await old.call("gate_rebuild", args=drawn) == [b"RACED"]
    seen = ["fenced", now_open["identity"], now_open["epoch"], "9", "21", "9000022", "7200000", "1", "4"]
    assert await old.call("gate_open", args=seen) == [b"RACED"]

    assert await contents(redis_url) == before


async def test_scripts_fence_nothing_when_a_later_version_took_the_engine_over(
    shop: ShopWithRecord, old: OldProcess, redis_url: str
) -> None:
    """What the version before does to us, we do to nobody: our processes may still run then."""
    await take_over(shop)
    identity = await shop.client.hget(GATE, "identity")
    later = str(identity).replace(f"{LAYOUT}/", f"{LAYOUT + 1}/")
    await shop.client.hset(GATE, mapping={"identity": later, "layout": LAYOUT + 1})
    before = await contents(redis_url)

    with pytest.raises(StoreRecovering):
        await shop.store.add_line(Owner("user", "new"), "b", 1)
    with pytest.raises(ConfigurationError, match=r"of key layout 6, .* layout 5\. Start the version"):
        await shop.store.recover()

    assert await contents(redis_url) == before


# --- other layouts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "way"),
    [
        (LAYOUT_BEFORE - 1, f"Start a version of layout {LAYOUT_BEFORE} on it first"),
        (1, "docs/operations.md, Upgrading"),
        (LAYOUT + 1, "Start the version that it was written by"),
    ],
)
async def test_other_layouts_are_refused_with_the_way_to_go(
    shop: ShopWithRecord, redis_url: str, database_url: str, layout: int, way: str
) -> None:
    await shop.client.hset(GATE, "layout", layout)
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE meta SET key_layout = $1", layout)
    await connection.close()
    before = await contents(redis_url)

    with pytest.raises(ConfigurationError, match=way):
        await shop.store.recover()
    with pytest.raises(ConfigurationError, match=way):
        await shop.store.archive.claim(namespace="main", partitions=1, key_layout=LAYOUT)

    assert await contents(redis_url) == before
    assert await shop.rows("SELECT key_layout FROM meta") == [(layout,)]
