"""What readiness says of a real engine and a real record, part by part, and what callers are told without it.

Goal: where carts cannot be changed the shop is unready, all else that is wrong is degraded and named, and
what nobody can know is not called dead. Method: no worker runs; a test writes its beats, or leaves them out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cartstore import CartStore, Owner, Product, Settings, Variant, open_store, progress, readiness
from cartstore.archive.drain import drain
from cartstore.embedded import Engine
from cartstore.errors import OutcomeUnknown, StoreUnavailable, WritesRefused
from cartstore.exposition import render
from cartstore.heartbeat import Age
from cartstore.recovery.reconcile import Reconciler
from cartstore.redis.clients import open_client
from cartstore.redis.heart import Heart, beating

WORKER = "worker:host:1:a"


@asynccontextmanager
async def shop_on(redis_url: str, database_url: str, **changes: Any) -> AsyncIterator[CartStore]:
    """A store whose events nobody archives."""
    settings = Settings(
        redis_url=redis_url, database_url=database_url, **{"checkout_ack": "engine", **changes}
    )
    async with open_store(settings, doorbell=lambda: None) as store:
        tee = Variant(sku="A", price_minor=100)
        await store.put_product(Product(id="tee", title="Tee", currency="USD", variants=(tee,)))
        yield store


@pytest.fixture
async def store(redis_url: str, database_url: str) -> AsyncIterator[CartStore]:
    async with shop_on(redis_url, database_url) as store:
        yield store


async def checks_of(store: CartStore) -> dict[str, bool | None]:
    found = await store.readiness()
    return {name: check["ok"] for name, check in found["checks"].items()}


async def not_ok(store: CartStore) -> tuple[str, dict[str, str]]:
    """The status, and the details of what is not ok."""
    found = await store.readiness()
    return found["status"], {
        name: check["detail"] for name, check in found["checks"].items() if check["ok"] is False
    }


def at(seconds_ago: float) -> Callable[[], int]:
    """A clock of the engine's scripts that stands in the past."""
    return lambda: int((time.time() - seconds_ago) * 1_000)


# --- worker and drain ---------------------------------------------------------------------------------


async def test_readiness_is_degraded_until_a_worker_beats(store: CartStore) -> None:
    assert await not_ok(store) == ("degraded", {"worker": "no worker has given a sign of life"})
    assert (await store.readiness())["ready"] is True

    await store.engine.beat(WORKER, "{}")

    assert await not_ok(store) == ("ok", {})


async def test_readiness_is_degraded_when_the_last_beat_of_all_workers_is_old(
    store: CartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store.engine, "_now_ms", at(60))
        await store.engine.beat("worker:other:1:a", "{}")
        patch.setattr(store.engine, "_now_ms", at(20))
        await store.engine.beat(WORKER, "{}")

    status, said = await not_ok(store)
    figures = (await store.readiness())["figures"]

    assert (status, list(said)) == ("degraded", ["worker"])
    assert said["worker"].startswith("no worker has given a sign of life for 2")
    assert 20 <= figures.worker_beat_age_seconds < 60


async def test_readiness_is_degraded_when_an_event_waits_for_too_long(
    store: CartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.engine.beat(WORKER, "{}")
    with monkeypatch.context() as patch:
        patch.setattr(store.engine, "_now_ms", at(30))
        await store.adjust_stock("A", 5, reason="r", reference="1")
    await store.adjust_stock("A", 5, reason="r", reference="2")

    status, said = await not_ok(store)
    figures = (await store.readiness())["figures"]
    await store.drain_outbox()

    assert (status, list(said)) == ("degraded", ["drain"])
    assert said["drain"].startswith("2 events to archive, the oldest for 3")
    assert (figures.drain_lag_events, 30 <= figures.drain_lag_seconds < 90) == (2, True)
    assert await not_ok(store) == ("ok", {})
    after = (await store.readiness())["figures"]
    assert (after.drain_lag_events, after.drain_lag_seconds) == (0, 0)


async def test_readiness_knows_how_far_the_record_is_behind_when_the_database_is_away(
    store: CartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> Any:
        raise StoreUnavailable

    await store.engine.beat(WORKER, "{}")
    await store.readiness()
    # It would know that the event came after that look.
    store._readiness._oldest = Age()
    monkeypatch.setattr(store.archive, "cursor", away)
    with monkeypatch.context() as patch:
        patch.setattr(store.engine, "_now_ms", at(30))
        await store.engine.adjust_stock("A", delta=1, reason="r", reference="1", fingerprint="f")

    status, said = await not_ok(store)

    assert (status, sorted(said)) == ("degraded", ["database", "drain"])
    assert "applied" not in str(said)


async def test_readiness_does_not_miss_a_worker_when_the_store_archives_its_own_events(
    redis_url: str, database_url: str
) -> None:
    settings = Settings(redis_url=redis_url, database_url=database_url)
    async with open_store(settings) as store:
        assert await not_ok(store) == ("ok", {})


async def test_readiness_says_so_when_the_tables_are_another_version_s(
    store: CartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.engine.beat(WORKER, "{}")
    monkeypatch.setattr(readiness, "newest_revision", lambda: "9999")

    status, said = await not_ok(store)

    assert (status, list(said)) == ("degraded", ["migrations"])


# --- the engine ----------------------------------------------------------------------------------------


async def test_readiness_is_unready_when_the_engine_takes_no_writes_and_degraded_when_it_is_full(
    own: Engine, admin: Any, database_url: str
) -> None:
    async with shop_on(own.url(), database_url) as store:
        await store.engine.beat(WORKER, "{}")
        for setting, value, usual, status, name in (
            ("min-replicas-to-write", 1, 0, "unready", "engine"),
            ("maxmemory-policy", "allkeys-lru", "noeviction", "unready", "engine"),
            ("maxmemory", 1, 0, "degraded", "memory"),
        ):
            admin.config_set(setting, value)
            found, said = await not_ok(store)
            worker = (await checks_of(store))["worker"]
            admin.config_set(setting, usual)

            assert (found, list(said)) == (status, [name]), setting
            # Where no beat can be written, silence says nothing of the worker.
            assert worker is (None if setting == "min-replicas-to-write" else True)
            assert await not_ok(store) == ("ok", {}), setting

        admin.replicaof("127.0.0.1", 1)
        found, said = await not_ok(store)
        assert (found, said["engine"]) == ("unready", "The engine is a replica: it takes no writes.")
        unknown = (await store.readiness())["checks"]
        # It answers, so nobody may be told that it is away.
        assert {unknown[name]["detail"] for name in ("drain", "worker")} == {
            "unknown while the engine takes no writes"
        }

        own.kill()
        found, said = await not_ok(store)
        assert (found, list(said)) == ("unready", ["engine"])
        assert "applied" not in said["engine"]
        unknown = (await store.readiness())["checks"]
        assert {unknown[name]["detail"] for name in ("drain", "worker")} == {
            "unknown while the engine is away"
        }
        unknown = {name: ok for name, ok in (await checks_of(store)).items() if ok is None}
        assert sorted(unknown) == ["drain", "gate", "worker"]
        figures = (await store.readiness())["figures"]
        assert (figures.worker_beat_age_seconds, figures.drain_lag_seconds, figures.drift) == (None,) * 3


async def test_beat_is_taken_when_the_partition_is_fenced_or_rebuilt_and_the_engine_is_full(
    own: Engine, admin: Any, database_url: str
) -> None:
    async with shop_on(own.url(), database_url) as store:
        keys = store.engine.keys  # type: ignore[attr-defined]
        await store.engine.beat("worker:dead:1:a", "{}")
        for state in ("fenced", "rebuilding"):
            admin.hset(keys.gate, mapping={"status": state, "identity": "another's"})
            admin.config_set("maxmemory", 1)
            found = await store.engine.beat(WORKER, '{"recovery": "A replica took over."}')
            admin.config_set("maxmemory", 0)
            assert WORKER in {beat.process for beat in found.beats}, state

        admin.hset(keys.gate, mapping={"status": "fenced"})
        assert (await store.readiness())["checks"]["gate"]["detail"] == "fenced; A replica took over."

        # The rebuild clears the partition, and processes live on.
        admin.delete(keys.outbox, keys.sku("A"))
        admin.hset(keys.gate, mapping={"status": "rebuilding"})
        store._recovery._is_moving = lambda _: False  # type: ignore[method-assign]
        assert await store.recover()
        assert admin.hexists(keys.beats, WORKER)
        assert admin.exists(keys.sku("A")), "it was not rebuilt"


async def test_client_connects_again_when_the_engine_has_closed_its_idle_connection(
    engine: Engine, redis_url: str
) -> None:
    """Over TCP: there redis-py looks for other notices by default, and then not whether anybody is there."""
    async with open_client(engine.tcp_url()) as client, open_client(redis_url) as other:
        number = await client.client_id()
        connection = client.connection_pool._available_connections[0]
        await other.client_kill_filter(_id=number)
        async with asyncio.timeout(30):
            while not connection._reader.at_eof():  # noqa: ASYNC110 (the engine sets no event)
                await asyncio.sleep(0.001)

        assert await client.get("none") is None


@pytest.mark.parametrize(("failures", "status"), [(1, "ok"), (2, "unready")])
async def test_readiness_asks_once_more_when_a_connection_was_lost(
    store: CartStore, monkeypatch: pytest.MonkeyPatch, failures: int, status: str
) -> None:
    await store.engine.beat(WORKER, "{}")
    usual, left = store._recovery.gate, failures

    async def gate() -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise StoreUnavailable
        return await usual()

    monkeypatch.setattr(store._recovery, "gate", gate)

    assert (await store.readiness())["status"] == status


# --- what is told ---------------------------------------------------------------------------------------


async def test_metrics_of_the_shop_are_read_when_they_are_asked_for(store: CartStore) -> None:
    await store.engine.beat("worker:a:1:x", '{"drift": {"engine_ahead": 3, "ledger_ahead": 1}}')
    await store.engine.beat("worker:b:1:x", '{"drift": {"engine_ahead": 2}}')
    await store.adjust_stock("A", 5, reason="r", reference="1")
    await store.archive.quarantine.counts()

    told = render(await store.readiness()).decode()

    assert 'cartstore_drift{kind="engine_ahead"} 3.0' in told
    assert 'cartstore_drift{kind="ledger_ahead"} 1.0' in told
    assert 'cartstore_drift{kind="catalog_ahead"} 0.0' in told
    for line in ("drain_lag_events 1.0", "rejected_events 0.0", "frozen_skus 0.0"):
        assert f"\ncartstore_{line}\n" in told
    assert "\ncartstore_worker_beat_age_seconds 0." in told


async def test_heart_leaves_no_beat_when_its_process_ends(store: CartStore) -> None:
    async with beating(store.settings, "api"):
        async with asyncio.timeout(30):
            while not (found := await store.engine.beat("probe", "")).beats:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert found.beats[0].process.startswith("api:")

    assert (await store.engine.beat("probe", "")).beats == ()


async def test_heart_beats_again_when_its_connection_was_lost(
    store: CartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    heart = Heart(store.settings, "worker")
    await heart.beat({})
    usual, failures = heart._engine.beat, [OutcomeUnknown(), WritesRefused()]

    async def beat(process: str, state: str) -> Any:
        if failures:
            raise failures.pop(0)
        return await usual(process, state)

    monkeypatch.setattr(heart._engine, "beat", beat)
    with pytest.raises(WritesRefused):
        await heart.beat({})
    failures = [OutcomeUnknown()]

    assert len((await heart.beat({})).beats) == 1
    await heart.close()


@pytest.mark.parametrize("has_worker", [False, True])
async def test_unknown_outcome_says_that_no_worker_is_alive_and_what_to_repeat(
    redis_url: str, database_url: str, has_worker: bool
) -> None:
    async with shop_on(redis_url, database_url, checkout_ack="archived", ack_timeout_ms=50) as store:
        if has_worker:
            await store.engine.beat(WORKER, "{}")
        with pytest.raises(OutcomeUnknown) as counted:
            await store.adjust_stock("A", 5, reason="r", reference="1")
        await store.drain_outbox()
        ann = Owner("user", "ann")
        await store.add_line(ann, "A", 1)
        with pytest.raises(OutcomeUnknown) as bought:
            await store.begin_checkout(ann, idempotency_key="k", gateway="simulated", payment_method="card")

    for unknown in (counted, bought):
        assert ("no worker has given a sign of life" in unknown.value.message) is not has_worker
    assert "same reference" in counted.value.message
    assert "Idempotency-Key" not in counted.value.message
    assert "same Idempotency-Key" in bought.value.message


async def test_long_work_tells_of_each_piece_when_it_is_done(store: CartStore) -> None:
    """So that a worker which drains a backlog, rebuilds or reconciles is not taken for one that hangs."""
    pieces: list[str] = []
    for number in range(3):
        await store.adjust_stock("A", 1, reason="r", reference=str(number))
    for what, work in (
        ("drain", lambda: drain(store.archive, store._outbox, batch=1)),
        ("reconcile", lambda: Reconciler(store).run(100)),
        ("rebuild", lambda: store.recover(rebuilds=True)),
    ):

        async def told(what: str = what, work: Callable[[], Any] = work) -> None:
            progress.tell(lambda: pieces.append(what))
            await work()

        await asyncio.create_task(told())

    assert pieces.count("drain") >= 3
    assert {"reconcile", "rebuild"} <= set(pieces)
