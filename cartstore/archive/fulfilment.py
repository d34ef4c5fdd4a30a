"""What a shop did with its paid orders: shipped, delivered, returned. Owns the table and its events.

The engine knows nothing of it. A change is one transaction of the record: under the cursor's lock, which
keeps the drain out, it reads the order, writes the state, and appends an event behind the newest one of the
engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from cartstore.archive.arrays import array_of
from cartstore.archive.database import Database
from cartstore.archive.tables import events, fulfilments, orders
from cartstore.archive.writing import locked_cursor
from cartstore.errors import OrderNotFound, OrderState
from cartstore.model import UNFULFILLED, Fulfilment, FulfilmentState, OrderStatus, Partition, Position

FULFILLED_FROM: Final[frozenset[OrderStatus]] = frozenset({"paid", "refunded"})
"""Orders that something can be done with: the money arrived. What was refunded may still come back."""

EVENT_TYPE: Final = "fulfilment_changed"


class Fulfilments:
    """The fulfilment of one partition's orders. Every method may raise StoreUnavailable, `put` also
    OutcomeUnknown."""

    def __init__(self, database: Database, partition: Partition) -> None:
        self._database = database
        self._partition = partition

    async def of_orders(self, order_ids: Iterable[str]) -> dict[str, Fulfilment]:
        """By order; an order that nothing was done with is absent."""
        wanted = array_of(fulfilments.c.order_id, sorted(set(order_ids)))
        query = select(fulfilments).where(fulfilments.c.order_id.in_(wanted))
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return {
            row.order_id: Fulfilment(
                state=row.state,
                carrier=row.carrier,
                tracking=row.tracking,
                updated_at_ms=row.updated_at_ms,
            )
            for row in rows
        }

    async def put(
        self, order_id: str, state: FulfilmentState, *, carrier: str | None, tracking: str | None
    ) -> Fulfilment:
        """Set what was done with an order. Repeated: nothing changes, and no further event is written.

        Raises OrderNotFound for an order that the record does not have (yet), OrderState for one that is not
        paid.
        """
        async with self._database.transaction() as connection:
            cursor, _, _ = await locked_cursor(connection, self._partition)
            order = (await connection.execute(select(orders).where(orders.c.order_id == order_id))).first()
            if order is None:
                raise OrderNotFound
            if order.status not in FULFILLED_FROM:
                raise OrderState(f"The order is {order.status}.")
            query = select(fulfilments).where(fulfilments.c.order_id == order_id)
            before = (await connection.execute(query)).first()
            previous = before.state if before is not None else UNFULFILLED.state
            kept = (
                (previous, before.carrier, before.tracking) if before is not None else (previous, None, None)
            )
            if kept == (state, carrier, tracking):
                at_ms = before.updated_at_ms if before is not None else None
                return Fulfilment(state=state, carrier=carrier, tracking=tracking, updated_at_ms=at_ms)
            at_ms = await _now_ms(connection)
            values = {"state": state, "carrier": carrier, "tracking": tracking, "updated_at_ms": at_ms}
            await connection.execute(
                pg_insert(fulfilments)
                .values(partition=self._partition.index, order_id=order_id, **values)
                .on_conflict_do_update(index_elements=["order_id"], set_=values)
            )
            body = {
                "order_id": order_id,
                "payment_id": order.payment_id,
                "seller": order.seller,
                "state": state,
                "previous_state": previous,
                "carrier": carrier,
                "tracking": tracking,
            }
            await append_record_event(connection, self._partition, cursor, EVENT_TYPE, at_ms, body)
        return Fulfilment(state=state, carrier=carrier, tracking=tracking, updated_at_ms=at_ms)


async def append_record_event(
    connection: AsyncConnection,
    partition: Partition,
    cursor: Position,
    event_type: str,
    at_ms: int,
    body: dict[str, object],
) -> None:
    """Append an event of the record's own to the feed, in a transaction that holds the cursor's lock.

    It stands behind the engine's event that the cursor names, and before the next one. Who reads the feed has
    read nothing behind it: the next event of the engine needs the same lock.
    """
    place = (
        events.c.partition == partition.index,
        events.c.epoch == cursor.epoch,
        events.c.seq == cursor.seq,
    )
    last = (await connection.execute(select(func.max(events.c.line)).where(*place))).scalar()
    await connection.execute(
        events.insert().values(
            partition=partition.index,
            epoch=cursor.epoch,
            seq=cursor.seq,
            line=(last or 0) + 1,
            nonce="",
            type=event_type,
            at_ms=at_ms,
            body=msgspec.to_builtins(body),
        )
    )


async def _now_ms(connection: AsyncConnection) -> int:
    """The database's time: the change is made here, not in the engine."""
    now = func.floor(func.extract("epoch", func.clock_timestamp()) * 1_000)
    return int((await connection.execute(select(now))).scalar_one())
