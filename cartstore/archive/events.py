"""The shapes of outbox events, one Struct per type. Owns decoding; refuses what no script writes.

Numbers inside bodies are strings of decimal digits, because Lua's JSON encoder loses digits of large
ones; `decode` takes both. Lua also cannot tell an empty list from an empty object, so both are one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from cartstore.errors import EventRefused
from cartstore.limits import STOCK_MAX, TOTAL_MINOR_MAX
from cartstore.model import CheckoutType, Event, PaymentStatus, ReleaseReason

Units = Annotated[int, msgspec.Meta(ge=0, le=STOCK_MAX)]
Minor = Annotated[int, msgspec.Meta(ge=0, le=TOTAL_MINOR_MAX)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Revision = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Name = Annotated[str, msgspec.Meta(min_length=1)]


class StockAdjusted(msgspec.Struct, frozen=True, kw_only=True):
    """`delta` units came or went; `filled` of them went to paid backorders at once. `on_hand` is the engine's
    count afterwards."""

    sku: Name
    delta: Annotated[int, msgspec.Meta(ge=-STOCK_MAX, le=STOCK_MAX)]
    filled: Units = 0
    on_hand: Units
    reason: str
    reference: Name
    fingerprint: str


class BegunLine(msgspec.Struct, frozen=True, kw_only=True):
    line_id: Name
    sku: Name
    quantity: Units
    held: Units
    mode: Literal["held", "backorder", "untracked"]
    unit_price_minor: Minor
    revision: Revision
    first_held_at_ms: Milliseconds = 0
    properties_json: str | None = None


class BegunOrder(msgspec.Struct, frozen=True, kw_only=True):
    order_id: Name
    seller: str
    total_minor: Minor
    lines: Annotated[list[BegunLine], msgspec.Meta(min_length=1)]


class CheckoutBegun(msgspec.Struct, frozen=True, kw_only=True):
    """Lines became pending orders, one per seller, in the order of the list."""

    payment_id: Name
    checkout_id: Name
    checkout_type: CheckoutType
    cart_id: Name
    amount_minor: Minor
    currency: str
    gateway: str
    method: str
    expires_at_ms: Milliseconds
    created_at_ms: Milliseconds
    fingerprint: str
    details_json: str
    orders: Annotated[list[BegunOrder], msgspec.Meta(min_length=1)]


class PaymentFailed(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt failed; `attempts` counts it. The payment stays pending."""

    payment_id: Name
    attempts: Count


class Sale(msgspec.Struct, frozen=True, kw_only=True):
    """What one order took of one SKU: `taken` units from on_hand, `backordered` units beyond it."""

    order_id: Name
    sku: Name
    quantity: Units
    taken: Units
    backordered: Units

    def __post_init__(self) -> None:
        if self.taken + self.backordered != self.quantity:
            raise ValueError("taken and backordered do not add up to the quantity sold")


class PaymentSettled(msgspec.Struct, frozen=True, kw_only=True):
    """The money arrived: units were sold, or it has to go back."""

    payment_id: Name
    outcome: Literal["paid", "refund_due"]
    sales: list[Sale] | dict[str, Any] = []

    def __post_init__(self) -> None:
        if self.outcome == "refund_due" and self.sales:
            raise ValueError("a payment that is due back sells nothing")
        if isinstance(self.sales, dict) and self.sales:
            raise ValueError("sales must be a list")

    @property
    def sold(self) -> list[Sale]:
        return self.sales if isinstance(self.sales, list) else []


class PaymentReleased(msgspec.Struct, frozen=True, kw_only=True):
    """All orders of a payment were given up and their units went back."""

    payment_id: Name
    reason: ReleaseReason


class OrderRefunded(msgspec.Struct, frozen=True, kw_only=True):
    """The money of an order went back; `payment_status` is the payment's status afterwards."""

    order_id: Name
    payment_status: PaymentStatus


class BackorderFilled(msgspec.Struct, frozen=True, kw_only=True):
    """Units on hand that nobody held any more went to paid backorders; `on_hand` is the engine's count
    afterwards."""

    sku: Name
    filled: Annotated[int, msgspec.Meta(ge=1, le=STOCK_MAX)]
    on_hand: Units


class BackorderAssigned(msgspec.Struct, frozen=True, kw_only=True):
    """One paid order got units that it waited for; `owed` is what it still waits for. The record writes it
    beside the event of the engine that brought the units; no script does."""

    order_id: Name
    sku: Name
    quantity: Units
    owed: Units


class HeldRepaired(msgspec.Struct, frozen=True, kw_only=True):
    """Reconcile set `held` to what carts and orders claim. The record keeps no holds: this is for whoever
    wants to know why a counter moved."""

    sku: Name
    held: Units
    delta: Annotated[int, msgspec.Meta(ge=-STOCK_MAX, le=STOCK_MAX)]
    guest_held: Units
    guest_delta: Annotated[int, msgspec.Meta(ge=-STOCK_MAX, le=STOCK_MAX)]
    rev: Revision
    """Of the SKU, before the repair."""


Body = (
    StockAdjusted
    | CheckoutBegun
    | PaymentFailed
    | PaymentSettled
    | PaymentReleased
    | OrderRefunded
    | BackorderFilled
    | HeldRepaired
)

BODY_TYPES: dict[str, type[Body]] = {
    "stock_adjusted": StockAdjusted,
    "checkout_begun": CheckoutBegun,
    "payment_failed": PaymentFailed,
    "payment_settled": PaymentSettled,
    "payment_released": PaymentReleased,
    "order_refunded": OrderRefunded,
    "backorder_filled": BackorderFilled,
    "held_repaired": HeldRepaired,
}

BACKORDER_ASSIGNED = "backorder_assigned"
"""Type of the events that the record adds to the feed (BackorderAssigned)."""

_DECODERS = {name: msgspec.json.Decoder(body_type, strict=False) for name, body_type in BODY_TYPES.items()}


def decode(event: Event) -> Body:
    """The event's body as the Struct of its type.

    Raises EventRefused for any other shape or type, and for what is no JSON at all.
    """
    decoder = _DECODERS.get(event.type)
    if decoder is None:
        raise EventRefused(f"There is no event type {event.type!r}.")
    try:
        return decoder.decode(event.body_json)
    except msgspec.ValidationError as error:
        raise EventRefused(f"{event.type}: {error}") from error
    except msgspec.DecodeError as error:
        raise EventRefused(f"The body of event {event.position} cannot be read: {error}.") from error
