"""From stored events to the shapes of the feed. Owns which type of event has which shape.

An event whose stored body cannot be read is told as one that says so: it must not keep the feed from being
followed. Fingerprints, revisions and other internals are not told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from cartstore.archive import events as stored
from cartstore.archive.details import Details, details_in
from cartstore.archive.feed import FeedEvent, FeedPayment
from cartstore.archive.fulfilment import EVENT_TYPE as FULFILMENT_CHANGED
from cartstore.catalog.money import to_text
from cartstore.errors import CartError, EventRefused
from cartstore.model import Event, payment_id_of_order
from cartstore_api import feed_schemas as shapes
from cartstore_api.views import RowReader, address_view, contact_view, time_text

Payments = Mapping[str, FeedPayment]
"""What the record knows of the payments that events name, by payment."""

_POLICIES: Final = {"held": "deny", "backorder": "backorder", "untracked": "untracked"}


def payments_named(events: Iterable[FeedEvent]) -> set[str]:
    """The payments that the views of these events need."""
    named = set()
    for event in events:
        body = _decoded(event)
        match body:
            case stored.PaymentSettled() | stored.PaymentReleased():
                named.add(body.payment_id)
            case stored.OrderRefunded():
                named.add(payment_id_of_order(body.order_id))
    return named


def feed_event_view(event: FeedEvent, payments: Payments) -> shapes.Event:
    """An event as it is told."""
    row = RowReader("event", str(event.position))
    at = row.time("at", event.at_ms)
    try:
        made = _made(event, payments)
    except (CartError, msgspec.MsgspecError, ValueError, ArithmeticError, LookupError, OSError) as error:
        row.note("body", error)
        made = None
    if made is None:
        return shapes.UnreadableEvent(
            position=str(event.position),
            at=at,
            stored_type=event.type,
            body=shapes.UnreadableBody(),
            unreadable=row.unreadable,
        )
    kind, body = made
    return kind(position=str(event.position), at=at, body=body, unreadable=row.unreadable)


def _decoded(event: FeedEvent) -> stored.Body | None:
    if event.type not in stored.BODY_TYPES:
        return None
    try:
        return stored.decode(
            Event(
                position=event.position.position,
                nonce="",
                type=event.type,
                at_ms=event.at_ms,
                body_json=event.body_json,
            )
        )
    except (EventRefused, ValueError, RecursionError):
        return None


def _made(event: FeedEvent, payments: Payments) -> tuple[Callable[..., shapes.Event], Any] | None:
    if event.type == FULFILMENT_CHANGED:
        changed = msgspec.json.decode(event.body_json, type=shapes.FulfilmentChangedBody)
        changed.seller = changed.seller or None
        return shapes.FulfilmentChangedEvent, changed
    if event.type == stored.BACKORDER_ASSIGNED:
        return shapes.BackorderAssignedEvent, msgspec.json.decode(
            event.body_json, type=shapes.BackorderAssignedBody, strict=False
        )
    body = _decoded(event)
    if body is None:
        raise ValueError("the body has not the shape of its type")
    maker = MAKERS.get(type(body))
    return maker(body, payments) if maker is not None else None


def _stock_adjusted(body: stored.StockAdjusted, payments: Payments) -> Any:
    return shapes.StockAdjustedEvent, shapes.StockAdjustedBody(
        sku=body.sku,
        delta=body.delta,
        filled=body.filled,
        on_hand=body.on_hand,
        reason=body.reason,
        reference=body.reference,
    )


def _checkout_begun(body: stored.CheckoutBegun, payments: Payments) -> Any:
    details = details_in(body.details_json)
    return shapes.CheckoutBegunEvent, shapes.CheckoutBegunBody(
        payment_id=body.payment_id,
        checkout_id=body.checkout_id,
        checkout_type=body.checkout_type,
        cart_id=body.cart_id,
        amount=to_text(body.amount_minor, body.currency),
        currency=body.currency,
        gateway=body.gateway,
        payment_method=body.method,
        created_at=time_text(body.created_at_ms),
        expires_at=time_text(body.expires_at_ms),
        contact=contact_view(details),
        shipping_address=address_view(details.shipping_address),
        billing_address=address_view(details.billing_address),
        metadata=_metadata(details),
        orders=[_begun_order(order, body.currency) for order in body.orders],
    )


def _begun_order(order: stored.BegunOrder, currency: str) -> shapes.BegunOrder:
    return shapes.BegunOrder(
        order_id=order.order_id,
        seller=order.seller or None,
        total=to_text(order.total_minor, currency),
        lines=[
            shapes.BegunLine(
                line_id=line.line_id,
                sku=line.sku,
                quantity=line.quantity,
                unit_price=to_text(line.unit_price_minor, currency),
                line_total=to_text(line.unit_price_minor * line.quantity, currency),
                policy=_POLICIES[line.mode],  # type: ignore[arg-type]
                properties=RowReader("event line", order.order_id).json("properties", line.properties_json),
            )
            for line in order.lines
        ],
    )


def _metadata(details: Details) -> dict[str, Any] | None:
    if details.metadata_json is None:
        return None
    return RowReader("event", "metadata").json("metadata", details.metadata_json)


def _payment_failed(body: stored.PaymentFailed, payments: Payments) -> Any:
    return shapes.PaymentFailedEvent, shapes.PaymentFailedBody(
        payment_id=body.payment_id, attempts=body.attempts
    )


def _payment_settled(body: stored.PaymentSettled, payments: Payments) -> Any:
    payment = payments[body.payment_id]
    return shapes.PaymentSettledEvent, shapes.PaymentSettledBody(
        payment_id=body.payment_id,
        outcome=body.outcome,
        amount=to_text(payment.amount_minor, payment.currency),
        currency=payment.currency,
        order_ids=list(payment.orders),
        sales=[
            shapes.Sale(
                order_id=sale.order_id,
                sku=sale.sku,
                quantity=sale.quantity,
                taken=sale.taken,
                backordered=sale.backordered,
            )
            for sale in body.sold
        ],
    )


def _payment_released(body: stored.PaymentReleased, payments: Payments) -> Any:
    return shapes.PaymentReleasedEvent, shapes.PaymentReleasedBody(
        payment_id=body.payment_id, reason=body.reason, order_ids=list(payments[body.payment_id].orders)
    )


def _order_refunded(body: stored.OrderRefunded, payments: Payments) -> Any:
    payment_id = payment_id_of_order(body.order_id)
    payment = payments[payment_id]
    return shapes.OrderRefundedEvent, shapes.OrderRefundedBody(
        order_id=body.order_id,
        payment_id=payment_id,
        payment_status=body.payment_status,
        amount=to_text(payment.orders[body.order_id], payment.currency),
        currency=payment.currency,
    )


def _backorder_filled(body: stored.BackorderFilled, payments: Payments) -> Any:
    return shapes.BackorderFilledEvent, shapes.BackorderFilledBody(
        sku=body.sku, filled=body.filled, on_hand=body.on_hand
    )


MAKERS: Final[dict[type, Callable[[Any, Payments], Any]]] = {
    stored.StockAdjusted: _stock_adjusted,
    stored.CheckoutBegun: _checkout_begun,
    stored.PaymentFailed: _payment_failed,
    stored.PaymentSettled: _payment_settled,
    stored.PaymentReleased: _payment_released,
    stored.OrderRefunded: _order_refunded,
    stored.BackorderFilled: _backorder_filled,
}
"""How the engine's events are told, by the shape that they are stored in."""
