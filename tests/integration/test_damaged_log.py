"""A damaged append-only log, with events in it that PostgreSQL does not have.

Goal: every acknowledged order whose event can still be read is in PostgreSQL after the engine has started
again, every one that cannot is told, and nothing is sold twice. Method: one shop's history is written once,
the engine is killed, and a hole is made into a copy of its log at each of twenty places.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis
from msgspec import Struct
from reconcile_shop import product_of
from sqlalchemy import text

import cartstore
from cartstore import CartStore, Owner, Settings
from cartstore.embedded import Database, Engine
from cartstore.embedded.append_only_file import Command, encode, read_manifest, scan
from cartstore.embedded.parts import start_parts, stop_parts
from cartstore.embedded.salvage import LOG_FOLDER, SalvageReport, reports_of
from cartstore.errors import StoreUnavailable
from cartstore.recovery.reconcile import Reconciler
from cartstore.redis.outbox import read_event

PASSWORD = "of the damaged"
UNITS = 25
SKUS = ("A", "B", "C")
PLACES = 20
HOLE = 700
"""Longer than any string in the log but the largest bodies: the hole meets the framing."""

INCREMENT = "appendonly.aof.1.incr.aof"
_numbers = itertools.count(1)


class History(Struct):
    """What was acknowledged, and the log that it stands in."""

    folder: Path
    database: str
    statuses: dict[str, str]
    """Of each payment, as it was acknowledged last."""
    entries: list[tuple[Command, str, str]]
    """Every outbox entry of the log: its bytes' place, its position, and the payment that it is about."""


@asynccontextmanager
async def opened(engine: Engine, database_url: str) -> AsyncIterator[CartStore]:
    settings = Settings(redis_url=engine.url(), database_url=database_url, checkout_ack="engine")
    async with cartstore.open_store(settings, doorbell=lambda: None) as store:
        yield store


def engine_on(folder: Path) -> Engine:
    return Engine(folder, password=PASSWORD, config=["auto-aof-rewrite-percentage 0"])


def copy_of(database: Database, template: str) -> str:
    name = f"damaged_{next(_numbers)}"
    database.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    # The test server gives up durability, which the record refuses; this database of it does not.
    database.execute(f"ALTER DATABASE {name} SET synchronous_commit = on")
    return name


@pytest.fixture(scope="module")
def history(server_folder: Path, database: Database) -> Iterator[History]:
    folder = server_folder / f"history-{next(_numbers)}"
    name = copy_of(database, "cartstore")
    engine = engine_on(folder)
    engine.start()
    statuses = asyncio.run(_trade(engine, database.url(name)))
    engine.kill()
    entries = []
    for part in scan((folder / LOG_FOLDER / INCREMENT).read_bytes()):
        assert isinstance(part, Command)
        if part.name == b"XADD":
            fields = dict(zip(part.args[3::2], part.args[4::2], strict=True))
            entries.append((part, part.args[2].decode(), fields[b"subject"].decode()))
    yield History(folder, name, statuses, entries)
    shutil.rmtree(folder)
    database.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def _trade(engine: Engine, database_url: str) -> dict[str, str]:
    statuses: dict[str, str] = {}
    async with opened(engine, database_url) as store:
        for sku in SKUS:
            await store.put_product(product_of(sku, 1_000))
            await store.adjust_stock(sku, UNITS, reason="count", reference="first")
        await store.drain_outbox()
        await store.snapshot_carts()
        # From here on the database is away, as far as events are concerned.
        for number in range(36):
            buyer = Owner("user", f"buyer-{number}")
            await store.add_line(buyer, SKUS[number % 3], 1 + number % 2)
            checkout = await store.begin_checkout(
                buyer,
                idempotency_key="order",
                gateway="simulated",
                payment_method="card",
                details={"contact": {"email": f"buyer-{number}@example.org"}},
            )
            payment_id = checkout.payment.payment_id
            statuses[payment_id] = "pending"
            if number % 4 == 1:
                statuses[payment_id] = (await store.apply_verdict(payment_id, "succeeded")).payment.status
            if number % 4 == 2:
                result = await store.cancel_order(checkout.orders[0].order_id, buyer)
                statuses[payment_id] = result.payment.status
    return statuses


def holed(history: History, folder: Path, place: int) -> tuple[int, int]:
    """A copy of the history's engine with a hole in its log; where the hole is."""
    shutil.copytree(history.folder, folder, ignore=shutil.ignore_patterns("*.sock", "*.pid"))
    log = folder / LOG_FOLDER / INCREMENT
    data = bytearray(log.read_bytes())
    # Behind what PostgreSQL has: the products and the first stock.
    first = history.entries[len(SKUS)][0].start
    start = first + place * (len(data) - first - HOLE) // (PLACES - 1)
    data[start : start + HOLE] = bytes(HOLE)
    log.write_bytes(data)
    return start, start + HOLE


@pytest.fixture
def folder(server_folder: Path) -> Iterator[Path]:
    folder = server_folder / f"d{next(_numbers)}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def rows(store: CartStore, sql: str) -> list[Any]:
    async with store.archive.database.reading() as connection:
        return list((await connection.execute(text(sql))).all())


@pytest.mark.parametrize("place", range(PLACES))
async def test_every_readable_order_is_recorded_when_the_log_has_a_hole(
    history: History, database: Database, folder: Path, place: int
) -> None:
    start, end = holed(history, folder, place)
    found_log = (folder / LOG_FOLDER / INCREMENT).read_bytes()
    lost = [entry for entry in history.entries if entry[0].end > start and entry[0].start < end]
    unread = {payment_id for _, _, payment_id in lost}
    name = copy_of(database, history.database)
    engine = engine_on(folder)

    try:
        await start_parts([engine])
        async with opened(engine, database.url(name)) as store:
            recorded = {
                payment_id: await store.archive.find_payment(payment_id) for payment_id in history.statuses
            }
            for payment_id, status in history.statuses.items():
                if payment_id not in unread:
                    found = recorded[payment_id]
                    assert found is not None, f"{payment_id} was acknowledged and its events can be read"
                    assert found[0].status == status
            rejected = {
                f"{row.epoch}-{row.seq}" for row in await rows(store, "SELECT * FROM rejected_events")
            }
            # The last event may be lost without a trace; every other one is named or counted by what follows.
            traced = {position for _, position, _ in lost if position != history.entries[-1][1]}
            assert traced <= rejected
            assert all(
                payment_id in unread for payment_id in await rejected_subjects(store, history, rejected)
            )
            for sku in SKUS:
                totals = (await store.archive.stock_totals([sku]))[1][sku]
                level = await store.read_stock(sku)
                assert totals.on_hand + totals.sold == UNITS
                assert (level.on_hand, level.sold) == (totals.on_hand, totals.sold)
                assert 0 <= level.held <= level.on_hand
            assert not (await Reconciler(store, confirm_seconds=0.01).run()).drift
    finally:
        await stop_parts([engine])
        database.execute(f"DROP DATABASE {name} WITH (FORCE)")

    (report,) = reports_of(folder)
    assert (Path(report.kept_in) / LOG_FOLDER / INCREMENT).read_bytes() == found_log
    assert report.kept_bytes <= report.damaged_at < end
    assert {gap.file for gap in report.gaps} == {INCREMENT}


async def rejected_subjects(store: CartStore, history: History, rejected: set[str]) -> list[str]:
    """Payments that events which were put aside are about."""
    return [payment_id for _, position, payment_id in history.entries if position in rejected]


# --- what the engine has after a salvage ------------------------------------------------------------

OUTBOX, GATE = "{shop:0}:outbox", "{shop:0}:gate"


def entry(seq: int, *, previous: int | None = None, epoch: int = 1) -> bytes:
    """A transaction as a script leaves it: an event that names the one before it, and the gate's count."""
    before = seq - 1 if previous is None else previous
    fields = ["nonce", f"n{seq}", "type", "stock_adjusted", "at", "1", "subject", "", "cart_version", "0"]
    fields += ["previous", f"{epoch}-{before} n{before}" if before else "", "body", "{}"]
    return b"".join(
        [
            command("MULTI"),
            command("XADD", OUTBOX, f"{epoch}-{seq}", *fields),
            command("HSET", GATE, "seq", str(seq)),
            command("EXEC"),
        ]
    )


def command(*args: str) -> bytes:
    return encode(*(arg.encode() for arg in args))


NOISE = b"\0" * 40


class Salvaged(Struct):
    entries: list[tuple[str, str, str]]
    """Position, type and nonce."""
    is_chained: bool
    gate: dict[str, str]
    report: SalvageReport


def salvaged(folder: Path, *written: bytes, base: Sequence[bytes] = ()) -> Salvaged:
    """What an engine has that finds these bytes in its log, behind a base file with the `base` commands."""
    engine = engine_on(folder)
    engine.start()
    with redis.Redis.from_url(engine.url(), decode_responses=True) as client:
        client.hset(GATE, mapping={"status": "open", "identity": "an engine", "epoch": 1})
        if base:
            engine.stop()
            log = folder / LOG_FOLDER / INCREMENT
            log.write_bytes(log.read_bytes() + b"".join(base))
            engine.start()
            client.bgrewriteaof()
            wait_until(lambda: not rewriting(client))
    engine.kill()
    (name,) = [file.name for file in read_manifest(folder / LOG_FOLDER).increments]
    log = folder / LOG_FOLDER / name
    log.write_bytes(log.read_bytes() + b"".join(written))
    engine.start()
    try:
        with redis.Redis.from_url(engine.url(), decode_responses=True) as client:
            found: Any = client.xrange(OUTBOX)
            gate: Any = client.hgetall(GATE)
    finally:
        engine.kill()
    (report,) = reports_of(folder)
    events = [read_event(position, fields) for position, fields in found]
    return Salvaged(
        entries=[(str(event.position), event.type, event.nonce) for event in events],
        is_chained=all(later.follows(its.position, its.nonce) for its, later in pairwise(events)),
        gate=gate,
        report=report,
    )


def rewriting(client: Any) -> bool:
    found = client.info("persistence")
    return bool(found["aof_rewrite_in_progress"] or found["aof_rewrite_scheduled"])


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def whole(*seqs: int) -> list[tuple[str, str, str]]:
    return [(f"1-{seq}", "stock_adjusted", f"n{seq}") for seq in seqs]


def test_salvage_leaves_a_placeholder_for_each_event_when_several_are_lost_in_a_row(folder: Path) -> None:
    lost = entry(3) + entry(4)

    found = salvaged(folder, entry(1), entry(2), b"x" * len(lost), entry(5), entry(6))

    placeholders = [("1-3", "unreadable", ""), ("1-4", "unreadable", "n4")]
    assert found.entries == [*whole(1, 2), *placeholders, *whole(5, 6)]
    assert found.is_chained
    assert (found.gate["status"], found.gate["identity"], found.gate["salvages"]) == (
        "fenced",
        "damaged",
        "1",
    )
    (missing,) = found.report.events_missing
    assert (missing.after, missing.through, missing.named_by) == ("1-2", "1-4", "1-5")
    assert found.report.events_carried == 2


def test_salvage_leaves_a_placeholder_when_only_the_gate_counts_the_last_event(folder: Path) -> None:
    torn = entry(3)
    place = torn.index(b"XADD")

    found = salvaged(folder, entry(1), entry(2), torn[:place], NOISE, torn[torn.index(b"*4") :])

    assert found.entries == [*whole(1, 2), ("1-3", "unreadable", "")]
    assert found.is_chained


def test_salvage_takes_an_event_when_its_transaction_is_torn_behind_it(folder: Path) -> None:
    torn = entry(2)

    found = salvaged(folder, entry(1), torn[: torn.index(b"*4")], NOISE, entry(3))

    assert found.entries == whole(1, 2, 3)
    assert found.is_chained
    assert found.report.events_missing == ()


def test_salvage_reads_on_when_the_log_is_damaged_twice(folder: Path) -> None:
    found = salvaged(folder, entry(1), NOISE, entry(2), NOISE, entry(3), NOISE)

    assert found.entries == whole(1, 2, 3)
    assert len(found.report.gaps) == 3
    assert found.report.events_missing == ()


def test_salvage_asks_the_base_file_when_it_has_the_events_before(folder: Path) -> None:
    found = salvaged(folder, NOISE, entry(5), base=[entry(1), entry(2)])

    placeholders = [("1-3", "unreadable", ""), ("1-4", "unreadable", "n4")]
    assert found.entries == [*whole(1, 2), *placeholders, *whole(5)]
    assert found.is_chained


def test_salvage_adds_nothing_when_the_base_file_has_the_event_before(folder: Path) -> None:
    found = salvaged(folder, NOISE, entry(3), base=[entry(1), entry(2)])

    assert found.entries == whole(1, 2, 3)
    assert found.is_chained


ANCHOR = ("XADD", OUTBOX, "1-3", "nonce", "n3", "type", "anchor", "at", "1", "body", "{}")
"""With which a rebuild begins the stream anew: the last event that PostgreSQL has applied."""


@pytest.mark.parametrize(
    ("written", "left"),
    [
        # The removal can be read, or not; then the anchor tells of it, or that positions do not grow.
        ([entry(4), NOISE, command("UNLINK", OUTBOX), entry(4, previous=0)], ["1-4"]),
        ([entry(1), NOISE, command(*ANCHOR), entry(4)], ["1-3", "1-4"]),
        ([entry(1), NOISE, entry(4, previous=0)], ["1-4"]),
        ([entry(1), entry(5), NOISE, entry(4), entry(5)], ["1-4", "1-5"]),
    ],
)
def test_salvage_begins_anew_when_a_rebuild_removed_the_stream(
    folder: Path, written: list[bytes], left: list[str]
) -> None:
    found = salvaged(folder, *written)

    assert [position for position, _, _ in found.entries] == left
    assert found.is_chained
    assert found.report.events_missing == ()


def test_salvage_keeps_nothing_from_before_when_the_new_stream_has_lost_its_first(folder: Path) -> None:
    found = salvaged(folder, entry(1), NOISE, command("UNLINK", OUTBOX), NOISE, entry(4))

    assert found.entries == [("1-3", "unreadable", "n3"), *whole(4)]
    assert found.is_chained


# --- what is not salvaged ---------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / LOG_FOLDER).iterdir()}


@pytest.mark.parametrize(
    ("file", "place", "named"),
    [
        ("appendonly.aof.1.base.rdb", 0, "the file appendonly.aof.1.base.rdb of its log is damaged"),
        ("appendonly.aof.1.base.rdb", 70, "the base file of its log is damaged"),
        ("appendonly.aof.manifest", 0, "the manifest of its log is damaged"),
        ("appendonly.aof.manifest", 8, "the manifest of its log names .*, which is missing"),
    ],
)
def test_start_names_what_is_damaged_when_it_is_not_an_incremental_file(
    folder: Path, file: str, place: int, named: str
) -> None:
    engine = engine_on(folder)
    engine.start()
    engine.kill()
    data = bytearray((folder / LOG_FOLDER / file).read_bytes())
    data[place : place + 3] = b"\xff" * 3
    (folder / LOG_FOLDER / file).write_bytes(data)
    before = contents(folder)

    with pytest.raises(StoreUnavailable, match=named):
        engine.start()

    assert contents(folder) == before
    assert reports_of(folder) == []


def test_start_blames_no_file_when_the_disk_is_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without space the engine's own messages end anywhere, so that a missing one means nothing."""
    engine = engine_on(folder)
    engine.start()
    engine.kill()
    base = folder / LOG_FOLDER / "appendonly.aof.1.base.rdb"
    data = bytearray(base.read_bytes())
    data[70:73] = b"\xff" * 3
    base.write_bytes(data)
    found = list(os.statvfs(folder))
    found[4] = 0
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(found))

    with pytest.raises(StoreUnavailable) as refused:
        engine.start()

    assert "damaged" not in refused.value.for_operators


@pytest.mark.parametrize(
    "bad",
    [
        command("NOSUCHCOMMAND", "a"),  # as of a later version
        b"",  # the file is gone
    ],
)
def test_start_changes_nothing_when_the_engine_complains_of_something_else(folder: Path, bad: bytes) -> None:
    engine = engine_on(folder)
    engine.start()
    engine.kill()
    log = folder / LOG_FOLDER / INCREMENT
    if bad:
        # With damage further on, which the engine has not come to.
        log.write_bytes(entry(1) + bad + NOISE + entry(2))
    else:
        log.unlink()
    before = contents(folder)

    with pytest.raises(StoreUnavailable):
        engine.start()

    assert contents(folder) == before
    assert reports_of(folder) == []


@pytest.mark.parametrize("step", ["_keep_aside", "_replace_manifest"])
def test_salvage_begins_anew_when_it_died(folder: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_on(folder)
    engine.start()
    engine.kill()
    log = folder / LOG_FOLDER / INCREMENT
    log.write_bytes(entry(1) + NOISE + entry(2))
    found_log = log.read_bytes()

    def die(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"cartstore.embedded.salvage.{step}", die)
        with pytest.raises(StoreUnavailable, match=f"the file {INCREMENT} of its log is damaged"):
            engine.start()
    assert log.read_bytes() == found_log

    engine.start()
    with redis.Redis.from_url(engine.url(), decode_responses=True) as client:
        client.set("later", "than the salvage")
        engine.kill()
        engine.start()
        found: Any = client.xrange(OUTBOX)
        assert client.get("later") == "than the salvage"
    engine.kill()
    assert [position for position, _ in found] == ["1-1", "1-2"]
    (report,) = reports_of(folder)
    assert (Path(report.kept_in) / LOG_FOLDER / INCREMENT).read_bytes() == found_log
