"""What the record knows of who bought what: the orders of a SKU within a purchase limit's window, with the
identities of their customers, and the secret that those are made under.

Owns which orders count, and how much of them: pending and paid ones, less what a refund put back into stock.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

import msgspec
from sqlalchemy import exists, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert as pg_insert

from cartstore.archive.database import Database
from cartstore.archive.tables import customer_secret, order_lines, orders, payments, stock_ledger
from cartstore.customers import contact_identities
from cartstore.model import Partition
from cartstore.stored_json import note_unreadable

SECRET_BYTES: Final = 32

Place = tuple[int, str]
"""When an order began, and its id: where a page ended."""

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class Purchase(msgspec.Struct, frozen=True, kw_only=True):
    """Units of one SKU in one order."""

    order_id: str
    payment_id: str
    at_ms: int
    """When the order began."""
    units: int
    """Less what was put back into stock."""
    counts: bool
    identities: tuple[str, ...]
    """Of its customer, the cart's id first."""


class Purchases:
    """What was bought in one partition; the secret is the whole record's. Every method may raise
    StoreUnavailable."""

    def __init__(self, database: Database, partition: Partition) -> None:
        self._database = database
        self._partition = partition.index
        self._secret: bytes | None = None

    async def secret(self) -> bytes:
        """What customers' identities are made under; made once for a record, whoever asks first, and then the
        same for ever. May raise OutcomeUnknown: ask again."""
        if self._secret is None:
            async with self._database.reading() as connection:
                found = (await connection.execute(select(customer_secret.c.secret))).scalar()
            self._secret = found if found is not None else await self._make_secret()
        return self._secret

    async def _make_secret(self) -> bytes:
        """Of several processes that make one at once, the first decides; the others wait for its row, and
        read it."""
        made = pg_insert(customer_secret).values(id=1, secret=secrets.token_bytes(SECRET_BYTES))
        async with self._database.transaction() as connection:
            await connection.execute(made.on_conflict_do_nothing())
        # In a statement of its own: the one that met the conflict does not see the row.
        async with self._database.reading() as connection:
            secret: bytes = (await connection.execute(select(customer_secret.c.secret))).scalar_one()
        return secret

    async def identities(self, contact: object) -> tuple[str, ...]:
        """Identities of the customer with this contact. May raise OutcomeUnknown as well."""
        return contact_identities(await self.secret(), contact)

    async def page(self, sku: str, after: Place, limit: int) -> list[Purchase]:
        """Up to `limit` orders of a SKU after a place, oldest first, released ones included."""
        place = (orders.c.created_at_ms, orders.c.order_id)
        ledger = stock_ledger.alias()
        returned = (
            select(func.coalesce(func.sum(stock_ledger.c.delta), 0))
            .where(
                stock_ledger.c.sku == sku,
                stock_ledger.c.kind == "return",
                stock_ledger.c.order_id == orders.c.order_id,
            )
            .scalar_subquery()
        )
        sold = exists().where(
            ledger.c.sku == sku, ledger.c.kind == "sale", ledger.c.reference == orders.c.order_id
        )
        query = (
            select(
                *(orders.c.order_id, orders.c.payment_id, orders.c.created_at_ms, orders.c.status),
                *(payments.c.cart_id, payments.c.details_json),
                func.sum(order_lines.c.quantity).label("quantity"),
                returned.label("returned"),
                sold.label("was_sold"),
            )
            .select_from(orders.join(payments).join(order_lines))
            .where(orders.c.partition == self._partition, order_lines.c.sku == sku, tuple_(*place) > after)
            .group_by(orders.c.order_id, payments.c.payment_id)
            .order_by(*place)
            .limit(limit)
        )
        secret = await self.secret()
        async with self._database.reading(is_long=True) as connection:
            rows = (await connection.execute(query)).all()
        return [
            Purchase(
                order_id=row.order_id,
                payment_id=row.payment_id,
                at_ms=row.created_at_ms,
                units=int(row.quantity - row.returned),
                counts=(row.status in ("pending", "paid") or row.was_sold) and row.quantity > row.returned,
                identities=(row.cart_id, *contact_identities(secret, _contact_of(row))),
            )
            for row in rows
        ]


def _contact_of(row: Any) -> object:
    try:
        return _decode_object(row.details_json).get("contact")
    except msgspec.DecodeError as error:
        note_unreadable("payment", row.payment_id, "details_json", error)
        return None
