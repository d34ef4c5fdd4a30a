"""The shapes of the event feed: one named shape per type of event, told apart by `type`. No behaviour.

Amounts are decimal strings in the named currency, numbers are numbers, times are RFC 3339.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from cartstore_api.field_types import Time, Unreadable
from cartstore_api.schemas import OrderAddress, OrderContact


class StockAdjustedBody(msgspec.Struct, kw_only=True):
    """`delta` units came or went; `filled` of them went to paid backorders at once. `on_hand` is what is
    there since."""

    sku: str
    delta: int
    filled: int
    on_hand: int
    reason: str
    reference: str


class BegunLine(msgspec.Struct, kw_only=True):
    """What is bought, as the buyer saw it. `policy`: whether stock limits it."""

    line_id: str
    sku: str
    quantity: int
    unit_price: str
    line_total: str
    policy: Literal["deny", "backorder", "untracked"]
    properties: dict[str, Any]


class BegunOrder(msgspec.Struct, kw_only=True):
    """One seller's part of a checkout."""

    order_id: str
    seller: str | None
    total: str
    lines: list[BegunLine]


class CheckoutBegunBody(msgspec.Struct, kw_only=True):
    """Lines of a cart became pending orders under one payment. Contact, addresses and metadata are null when
    they were not given, or removed since."""

    payment_id: str
    checkout_id: str
    checkout_type: Literal["single_item", "partial", "full_cart"]
    cart_id: str
    amount: str
    currency: str
    gateway: str
    payment_method: str
    created_at: Time
    expires_at: Time
    contact: OrderContact | None
    shipping_address: OrderAddress | None
    billing_address: OrderAddress | None
    metadata: dict[str, Any] | None
    orders: list[BegunOrder]


class PaymentFailedBody(msgspec.Struct, kw_only=True):
    """An attempt to pay failed; `attempts` counts it. The payment stays pending."""

    payment_id: str
    attempts: int


class Sale(msgspec.Struct, kw_only=True):
    """Units that an order took of a SKU: `taken` of those on hand, `backordered` beyond them."""

    order_id: str
    sku: str
    quantity: int
    taken: int
    backordered: int


class PaymentSettledBody(msgspec.Struct, kw_only=True):
    """The money arrived. `refund_due`: too late, it has to go back, and nothing was sold."""

    payment_id: str
    outcome: Literal["paid", "refund_due"]
    amount: str
    currency: str
    order_ids: list[str]
    sales: list[Sale]


class PaymentReleasedBody(msgspec.Struct, kw_only=True):
    """A payment's orders were given up, all of them, and their units went back."""

    payment_id: str
    reason: Literal["expired", "cancelled"]
    order_ids: list[str]


class OrderRefundedBody(msgspec.Struct, kw_only=True):
    """The money of an order went back."""

    order_id: str
    payment_id: str
    payment_status: Literal["pending", "paid", "expired", "cancelled", "refund_due", "refunded"]
    amount: str
    currency: str


class BackorderFilledBody(msgspec.Struct, kw_only=True):
    """Units on hand that nobody held any more went to paid backorders; `on_hand` is what is there since."""

    sku: str
    filled: int
    on_hand: int


class BackorderAssignedBody(msgspec.Struct, kw_only=True):
    """A paid order got units that it waited for; `owed` is what it still waits for."""

    order_id: str
    sku: str
    quantity: int
    owed: int


class FulfilmentChangedBody(msgspec.Struct, kw_only=True):
    """What was done with a paid order."""

    order_id: str
    payment_id: str
    seller: str | None
    state: Literal["unfulfilled", "shipped", "delivered", "returned"]
    previous_state: Literal["unfulfilled", "shipped", "delivered", "returned"]
    carrier: str | None
    tracking: str | None


class UnreadableBody(msgspec.Struct, kw_only=True):
    """Empty."""


class _Event(msgspec.Struct, kw_only=True, tag_field="type"):
    """One event of the feed; `position` is what `after` takes."""

    position: str
    at: Time


class StockAdjustedEvent(_Event, kw_only=True, tag="stock_adjusted"):
    """A SKU's stock was adjusted."""

    body: StockAdjustedBody
    unreadable: Unreadable = msgspec.UNSET


class CheckoutBegunEvent(_Event, kw_only=True, tag="checkout_begun"):
    """A checkout was begun."""

    body: CheckoutBegunBody
    unreadable: Unreadable = msgspec.UNSET


class PaymentFailedEvent(_Event, kw_only=True, tag="payment_failed"):
    """An attempt to pay failed."""

    body: PaymentFailedBody
    unreadable: Unreadable = msgspec.UNSET


class PaymentSettledEvent(_Event, kw_only=True, tag="payment_settled"):
    """A payment was settled."""

    body: PaymentSettledBody
    unreadable: Unreadable = msgspec.UNSET


class PaymentReleasedEvent(_Event, kw_only=True, tag="payment_released"):
    """A payment expired or was cancelled."""

    body: PaymentReleasedBody
    unreadable: Unreadable = msgspec.UNSET


class OrderRefundedEvent(_Event, kw_only=True, tag="order_refunded"):
    """An order was refunded."""

    body: OrderRefundedBody
    unreadable: Unreadable = msgspec.UNSET


class BackorderFilledEvent(_Event, kw_only=True, tag="backorder_filled"):
    """Free units went to backorders."""

    body: BackorderFilledBody
    unreadable: Unreadable = msgspec.UNSET


class BackorderAssignedEvent(_Event, kw_only=True, tag="backorder_assigned"):
    """A backorder was served."""

    body: BackorderAssignedBody
    unreadable: Unreadable = msgspec.UNSET


class FulfilmentChangedEvent(_Event, kw_only=True, tag="fulfilment_changed"):
    """An order was shipped, delivered, or came back."""

    body: FulfilmentChangedBody
    unreadable: Unreadable = msgspec.UNSET


class UnreadableEvent(_Event, kw_only=True, tag="unreadable"):
    """An event whose stored body is damaged; `stored_type` is what it was."""

    stored_type: str
    body: UnreadableBody
    unreadable: Unreadable = msgspec.UNSET


Event = (
    StockAdjustedEvent
    | CheckoutBegunEvent
    | PaymentFailedEvent
    | PaymentSettledEvent
    | PaymentReleasedEvent
    | OrderRefundedEvent
    | BackorderFilledEvent
    | BackorderAssignedEvent
    | FulfilmentChangedEvent
    | UnreadableEvent
)


class Events(msgspec.Struct, kw_only=True):
    """A page of events, oldest first. `next_cursor` is what `after` takes to go on from here, now or later;
    an empty page says that nothing happened since."""

    items: list[Event]
    next_cursor: str
