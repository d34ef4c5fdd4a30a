"""Events that the record cannot apply, and the SKUs that are not sold because of them.

An event that was put aside leaves engine and record telling different stories of its SKUs. Until a person has
decided which is right, their sale is stopped, so that the difference does not grow into units that are sold
twice. The record says which SKUs are frozen; the engine is told (`sku_freeze`), and reconcile sees to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Table, delete, func, select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from cartstore.archive.arrays import columns_of, rows_of
from cartstore.archive.database import Database
from cartstore.archive.forgotten import applied_names
from cartstore.archive.tables import events, frozen_skus, order_lines, orders, rejected_events
from cartstore.errors import ContractError
from cartstore.model import ID_PATTERN, Event, Partition, Position, is_sku, payment_id_of_order


class EventsTaken(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a page of an engine's stream that the record did not have."""

    applied: int
    put_aside: int


class QuarantineCounts(msgspec.Struct, frozen=True, kw_only=True):
    rejected_events: int
    frozen_skus: int


class Quarantine:
    """What was put aside of one partition. Any method may raise StoreUnavailable, thaw OutcomeUnknown too."""

    def __init__(self, database: Database, partition: Partition) -> None:
        self._database = database
        self._partition = partition

    async def frozen(self) -> list[str]:
        """SKUs that are not to be sold, by name."""
        async with self._database.reading() as connection:
            query = select(frozen_skus.c.sku).where(_is_of(frozen_skus, self._partition))
            return list((await connection.execute(query.order_by(frozen_skus.c.sku))).scalars())

    async def reason(self, sku: str) -> str | None:
        """Why a SKU is frozen; None: it is not."""
        async with self._database.reading() as connection:
            query = select(frozen_skus.c.reason).where(
                frozen_skus.c.sku == sku, _is_of(frozen_skus, self._partition)
            )
            return (await connection.execute(query)).scalar()

    async def counts(self) -> QuarantineCounts:
        async with self._database.reading() as connection:
            row = (
                await connection.execute(
                    select(
                        *(
                            select(func.count()).where(_is_of(table, self._partition)).scalar_subquery()
                            for table in (rejected_events, frozen_skus)
                        )
                    )
                )
            ).one()
        return QuarantineCounts(rejected_events=row[0], frozen_skus=row[1])

    async def freeze(self, skus: Sequence[str], reason: str) -> None:
        """Stop the sale of SKUs whose counters are in doubt. One that is frozen keeps its first reason."""
        rows = [
            {"sku": sku, "epoch": 0, "seq": 0, "reason": reason, "partition": self._partition.index}
            for sku in skus
        ]
        async with self._database.transaction() as connection:
            await connection.execute(pg_insert(frozen_skus).on_conflict_do_nothing(), rows)

    async def thaw(self, sku: str) -> bool:
        """A person has decided: the SKU may be sold again. Whether it was frozen."""
        async with self._database.transaction() as connection:
            found = await connection.execute(
                delete(frozen_skus).where(frozen_skus.c.sku == sku, _is_of(frozen_skus, self._partition))
            )
        return found.rowcount > 0


def _is_of(table: Table, partition: Partition) -> ColumnElement[bool]:
    return table.c.partition == partition.index


async def known_names(connection: AsyncConnection, partition: Partition, stream: Sequence[Event]) -> set[str]:
    """Names of those of these events that the record has, applied or put aside. Of events older than the
    oldest one that it keeps, the rows that they changed tell whether they were applied."""
    names: set[str] = set()
    if not stream:
        return names
    oldest = (
        await connection.execute(
            select(events.c.epoch, events.c.seq)
            .where(_is_of(events, partition))
            .order_by(events.c.epoch, events.c.seq)
            .limit(1)
        )
    ).first()
    if oldest is not None:
        older = [event for event in stream if event.position < Position(*oldest)]
        names = await applied_names(connection, older)
    positions = [(event.position.epoch, event.position.seq) for event in stream]
    for table in (events, rejected_events):
        source = rows_of(table, ("epoch", "seq"))
        query = (
            select(table.c.epoch, table.c.seq, table.c.nonce)
            .join(source, (table.c.epoch == source.c.epoch) & (table.c.seq == source.c.seq))
            .where(_is_of(table, partition))
        )
        rows = await connection.execute(query, columns_of(("epoch", "seq"), positions))
        found = [(Position(row.epoch, row.seq), row.nonce) for row in rows]
        names |= {f"{position} {nonce}" for position, nonce in found}
        # A placeholder that a salvaged log has for an event whose nonce nobody knows any more.
        taken = {position for position, _ in found}
        names |= {event.name for event in stream if not event.nonce and event.position in taken}
    return names


async def put_aside(
    connection: AsyncConnection, partition: Partition, event: Event, reason: str, *, freezes: bool = True
) -> None:
    """Write an event down as rejected, in the caller's transaction. `freezes`: stop the sale of the SKUs that
    it is about. Doing it again changes nothing."""
    position = event.position
    await connection.execute(
        pg_insert(rejected_events)
        .values(
            epoch=position.epoch,
            seq=position.seq,
            nonce=event.nonce,
            type=event.type,
            at_ms=event.at_ms,
            body=_storable(event.body_json),
            reason=reason,
            partition=partition.index,
        )
        .on_conflict_do_nothing()
    )
    if not freezes:
        return
    try:
        body = event.body
    except ContractError:
        # The body is no JSON object, so it names nothing.
        body = {}
    skus = set(skus_named(body))
    payment_id = _payment_named(body)
    if payment_id is not None:
        query = select(order_lines.c.sku).join(orders).where(orders.c.payment_id == payment_id)
        skus.update((await connection.execute(query)).scalars())
    if skus:
        its = {
            "epoch": position.epoch,
            "seq": position.seq,
            "reason": reason,
            "partition": partition.index,
        }
        rows = [{"sku": sku, **its} for sku in sorted(skus)]
        await connection.execute(pg_insert(frozen_skus).on_conflict_do_nothing(), rows)


def _storable(text: str) -> str:
    """The text as PostgreSQL takes it: it refuses NUL."""
    return text.replace("\x00", "\\x00")


def skus_named(body: Any) -> Iterable[str]:
    """SKUs anywhere in an event's body. It may have any shape: it was put aside because it is not right."""
    if isinstance(body, Mapping):
        sku = body.get("sku")
        if isinstance(sku, str) and is_sku(sku):
            yield sku
        for part in body.values():
            yield from skus_named(part)
    elif isinstance(body, list):
        for part in body:
            yield from skus_named(part)


def _payment_named(body: Mapping[str, Any]) -> str | None:
    """The payment that an event is about, which may name no SKU itself."""
    payment_id, order_id = body.get("payment_id"), body.get("order_id")
    if isinstance(order_id, str) and ID_PATTERN.match(order_id):
        return payment_id_of_order(order_id)
    return payment_id if isinstance(payment_id, str) and ID_PATTERN.match(payment_id) else None
