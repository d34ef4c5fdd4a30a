"""By what orders of all carts are searched. Owns the conditions; each has an index that leads to few rows."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import Select, exists, select

from cartstore.archive.details import wanted_email
from cartstore.archive.tables import fulfilments, order_lines, orders, payments
from cartstore.model import FulfilmentState, OrderStatus


class OrderFilters(msgspec.Struct, frozen=True, kw_only=True):
    """What the orders of a list have in common; None: anything. `from_ms` belongs to the time, `to_ms` does
    not. `seller` is the whole name, `email` is compared without regard to case."""

    status: OrderStatus | None = None
    fulfilment: FulfilmentState | None = None
    order_id: str | None = None
    payment_id: str | None = None
    email: str | None = None
    sku: str | None = None
    seller: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None


EVERY_ORDER: Final = OrderFilters()


def filtered(query: Select[Any], wanted: OrderFilters) -> Select[Any]:
    """A query of orders with these conditions. Raises InvalidField for an e-mail address that is none."""
    if wanted.status is not None:
        query = query.where(orders.c.status == wanted.status)
    if wanted.order_id is not None:
        query = query.where(orders.c.order_id == wanted.order_id)
    if wanted.payment_id is not None:
        query = query.where(orders.c.payment_id == wanted.payment_id)
    if wanted.seller is not None:
        query = query.where(orders.c.seller == wanted.seller)
    if wanted.from_ms is not None:
        query = query.where(orders.c.created_at_ms >= wanted.from_ms)
    if wanted.to_ms is not None:
        query = query.where(orders.c.created_at_ms < wanted.to_ms)
    if wanted.email is not None:
        email = wanted_email(wanted.email)
        bought = select(payments.c.payment_id).where(payments.c.email == email)
        query = query.where(orders.c.payment_id.in_(bought))
    if wanted.sku is not None:
        named = select(order_lines.c.order_id).where(order_lines.c.sku == wanted.sku)
        query = query.where(orders.c.order_id.in_(named))
    if wanted.fulfilment is not None:
        its = exists().where(fulfilments.c.order_id == orders.c.order_id)
        if wanted.fulfilment == "unfulfilled":
            others = its.where(fulfilments.c.state != "unfulfilled")
            query = query.where(orders.c.status.in_(("paid", "refunded")), ~others)
        else:
            query = query.where(its.where(fulfilments.c.state == wanted.fulfilment))
    return query
