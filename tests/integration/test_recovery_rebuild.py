"""Goal: what PostgreSQL has comes back into an engine that lost it, whole and in the right order; others can
see how far it is.

Method: a store on the shared servers fills the shop, the engine is emptied or given an old state, and a
recoverer puts everything back; batches are made so small that every boundary between them is crossed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis
from chaos.shop import assert_sound, buy, check_out, opened, stock_up, until_open

from cartstore import Owner, Product, Variant, cli
from cartstore.archive.snapshots import CartSnapshots
from cartstore.embedded import Engine
from cartstore.errors import OutcomeUnknown, StoreError, StoreRecovering, StoreUnavailable
from cartstore.layout import LAYOUT
from cartstore.model import NO_GUARD
from cartstore.recovery import gate as recovery_gate
from cartstore.recovery import rebuild
from cartstore.recovery.audits import SkuAudit
from cartstore.recovery.counters import Counted, CounterAudit
from cartstore.redis.audit import AuditedRedisEngine
from cartstore.redis.caller import ClientCaller
from cartstore.redis.gate import read_gate
from cartstore.redis.keys import Keys
from cartstore.store import CartStore, terms_of

ANN, BEN, CLEO = Owner("user", "ann"), Owner("user", "ben"), Owner("guest", "cleo")
SMALL = {
    "PAGE_CARTS": 3,
    "CALL_CARTS": 2,
    "CALL_HOLDS": 2,
    "CALL_KEYS": 2,
    "CALL_PAYMENTS": 1,
    "CALL_SKUS": 2,
}


@pytest.fixture
async def store(redis_url: str, database_url: str) -> AsyncIterator[CartStore]:
    async with opened(redis_url, database_url) as store:
        await stock_up(store)
        yield store


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.Redis]:
    async with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


async def archive_all(store: CartStore) -> None:
    await store.drain_outbox()
    await store.snapshot_carts()


async def held_by(store: CartStore, owner: Owner) -> dict[str, int]:
    return {line.line_id: line.held for line in (await store.read_cart(owner)).lines}


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """The first rebuild sets the first event before it takes holds again, and waits for the second."""
    is_asleep, wake = asyncio.Event(), asyncio.Event()
    hold_again = rebuild.Rebuild._hold_again

    async def sleep_before_the_holds(self: rebuild.Rebuild, held: list[tuple[int, str, str]]) -> None:
        if not is_asleep.is_set():
            is_asleep.set()
            await wake.wait()
        await hold_again(self, held)

    monkeypatch.setattr(rebuild.Rebuild, "_hold_again", sleep_before_the_holds)
    monkeypatch.setattr(rebuild, "BEAT_SECONDS", 0.01)
    return is_asleep, wake


async def rebuild_until_asleep(
    store: CartStore, client: redis.Redis, asleep: tuple[asyncio.Event, asyncio.Event]
) -> asyncio.Task[bool]:
    """A rebuild of an emptied engine with one cart, which sleeps."""
    await store.add_line(ANN, "a")
    await archive_all(store)
    await client.flushdb()
    rebuilding = asyncio.create_task(store.recover())
    await asleep[0].wait()
    return rebuilding


async def test_everything_comes_back_when_no_batch_holds_it_all(
    store: CartStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in SMALL.items():
        monkeypatch.setattr(rebuild, name, size)
    owners = [Owner("user" if number % 2 else "guest", f"o{number}") for number in range(7)]
    for number, owner in enumerate(owners):
        for sku in "abc"[: 1 + number % 3]:
            await store.add_line(owner, sku, 1 + number % 2)
        await store.add_line(owner, "a", 1, properties={"text": f"{owner.cart_id} {{}} '\" ä"})
    for number in range(3):
        await check_out(store, Owner("guest", f"paying{number}"), "b", 2)
    await archive_all(store)
    carts = [await store.read_cart(owner) for owner in owners]
    levels = [await store.read_stock(sku) for sku in "abc"]
    told: list[tuple[str, int, int | None]] = []

    await client.delete(*[key async for key in client.scan_iter("{main:0}:cart:*")])
    await client.hset("{main:0}:gate", "identity", "an engine that is gone")
    await client.delete("{main:0}:outbox")
    assert await store.recover(lambda *far: told.append(far))

    for owner, before in zip(owners, carts, strict=True):
        after = await store.read_cart(owner)
        assert [
            (
                line.line_id,
                line.quantity,
                line.held,
                line.unit_price_minor,
                line.properties_json,
                line.added_at_ms,
            )
            for line in after.lines
        ] == [
            (
                line.line_id,
                line.quantity,
                line.held,
                line.unit_price_minor,
                line.properties_json,
                line.added_at_ms,
            )
            for line in before.lines
        ]
        assert after.summary.version > before.summary.version + 900_000
        assert (after.summary.total_items, after.summary.subtotal_minor) == (
            before.summary.total_items,
            before.summary.subtotal_minor,
        )
    assert [await store.read_stock(sku) for sku in "abc"] == levels
    assert {("SKUs", 3, None), ("pending payments", 3, 3), ("carts", 7, 7)} <= set(told)
    assert told[-1][0] == "holds"
    assert told[-1][1] == told[-1][2] == sum(1 for cart in carts for line in cart.lines if line.held)
    await assert_sound(store)


async def test_who_was_first_is_first_again_when_there_are_too_few_units(
    store: CartStore, client: redis.Redis
) -> None:
    await store.set_stock("a", 2, reason="count", reference="two")
    await store.add_line(BEN, "a")
    await asyncio.sleep(0.005)
    await store.add_line(ANN, "a")
    await archive_all(store)
    # Of this no snapshot is taken: the record has two carts and an order for two units.
    await store.clear_cart(ANN)
    await buy(store, CLEO, "a")
    await store.drain_outbox()

    await client.flushdb()
    await until_open(store)

    assert await held_by(store, BEN) == {"a": 1}
    assert await held_by(store, ANN) == {"a": 0}
    await assert_sound(store, units=2, skus=["a"])


async def test_lapsed_hold_is_not_taken_again_when_its_snapshot_still_has_it(
    redis_url: str, database_url: str, client: redis.Redis
) -> None:
    """A hold that lapses is no mutation. Whoever left long ago must not be first in line after a loss."""
    async with opened(redis_url, database_url, hold_ttl_member_seconds=1) as store:
        await stock_up(store)
        variant = Variant(sku="long", price_minor=1_000, policy="deny", hold_ttl_seconds=600)
        await store.put_product(Product(id="long", title="Long", currency="USD", variants=(variant,)))
        await store.adjust_stock("long", 1, reason="delivery", reference="1")
        await store.add_line(ANN, "a", 2)
        await store.add_line(ANN, "long")
        await store.add_line(CLEO, "b")
        await archive_all(store)
        await asyncio.sleep(1.1)
        await store.add_line(BEN, "a")
        await archive_all(store)

        await client.flushdb()
        await until_open(store)

        assert await held_by(store, ANN) == {"a": 0, "long": 1}
        assert await held_by(store, CLEO) == {"b": 1}


async def _put_last_unit(store: CartStore, *, hold_ttl_seconds: int) -> None:
    variant = Variant(sku="last", price_minor=1_000, policy="deny", hold_ttl_seconds=hold_ttl_seconds)
    await store.put_product(Product(id="last", title="Last", currency="USD", variants=(variant,)))


async def test_hold_comes_back_when_it_was_only_extended_since_its_snapshot(
    store: CartStore, client: redis.Redis
) -> None:
    await _put_last_unit(store, hold_ttl_seconds=1)
    await store.adjust_stock("last", 1, reason="delivery", reference="1")
    await store.add_line(ANN, "last")
    await archive_all(store)
    # Extended under terms that last longer than this test, and nothing else changes the cart.
    await _put_last_unit(store, hold_ttl_seconds=600)
    await store.extend_holds(ANN)
    await asyncio.sleep(1.1)
    await archive_all(store)

    await client.flushdb()
    await until_open(store)

    assert await held_by(store, ANN) == {"last": 1}


@pytest.mark.parametrize("change", ["add", "return"])
async def test_lapsed_hold_is_not_taken_again_when_its_cart_was_changed_without_extending_it(
    store: CartStore, client: redis.Redis, change: str
) -> None:
    """A change extends no hold that had lapsed, and lines that come back extend none at all."""
    await _put_last_unit(store, hold_ttl_seconds=1)
    await store.adjust_stock("last", 1, reason="delivery", reference="1")
    begun = await check_out(store, ANN, "b")
    await store.add_line(ANN, "last")
    if change == "add":
        await asyncio.sleep(1.1)
        await store.add_line(ANN, "a")
    else:
        await store.cancel_order(begun.orders[0].order_id, ANN)
        await asyncio.sleep(1.1)
    await archive_all(store)
    # The unit goes to another, for longer. That changes nothing of the first cart, nor of its snapshot.
    await _put_last_unit(store, hold_ttl_seconds=600)
    await store.add_line(BEN, "last")
    await archive_all(store)

    await client.flushdb()
    await until_open(store)

    assert await held_by(store, BEN) == {"last": 1}
    assert (await held_by(store, ANN))["last"] == 0


async def test_rebuild_ends_when_carts_cannot_be_counted_in_time(
    store: CartStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.add_line(ANN, "a")
    await archive_all(store)

    async def time_out(_: CartSnapshots) -> int:
        raise StoreUnavailable("The database cannot be reached.")

    monkeypatch.setattr(CartSnapshots, "count_live", time_out)
    await client.flushdb()
    await store.recover()

    assert await held_by(store, ANN) == {"a": 1}


async def test_order_is_released_on_the_way_when_its_window_was_over(
    redis_url: str, database_url: str, client: redis.Redis
) -> None:
    """That appends an event while the partition is rebuilt, which must not come before the proof."""
    async with opened(redis_url, database_url, payment_window_seconds=1) as store:
        await stock_up(store)
        await store.add_line(BEN, "b")
        await store.add_line(BEN, "a")
        lapsed = (await check_out(store, ANN, "a", 2)).payment
        await store.drain_outbox()
        # Its window ends while nobody sweeps; the snapshot is the engine's last sign of life.
        await asyncio.sleep(1.1)
        await store.snapshot_carts()

        await client.flushdb()
        await until_open(store)

        assert (await store.read_payment(lapsed.payment_id, ANN)).payment.status == "expired"
        assert await held_by(store, BEN) == {"b": 1, "a": 1}
        assert await held_by(store, ANN) == {"a": 0}
        await assert_sound(store)


async def test_repair_of_a_counter_misses_when_it_was_found_before_the_engine_was_lost(
    store: CartStore, client: redis.Redis
) -> None:
    engine = store.engine
    assert isinstance(engine, AuditedRedisEngine)
    await archive_all(store)
    found = await engine.audit_sku("a")
    assert isinstance(found, SkuAudit)
    await client.flushdb()
    await until_open(store)

    for rev in range(found.rev + 3):
        stale = CounterAudit(sku="a", epoch=found.epoch, rev=rev, counter=Counted(held=0, guest_held=0))
        assert not await engine.repair_held(stale, Counted(held=1, guest_held=0))

    assert (await store.read_stock("a")).held == 0


async def test_others_see_how_far_it_is_when_one_rebuilds(
    store: CartStore,
    redis_url: str,
    database_url: str,
    client: redis.Redis,
    asleep: tuple[asyncio.Event, asyncio.Event],
) -> None:
    is_asleep, wake = asleep
    await store.add_line(ANN, "a")
    await store.add_line(BEN, "a")
    await archive_all(store)
    await client.flushdb()
    rebuilding = asyncio.create_task(store.recover())
    await is_asleep.wait()
    async with opened(redis_url, database_url) as other:
        async with asyncio.timeout(10):
            while not (await read_gate(client, Keys(store.partition))).progress.startswith("carts"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        readiness = await other.readiness()

        assert not readiness["ready"]
        assert readiness["checks"]["gate"] == {"ok": False, "detail": "rebuilding, carts: 2 of 2"}
        wake.set()
        assert await rebuilding
        assert (await other.readiness())["checks"]["gate"] == {"ok": True, "detail": "open"}
    assert (await read_gate(client, Keys(store.partition))).progress == ""


@pytest.fixture
def environment(redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("CARTSTORE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CARTSTORE_REDIS_URL", redis_url)
    monkeypatch.setenv("CARTSTORE_DATABASE_URL", database_url)
    monkeypatch.setattr(cli, "PROGRESS_SECONDS", 0.02)


@pytest.mark.usefixtures("environment")
async def test_command_tells_how_far_it_is_when_it_rebuilds(
    store: CartStore, client: redis.Redis, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    await store.add_line(ANN, "a")
    await archive_all(store)
    await client.flushdb()

    status = await asyncio.to_thread(cli.main, ["recover", "--data-dir", str(tmp_path / "d")])

    told = capfd.readouterr()
    assert status == 0, told
    for line in ("SKUs: 3", "carts: 1 of 1", "holds: 1 of 1"):
        assert line in told.err
    assert "gate: open" in told.out


@pytest.mark.parametrize("error", [StoreUnavailable("no"), OutcomeUnknown()])
async def test_rebuild_goes_on_showing_that_it_is_alive_when_one_sign_was_lost(
    store: CartStore,
    client: redis.Redis,
    asleep: tuple[asyncio.Event, asyncio.Event],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    call, failures, has_beaten = rebuild.Rebuild._call, [error], asyncio.Event()

    async def fail_once(self: rebuild.Rebuild, name: str, *parts: Any) -> list[str]:
        if name == "rebuild_beat" and failures:
            raise failures.pop()
        reply = await call(self, name, *parts)
        if name == "rebuild_beat":
            has_beaten.set()
        return reply

    monkeypatch.setattr(rebuild.Rebuild, "_call", fail_once)
    rebuilding = await rebuild_until_asleep(store, client, asleep)
    async with asyncio.timeout(20):
        await has_beaten.wait()
    assert (await read_gate(client, Keys(store.partition))).beat > 0
    asleep[1].set()

    assert await rebuilding
    assert not failures
    assert await held_by(store, ANN) == {"a": 1}


async def test_rebuild_shows_no_more_that_it_is_alive_when_another_took_over(
    store: CartStore,
    client: redis.Redis,
    asleep: tuple[asyncio.Event, asyncio.Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each call of one that lost its place would shut the gate that the other has opened."""
    call, beats = rebuild.Rebuild._call, 0

    async def refuse_beats(self: rebuild.Rebuild, name: str, *parts: Any) -> list[str]:
        nonlocal beats
        if name == "rebuild_beat":
            beats += 1
            raise StoreRecovering("Another process took the rebuild over.")
        return await call(self, name, *parts)

    monkeypatch.setattr(rebuild.Rebuild, "_call", refuse_beats)
    rebuilding = await rebuild_until_asleep(store, client, asleep)
    await asyncio.sleep(20 * rebuild.BEAT_SECONDS)
    asleep[1].set()

    assert await rebuilding
    assert beats == 1


@pytest.mark.usefixtures("environment")
async def test_command_watches_and_takes_over_when_the_other_rebuild_stops(
    store: CartStore,
    client: redis.Redis,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    asleep: tuple[asyncio.Event, asyncio.Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery_gate, "REBUILD_SILENCE_SECONDS", 0.3)
    is_asleep, _ = asleep
    await store.add_line(ANN, "a")
    await archive_all(store)
    await client.flushdb()
    rebuilding = asyncio.create_task(store.recover())
    await is_asleep.wait()
    command = asyncio.create_task(asyncio.to_thread(cli.main, ["recover", "--data-dir", str(tmp_path / "d")]))
    await asyncio.sleep(0.3)
    # Like a process that died: no beat any more.
    rebuilding.cancel()
    with suppress(asyncio.CancelledError):
        await rebuilding

    async with asyncio.timeout(60):
        status = await command

    told = capfd.readouterr()
    assert status == 0, told
    assert "rebuilding, carts: 1 of 1" in told.err
    assert "holds: 1 of 1" in told.err
    assert await held_by(store, ANN) == {"a": 1}


async def test_gate_of_an_engine_that_restarts_between_two_questions_is_not_open(
    store: CartStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files hold the gate that the engine before had opened."""
    gate = await read_gate(client, Keys(store.partition))
    engine_runs = [gate.identity, "the run after the restart"]
    caller = ClientCaller(client, identity="")

    async def identity() -> str:
        return engine_runs.pop(0)

    async def gate_of_both_runs(*_: object) -> recovery_gate.Gate:
        engine_runs.pop(0)
        return gate

    monkeypatch.setattr(caller, "identity", identity)
    monkeypatch.setattr(recovery_gate, "read_gate", gate_of_both_runs)
    monkeypatch.setattr(store._recovery, "_caller", caller)

    assert await store._recovery.gate() == (gate, False)


async def test_call_packed_for_the_old_engine_changes_nothing_when_another_one_gets_it(
    store: CartStore, client: redis.Redis
) -> None:
    """Before the recovery, when it may be the first call that the new engine gets, and long after it."""
    old = f"{LAYOUT}/run id and replication id of the engine before"
    late = AuditedRedisEngine(ClientCaller(client, identity=old), store.partition, client)
    terms = terms_of(store.settings, "user")
    await store.add_line(ANN, "a")
    await archive_all(store)
    before = await client.dump("{main:0}:cart:u.ann")
    gate = await read_gate(client, Keys(store.partition))

    for identity, state in ((gate.identity, "open"), (old, "open"), (old, "fenced")):
        await client.hset("{main:0}:gate", mapping={"identity": identity, "status": state})
        with pytest.raises(StoreRecovering):
            await (late if identity != old else store.engine).clear_cart("u.ann", terms=terms, guard=NO_GUARD)
        assert (await read_gate(client, Keys(store.partition))).state == "fenced"
    await until_open(store)

    assert await client.dump("{main:0}:cart:u.ann") == before


async def test_shop_is_rebuilt_when_an_old_copy_of_the_engine_was_restored(
    server_folder: Path, database_url: str
) -> None:
    """A copy of its files from before the last orders: found out, and put right from the record."""
    folder, backup = server_folder / "restored", server_folder / "backup"
    engine = Engine(folder, password="of the copy")
    engine.start()
    try:
        async with opened(engine.url(), database_url) as store:
            await stock_up(store)
            await buy(store, ANN)
            await store.add_line(ANN, "b", 2)
            await archive_all(store)
            engine.stop()
            shutil.copytree(folder / "appendonlydir", backup)
            engine.start()
            await until_open(store)
            later = await buy(store, CLEO, "a", 3)
            await store.add_line(BEN, "c", 4)
            await archive_all(store)

            engine.kill()
            shutil.rmtree(folder / "appendonlydir")
            shutil.copytree(backup, folder / "appendonlydir")
            engine.start()
            with pytest.raises(StoreError):
                await store.add_line(CLEO, "a")
            await until_open(store)

            assert (await store.read_payment(later, CLEO)).payment.status == "paid"
            assert await held_by(store, BEN) == {"c": 4}
            assert await held_by(store, ANN) == {"b": 2}
            assert (await store.read_stock("a")).sold == 4
            await assert_sound(store)
    finally:
        engine.kill()
        shutil.rmtree(backup, ignore_errors=True)


async def test_cart_comes_back_with_what_nothing_sets_yet_when_the_engine_was_lost(
    store: CartStore, client: redis.Redis
) -> None:
    cart = "{main:0}:cart:u.ann"
    await store.add_line(ANN, "a")
    await client.eval(
        "local cart = { cmsgpack.unpack(redis.call('HGET', KEYS[1], 'a')) }"
        " cart[14], cart[15] = 60000, 'u.ben'"
        " redis.call('HSET', KEYS[1], 'a', cmsgpack.pack(unpack(cart)))",
        1,
        cart,
    )
    await archive_all(store)

    await client.flushdb()
    await store.recover()

    kept = await client.eval("return {cmsgpack.unpack(redis.call('HGET', KEYS[1], 'a'))}", 1, cart)
    assert kept[13:15] == [60_000, "u.ben"]
