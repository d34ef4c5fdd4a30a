"""The record: applies outbox events exactly once and answers what was ordered, paid and counted.

Owns every statement on the tables of orders, payments, stock and events. Refuses to decide anything
that the engine decides; an event that contradicts the record is refused with EventRefused.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Row, Select, Text, func, literal, select, tuple_, update
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.dialects.postgresql import insert as pg_insert

from cartstore.archive import backorders
from cartstore.archive.arrays import array_of
from cartstore.archive.database import Database
from cartstore.archive.feed import Feed
from cartstore.archive.fulfilment import Fulfilments
from cartstore.archive.order_filters import EVERY_ORDER, OrderFilters, filtered
from cartstore.archive.purchases import Purchases
from cartstore.archive.quarantine import Quarantine, put_aside
from cartstore.archive.raised_epoch import RaisedEpoch
from cartstore.archive.schema import check_tables, revision_of
from cartstore.archive.snapshots import CartSnapshots
from cartstore.archive.tables import (
    events,
    meta,
    order_lines,
    orders,
    outbox_cursor,
    payments,
    stock,
    stock_ledger,
)
from cartstore.archive.writing import (
    apply,
    cursor_of,
    cursor_update,
    following,
    locked_cursor,
    move_cursor,
)
from cartstore.errors import ConfigurationError, InvalidField, StoreRecovering
from cartstore.failpoints import reach
from cartstore.layout import LAYOUT_BEFORE, layout_refusal
from cartstore.limits import PAGE_SIZE_DEFAULT
from cartstore.model import (
    ID_PATTERN,
    Event,
    Order,
    OrderLine,
    Partition,
    Payment,
    Position,
    StockLevel,
    StockResult,
)

_log = logging.getLogger("cartstore.archive")

Recorded = tuple[Payment, list[Order]]
"""A payment with its orders, in the order of the checkout."""


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a SKU's on_hand; `on_hand` is the count after it."""

    seq: int
    delta: int
    on_hand: int
    reason: str
    reference: str
    order_id: str | None
    at_ms: int


class StockTotals(msgspec.Struct, frozen=True, kw_only=True):
    """What the record knows of one SKU's units."""

    on_hand: int
    sold: int
    backordered: int


def _terminal_since(partition: Partition, since_ms: int, limit: int) -> Select[Any]:
    """By way of the first orders, whose time is their payment's: there is an index on it. A look at every
    payment that a shop ever had would end in the time-out, and with it every attempt at a rebuild."""
    return (
        select(orders.c.payment_id)
        .join(payments, payments.c.payment_id == orders.c.payment_id)
        .where(
            orders.c.n == 1,
            orders.c.created_at_ms > since_ms,
            orders.c.partition == partition.index,
            payments.c.status != "pending",
        )
        .order_by(orders.c.created_at_ms.desc(), orders.c.order_id.desc())
        .limit(limit)
    )


class Archive:
    """The record of one partition. Lists of orders are of all partitions: an order's id names its own.

    Every method may raise StoreUnavailable; those that write also OutcomeUnknown, when the connection was
    lost during the commit.
    """

    def __init__(self, database: Database, partition: Partition) -> None:
        self.database = database
        self.partition = partition
        self.snapshots = CartSnapshots(database, partition)
        self.quarantine = Quarantine(database, partition)
        self.purchases = Purchases(database, partition)
        self.feed = Feed(database, partition)
        self.fulfilments = Fulfilments(database, partition)

    @classmethod
    async def open(cls, database_url: str, partition: Partition) -> Archive:
        """Connect, and refuse a database that the record must not be kept in.

        Raises ConfigurationError (another kind of URL, PostgreSQL older than 14, synchronous_commit=off,
        tables of another version) and StoreUnavailable.
        """
        database = await Database.open(database_url)
        try:
            await database.check_server()
            async with database.reading() as connection:
                await connection.run_sync(check_tables)
        except BaseException:
            await database.close()
            raise
        return cls(database, partition)

    async def revision(self) -> str:
        """The revision of the database's tables."""
        async with self.database.reading() as connection:
            return str(await connection.run_sync(revision_of))

    async def close(self) -> None:
        await self.database.close()

    async def ping(self) -> None:
        """Ask the database for a sign of life."""
        async with self.database.reading() as connection:
            await connection.execute(select(1))

    async def claim(self, *, namespace: str, partitions: int, key_layout: int) -> None:
        """Write down whose record this is, or raise ConfigurationError when it is another deployment's.

        A record of the key layout before moves to this one: from then on it refuses what processes of the
        layout before write of its cursor, and so their drains, their snapshots and their epochs.
        """
        wanted = {"namespace": namespace, "partitions": partitions}
        async with self.database.transaction() as connection:
            values = {**wanted, "key_layout": key_layout}
            await connection.execute(pg_insert(meta).values(id=1, **values).on_conflict_do_nothing())
            # Whoever writes the cursor at this moment ends first; whoever comes later finds the new layout.
            await connection.execute(select(outbox_cursor.c.partition).with_for_update())
            row = (await connection.execute(select(meta))).one()
            for name, value in wanted.items():
                found = getattr(row, name)
                if found != value:
                    raise ConfigurationError(
                        f"The database was set up with {name} {found}, but this cartstore wants {value}."
                    )
            if row.key_layout == key_layout:
                return
            if row.key_layout != LAYOUT_BEFORE:
                raise ConfigurationError(layout_refusal("The database", row.key_layout))
            await connection.execute(update(meta).values(key_layout=key_layout))
            await backorders.add_missing(connection)
        _log.warning("the record moved from key layout %d to %d", LAYOUT_BEFORE, key_layout)

    # --- writing -------------------------------------------------------------------------------

    async def apply_events(self, batch: Sequence[Event]) -> Position:
        """Apply events in one transaction, in their order, and move the cursor; the cursor's new position.

        Events at or before the cursor are skipped, so a batch that comes twice, late, or to two drainers
        at once changes nothing more. Of a batch with a gap or a fork the events before it are applied.
        Raises EventRefused (nothing of the batch is applied) when an event contradicts the record,
        OutboxBroken when the first event after the cursor does not follow it, StoreRecovering for events of
        an epoch that a recovery has closed.
        """
        async with self.database.transaction() as connection:
            # The row lock lets one drainer at a time past this line; the other then finds the cursor moved.
            cursor, nonce, fence_epoch = await locked_cursor(connection, self.partition)
            reach("drain.locked")
            fresh = following(batch, cursor, nonce, fence_epoch)
            if not fresh:
                return cursor
            position = await apply(connection, self.partition, fresh)
            reach("drain.written")
            return position

    async def reject_event(self, event: Event, reason: str) -> Position:
        """Put the event after the cursor aside with the reason, freeze its SKUs, move the cursor past it.
        Raises OutboxBroken, StoreRecovering as apply_events does."""
        async with self.database.transaction() as connection:
            cursor, nonce, fence_epoch = await locked_cursor(connection, self.partition)
            if not following([event], cursor, nonce, fence_epoch):
                return cursor
            await put_aside(connection, self.partition, event, reason)
            return await move_cursor(connection, self.partition, event)

    @asynccontextmanager
    async def raising_epoch(self, least: int) -> AsyncIterator[RaisedEpoch]:
        """Draw an epoch, at least `least`, that no recoverer has drawn, and refuse every older one's events
        from the end of the context on. The cursor is locked meanwhile, so that it is what the epoch follows;
        a body that raises leaves the older ones as they were: the record never waits for an epoch that no
        gate has. Raises StoreRecovering when a later one was drawn and opened in between."""
        epoch = await self._draw_epoch(least)
        async with self.database.transaction() as connection:
            row = (await connection.execute(cursor_of(self.partition).with_for_update())).one()
            if row.fence_epoch >= epoch:
                raise StoreRecovering("Another process opened the gate.")
            await connection.execute(cursor_update(self.partition).values(fence_epoch=epoch))
            yield RaisedEpoch(
                connection,
                self.partition,
                epoch=epoch,
                cursor=Position(row.epoch, row.seq),
                nonce=row.nonce,
                closed_below=row.fence_epoch,
            )

    async def _draw_epoch(self, least: int) -> int:
        """Committed before any gate has it. A gate may be opened in it and the transaction that was to tell
        the record be lost; were it drawn again, for an engine that then lost that gate, two histories would
        count their events alike, and a checkout of the lost one be acknowledged by an event of the other."""
        async with self.database.transaction() as connection:
            its_own = outbox_cursor.c.partition == self.partition.index
            row = (await connection.execute(select(outbox_cursor).where(its_own).with_for_update())).one()
            epoch: int = max(least, row.drawn_epoch + 1, row.fence_epoch + 1, row.epoch + 1)
            await connection.execute(cursor_update(self.partition).values(drawn_epoch=epoch))
            return epoch

    # --- the outbox's counterpart --------------------------------------------------------------

    async def cursor(self) -> tuple[Position, str]:
        """Position and nonce of the last event that was applied or rejected; seq 0 before the first."""
        async with self.database.reading() as connection:
            row = (await connection.execute(cursor_of(self.partition))).one()
        return Position(row.epoch, row.seq), row.nonce

    async def fence_epoch(self) -> int:
        """The epoch that the last recovery raised: events and snapshots of older ones are refused."""
        async with self.database.reading() as connection:
            return int((await connection.execute(cursor_of(self.partition))).one().fence_epoch)

    async def has_event(self, position: Position) -> bool:
        """Whether the event at exactly this position was applied."""
        query = select(events.c.seq).where(
            events.c.epoch == position.epoch,
            events.c.seq == position.seq,
            events.c.partition == self.partition.index,
            events.c.line == 0,
        )
        async with self.database.reading() as connection:
            return (await connection.execute(query)).first() is not None

    async def events_after(self, position: Position, limit: int) -> list[Event]:
        """Applied events of the engine strictly after a position, oldest first."""
        return await self._events(
            (events.c.line == 0) & (tuple_(events.c.epoch, events.c.seq) > (position.epoch, position.seq)),
            limit,
        )

    async def _events(self, chosen: ColumnElement[bool], limit: int) -> list[Event]:
        query = (
            select(*(column for column in events.c if column.name != "body"), _BODY_JSON)
            .where(events.c.partition == self.partition.index, chosen)
            .order_by(events.c.epoch, events.c.seq, events.c.line)
            .limit(limit)
        )
        async with self.database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return [
            Event(
                position=Position(row.epoch, row.seq),
                line=row.line,
                nonce=row.nonce,
                type=row.type,
                at_ms=row.at_ms,
                body_json=row.body_json,
            )
            for row in rows
        ]

    # --- payments and orders -------------------------------------------------------------------

    async def find_payment(self, payment_id: str) -> Recorded | None:
        """A payment with its orders."""
        found = await self.find_payments([payment_id])
        return found[0] if found else None

    async def find_payments(self, payment_ids: Sequence[str]) -> list[Recorded]:
        """Those of these payments that the record has, with their orders."""
        return await self._recorded(
            select(payments.c.payment_id).where(
                payments.c.payment_id.in_(array_of(payments.c.payment_id, payment_ids))
            )
        )

    async def terminal_payment_ids(self, since_ms: int, limit: int) -> list[str]:
        """Payments that began after a time and are not pending any more, latest first."""
        async with self.database.reading(is_long=True) as connection:
            query = _terminal_since(self.partition, since_ms, limit)
            return list((await connection.execute(query)).scalars())

    async def payment_ids(self, after: str, limit: int) -> str:
        """A page of the ids of all payments that there ever were, in their order, separated by spaces: there
        may be millions, and most of what they cost is a row for each. Of all partitions: the index alone
        answers it, and to an engine the id of another partition is one that nobody asks for."""
        page = select(payments.c.payment_id).where(payments.c.payment_id > after)
        ids = page.order_by(payments.c.payment_id).limit(limit).subquery().c.payment_id
        query = select(func.string_agg(ids, aggregate_order_by(literal(" "), ids)))
        async with self.database.reading(is_long=True) as connection:
            return (await connection.execute(query)).scalar() or ""

    async def list_payments(
        self, cart_id: str, *, limit: int = PAGE_SIZE_DEFAULT, before: tuple[int, str] | None = None
    ) -> list[Recorded]:
        """Payments of a cart, newest first: those strictly before (created_at_ms, payment_id)."""
        place = (payments.c.created_at_ms, payments.c.payment_id)
        query = select(payments.c.payment_id).where(payments.c.cart_id == cart_id)
        if before is not None:
            query = query.where(tuple_(*place) < before)
        found = await self._recorded(query.order_by(*(column.desc() for column in place)).limit(limit))
        return sorted(found, key=lambda it: (it[0].created_at_ms, it[0].payment_id), reverse=True)

    async def pending_payments(self) -> list[Recorded]:
        """Payments that the record knows as pending, by the end of their window."""
        pending = select(payments.c.payment_id).where(
            payments.c.status == "pending", payments.c.partition == self.partition.index
        )
        found = await self._recorded(pending, is_long=True)
        return sorted(found, key=lambda it: (it[0].expires_at_ms, it[0].payment_id))

    async def list_orders(
        self,
        filters: OrderFilters = EVERY_ORDER,
        *,
        limit: int = PAGE_SIZE_DEFAULT,
        cursor: str | None = None,
    ) -> tuple[list[Order], str | None]:
        """Orders of all carts, newest first, and the cursor of the next page. Raises InvalidField."""
        place = (orders.c.created_at_ms, orders.c.order_id)
        query = filtered(select(orders.c.order_id), filters)
        if cursor is not None:
            query = query.where(tuple_(*place) < _parse_cursor(cursor))
        found = await self._orders(query.order_by(*(column.desc() for column in place)).limit(limit + 1))
        found.sort(key=lambda order: (order.created_at_ms, order.order_id), reverse=True)
        page = found[:limit]
        return page, f"{page[-1].created_at_ms}.{page[-1].order_id}" if len(found) > limit else None

    # --- stock ---------------------------------------------------------------------------------

    async def find_stock_adjustment(self, sku: str, reference: str) -> tuple[str, StockResult] | None:
        """(fingerprint, first result) of the adjustment of this SKU under this reference.

        Exact in the result: sku, delta, position and level.on_hand, the count right after the adjustment.
        The ledger knows no more: level.held, sold and backordered are 0, and level.policy is `deny`.
        """
        query = select(stock_ledger).where(
            stock_ledger.c.partition == self.partition.index,
            stock_ledger.c.sku == sku,
            stock_ledger.c.kind == "adjust",
            stock_ledger.c.reference == reference,
        )
        async with self.database.reading() as connection:
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None
            # Units that went to backorders at once are further rows of the same event.
            last = (
                select(stock_ledger.c.on_hand)
                .where(stock_ledger.c.epoch == row.epoch, stock_ledger.c.seq == row.seq)
                .order_by(stock_ledger.c.line.desc())
                .limit(1)
            )
            on_hand = (await connection.execute(last)).scalar_one()
        level = StockLevel(sku=sku, policy="deny", on_hand=on_hand, held=0, sold=0, backordered=0)
        result = StockResult(level=level, delta=row.delta, position=Position(row.epoch, row.seq))
        return row.fingerprint, result

    async def ledger(
        self, sku: str, *, limit: int = PAGE_SIZE_DEFAULT, cursor: str | None = None
    ) -> tuple[list[LedgerRow], str | None]:
        """A SKU's changes of on_hand, newest first, and the cursor of the next page. Raises InvalidField."""
        # seq grows over all epochs, so it alone is the order.
        place = (stock_ledger.c.seq, stock_ledger.c.line)
        query = select(stock_ledger).where(
            stock_ledger.c.sku == sku, stock_ledger.c.partition == self.partition.index
        )
        if cursor is not None:
            seq, line = _parse_cursor(cursor)
            if not line.isdigit() or len(line) > _DIGITS_MAX or int(line) >= 2**31:
                raise _foreign_cursor()
            query = query.where(tuple_(*place) < (seq, int(line)))
        query = query.order_by(*(column.desc() for column in place)).limit(limit + 1)
        async with self.database.reading() as connection:
            rows = (await connection.execute(query)).all()
        page = [
            LedgerRow(
                seq=row.seq,
                delta=row.delta,
                on_hand=row.on_hand,
                reason=row.reason,
                reference=row.reference,
                order_id=row.order_id,
                at_ms=row.at_ms,
            )
            for row in rows[:limit]
        ]
        last = rows[limit - 1] if len(rows) > limit else None
        return page, f"{last.seq}.{last.line}" if last is not None else None

    async def stock_totals(
        self, skus: Sequence[str] | None = None
    ) -> tuple[Position, dict[str, StockTotals]]:
        """The counters of these SKUs (None: all), and the position that they are true at.

        One statement, hence one snapshot: no event is in the counters that the position does not cover.
        A SKU that no event ever named is absent.
        """
        wanted = (
            stock.c.sku.in_(array_of(stock.c.sku, skus)) if skus is not None else stock.c.sku.is_not(None)
        )
        query = (
            select(outbox_cursor.c.epoch, outbox_cursor.c.seq, stock)
            .select_from(
                outbox_cursor.outerjoin(stock, wanted & (stock.c.partition == outbox_cursor.c.partition))
            )
            .where(outbox_cursor.c.partition == self.partition.index)
        )
        async with self.database.reading(is_long=True) as connection:
            rows = (await connection.execute(query)).all()
        position = Position(rows[0].epoch, rows[0].seq)
        return position, {
            row.sku: StockTotals(on_hand=row.on_hand, sold=row.sold, backordered=row.backordered)
            for row in rows
            if row.sku is not None
        }

    # --- how it is done ------------------------------------------------------------------------

    async def _recorded(self, chosen: Select[Any], *, is_long: bool = False) -> list[Recorded]:
        """Payments whose ids `chosen` selects, with all their orders, from one snapshot."""
        rows = await self._joined(_JOINED.where(payments.c.payment_id.in_(chosen)), is_long=is_long)
        return [
            (_payment_of(its), [_order_of(part) for part in _groups(its, "order_id")])
            for its in _groups(rows, "payment_id")
        ]

    async def _orders(self, chosen: Select[Any]) -> list[Order]:
        rows = await self._joined(_JOINED.where(orders.c.order_id.in_(chosen)))
        return [_order_of(its) for its in _groups(rows, "order_id")]

    async def _joined(self, query: Select[Any], *, is_long: bool = False) -> list[Row[Any]]:
        async with self.database.reading(is_long=is_long) as connection:
            return list((await connection.execute(query)).all())


_DIGITS_MAX: Final = 19
"""Of a number inside a cursor, which PostgreSQL compares as one below 2**63."""

_BODY_JSON = sql_cast(events.c.body, Text).label("body_json")

_JOINED = (
    select(
        *payments.c,
        orders.c.order_id,
        orders.c.seller,
        orders.c.status.label("order_status"),
        orders.c.release_reason,
        orders.c.total_minor,
        orders.c.created_at_ms.label("order_created_at_ms"),
        *(column for column in order_lines.c if column.name not in ("order_id", "n")),
    )
    .select_from(payments.join(orders).join(order_lines))
    .order_by(payments.c.payment_id, orders.c.n, order_lines.c.n)
)
"""One row per order line, with its order and payment."""


def _groups(rows: Iterable[Row[Any]], name: str) -> list[list[Row[Any]]]:
    """Runs of rows with the same value in a column; the rows are sorted by it."""
    groups: list[list[Row[Any]]] = []
    for row in rows:
        if groups and getattr(groups[-1][0], name) == getattr(row, name):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _payment_of(rows: Sequence[Row[Any]]) -> Payment:
    first = rows[0]
    return Payment(
        payment_id=first.payment_id,
        checkout_id=first.checkout_id,
        checkout_type=first.checkout_type,
        cart_id=first.cart_id,
        status=first.status,
        amount_minor=first.amount_minor,
        currency=first.currency,
        gateway=first.gateway,
        method=first.method,
        attempts=first.attempts,
        order_ids=tuple(dict.fromkeys(row.order_id for row in rows)),
        expires_at_ms=first.expires_at_ms,
        created_at_ms=first.created_at_ms,
        fingerprint=first.fingerprint,
        details_json=first.details_json,
        is_redacted=first.redacted_at_ms is not None,
    )


def _order_of(rows: Sequence[Row[Any]]) -> Order:
    first = rows[0]
    return Order(
        order_id=first.order_id,
        payment_id=first.payment_id,
        checkout_id=first.checkout_id,
        cart_id=first.cart_id,
        seller=first.seller,
        status=first.order_status,
        release_reason=first.release_reason,
        lines=tuple(
            OrderLine(
                line_id=row.line_id,
                sku=row.sku,
                quantity=row.quantity,
                held=row.held,
                mode=row.mode,
                unit_price_minor=row.unit_price_minor,
                revision=row.revision,
                first_held_at_ms=row.first_held_at_ms,
                properties_json=row.properties_json,
            )
            for row in rows
        ),
        total_minor=first.total_minor,
        currency=first.currency,
        # Its own, which lists go by, though it is the payment's.
        created_at_ms=first.order_created_at_ms,
    )


def _parse_cursor(cursor: str) -> tuple[int, str]:
    """`<number>.<rest>` as the lists above give it. Raises InvalidField for anything else."""
    number, point, rest = cursor.partition(".")
    if not (point and ID_PATTERN.match(cursor) and number.isdigit() and len(number) <= _DIGITS_MAX and rest):
        raise _foreign_cursor()
    if int(number) >= 2**63:
        raise _foreign_cursor()
    return int(number), rest


def _foreign_cursor() -> InvalidField:
    return InvalidField("This cursor was not given by this list.", field="cursor")
