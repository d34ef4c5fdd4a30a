"""Reads script replies into the vocabulary. Owns the positions of fields in replies, nothing else."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

from cartstore.errors import ContractError
from cartstore.model import (
    Cart,
    CartSnapshot,
    Checkout,
    Line,
    LineResult,
    Order,
    OrderLine,
    Payment,
    Position,
    SnapshotLine,
    StockLevel,
    StockPolicy,
    Summary,
    sku_of,
)

LINE_FIELDS = 17
SUMMARY_FIELDS = 5
STOCK_FIELDS = 6
SNAPSHOT_LINE_FIELDS = 11

_ACTIVE, _CHANGED, _OTHER_CURRENCY = 1, 2, 4
"""What the state of a line adds up (line_state.lua)."""


def read_replayed(reply: Sequence[Any], start: int) -> list[Any]:
    """A remembered reply of a mutation, which is kept as texts, as the mutation gave it: `start` is where its
    totals are, after which come one line, or what else is no number."""
    numbers = [1, 2, *range(start, start + 4)]
    line = start + SUMMARY_FIELDS
    if len(reply) == line + LINE_FIELDS:
        numbers += [*range(line + 2, line + 14), line + 15, line + 16]
    first = list(reply)
    for place in numbers:
        if first[place] != "":
            first[place] = int(first[place])
    return first


# The next two are read with every answer of the hot path, and so the values go in by their places.


def read_summary(reply: Sequence[Any], start: int) -> Summary:
    """version, lines, units, subtotal, currency from `start` on."""
    version, lines, units, subtotal, currency = reply[start : start + SUMMARY_FIELDS]
    return Summary(version, lines, units, subtotal, currency or None)


def read_line(reply: Sequence[Any], start: int) -> Line:
    """One line as line_append.lua writes it."""
    (
        line_id,
        properties,
        quantity,
        held,
        expires,
        first,
        price,
        revision,
        ordinal,
        added,
        updated,
        current_price,
        current_revision,
        state,
        policy,
        available,
        rests_until,
    ) = reply[start : start + LINE_FIELDS]
    return Line(
        line_id,
        sku_of(line_id),
        properties or None,
        quantity,
        held,
        expires,
        first,
        price,
        revision,
        ordinal,
        added,
        updated,
        current_price,
        current_revision,
        state & _ACTIVE != 0,
        policy,
        None if available == "" else available,
        state & _CHANGED != 0,
        state & _OTHER_CURRENCY != 0,
        rests_until,
    )


_CHANGE = struct.Struct(">18q")
_NOT_LIMITED = -1


@lru_cache(maxsize=256)
def _texts_of(packed: bytes) -> tuple[str, StockPolicy, str | None]:
    """Currency, policy and properties; most lines share them, having no properties."""
    currency, policy, properties = packed.decode("utf-8", "surrogateescape").split("\x1f", 2)
    return currency, cast(StockPolicy, policy), properties or None


def read_change(text: str, line_id: str, rests_until_ms: int = 0) -> LineResult:
    """A mutation of one line as line_change.lua packs it. `text` was decoded with surrogate escapes, which
    keep whatever bytes there were."""
    packed = text.encode("utf-8", "surrogateescape")
    (
        created,
        now,
        version,
        lines,
        units,
        subtotal,
        quantity,
        held,
        expires,
        first,
        price,
        revision,
        ordinal,
        added,
        current_price,
        current_revision,
        state,
        available,
    ) = _CHANGE.unpack_from(packed)
    currency, policy, properties = _texts_of(packed[_CHANGE.size :])
    line = Line(
        line_id,
        sku_of(line_id),
        properties,
        quantity,
        held,
        expires,
        first,
        price,
        revision,
        ordinal,
        added,
        now,
        current_price,
        current_revision,
        state & _ACTIVE != 0,
        policy,
        None if available == _NOT_LIMITED else available,
        state & _CHANGED != 0,
        False,
        rests_until_ms,
    )
    summary = Summary(version, lines, units, subtotal, currency)
    return LineResult(line=line, summary=summary, read_at_ms=now, created=created == 1)


def read_cart(cart_id: str, reply: Sequence[Any]) -> Cart:
    """A reply of cart_read."""
    exists = reply[2] == 1
    return Cart(
        cart_id=cart_id,
        summary=read_summary(reply, 5),
        lines=tuple(read_line(reply, start) for start in range(10, len(reply), LINE_FIELDS)),
        created_at_ms=int(reply[3]) if exists else None,
        updated_at_ms=int(reply[4]) if exists else None,
        read_at_ms=int(reply[1]),
    )


def read_level(reply: Sequence[str], start: int) -> StockLevel | None:
    """sku, policy, on_hand, held, sold, backordered from `start` on; None for an unknown SKU."""
    sku, policy, on_hand, held, sold, backordered = reply[start : start + STOCK_FIELDS]
    if not policy:
        return None
    return StockLevel(
        sku=sku,
        policy=cast(StockPolicy, policy),
        on_hand=int(on_hand),
        held=int(held),
        sold=int(sold),
        backordered=int(backordered),
    )


def _fields(flat: Any) -> dict[str, str]:
    if isinstance(flat, dict):
        return flat
    return dict(zip(flat[::2], flat[1::2], strict=True))


_MODES = ("held", "backorder", "untracked")


def encode_order_line(line: OrderLine) -> str:
    """The text that order_line_encode.lua writes."""
    return "\x1f".join(
        (
            line.line_id,
            line.sku,
            str(line.quantity),
            str(line.held),
            line.mode,
            str(line.unit_price_minor),
            str(line.revision),
            str(line.first_held_at_ms),
            line.properties_json or "",
        )
    )


def _read_order_line(text: str) -> OrderLine:
    line_id, sku, quantity, held, mode, price, revision, first, properties = text.split("\x1f", 8)
    if mode not in _MODES:
        raise ContractError(f"An order line has the mode {mode!r}.")
    return OrderLine(
        line_id=line_id,
        sku=sku,
        quantity=int(quantity),
        held=int(held),
        mode=cast(Any, mode),
        unit_price_minor=int(price),
        revision=int(revision),
        first_held_at_ms=int(first),
        properties_json=properties or None,
    )


def _read_order(fields: dict[str, str]) -> Order:
    return Order(
        order_id=fields["id"],
        payment_id=fields["payment"],
        checkout_id=fields["checkout"],
        cart_id=fields["cart"],
        seller=fields["seller"],
        status=cast(Any, fields["status"]),
        release_reason=cast(Any, fields["reason"] or None),
        lines=tuple(_read_order_line(fields[f"l{n}"]) for n in range(1, int(fields["count"]) + 1)),
        total_minor=int(fields["total"]),
        currency=fields["currency"],
        created_at_ms=int(fields["created"]),
    )


def _read_payment(fields: dict[str, str]) -> Payment:
    return Payment(
        payment_id=fields["id"],
        checkout_id=fields["checkout"],
        checkout_type=cast(Any, fields["type"]),
        cart_id=fields["cart"],
        status=cast(Any, fields["status"]),
        amount_minor=int(fields["amount"]),
        currency=fields["currency"],
        gateway=fields["gateway"],
        method=fields["method"],
        attempts=int(fields["attempts"]),
        order_ids=tuple(fields["orders"].split(" ")),
        expires_at_ms=int(fields["expires"]),
        created_at_ms=int(fields["created"]),
        fingerprint=fields["fingerprint"],
        details_json=fields["details"],
        is_redacted="redacted" in fields,
    )


def read_checkout(reply: Sequence[Any]) -> Checkout:
    """A reply made by payment_reply.lua."""
    return Checkout(
        payment=_read_payment(_fields(reply[3])),
        orders=tuple(_read_order(_fields(flat)) for flat in reply[4:]),
        read_at_ms=int(reply[1]),
        position=Position.parse(reply[2]) if reply[2] else None,
        replayed=reply[0] == "REPLAYED",
    )


def unreadable_checkout(cart_id: str, payment_id: str) -> Checkout:
    """What is known of a payment whose hash cannot be read: its name, and that of its first order. It has no
    currency, which no other payment lacks."""
    checkout_id, order_id = f"c{payment_id[1:]}", f"o{payment_id[1:]}-1"
    order = Order(
        order_id=order_id,
        payment_id=payment_id,
        checkout_id=checkout_id,
        cart_id=cart_id,
        seller="",
        status="pending",
        release_reason=None,
        lines=(),
        total_minor=0,
        currency="",
        created_at_ms=0,
    )
    payment = Payment(
        payment_id=payment_id,
        checkout_id=checkout_id,
        checkout_type="full_cart",
        cart_id=cart_id,
        status="pending",
        amount_minor=0,
        currency="",
        gateway="",
        method="",
        attempts=0,
        order_ids=(order_id,),
        expires_at_ms=0,
        created_at_ms=0,
    )
    return Checkout(payment=payment, orders=(order,), read_at_ms=0)


def payment_fields(payment: Payment, cart_ttl_ms: int) -> list[str]:
    """Names and values of a payment hash, for putting one back from the record."""
    fields = {
        "id": payment.payment_id,
        "checkout": payment.checkout_id,
        "type": payment.checkout_type,
        "cart": payment.cart_id,
        "cart_ttl": str(cart_ttl_ms),
        "status": payment.status,
        "amount": str(payment.amount_minor),
        "currency": payment.currency,
        "gateway": payment.gateway,
        "method": payment.method,
        "attempts": str(payment.attempts),
        "orders": " ".join(payment.order_ids),
        "expires": str(payment.expires_at_ms),
        "created": str(payment.created_at_ms),
        "fingerprint": payment.fingerprint,
        "details": payment.details_json,
        "event": "0-0",
    }
    if payment.is_redacted:
        fields["redacted"] = "1"
    return [part for field in fields.items() for part in field]


def order_fields(order: Order) -> list[str]:
    """The order's id, then names and values of its hash, for putting one back from the record."""
    fields = {
        "id": order.order_id,
        "payment": order.payment_id,
        "checkout": order.checkout_id,
        "cart": order.cart_id,
        "seller": order.seller,
        "status": order.status,
        "reason": order.release_reason or "",
        "total": str(order.total_minor),
        "currency": order.currency,
        "created": str(order.created_at_ms),
        "count": str(len(order.lines)),
    }
    fields.update({f"l{number}": encode_order_line(line) for number, line in enumerate(order.lines, 1)})
    return [order.order_id, *(part for field in fields.items() for part in field)]


def read_snapshot(cart_id: str, told: Sequence[Any]) -> CartSnapshot | None:
    """A cart of a reply of cart_dump; None for an absent one."""
    if not told:
        return None
    version, currency, created, updated, lifetime, watched_until, merged_into, *values = told
    if version == 0:
        # A rebuild made it to count units of pending orders; nobody has put anything into it.
        return None
    lines = []
    for start in range(0, len(values), SNAPSHOT_LINE_FIELDS):
        line_id, properties, quantity, held, until, first, price, revision, ordinal, added, changed = values[
            start : start + SNAPSHOT_LINE_FIELDS
        ]
        lines.append(
            SnapshotLine(
                line_id=line_id,
                quantity=quantity,
                held=held,
                first_held_at_ms=first,
                unit_price_minor=price,
                revision=revision,
                ordinal=ordinal,
                added_at_ms=added,
                updated_at_ms=changed,
                properties_json=properties or None,
                held_until_ms=until,
            )
        )
    return CartSnapshot(
        cart_id=cart_id,
        version=version,
        currency=currency,
        lines=tuple(lines),
        created_at_ms=created,
        updated_at_ms=updated,
        lifetime_ms=lifetime,
        watched_until_ms=watched_until,
        merged_into=merged_into,
    )
