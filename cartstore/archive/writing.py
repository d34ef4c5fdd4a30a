"""Writes a batch of events and moves the cursor: one statement per table, in the caller's transaction.

Owns which events follow the cursor. What they do to the rows is worked out in applying.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Select, Update, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from cartstore.archive import backorders
from cartstore.archive.applying import (
    Changes,
    OrderState,
    PaymentState,
    StockCount,
    decode_all,
    event_rows,
    payments_needed,
    skus_needed,
    units_to_assign,
)
from cartstore.archive.arrays import array_of, columns_of, insert_rows, rows_of
from cartstore.archive.details import email_in
from cartstore.archive.snapshots import shift
from cartstore.archive.tables import (
    events,
    order_lines,
    orders,
    outbox_cursor,
    payments,
    stock,
    stock_ledger,
)
from cartstore.errors import OutboxBroken, StoreRecovering
from cartstore.layout import LAYOUT
from cartstore.model import Event, Partition, Position

_EVENT_COLUMNS = ("epoch", "seq", "line", "nonce", "type", "at_ms", "body", "partition")
_PAYMENT_COLUMNS = tuple(column.name for column in payments.c if column.name != "redacted_at_ms")
_ORDER_COLUMNS = tuple(column.name for column in orders.c)
_LINE_COLUMNS = tuple(column.name for column in order_lines.c)
_LEDGER_COLUMNS = tuple(column.name for column in stock_ledger.c)


def cursor_of(partition: Partition) -> Select[Any]:
    return select(
        outbox_cursor.c.epoch, outbox_cursor.c.seq, outbox_cursor.c.nonce, outbox_cursor.c.fence_epoch
    ).where(outbox_cursor.c.partition == partition.index)


def cursor_update(partition: Partition) -> Update:
    """An UPDATE of the cursor's row that says of which key layout its process is: the record refuses every
    other (migration 0007)."""
    its_own = outbox_cursor.c.partition == partition.index
    return update(outbox_cursor).where(its_own).values(written_in_layout=LAYOUT)


def following(batch: Sequence[Event], cursor: Position, nonce: str, fence_epoch: int) -> list[Event]:
    """The events that follow the cursor, up to the first one that does not follow the one before it. Raises
    OutboxBroken when that is the first of all, StoreRecovering for events of an epoch that a recovery has
    closed."""
    fresh: list[Event] = []
    last, last_nonce = cursor, nonce
    for event in batch:
        position = event.position
        if position.seq <= cursor.seq and position.epoch <= cursor.epoch:
            continue
        # An older epoch is an engine that was replaced; its events must never count again.
        if position.epoch < fence_epoch:
            raise StoreRecovering(
                f"Event {position} is of an epoch before {fence_epoch}: its engine was replaced."
            )
        if not event.follows(last, last_nonce):
            if fresh:
                break
            raise OutboxBroken(f"Event {position} cannot follow {last}: the outbox has a gap or a fork.")
        fresh.append(event)
        last, last_nonce = position, event.nonce
    return fresh


async def locked_cursor(connection: AsyncConnection, partition: Partition) -> tuple[Position, str, int]:
    """The cursor with its nonce, locked for this transaction, and the epoch below which nothing applies."""
    row = (await connection.execute(cursor_of(partition).with_for_update())).one()
    return Position(row.epoch, row.seq), row.nonce, row.fence_epoch


async def apply(connection: AsyncConnection, partition: Partition, fresh: Sequence[Event]) -> Position:
    """Apply events that follow the cursor, and move it. Raises EventRefused."""
    decoded = decode_all(fresh)
    changes = Changes(
        await _payment_states(connection, payments_needed(decoded)),
        await _stock_counts(connection, partition, skus_needed(decoded)),
        await backorders.read_waiting(connection, partition, units_to_assign(decoded)),
    )
    changes.fold(decoded)
    await _write_changes(connection, partition, changes)
    await shift(connection, partition, decoded)
    rows = [(*row, partition.index) for row in (*event_rows(decoded), *changes.feed)]
    await insert_rows(connection, events, _EVENT_COLUMNS, rows)
    return await move_cursor(connection, partition, fresh[-1])


async def move_cursor(connection: AsyncConnection, partition: Partition, last: Event) -> Position:
    position = last.position
    values = {"epoch": position.epoch, "seq": position.seq, "nonce": last.nonce}
    await connection.execute(cursor_update(partition).values(**values))
    return position


async def _payment_states(connection: AsyncConnection, payment_ids: Sequence[str]) -> dict[str, PaymentState]:
    if not payment_ids:
        return {}
    query = (
        select(
            payments.c.payment_id,
            payments.c.status,
            payments.c.attempts,
            payments.c.paid_at_ms,
            orders.c.order_id,
            orders.c.status.label("order_status"),
            orders.c.release_reason,
        )
        .join(orders)
        .where(payments.c.payment_id.in_(array_of(payments.c.payment_id, payment_ids)))
        .order_by(payments.c.payment_id, orders.c.n)
    )
    states: dict[str, PaymentState] = {}
    for row in await connection.execute(query):
        state = states.setdefault(
            row.payment_id, PaymentState(row.payment_id, row.status, row.attempts, {}, row.paid_at_ms)
        )
        state.orders[row.order_id] = OrderState(row.order_id, row.order_status, row.release_reason)
    return states


async def _stock_counts(
    connection: AsyncConnection, partition: Partition, skus: Sequence[str]
) -> dict[str, StockCount]:
    if not skus:
        return {}
    query = select(stock).where(
        stock.c.sku.in_(array_of(stock.c.sku, skus)), stock.c.partition == partition.index
    )
    return {
        row.sku: StockCount(row.on_hand, row.sold, row.backordered) for row in await connection.execute(query)
    }


async def _write_changes(connection: AsyncConnection, partition: Partition, changes: Changes) -> None:
    await _insert_begun(connection, partition, changes)
    await _update_payments(connection, changes)
    await _upsert_stock(connection, partition, changes)
    rows = [(*msgspec.structs.astuple(line), partition.index) for line in changes.ledger]
    await insert_rows(connection, stock_ledger, _LEDGER_COLUMNS, rows)
    await backorders.write(connection, partition, changes.waiting)


async def _insert_begun(connection: AsyncConnection, partition: Partition, changes: Changes) -> None:
    """Checkouts that the batch begins, in the state that the batch leaves them in."""
    payment_rows: list[tuple[Any, ...]] = []
    order_rows: list[tuple[Any, ...]] = []
    line_rows: list[tuple[Any, ...]] = []
    for begun in changes.begun:
        state = changes.payments[begun.payment_id]
        payment_rows.append(
            (
                *(begun.payment_id, begun.checkout_id, begun.checkout_type, begun.cart_id, state.status),
                *(begun.amount_minor, begun.currency, begun.gateway, begun.method, state.attempts),
                *(begun.expires_at_ms, begun.created_at_ms, begun.fingerprint, begun.details_json),
                partition.index,
                *(email_in(begun.details_json), state.paid_at_ms),
            )
        )
        for n, order in enumerate(begun.orders, 1):
            its = state.orders[order.order_id]
            order_rows.append(
                (
                    *(order.order_id, begun.payment_id, n, order.seller, its.status, its.release_reason),
                    *(order.total_minor, begun.created_at_ms, partition.index),
                )
            )
            line_rows += [
                (
                    *(order.order_id, line_n, line.line_id, line.sku, line.quantity, line.held, line.mode),
                    *(line.unit_price_minor, line.revision, line.first_held_at_ms, line.properties_json),
                )
                for line_n, line in enumerate(order.lines, 1)
            ]
    await insert_rows(connection, payments, _PAYMENT_COLUMNS, payment_rows)
    await insert_rows(connection, orders, _ORDER_COLUMNS, order_rows)
    await insert_rows(connection, order_lines, _LINE_COLUMNS, line_rows)


async def _update_payments(connection: AsyncConnection, changes: Changes) -> None:
    begun = changes.begun_ids()
    changed = [state for state in changes.payments.values() if state.payment_id not in begun]
    if not changed:
        return
    names = ("payment_id", "status", "attempts", "paid_at_ms")
    rows = [(state.payment_id, state.status, state.attempts, state.paid_at_ms) for state in changed]
    source = rows_of(payments, names)
    await connection.execute(
        update(payments)
        .where(payments.c.payment_id == source.c.payment_id)
        .values(status=source.c.status, attempts=source.c.attempts, paid_at_ms=source.c.paid_at_ms),
        columns_of(names, rows),
    )
    order_rows = [
        (order.order_id, order.status, order.release_reason)
        for state in changed
        for order in state.orders.values()
    ]
    source = rows_of(orders, ("order_id", "status", "release_reason"))
    await connection.execute(
        update(orders)
        .where(orders.c.order_id == source.c.order_id)
        .values(status=source.c.status, release_reason=source.c.release_reason),
        columns_of(("order_id", "status", "release_reason"), order_rows),
    )


async def _upsert_stock(connection: AsyncConnection, partition: Partition, changes: Changes) -> None:
    if not changes.stock:
        return
    names = ("sku", "partition", "on_hand", "sold", "backordered")
    rows = [
        (sku, partition.index, count.on_hand, count.sold, count.backordered)
        for sku, count in changes.stock.items()
    ]
    statement = pg_insert(stock).from_select(names, select(*rows_of(stock, names).c))
    # Whole values, not additions: the counts were read under the cursor's lock, and only its holder writes.
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["sku", "partition"], set_={name: statement.excluded[name] for name in names[2:]}
        ),
        columns_of(names, rows),
    )
