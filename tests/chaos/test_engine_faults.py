"""Goal: whatever happens to the engine, no unit is sold twice, no acknowledged order is lost, and writes are
accepted again without a hand on anything.

Method: each test has an engine of its own, does to it what machines do to engines, and then lets a store
recover as every worker does each second. The record's orders must be there, units must add up in both stores,
and nothing may have drifted.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis

import cartstore
from cartstore import Owner, Product, Variant
from cartstore.embedded import Engine
from cartstore.errors import (
    ConfigurationError,
    OutcomeUnknown,
    StoreError,
    StoreFull,
    StoreRecovering,
    StoreUnavailable,
)
from cartstore.layout import LAYOUT
from cartstore.model import Guard
from cartstore.recovery import gate as recovery_gate
from cartstore.recovery import rebuild
from cartstore.recovery.reconcile import Reconciler
from cartstore.redis.gate import read_gate
from cartstore.redis.keys import Keys
from cartstore.store import CartStore

from .actors import settings_of
from .shop import assert_sound, buy, check_out, opened, stock_up, until_open

ANN, BEN, CLEO = Owner("user", "ann"), Owner("user", "ben"), Owner("guest", "cleo")
PASSWORD = "of the attacks"


@pytest.fixture
def own_engine(server_folder: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = Engine(server_folder / f"own-{abs(hash(request.node.nodeid))}", password=PASSWORD)
    engine.start()
    yield engine
    engine.kill()


@pytest.fixture
async def store(own_engine: Engine, database_url: str) -> AsyncIterator[CartStore]:
    async with opened(own_engine.url(), database_url) as store:
        await stock_up(store)
        yield store


@pytest.fixture
async def client(own_engine: Engine) -> AsyncIterator[redis.Redis]:
    async with redis.Redis.from_url(own_engine.url(), decode_responses=True) as client:
        yield client


def restart(engine: Engine) -> None:
    engine.kill()
    engine.start()


async def fill(store: CartStore) -> str:
    """Ann has bought one unit and holds two; ben is paying for three. Archived; ben's payment id."""
    await buy(store, ANN)
    await store.add_line(ANN, "b", 2)
    pending = (await check_out(store, BEN, "c", 3)).payment.payment_id
    await store.drain_outbox()
    await store.snapshot_carts()
    return pending


async def assert_filled(store: CartStore, pending: str) -> None:
    assert [line.held for line in (await store.read_cart(ANN)).lines] == [2]
    assert (await store.read_payment(pending, BEN)).payment.status == "pending"
    assert [await sold(store, sku) for sku in "abc"] == [1, 0, 0]
    assert (await store.apply_verdict(pending, "succeeded")).payment.status == "paid"
    await assert_sound(store)


async def sold(store: CartStore, sku: str) -> int:
    return (await store.read_stock(sku)).sold


async def test_nothing_is_missing_when_the_engine_is_killed_and_restarted(
    store: CartStore, own_engine: Engine
) -> None:
    pending = await fill(store)
    await store.add_line(CLEO, "a", 1)
    before = (await store.read_cart(CLEO)).summary.version

    restart(own_engine)

    await until_open(store)
    assert (await store.read_cart(CLEO)).summary.version == before
    await assert_filled(store, pending)


async def test_writes_are_fenced_by_the_next_call_when_the_engine_is_another(
    store: CartStore, own_engine: Engine, client: redis.Redis
) -> None:
    restart(own_engine)
    # The first calls may still meet the connection that broke.
    raised: StoreError | None = None
    while not isinstance(raised, StoreRecovering):
        with pytest.raises(StoreError) as caught:
            await store.add_line(ANN, "a")
        raised = caught.value

    with pytest.raises(StoreRecovering):
        await store.add_line(ANN, "a")

    assert (await read_gate(client, Keys(store.partition))).state == "fenced"
    assert (await store.readiness())["checks"]["gate"] == {"ok": False, "detail": "fenced"}


async def test_shop_is_rebuilt_when_the_engine_is_emptied(store: CartStore, client: redis.Redis) -> None:
    pending = await fill(store)
    version = (await store.read_cart(ANN)).summary.version

    await client.flushall()
    await client.script_flush()

    with pytest.raises(StoreRecovering):
        await store.add_line(ANN, "a")
    await until_open(store)
    assert (await store.read_cart(ANN)).summary.version > version + 900_000
    await assert_filled(store, pending)


async def test_shop_is_rebuilt_when_the_log_lost_its_tail(store: CartStore, own_engine: Engine) -> None:
    pending = await fill(store)
    log = next((Path(own_engine.log).parent / "appendonlydir").glob("*.incr.aof"))
    size = log.stat().st_size
    later = await buy(store, CLEO)
    await store.drain_outbox()

    own_engine.kill()
    os.truncate(log, size)
    own_engine.start()

    await until_open(store)
    assert (await store.read_payment(later, CLEO)).payment.status == "paid"
    assert await sold(store, "a") == 2
    assert (await store.apply_verdict(pending, "succeeded")).payment.status == "paid"
    await assert_sound(store)


async def test_checkout_and_payment_are_acknowledged_again_when_the_shop_was_rebuilt(
    own_engine: Engine, database_url: str, client: redis.Redis
) -> None:
    """What a rebuild, or a repeated payment, puts back from the record has no event of this engine."""
    settings = settings_of(own_engine.url(), database_url, checkout_ack="archived", ack_timeout_ms=2_000)
    async with cartstore.open_store(settings) as store:
        await stock_up(store)
        pending = await check_out(store, BEN, "c", 3, key="pending")
        paid = await buy(store, ANN)

        await client.flushall()
        await until_open(store)

        again = await store.begin_checkout(
            BEN, idempotency_key="pending", gateway="simulated", payment_method="card"
        )
        assert (again.payment.payment_id, again.replayed) == (pending.payment.payment_id, True)
        for _ in range(2):
            result = await store.apply_verdict(paid, "succeeded")
            assert (result.payment.status, result.changed) == ("paid", False)
        assert await sold(store, "a") == 1
        await assert_sound(store)


async def test_shop_is_rebuilt_when_the_window_of_a_pending_order_is_over(
    own_engine: Engine, database_url: str, client: redis.Redis
) -> None:
    """Holding the SKU again for somebody else releases that order, with an event, while it is rebuilt."""
    async with opened(own_engine.url(), database_url, payment_window_seconds=1) as store:
        await stock_up(store)
        pending = (await check_out(store, BEN, "c", 3)).payment.payment_id
        await store.add_line(ANN, "c", 2)
        await store.drain_outbox()
        await asyncio.sleep(1.1)
        await store.snapshot_carts()
        await client.flushall()

        await until_open(store)

        assert (await store.read_payment(pending, BEN)).payment.status == "expired"
        assert [line.held for line in (await store.read_cart(ANN)).lines] == [2]
        assert [line.quantity for line in (await store.read_cart(BEN)).lines] == [3]
        await assert_sound(store)


async def test_other_history_is_found_out_when_it_issued_the_same_numbers(
    store: CartStore, own_engine: Engine, client: redis.Redis
) -> None:
    """The engine lost its tail, and a hand opened the gate: the new events have the old ones' positions."""
    await fill(store)
    log = next((Path(own_engine.log).parent / "appendonlydir").glob("*.incr.aof"))
    size = log.stat().st_size
    later = await buy(store, CLEO)
    await store.drain_outbox()
    own_engine.kill()
    os.truncate(log, size)
    own_engine.start()
    info = {**await client.info("server"), **await client.info("replication")}
    await client.hset(
        "{main:0}:gate",
        mapping={"status": "open", "identity": f"{LAYOUT}/{info['run_id']}:{info['master_replid']}"},
    )
    await until_open(store)
    await buy(store, BEN, "b")
    await buy(store, BEN, "b")

    with pytest.raises(StoreRecovering):
        await store.drain_outbox()

    await until_open(store)
    assert (await store.read_payment(later, CLEO)).payment.status == "paid"
    await assert_sound(store)


async def test_late_trim_removes_nothing_when_the_history_is_another(
    store: CartStore, client: redis.Redis
) -> None:
    await fill(store)
    applied, _ = await store.archive.cursor()
    await client.flushall()
    await until_open(store)
    await buy(store, CLEO)
    length = await client.xlen("{main:0}:outbox")
    await client.xdel("{main:0}:outbox", str(applied))

    with pytest.raises(StoreRecovering):
        await store._outbox.trim(applied)

    assert await client.xlen("{main:0}:outbox") == length - 1


async def test_only_one_rebuild_counts_when_the_other_slept(
    store: CartStore,
    own_engine: Engine,
    database_url: str,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pending = await fill(store)
    await client.flushall()
    monkeypatch.setattr(recovery_gate, "REBUILD_SILENCE_SECONDS", 0.0)
    asleep, wake = asyncio.Event(), asyncio.Event()
    hold_again = rebuild.Rebuild._hold_again

    async def sleep_before_the_holds(self: rebuild.Rebuild, held: list[tuple[int, str, str]]) -> None:
        if not asleep.is_set():
            asleep.set()
            await wake.wait()
        await hold_again(self, held)

    monkeypatch.setattr(rebuild.Rebuild, "_hold_again", sleep_before_the_holds)
    sleeper = asyncio.create_task(store.recover())
    await asleep.wait()
    async with opened(own_engine.url(), database_url) as other:
        await until_open(other)
        await buy(other, CLEO)
        wake.set()

        with pytest.raises(StoreRecovering):
            await sleeper

        assert await sold(other, "a") == 2
        assert (await other.apply_verdict(pending, "succeeded")).payment.status == "paid"
        await assert_sound(other)


@pytest.fixture
async def replica(own_engine: Engine, server_folder: Path, store: CartStore) -> AsyncIterator[Engine]:
    """Follows the store's engine, which is open again after getting its first replica."""
    replica = Engine(
        server_folder / f"{own_engine.port}-replica",
        password=PASSWORD,
        config=[
            f"replicaof 127.0.0.1 {own_engine.port}",
            f"masterauth {PASSWORD!r}".replace("'", '"'),
            "min-replicas-max-lag 1",
        ],
    )
    replica.start()
    try:
        async with redis.Redis.from_url(replica.url(), decode_responses=True) as client:
            async with asyncio.timeout(20):
                while (await client.info("replication"))["master_link_status"] != "up":  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        # An engine that gets its first replica gives itself a new replication id: recovered from as well.
        await until_open(store)
        yield replica
    finally:
        replica.kill()


async def promote(replica: Engine) -> None:
    async with redis.Redis.from_url(replica.url(), decode_responses=True) as client:
        await client.execute_command("REPLICAOF", "NO", "ONE")


async def test_orders_are_there_when_a_replica_is_promoted_that_missed_the_last_writes(
    store: CartStore, own_engine: Engine, replica: Engine, database_url: str
) -> None:
    pending = await fill(store)
    async with redis.Redis.from_url(own_engine.url(), decode_responses=True) as client:
        assert await client.wait(1, 20_000) == 1
    await promote(replica)
    missed = await buy(store, CLEO)
    await store.drain_outbox()

    async with opened(replica.url(), database_url) as after:
        await until_open(after)
        assert (await after.read_payment(missed, CLEO)).payment.status == "paid"
        assert await sold(after, "a") == 2
        assert (await after.apply_verdict(pending, "succeeded")).payment.status == "paid"
        await assert_sound(after)

        # The old primary still has its gate open for itself; its drain must find out.
        await buy(store, BEN, "b")
        with pytest.raises(StoreRecovering):
            await store.drain_outbox()


async def test_promoted_replica_waits_until_its_primary_has_stopped(
    store: CartStore, replica: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off from its replicas, the old primary acknowledges writes for as long as it is allowed to."""
    await fill(store)
    await promote(replica)

    monkeypatch.setattr(recovery_gate, "PROMOTION_MARGIN_SECONDS", 3_600.0)
    async with opened(replica.url(), database_url) as after:
        with pytest.raises(StoreRecovering, match="old primary"):
            await after.recover()
        assert not (await after.readiness())["checks"]["gate"]["ok"]

        monkeypatch.setattr(recovery_gate, "PROMOTION_MARGIN_SECONDS", 0.0)
        await until_open(after)
        await assert_sound(after)


async def test_engine_that_is_only_restarted_does_not_wait_for_a_primary(
    store: CartStore, own_engine: Engine, replica: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store)
    monkeypatch.setattr(recovery_gate, "PROMOTION_MARGIN_SECONDS", 3_600.0)

    own_engine.kill()
    own_engine.start()

    await until_open(store)
    await assert_sound(store)


@pytest.mark.parametrize(("replicas", "lag"), [(0, 10), (1, 0), (1, 11)])
async def test_engine_whose_old_primary_would_go_on_is_refused_when_its_word_counts(
    own_engine: Engine,
    replica: Engine,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
    replicas: int,
    lag: int,
) -> None:
    async with redis.Redis.from_url(own_engine.url(), decode_responses=True) as client:
        await client.config_set("min-replicas-to-write", replicas)
        await client.config_set("min-replicas-max-lag", lag)

    with pytest.raises(ConfigurationError, match="min-replicas-to-write"):
        async with opened(own_engine.url(), database_url, checkout_ack="engine"):
            pass
    async with opened(own_engine.url(), database_url, checkout_ack="archived"):
        assert "min-replicas-max-lag" in caplog.text


async def test_engine_whose_old_primary_stops_is_taken(
    own_engine: Engine, replica: Engine, database_url: str
) -> None:
    async with redis.Redis.from_url(own_engine.url(), decode_responses=True) as client:
        await client.config_set("min-replicas-to-write", 1)

    async with opened(own_engine.url(), database_url, checkout_ack="engine") as store:
        assert (await store.readiness())["checks"]["engine"]["ok"]


async def test_call_is_unknown_and_repeatable_when_the_engine_stands_still(
    store: CartStore, own_engine: Engine
) -> None:
    await store.add_line(ANN, "a", 2)
    assert own_engine.pid is not None
    os.kill(own_engine.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreError) as caught:
            await store.begin_checkout(ANN, idempotency_key="k", gateway="simulated", payment_method="card")
    finally:
        os.kill(own_engine.pid, signal.SIGCONT)

    assert isinstance(caught.value, OutcomeUnknown)
    await until_open(store)
    checkout = await store.begin_checkout(
        ANN, idempotency_key="k", gateway="simulated", payment_method="card"
    )
    assert (await store.apply_verdict(checkout.payment.payment_id, "succeeded")).payment.status == "paid"
    assert await sold(store, "a") == 2
    await assert_sound(store)


async def test_payments_and_releases_work_when_memory_is_full(store: CartStore, client: redis.Redis) -> None:
    await store.add_line(ANN, "a", 2)
    paying = (await check_out(store, BEN, "b", 3)).payment.payment_id
    giving_up = (await check_out(store, CLEO, "c", 3)).orders[0].order_id

    await client.config_set("maxmemory", 1)

    with pytest.raises(StoreFull):
        await store.add_line(Owner("user", "dan"), "a")
    assert (await store.apply_verdict(paying, "succeeded")).payment.status == "paid"
    assert (await store.cancel_order(giving_up, CLEO)).payment.status == "cancelled"
    await store.remove_line(ANN, "a")
    assert await store.drain_outbox() > 0
    await client.config_set("maxmemory", 0)
    assert (await store.read_cart(CLEO)).summary.total_items == 3
    await assert_sound(store)


@pytest.mark.parametrize("is_known", [True, False])
async def test_quantity_can_be_lowered_when_memory_is_full(
    store: CartStore, client: redis.Redis, is_known: bool
) -> None:
    """Also where the engine has no room for the function itself, as after a release or a FUNCTION FLUSH."""
    await store.add_line(ANN, "a", 3)
    await store.set_quantity(ANN, "a", 2)
    if not is_known:
        await client.function_flush("SYNC")
    await client.config_set("maxmemory", 1)

    await store.set_quantity(ANN, "a", 1)

    assert len(await client.function_list()) == (2 if is_known else 0)
    await client.config_set("maxmemory", 0)
    assert (await store.read_stock("a")).held == 1
    await assert_sound(store)


@pytest.mark.parametrize(
    ("version", "is_refused"), [("6.2.14", True), ("7.0.0-rc1", False), ("unknown", False)]
)
async def test_engine_is_refused_when_it_is_too_old_for_functions(
    own_engine: Engine,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    is_refused: bool,
) -> None:
    """With one, every add would be told as a fault of ours. No package has one: its version is pretended."""
    info = redis.Redis.info

    async def pretend(client: redis.Redis, section: str) -> dict[str, Any]:
        facts = await info(client, section)
        return facts | {"redis_version": version} if section == "server" else facts

    monkeypatch.setattr(redis.Redis, "info", pretend)

    with pytest.raises(ConfigurationError, match=r"7\.0 is the oldest") if is_refused else nullcontext():
        async with opened(own_engine.url(), database_url):
            pass


@pytest.mark.parametrize("setting", ["maxmemory", "min-replicas-to-write"])
async def test_repeated_add_gives_the_first_result_when_the_engine_takes_no_writes(
    store: CartStore, client: redis.Redis, setting: str
) -> None:
    """Whoever got no answer repeats the call; "not applied" would be untrue."""
    guard = Guard(idempotency_key="k", fingerprint="f")
    first = await store.add_line(ANN, "a", 2, guard=guard)
    changed = await store.set_quantity(ANN, "a", 1, guard=Guard(idempotency_key="s", fingerprint="g"))
    await client.config_set(setting, 1)
    try:
        again = await store.add_line(ANN, "a", 2, guard=guard)
        assert (again.replayed, again.summary) == (True, first.summary)
        again = await store.set_quantity(ANN, "a", 1, guard=Guard(idempotency_key="s", fingerprint="g"))
        assert (again.replayed, again.summary) == (True, changed.summary)
        with pytest.raises(StoreUnavailable):
            await store.add_line(ANN, "b", 1, guard=Guard(idempotency_key="other", fingerprint="f"))
        with pytest.raises(StoreUnavailable):
            await store.add_line(ANN, "b", 1)
    finally:
        await client.config_set(setting, 0)
    assert (await store.read_cart(ANN)).summary.total_items == 1
    await assert_sound(store)


@pytest.mark.parametrize("others", [{}, {"identity": "of an engine that is gone"}])
async def test_engine_is_left_alone_when_it_has_another_key_layout(
    store: CartStore, client: redis.Redis, others: dict[str, str]
) -> None:
    """Open or not."""
    await client.hset("{main:0}:gate", mapping={"layout": "1", **others})
    before = await client.hgetall("{main:0}:gate")

    with pytest.raises(ConfigurationError, match="of key layout 1, and this version is of layout 5"):
        await store.recover()

    assert await client.hgetall("{main:0}:gate") == before


async def test_only_checkouts_are_refused_when_the_outbox_is_full(
    store: CartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database has been away for long: nobody drains."""
    paying = (await check_out(store, BEN, "b", 3)).payment.payment_id
    giving_up = (await check_out(store, CLEO, "c", 3)).orders[0].order_id
    monkeypatch.setattr(store.engine, "_outbox_events_max", 2)

    with pytest.raises(StoreFull):
        await check_out(store, ANN, "a", 2, key="k")
    assert (await store.read_cart(ANN)).summary.total_items == 2
    assert (await store.apply_verdict(paying, "succeeded")).payment.status == "paid"
    assert (await store.cancel_order(giving_up, CLEO)).payment.status == "cancelled"

    assert await store.drain_outbox() > 0
    checkout = await store.begin_checkout(
        ANN, idempotency_key="k", gateway="simulated", payment_method="card"
    )
    assert (checkout.payment.status, checkout.replayed) == ("pending", False)
    await assert_sound(store)


async def test_calls_go_on_when_the_scripts_are_flushed_under_load(
    store: CartStore, client: redis.Redis
) -> None:
    async def shop(number: int) -> None:
        for _ in range(3):
            await buy(store, Owner("user", f"u{number}"), "abc"[number % 3])

    async def flush() -> None:
        for _ in range(20):
            await client.script_flush()
            await client.function_flush("SYNC")
            await asyncio.sleep(0.005)

    await asyncio.gather(flush(), *(shop(number) for number in range(20)))

    assert sum([await sold(store, sku) for sku in "abc"]) == 60
    await assert_sound(store)


async def test_windows_are_longer_when_the_engine_was_away(
    store: CartStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = await fill(store)
    before = (await store.read_payment(pending, BEN)).payment.expires_at_ms
    await asyncio.sleep(0.3)
    await client.flushall()

    await until_open(store)

    assert (await store.read_payment(pending, BEN)).payment.expires_at_ms >= before + 300


async def test_nothing_is_repaired_away_when_buyers_race_with_reconcile(store: CartStore) -> None:
    """A scan that passed a cart before it took a hold must not repair that hold away."""
    reconciler = Reconciler(store, confirm_seconds=0.01)

    async def shop(number: int) -> None:
        owner = Owner("user", f"u{number}")
        for _ in range(4):
            await store.add_line(owner, "a", 1)
            await buy(store, owner, "b")
            await store.clear_cart(owner)

    async def reconcile() -> list[object]:
        found: list[object] = []
        for _ in range(10):
            report = await reconciler.run()
            found += [*report.repaired, *report.drift]
            await store.drain_outbox()
        return found

    found, *_ = await asyncio.gather(reconcile(), *(shop(number) for number in range(20)))

    assert found == []
    await assert_sound(store)


async def test_gate_is_one_that_the_record_accepts_when_recoverers_race(
    store: CartStore, own_engine: Engine, database_url: str, client: redis.Redis
) -> None:
    """The gate must not open in an epoch below one that the other recoverer drew."""
    async with opened(own_engine.url(), database_url) as other:
        for _ in range(5):
            await client.hset("{main:0}:gate", "identity", "an engine that is gone")
            await asyncio.gather(store.recover(), other.recover(), return_exceptions=True)
            await until_open(store)
            await buy(store, ANN)

            assert await store.drain_outbox() == 2

    await assert_sound(store)


async def test_versions_are_never_told_again_when_the_engine_forgot_mutations(
    store: CartStore, own_engine: Engine, client: redis.Redis
) -> None:
    """Mutations are no events: an engine that lost some of them still holds the last event."""
    await store.drain_outbox()
    told = (await store.add_line(ANN, "a")).summary.version
    await store.snapshot_carts()
    await client.hincrby("{main:0}:gate", "change", -1)
    await client.delete("{main:0}:cart:u.ann", "{main:0}:activity")
    await client.delete("{main:0}:holds:a", "{main:0}:holding")
    await client.hset("{main:0}:sku:a", "held", 0)
    restart(own_engine)
    await until_open(store)

    version = (await store.add_line(BEN, "a")).summary.version
    await store.snapshot_carts()

    assert version > told
    assert await store.archive.snapshots.find(BEN.cart_id) is not None


async def test_versions_are_never_told_again_when_the_engine_is_lost_twice_between_snapshots(
    store: CartStore, client: redis.Redis
) -> None:
    """What the record knows of versions is as of the last snapshot, both times."""
    await fill(store)
    told: list[int] = []
    for _ in range(3):
        await client.flushall()
        await until_open(store)
        for owner in (ANN, CLEO):
            told.append((await store.add_line(owner, "a")).summary.version)

    assert told == sorted(set(told))


async def test_versions_are_never_told_again_when_the_engine_is_lost_after_restarts(
    store: CartStore, own_engine: Engine, client: redis.Redis
) -> None:
    """Each restart moves versions up, as far as the engine knows; then it forgets all of that."""
    await fill(store)
    told: list[int] = []
    for _ in range(4):
        restart(own_engine)
        await until_open(store)
        for _ in range(5):
            told.append((await store.add_line(ANN, "a")).summary.version)
    await client.flushall()
    await until_open(store)
    told.append((await store.add_line(CLEO, "a")).summary.version)

    assert told == sorted(set(told))


async def test_carts_leave_the_index_when_they_died_long_after_their_snapshot(
    store: CartStore, client: redis.Redis
) -> None:
    await store.add_line(CLEO, "a")
    await store.clear_cart(CLEO)
    await store.snapshot_carts()
    await client.delete("{main:0}:cart:g.cleo")

    await store.snapshot_carts()

    snapshot = await store.archive.snapshots.find(CLEO.cart_id)
    assert snapshot is not None
    assert snapshot.status == "expired"
    assert await client.zscore("{main:0}:activity", CLEO.cart_id) is None


async def test_stock_is_limited_after_all_when_the_first_try_ended_in_its_middle(
    store: CartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = Variant(sku="free", price_minor=100, policy="untracked")
    await store.put_product(Product(id="free", title="Free", currency="USD", variants=(variant,)))
    set_policy = store.catalog.set_policy

    async def away(*_: object) -> Product:
        monkeypatch.setattr(store.catalog, "set_policy", set_policy)
        raise StoreUnavailable

    monkeypatch.setattr(store.catalog, "set_policy", away)
    with pytest.raises(OutcomeUnknown):
        await store.set_stock("free", 5, reason="count", reference="c1")

    again = await store.set_stock("free", 5, reason="count", reference="c1")

    assert again.replayed
    assert (await store.read_stock("free")).policy == "deny"


async def test_fence_stays_away_when_the_proof_is_of_an_older_gate(
    store: CartStore, client: redis.Redis
) -> None:
    await fill(store)
    applied, _ = await store.archive.cursor()
    assert await store._outbox.find(applied) is not None
    await client.hset("{main:0}:gate", "identity", "an engine that is gone")
    await until_open(store)

    await store._outbox.fence("too late")

    assert (await store.readiness())["checks"]["gate"]["ok"]
