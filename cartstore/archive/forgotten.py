"""Events that the record keeps no longer: their rows in `events` went with their retention. Owns how the rows
that stay (payments, orders, the ledger) tell whether such an event was applied."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from cartstore.archive.arrays import array_of, columns_of, rows_of
from cartstore.archive.events import (
    BackorderFilled,
    Body,
    CheckoutBegun,
    HeldRepaired,
    OrderRefunded,
    PaymentFailed,
    PaymentReleased,
    PaymentSettled,
    StockAdjusted,
    decode,
)
from cartstore.archive.tables import orders, payments, stock_ledger
from cartstore.errors import EventRefused
from cartstore.model import Event, Position, payment_id_of_order

ANCHOR = "anchor"
"""Type of the entry that a rebuild begins a stream with; it stands for an event that was applied."""

SETTLED = frozenset({"paid", "refund_due", "refunded"})


async def applied_names(connection: AsyncConnection, stream: Sequence[Event]) -> set[str]:
    """Names of those of these events whose effect the record has, and of those that have none on it. One that
    cannot be decoded is not among them."""
    names = {event.name for event in stream if event.type == ANCHOR}
    decoded: list[tuple[Event, Body]] = []
    for event in stream:
        try:
            decoded.append((event, decode(event)))
        except EventRefused:
            continue
    bodies = [body for _, body in decoded]
    statuses, refunded = await _payments_of(connection, bodies)
    adjusted = await _adjusted(connection, bodies)
    filled = await _filled(
        connection, [it.position for it, body in decoded if isinstance(body, BackorderFilled)]
    )
    for event, body in decoded:
        match body:
            case StockAdjusted():
                is_applied = (body.sku, body.reference) in adjusted
            case CheckoutBegun() | PaymentFailed():
                is_applied = body.payment_id in statuses
            case PaymentReleased():
                is_applied = statuses.get(body.payment_id, "pending") != "pending"
            case PaymentSettled():
                is_applied = statuses.get(body.payment_id) in SETTLED
            case OrderRefunded():
                is_applied = body.order_id in refunded
            case BackorderFilled():
                is_applied = event.position in filled
            case HeldRepaired():
                is_applied = True
        if is_applied:
            names.add(event.name)
    return names


async def _payments_of(
    connection: AsyncConnection, bodies: Sequence[Body]
) -> tuple[dict[str, str], set[str]]:
    """The statuses of the payments that events are about, and ids of their orders that were refunded."""
    payment_ids = set()
    for body in bodies:
        match body:
            case OrderRefunded():
                payment_ids.add(payment_id_of_order(body.order_id))
            case CheckoutBegun() | PaymentFailed() | PaymentReleased() | PaymentSettled():
                payment_ids.add(body.payment_id)
    if not payment_ids:
        return {}, set()
    query = (
        select(
            payments.c.payment_id, payments.c.status, orders.c.order_id, orders.c.status.label("order_status")
        )
        .join(orders)
        .where(payments.c.payment_id.in_(array_of(payments.c.payment_id, sorted(payment_ids))))
    )
    rows = (await connection.execute(query)).all()
    refunded = {row.order_id for row in rows if row.order_status == "refunded"}
    return {row.payment_id: row.status for row in rows}, refunded


async def _adjusted(connection: AsyncConnection, bodies: Sequence[Body]) -> set[tuple[str, str]]:
    """SKU and reference of those adjustments that are in the ledger."""
    wanted = {(body.sku, body.reference) for body in bodies if isinstance(body, StockAdjusted)}
    if not wanted:
        return set()
    source = rows_of(stock_ledger, ("sku", "reference"))
    query = select(stock_ledger.c.sku, stock_ledger.c.reference).join(
        source, (stock_ledger.c.sku == source.c.sku) & (stock_ledger.c.reference == source.c.reference)
    )
    rows = await connection.execute(
        query.where(stock_ledger.c.kind == "adjust"), columns_of(("sku", "reference"), sorted(wanted))
    )
    return {(row.sku, row.reference) for row in rows}


async def _filled(connection: AsyncConnection, positions: Sequence[Position]) -> set[Position]:
    """Those of these positions whose event gave units to backorders in the ledger."""
    if not positions:
        return set()
    source = rows_of(stock_ledger, ("epoch", "seq"))
    query = select(stock_ledger.c.epoch, stock_ledger.c.seq).join(
        source, (stock_ledger.c.epoch == source.c.epoch) & (stock_ledger.c.seq == source.c.seq)
    )
    rows = await connection.execute(
        query.where(stock_ledger.c.kind == "backorder"),
        columns_of(("epoch", "seq"), [(its.epoch, its.seq) for its in positions]),
    )
    return {Position(row.epoch, row.seq) for row in rows}
