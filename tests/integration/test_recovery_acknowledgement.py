"""Goal: what docs/operations.md says can still be lost, per acknowledgement mode and persistence setting, is
what is lost, no more and no less.

Method: an engine of the test's own with one persistence setting. A first checkout is archived, a
second one is acknowledged and nothing drains it in mode `engine`. Then the engine's process dies,
or its machine does (the log ends where the last fsync was), or its files are gone, or a replica
takes over that missed the end. A store recovers; both orders are looked for, and the books must
balance without what is lost.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio as redis
from chaos.actors import settings_of
from chaos.shop import assert_sound, buy, opened, stock_up, until_open

import cartstore
from cartstore import Owner
from cartstore.embedded import Engine
from cartstore.errors import OutcomeUnknown, PaymentNotFound
from cartstore.store import CartStore

ANN, BEN = Owner("user", "ann"), Owner("user", "ben")
PASSWORD = "of the attacks"

PERSISTENCE = {
    "always": ["appendfsync always"],
    "everysec": ["appendfsync everysec"],
    "no": ["appendfsync no"],
    "none": ["appendonly no"],
}


@pytest.fixture
def own_engine(server_folder: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine with the persistence that the test's parameter names."""
    persistence = request.node.callspec.params["persistence"]
    folder = server_folder / f"ack-{abs(hash(request.node.nodeid))}"
    engine = Engine(folder, password=PASSWORD, config=PERSISTENCE[persistence])
    engine.start()
    yield engine
    engine.kill()
    shutil.rmtree(folder, ignore_errors=True)


def log_of(engine: Engine) -> Path:
    return next((Path(engine.log).parent / "appendonlydir").glob("*.incr.aof"))


@asynccontextmanager
async def archiving(engine: Engine, database_url: str) -> AsyncIterator[CartStore]:
    """A store in mode `archived`, which carries its own events into the record."""
    async with cartstore.open_store(
        settings_of(engine.url(), database_url, checkout_ack="archived")
    ) as store:
        yield store


async def assert_kept(store: CartStore, *payment_ids: str) -> None:
    for payment_id in payment_ids:
        assert (await store.read_payment(payment_id, None)).payment.status == "paid"
    assert (await store.read_stock("a")).sold == len(payment_ids)
    await assert_sound(store)


async def assert_lost(store: CartStore, payment_id: str) -> None:
    with pytest.raises(PaymentNotFound):
        await store.read_payment(payment_id, None)


async def bought_twice(store: CartStore) -> tuple[str, str]:
    """Two acknowledged and paid checkouts, of which only the first is archived."""
    archived = await buy(store, ANN)
    await store.drain_outbox()
    await store.snapshot_carts()
    return archived, await buy(store, BEN)


@pytest.mark.parametrize("persistence", ["always", "everysec", "no"])
async def test_nothing_is_lost_in_mode_engine_when_the_process_of_an_engine_with_a_log_dies(
    persistence: str, own_engine: Engine, database_url: str
) -> None:
    """What it wrote is the system's by then, whenever it is fsynced."""
    async with opened(own_engine.url(), database_url, checkout_ack="engine") as store:
        await stock_up(store)
        payments = await bought_twice(store)

        own_engine.kill()
        own_engine.start()

        await until_open(store)
        await assert_kept(store, *payments)


@pytest.mark.parametrize("persistence", ["none"])
async def test_only_what_was_not_drained_is_lost_in_mode_engine_when_an_engine_without_a_log_dies(
    persistence: str, own_engine: Engine, database_url: str
) -> None:
    async with opened(own_engine.url(), database_url, checkout_ack="engine") as store:
        await stock_up(store)
        archived, acknowledged = await bought_twice(store)

        own_engine.kill()
        own_engine.start()

        await until_open(store)
        await assert_kept(store, archived)
        await assert_lost(store, acknowledged)


@pytest.mark.parametrize("persistence", ["everysec", "no"])
async def test_only_what_was_neither_fsynced_nor_drained_is_lost_in_mode_engine_when_the_machine_dies(
    persistence: str, own_engine: Engine, database_url: str
) -> None:
    async with opened(own_engine.url(), database_url, checkout_ack="engine") as store:
        await stock_up(store)
        fsynced = await buy(store, ANN)
        # With everysec this is at most a second ago, with no as long as the kernel likes.
        size = await _size_when_written(own_engine)
        drained = await buy(store, BEN)
        await store.drain_outbox()
        await store.snapshot_carts()
        acknowledged = await buy(store, BEN)

        own_engine.kill()
        os.truncate(log_of(own_engine), size)
        own_engine.start()

        await until_open(store)
        await assert_kept(store, fsynced, drained)
        await assert_lost(store, acknowledged)


async def _size_when_written(engine: Engine) -> int:
    """The log's size, once it has stood still: the engine may write after it has answered."""
    sizes = [-1]
    while sizes[-1] != (size := log_of(engine).stat().st_size):
        sizes.append(size)
        await asyncio.sleep(0.2)
    return size


@pytest.mark.parametrize("persistence", ["always"])
async def test_an_acknowledged_checkout_is_in_the_log_when_the_engine_fsyncs_always(
    persistence: str, own_engine: Engine, database_url: str
) -> None:
    """The machine may die in the instant after the reply: what the log has by then is all there."""
    async with opened(own_engine.url(), database_url, checkout_ack="engine") as store:
        await stock_up(store)
        payments = await bought_twice(store)
        size = log_of(own_engine).stat().st_size

        own_engine.kill()
        os.truncate(log_of(own_engine), size)
        own_engine.start()

        await until_open(store)
        await assert_kept(store, *payments)


@pytest.mark.parametrize("persistence", ["always", "everysec", "no", "none"])
async def test_nothing_is_lost_in_mode_archived_when_the_engine_comes_back_empty(
    persistence: str, own_engine: Engine, database_url: str
) -> None:
    async with archiving(own_engine, database_url) as store:
        await stock_up(store)
        payments = [await buy(store, ANN), await buy(store, BEN)]

        own_engine.kill()
        shutil.rmtree(Path(own_engine.log).parent / "appendonlydir", ignore_errors=True)
        own_engine.start()

        await until_open(store)
        await assert_kept(store, *payments)


@pytest.mark.parametrize("persistence", ["always", "everysec", "no"])
async def test_only_what_was_not_drained_is_lost_in_mode_engine_when_the_files_are_gone(
    persistence: str, own_engine: Engine, database_url: str
) -> None:
    async with opened(own_engine.url(), database_url, checkout_ack="engine") as store:
        await stock_up(store)
        archived, acknowledged = await bought_twice(store)

        own_engine.kill()
        shutil.rmtree(Path(own_engine.log).parent / "appendonlydir")
        own_engine.start()

        await until_open(store)
        await assert_kept(store, archived)
        await assert_lost(store, acknowledged)


@pytest.mark.parametrize("persistence", ["always"])
async def test_no_reply_says_archived_when_nobody_drains(
    persistence: str, own_engine: Engine, database_url: str
) -> None:
    """The other side of the promise: without a commit in time the outcome is unknown, and then found."""
    async with opened(own_engine.url(), database_url, checkout_ack="engine") as store:
        await stock_up(store)
        await store.drain_outbox()
    async with opened(own_engine.url(), database_url, checkout_ack="archived", ack_timeout_ms=200) as store:
        await store.add_line(ANN, "a")
        with pytest.raises(OutcomeUnknown):
            await store.begin_checkout(ANN, idempotency_key="k", gateway="simulated", payment_method="card")
        await store.drain_outbox()

        again = await store.begin_checkout(
            ANN, idempotency_key="k", gateway="simulated", payment_method="card"
        )

        assert again.replayed
        assert again.payment.status == "pending"


@pytest.mark.parametrize("persistence", ["always"])
@pytest.mark.parametrize("mode", ["engine", "archived"])
async def test_promoted_replica_has_all_but_what_it_missed_and_the_record_had_not(
    persistence: str, mode: str, own_engine: Engine, database_url: str, server_folder: Path
) -> None:
    folder = server_folder / f"promoted-{mode}"
    replica = Engine(
        folder,
        password=PASSWORD,
        config=[f"replicaof 127.0.0.1 {own_engine.port}", f'masterauth "{PASSWORD}"'],
    )
    opening = archiving(own_engine, database_url) if mode == "archived" else None
    async with opening or opened(own_engine.url(), database_url, checkout_ack="engine") as store:
        await stock_up(store)
        replica.start()
        try:
            async with redis.Redis.from_url(replica.url(), decode_responses=True) as promoted:
                async with asyncio.timeout(20):
                    while (await promoted.info("replication"))["master_link_status"] != "up":  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                await until_open(store)
                archived = await buy(store, ANN)
                await store.drain_outbox()
                await promoted.execute_command("REPLICAOF", "NO", "ONE")
                missed = await buy(store, BEN)
                own_engine.kill()

                async with opened(replica.url(), database_url) as after:
                    await until_open(after)
                    if mode == "archived":
                        await assert_kept(after, archived, missed)
                    else:
                        await assert_kept(after, archived)
                        await assert_lost(after, missed)
        finally:
            replica.kill()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    ("persistence", "mode"),
    [("always", "engine"), ("everysec", "archived"), ("no", "archived"), ("none", "archived")],
)
async def test_mode_is_what_the_persistence_can_carry_when_no_setting_says_it(
    persistence: str, mode: str, own_engine: Engine, database_url: str
) -> None:
    async with opened(own_engine.url(), database_url) as store:
        assert store.ack_mode == mode
