"""The event feed for other systems: events of the engine and of the record, in one order.

Owns the positions of the feed. Refuses to tell what is gone: a reader whose next event was removed is told so
(EventsGone).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec
from sqlalchemy import Text, select, tuple_
from sqlalchemy import cast as sql_cast

from cartstore.archive.arrays import array_of
from cartstore.archive.database import Database
from cartstore.archive.tables import events, orders, payments, retention
from cartstore.errors import EventsGone
from cartstore.model import FeedPosition, Partition, Position

INTERNAL: Final = ("held_repaired",)
"""Types of events that tell of the machine alone."""

_POSITION: Final = re.compile(r"[0-9]{1,15}-[0-9]{1,15}(\.[1-9][0-9]{0,8})?\Z")

BEGINNING: Final = FeedPosition(Position(0, 0))


def position_in(text: str) -> FeedPosition | None:
    """None for a text that is no position."""
    return FeedPosition.parse(text) if _POSITION.match(text) else None


class FeedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the feed, its body as it is stored."""

    position: FeedPosition
    type: str
    at_ms: int
    body_json: str


class FeedPayment(msgspec.Struct, frozen=True, kw_only=True):
    """What events say of a payment by its id only: its amount, and the totals of its orders by id."""

    amount_minor: int
    currency: str
    orders: dict[str, int]


class Feed:
    """The feed of one partition. Every method may raise StoreUnavailable."""

    def __init__(self, database: Database, partition: Partition) -> None:
        self._database = database
        self._partition = partition

    async def read(self, after: FeedPosition | None, limit: int) -> list[FeedEvent]:
        """Events strictly after a position (None: from the oldest that is kept), oldest first.

        Raises EventsGone when some of them are not kept any more.
        """
        found = await self._after(after or BEGINNING, limit)
        if after is not None:
            # After the events: what retention removes from now on is in `found`.
            gone = await self.gone()
            if after.position < gone:
                # There is one: the newest event is never removed.
                oldest = (await self._after(FeedPosition(gone), 1))[:1]
                raise EventsGone(
                    f"Events up to {gone} are not kept any more; the oldest that is kept is "
                    f"{oldest[0].position if oldest else gone}.",
                    oldest=str(oldest[0].position if oldest else gone),
                    after=str(gone),
                )
        return found

    async def _after(self, after: FeedPosition, limit: int) -> list[FeedEvent]:
        place = (after.position.epoch, after.position.seq, after.line)
        query = (
            select(
                events.c.epoch,
                events.c.seq,
                events.c.line,
                events.c.type,
                events.c.at_ms,
                sql_cast(events.c.body, Text).label("body_json"),
            )
            .where(
                events.c.partition == self._partition.index,
                tuple_(events.c.epoch, events.c.seq, events.c.line) > place,
                events.c.type.not_in(INTERNAL),
            )
            .order_by(events.c.epoch, events.c.seq, events.c.line)
            .limit(limit)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return [
            FeedEvent(
                position=FeedPosition(Position(row.epoch, row.seq), row.line),
                type=row.type,
                at_ms=row.at_ms,
                body_json=row.body_json,
            )
            for row in rows
        ]

    async def gone(self) -> Position:
        """The last event that retention removed; 0-0 before the first."""
        async with self._database.reading() as connection:
            its_own = retention.c.partition == self._partition.index
            row = (await connection.execute(select(retention).where(its_own))).one()
        return Position(row.events_gone_epoch, row.events_gone_seq)

    async def payments_of(self, payment_ids: Iterable[str]) -> dict[str, FeedPayment]:
        """What events say of these payments by their ids only."""
        wanted = array_of(payments.c.payment_id, sorted(set(payment_ids)))
        query = (
            select(
                payments.c.payment_id,
                payments.c.amount_minor,
                payments.c.currency,
                orders.c.order_id,
                orders.c.total_minor,
            )
            .join(orders)
            .where(payments.c.payment_id.in_(wanted))
            .order_by(payments.c.payment_id, orders.c.n)
        )
        found: dict[str, FeedPayment] = {}
        async with self._database.reading() as connection:
            for row in await connection.execute(query):
                payment = found.setdefault(
                    row.payment_id,
                    FeedPayment(amount_minor=row.amount_minor, currency=row.currency, orders={}),
                )
                payment.orders[row.order_id] = row.total_minor
        return found
