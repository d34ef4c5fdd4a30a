"""The drain, from outbox to record, beside inserting the same rows with nothing but set-based statements."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import asyncpg
import msgspec
import uvloop
from redis.asyncio import Redis

from benchmarks import pipeline
from benchmarks.connections import best_kind, caller_of
from benchmarks.measure import Figure, Result, Sample, interleaved, pairs_of, rate
from benchmarks.options import Options
from benchmarks.seeding import TERMS, cart_id_of, carts_of, fill, identity_of, open_engine
from benchmarks.servers import CPU_APP, NAMESPACE, Servers, pinned, servers
from benchmarks.workload import SKUS, sku_name
from cartstore.archive import Archive, migrate
from cartstore.archive.drain import drain
from cartstore.limits import OUTBOX_BATCH_EVENTS
from cartstore.model import CheckoutRequest, Partition, checkout_ids
from cartstore.redis.outbox import RedisOutbox
from cartstore.redis.store import RedisEngine

CHECKOUTS = 5_000
"""Of three lines each; every second one is paid, so that updates and sales are drained too."""

TEMPLATE = "cartstore"
TABLES = ("payments", "orders", "order_lines", "stock", "stock_ledger", "events")
"""In an order that foreign keys allow."""

DRAIN = Figure(
    key="archive_drain",
    title="drain / bare set-based insert of the same rows, events per second",
    baseline=f"INSERT ... SELECT unnest, same rows, {OUTBOX_BATCH_EVENTS} events a transaction, asyncpg",
    unit="events/s",
    at_least=0.40,
)
FIGURES = (DRAIN,)


def run(options: Options) -> Iterator[Result]:
    if not options.wants(*FIGURES):
        return
    with servers() as found, pinned(CPU_APP):
        assert found.database is not None
        uvloop.run(migrate(found.database.url(TEMPLATE)))
        rounds = Rounds(found)
        rounds.drained()  # compiles statements, warms caches; thrown away
        samples = interleaved({"drain": rounds.drained, "bare": rounds.inserted}, options.repetitions)
        counts = {name: len(rows) for name, rows in rounds.rows.items()}
    note = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    yield Result(figure=DRAIN, pairs=pairs_of(samples["drain"], samples["bare"], rate), note=note)


class Rounds:
    """A fresh database for every round. What the drain wrote in the first one is what is inserted."""

    def __init__(self, found: Servers) -> None:
        self._found = found
        self._number = 0
        self.rows: dict[str, list[tuple[Any, ...]]] = {}
        self._columns: dict[str, list[tuple[str, str]]] = {}
        self._events = 0

    def drained(self) -> Sample:
        _fill_outbox(self._found)
        name = self._new_database()
        seconds, events = uvloop.run(self._drain(name))
        self._drop(name)
        return Sample(rate=events / seconds, count=events)

    def inserted(self) -> Sample:
        name = self._new_database()
        seconds = uvloop.run(self._insert(name))
        self._drop(name)
        return Sample(rate=self._events / seconds, count=self._events)

    def _new_database(self) -> str:
        self._number += 1
        name = f"round_{self._number}"
        assert self._found.database is not None
        self._found.database.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name

    def _drop(self, name: str) -> None:
        assert self._found.database is not None
        self._found.database.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _url(self, name: str) -> str:
        assert self._found.database is not None
        return self._found.database.url(name)

    async def _drain(self, name: str) -> tuple[float, int]:
        client: Redis = Redis.from_url(self._found.engine.url(), decode_responses=True)
        archive = await Archive.open(self._url(name), Partition(NAMESPACE))
        try:
            async with caller_of(best_kind(), self._found.engine.url()) as caller:
                outbox = RedisOutbox(RedisEngine(caller, Partition(NAMESPACE)), client)
                began = time.perf_counter()
                events = await drain(archive, outbox)
                seconds = time.perf_counter() - began
        finally:
            await archive.close()
            await client.aclose()
        if not self.rows:
            await self._remember(name)
        self._events = events
        return seconds, events

    async def _remember(self, name: str) -> None:
        connection = await asyncpg.connect(self._url(name))
        for table in TABLES:
            columns = await connection.fetch(
                "SELECT column_name, udt_name FROM information_schema.columns "
                "WHERE table_schema = 'public' AND table_name = $1 ORDER BY ordinal_position",
                table,
            )
            self._columns[table] = [(row["column_name"], row["udt_name"]) for row in columns]
            rows = await connection.fetch(f"SELECT * FROM {table}")
            self.rows[table] = [tuple(row) for row in rows]
        await connection.close()

    async def _insert(self, name: str) -> float:
        """Each transaction has its share of every table's rows. SKUs' counters are written once each."""
        connection = await asyncpg.connect(self._url(name))
        statements = {
            table: await connection.prepare(_statement(table, columns))
            for table, columns in self._columns.items()
        }
        shares = [{table: _transposed(rows) for table, rows in share.items()} for share in self._shares()]
        began = time.perf_counter()
        for share in shares:
            async with connection.transaction():
                for table, columns in share.items():
                    if columns:
                        await statements[table].fetch(*columns)
        seconds = time.perf_counter() - began
        await connection.close()
        return seconds

    def _shares(self) -> list[dict[str, list[tuple[Any, ...]]]]:
        """The rows of each transaction, in the order in which the drain wrote them: what a batch of events
        made, and a share of the stock's counters."""
        batches = -(-self._events // OUTBOX_BATCH_EVENTS)
        shares: list[dict[str, list[tuple[Any, ...]]]] = [
            {table: [] for table in TABLES} for _ in range(batches)
        ]
        first = min(self._rows_of("events"), key=lambda row: row["seq"])["seq"]
        batch_of: dict[str, int] = {}
        for row in sorted(self._rows_of("events"), key=lambda row: row["seq"]):
            batch = (row["seq"] - first) // OUTBOX_BATCH_EVENTS
            if row["type"] == "checkout_begun":
                batch_of[msgspec.json.decode(row["body"])["payment_id"]] = batch
        for row in self._rows_of("orders"):
            batch_of[row["order_id"]] = batch_of[row["payment_id"]]
        for table in TABLES:
            for number, (row, values) in enumerate(zip(self._rows_of(table), self.rows[table], strict=True)):
                if table in ("events", "stock_ledger"):
                    batch = (row["seq"] - first) // OUTBOX_BATCH_EVENTS
                elif table == "stock":
                    batch = number * batches // len(self.rows[table])
                else:
                    batch = batch_of[row["payment_id" if table == "payments" else "order_id"]]
                shares[batch][table].append(values)
        return shares

    def _rows_of(self, table: str) -> list[dict[str, Any]]:
        names = [name for name, _ in self._columns[table]]
        return [dict(zip(names, values, strict=True)) for values in self.rows[table]]


def _statement(table: str, columns: Sequence[tuple[str, str]]) -> str:
    # jsonb travels as text, as the drain sends it.
    types = [("text", "::jsonb") if kind == "jsonb" else (kind, "") for _, kind in columns]
    names = ", ".join(name for name, _ in columns)
    arrays = ", ".join(f"${number}::{kind}[]" for number, (kind, _) in enumerate(types, 1))
    chosen = ", ".join(f"{name}{cast}" for (name, _), (_, cast) in zip(columns, types, strict=True))
    return f"INSERT INTO {table} ({names}) SELECT {chosen} FROM unnest({arrays}) AS source ({names})"


def _transposed(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _fill_outbox(found: Servers) -> None:
    """A fresh engine with stock, and the events of so many checkouts and payments."""
    open_engine(found, stock=0)
    identity = identity_of(found)
    adjusting = pipeline.Packer(identity)
    fill(
        found,
        (
            adjusting.packed(
                adjusting.engine.adjust_stock(
                    sku_name(number), delta=10**6, reason="b", reference=f"b{number}", fingerprint="b"
                )
            )
            for number in range(SKUS)
        ),
    )
    packer = pipeline.Packer(identity)
    assert fill(found, carts_of(packer, CHECKOUTS)) == 0
    engine = packer.engine
    begun, settled = [], []
    for number in range(CHECKOUTS):
        checkout_id, payment_id = checkout_ids(engine.partition, cart_id_of(number), f"key-{number}")
        begun.append(
            packer.packed(
                engine.begin_checkout(
                    cart_id_of(number),
                    checkout_id,
                    payment_id,
                    CheckoutRequest(
                        line_ids=None,
                        gateway="simulated",
                        payment_method="card",
                        expected_total_minor=None,
                        details_json='{"shipping_address":{"city":"Springfield","country":"US"}}',
                    ),
                    fingerprint="0" * 32,
                    window_ms=900_000,
                    terms=TERMS,
                    if_match=None,
                )
            )
        )
        if number % 2 == 0:
            settled.append(packer.packed(engine.settle_payment(payment_id)))
    assert fill(found, iter(begun)) == 0
    assert fill(found, iter(settled)) == 0
