"""Worker processes between the real engine and the real record.

Goal: every acknowledged checkout is in PostgreSQL exactly once, whatever happens to workers, to their jobs,
to the engine and to the database. Method: this process buys through the library while the worker processes
that it starts are killed, doubled and cut off; afterwards the two stores are compared.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from cartstore_workers.queues import Doorbell, JobName, connect_queue
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

import cartstore
from cartstore import CartStore, Owner, Product, Settings, Variant
from cartstore.archive import migrate
from cartstore.embedded import Database, Engine
from cartstore.errors import StoreError
from cartstore.exposition import Processes
from cartstore.model import Position
from cartstore.recovery.reconcile import Reconciler
from cartstore.redis.keys import Keys

PATIENCE_SECONDS = 60.0
CHECKOUTS = 2_000
KILLS = 5
BUYERS = 32


class Workers:
    """Worker processes on one shop's servers, and a doorbell as a serving process has it."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.metrics = folder / "metrics"
        self.metrics.mkdir()
        self._doorbell = Doorbell(connect_queue(settings), settings.namespace)
        self._rung = threading.Event()
        self._stopping = threading.Event()
        self._ringer = threading.Thread(target=self._ring_each, daemon=True)
        self._ringer.start()

    def start(self) -> subprocess.Popen[bytes]:
        with (self._folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "cartstore_workers"],
                stderr=log,
                env={
                    **{name: text for name, text in os.environ.items() if not name.startswith("CARTSTORE_")},
                    "CARTSTORE_REDIS_URL": self._settings.redis_url,
                    "CARTSTORE_DATABASE_URL": self._settings.database_url,
                    "CARTSTORE_RECONCILE_SECONDS": "1",
                    "PROMETHEUS_MULTIPROC_DIR": str(self.metrics),
                },
            )
        self._processes.append(process)
        return process

    def ring(self) -> None:
        """What a store calls when an event waits."""
        self._rung.set()

    def enqueue(self, *names: JobName) -> None:
        """Put jobs past the doorbell, which would not put one beside another."""
        for name in names:
            self._doorbell.queue.enqueue_call(f"cartstore_workers.jobs.{name}", args=(0,), result_ttl=0)

    def log(self) -> str:
        return (self._folder / "worker.log").read_text()

    def _ring_each(self) -> None:
        while not self._stopping.is_set():
            if self._rung.wait(0.1):
                self._rung.clear()
                self._doorbell.ring("drain_outbox")

    def close(self) -> None:
        self._stopping.set()
        self._ringer.join()
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._doorbell.queue.connection.close()


@pytest.fixture
def record_url(database: Database, database_url: str) -> str:
    """The test server gives up durability, which the record refuses; this database of it does not."""
    name = database_url.partition("?")[0].rpartition("/")[2]
    database.execute(f"ALTER DATABASE {name} SET synchronous_commit = on")
    return database_url


@pytest.fixture
def settings(redis_url: str, record_url: str) -> Settings:
    return Settings(redis_url=redis_url, database_url=record_url, checkout_ack="engine")


@pytest.fixture
def workers(settings: Settings, tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(settings, tmp_path)
    yield workers
    workers.close()


@asynccontextmanager
async def open_shop(settings: Settings, doorbell: Callable[[], None]) -> AsyncIterator[CartStore]:
    async with cartstore.open_store(settings, doorbell=doorbell) as store:
        await store.put_product(
            Product(id="p", title="p", currency="USD", variants=(Variant(sku="A", price_minor=100),))
        )
        await store.adjust_stock("A", 10 * CHECKOUTS, reason="count", reference="first")
        yield store


async def buy(store: CartStore, number: int) -> str:
    """One checkout of one unit; every third is paid, every fifth cancelled."""
    owner = Owner("user", f"buyer-{number}")
    await store.add_line(owner, "A", 1)
    checkout = await store.begin_checkout(
        owner, idempotency_key="only", gateway="simulated", payment_method="card"
    )
    if number % 3 == 0:
        await store.apply_verdict(checkout.payment.payment_id, "succeeded")
    elif number % 5 == 0:
        await store.cancel_order(checkout.orders[0].order_id, owner)
    return checkout.payment.payment_id


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 (other processes bring it about)
            await asyncio.sleep(0.01)


async def cursor_of(store: CartStore) -> Position:
    return (await store.archive.cursor())[0]


async def until_drained(store: CartStore) -> None:
    """Until the record has the last event that the engine has issued."""
    audit = await store.engine.audit_sku("A")  # type: ignore[attr-defined]

    async def is_drained() -> bool:
        return await cursor_of(store) >= audit.position

    await until(is_drained)


async def expect_each_once(store: CartStore, payment_ids: list[str]) -> None:
    """Every payment is recorded, no other is, no event twice, none left out, and the counters agree."""
    events = await store.archive.events_after(Position(0, 0), 10**6)
    begun = [event.body["payment_id"] for event in events if event.type == "checkout_begun"]
    assert sorted(begun) == sorted(payment_ids)
    assert [event.position.seq for event in events] == list(range(1, len(events) + 1))
    paid = sum(event.type == "payment_settled" for event in events)
    level = await store.read_stock("A")
    _, totals = await store.archive.stock_totals(["A"])
    assert (totals["A"].on_hand, totals["A"].sold) == (level.on_hand, level.sold)
    assert level.sold == paid
    report = await Reconciler(store).run()
    assert (report.drift, report.repaired, report.skipped) == ([], [], 0)


async def test_2000_checkouts_are_archived_once_when_the_worker_is_killed_five_times(
    settings: Settings, workers: Workers
) -> None:
    async with open_shop(settings, workers.ring) as store:
        numbers = iter(range(CHECKOUTS))
        payment_ids: list[str] = []
        allowed = CHECKOUTS // (KILLS + 1)
        more = asyncio.Event()

        async def buyer() -> None:
            for number in numbers:
                while number >= allowed:
                    await more.wait()
                payment_ids.append(await buy(store, number))

        buyers = [asyncio.create_task(buyer()) for _ in range(BUYERS)]
        worker = workers.start()
        for kill in range(1, KILLS + 1):
            # Each worker has carried something, and buyers are buying, when it is killed.
            before = await cursor_of(store)

            async def has_carried(before: Position = before) -> bool:
                return await cursor_of(store) > before

            await until(has_carried)
            allowed = CHECKOUTS * (kill + 1) // (KILLS + 1)
            more.set()
            more.clear()

            async def are_buying(before: int = len(payment_ids)) -> bool:
                return len(payment_ids) > before + BUYERS

            await until(are_buying)
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            worker = workers.start()
        await asyncio.gather(*buyers)
        await until_drained(store)

        assert len(set(payment_ids)) == CHECKOUTS
        await expect_each_once(store, payment_ids)
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait) == 0


async def test_events_are_archived_once_when_jobs_come_twice_and_in_another_order(
    settings: Settings, workers: Workers
) -> None:
    async with open_shop(settings, lambda: None) as store:
        payment_ids = await asyncio.gather(*(buy(store, number) for number in range(100)))
        workers.enqueue(*["expire_payments", "reconcile", "drain_outbox"] * 20)

        for _ in range(2):
            workers.start()
        await until_drained(store)
        payment_ids += await asyncio.gather(*(buy(store, number) for number in range(100, 200)))
        workers.enqueue(*["drain_outbox", "drain_outbox", "release_due", "recover"] * 20)
        await until_drained(store)

        await expect_each_once(store, payment_ids)


async def test_events_are_archived_when_every_ring_is_lost(settings: Settings, workers: Workers) -> None:
    async with open_shop(settings, lambda: None) as store:
        workers.start()
        payment_ids = await asyncio.gather(*(buy(store, number) for number in range(20)))

        await until_drained(store)

        await expect_each_once(store, payment_ids)


async def test_holds_and_payments_are_released_when_their_time_is_over(
    settings: Settings, workers: Workers
) -> None:
    short = Settings(
        redis_url=settings.redis_url,
        database_url=settings.database_url,
        checkout_ack="engine",
        hold_ttl_member_seconds=1,
        payment_window_seconds=1,
    )
    async with (
        open_shop(short, lambda: None) as store,
        Redis.from_url(settings.redis_url, decode_responses=True) as client,
    ):
        keys = Keys(store.partition)
        await buy(store, 1)
        await store.add_line(Owner("user", "holder"), "A", 3)

        workers.start()

        async def are_released() -> bool:
            # Read past the scripts, which would release by themselves.
            return await client.hget(keys.sku("A"), "held") == "0" and not await client.zcard(keys.due)

        await until(are_released)
        await until_drained(store)
        assert [event.type for event in await store.archive.events_after(Position(0, 0), 10)] == [
            "stock_adjusted",
            "checkout_begun",
            "payment_released",
        ]


async def test_metrics_of_workers_are_seen_by_other_processes(settings: Settings, workers: Workers) -> None:
    async def sum_of(sample: str) -> float:
        registry = CollectorRegistry()
        Processes(registry, path=str(workers.metrics))
        return sum(its.value for family in registry.collect() for its in family.samples if its.name == sample)

    async with open_shop(settings, workers.ring) as store:
        for _ in range(2):
            workers.start()
        for number in range(50):
            await buy(store, number)
        await until_drained(store)

        async def are_counted() -> bool:
            # At least: two that drain at once may both count an event that was applied once.
            return (
                await sum_of("cartstore_events_drained_total") >= (await cursor_of(store)).seq
                and await sum_of("cartstore_reconcile_checked_total") > 0
            )

        await until(are_counted)
        assert await sum_of("cartstore_jobs_total") >= 2


async def test_worker_goes_on_when_engine_and_database_were_away(tmp_path: Path, server_folder: Path) -> None:
    folder = server_folder / "away"
    own_engine = Engine(folder / "engine", password="of this test", log=tmp_path / "engine.log")
    own_database = Database(folder / "postgres", log=tmp_path / "postgres.log")
    own_engine.start()
    own_database.start()
    await migrate(own_database.url())
    settings = Settings(redis_url=own_engine.url(), database_url=own_database.url(), checkout_ack="engine")
    workers = Workers(settings, tmp_path)
    try:
        async with open_shop(settings, lambda: None) as store:
            workers.start()
            payment_ids = [await buy(store, 1)]
            await until_drained(store)

            own_database.kill()

            async def is_said() -> bool:
                return "drain_outbox failed" in workers.log()

            await until(is_said)
            await asyncio.to_thread(own_database.start)
            payment_ids.append(await buy(store, 2))
            await until_drained(store)

            own_engine.kill()
            await asyncio.sleep(1.5)
            await asyncio.to_thread(own_engine.start)

            async def is_bought() -> bool:
                # Nobody but the worker opens the gate.
                with suppress(StoreError):
                    payment_ids.append(await buy(store, 4))
                return len(payment_ids) == 3

            await until(is_bought)
            await until_drained(store)

            await expect_each_once(store, payment_ids)
            assert "Traceback" not in workers.log()
            assert '"traceback"' not in workers.log()
    finally:
        workers.close()
        own_engine.kill()
        own_database.kill()
