"""The shapes of the REST contract: what bodies may say and what answers say. No behaviour.

Request shapes refuse unknown members. Shapes of PUT bodies also name the read-only members that the
matching GET returns, which are not decoded, so that what was read can be sent back; nothing reads those.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from cartstore import limits
from cartstore_api import field_checks
from cartstore_api.field_checks import late_meta
from cartstore_api.field_types import (
    AddedQuantity,
    CountryCode,
    CurrencyCode,
    Email,
    Id,
    ImageUrl,
    LineId,
    LineIds,
    Metadata,
    Money,
    OptionalText,
    Properties,
    Quantity,
    ReadOnly,
    Reason,
    Reference,
    Sku,
    Text,
    Time,
    Unreadable,
)

# --- shared ----------------------------------------------------------------------------------------


class Fix(msgspec.Struct, kw_only=True):
    """A request that solves the problem, to be sent as it is."""

    method: str
    path: str
    body: Any = None


class FieldError(msgspec.Struct, kw_only=True):
    """One of the fields that are wrong, by the path of its names, and what is wrong with it."""

    field: str
    detail: str


class Shortfall(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One of several things that stand in the way."""

    code: str
    line_id: str | None = None
    sku: str | None = None
    requested_quantity: int | None = None
    available_quantity: int | None = None
    old_price: str | None = None
    new_price: str | None = None
    detail: str | None = None


# --- cart ------------------------------------------------------------------------------------------


class Hold(msgspec.Struct, kw_only=True):
    """Units that are kept for this line until `expires_at`."""

    quantity: int
    expires_at: Time
    expires_in_seconds: int


class Change(msgspec.Struct, kw_only=True):
    """What a buyer saw and what is true now."""

    old: str | None
    new: str | None


class OptionsChange(msgspec.Struct, kw_only=True):
    """The options that a buyer saw and those that the SKU has now."""

    old: dict[str, str]
    new: dict[str, str]


class AvailabilityChange(msgspec.Struct, kw_only=True):
    """A line that cannot be had any more: it is off sale, or there are fewer units than it wants."""

    old: Literal["available"]
    new: Literal["off_sale", "insufficient"]


class Changes(msgspec.Struct, kw_only=True):
    """What is not as the buyer saw it; a member is absent when it is. A line of which `options` or `product`
    changed cannot be had before that is accepted; one of which `currency` changed can only be removed."""

    name: Change | msgspec.UnsetType = msgspec.UNSET
    price: Change | msgspec.UnsetType = msgspec.UNSET
    image: Change | msgspec.UnsetType = msgspec.UNSET
    options: OptionsChange | msgspec.UnsetType = msgspec.UNSET
    currency: Change | msgspec.UnsetType = msgspec.UNSET
    product: Change | msgspec.UnsetType = msgspec.UNSET
    availability: AvailabilityChange | msgspec.UnsetType = msgspec.UNSET


class Line(msgspec.Struct, kw_only=True):
    """One line of a cart, at the price and with the texts that the buyer saw."""

    line_id: str
    variation_key: str
    sku: str
    product_id: str | None
    name: str
    options: dict[str, str]
    properties: dict[str, Any]
    image: str | None
    quantity: int
    unit_price: str
    line_total: str
    added_at: Time
    updated_at: Time
    is_available: bool
    available_quantity: int | None
    hold_rests_until: str | None
    hold: Hold | None
    changes: Changes
    unreadable: Unreadable = msgspec.UNSET


class Discount(msgspec.Struct, kw_only=True):
    """What a promotion takes off."""

    code: str
    amount: str


class Cart(msgspec.Struct, kw_only=True):
    """A whole cart. `subtotal` and `total` leave out lines that cannot be had."""

    id: str
    owner: Literal["user", "guest"]
    currency: str
    items: list[Line]
    saved: list[Line]
    items_count: int
    total_items: int
    subtotal: str
    discounts: list[Discount]
    total: str
    has_unavailable_items: bool
    has_changes: bool
    version: int
    created_at: Time | None
    updated_at: Time | None
    expires_at: Time | None


class Summary(msgspec.Struct, kw_only=True):
    """The running totals of a cart: `items_count` lines of `total_items` units."""

    items_count: int
    total_items: int
    subtotal: str
    currency: str
    version: int


class LineChange(msgspec.Struct, kw_only=True):
    """What a mutation of one line did; `line` is null when the line is gone."""

    line: Line | None
    summary: Summary
    version: int


class CartChange(msgspec.Struct, kw_only=True):
    """What a mutation of the whole cart did."""

    summary: Summary
    version: int


class ItemResult(msgspec.Struct, kw_only=True):
    """What became of one entry of a bulk set: `code` is OK or the code of its problem."""

    line_id: str
    sku: str
    code: str
    requested_quantity: int
    available_quantity: int | None


class ItemsChange(msgspec.Struct, kw_only=True):
    """What a bulk set did."""

    results: list[ItemResult]
    summary: Summary
    version: int


class ChangedLine(msgspec.Struct, kw_only=True):
    """One line and what changed of it since the buyer saw it."""

    line_id: str
    sku: str
    name: str
    is_available: bool
    changes: Changes


class ChangesCheck(msgspec.Struct, kw_only=True):
    """The lines that were asked for; `changes` is empty where nothing changed."""

    has_changes: bool
    items: list[ChangedLine]


class Guest(msgspec.Struct, kw_only=True):
    """A guest's token, to be sent as `X-Cart-Token` or kept as the cookie that comes with it."""

    token: str
    expires_at: Time


class AddItem(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A SKU, or a product and its options."""

    sku: Id | None = None
    product_id: Id | None = None
    options: dict[str, str] | None = None
    quantity: AddedQuantity = 1
    properties: Properties | None = None


class SetQuantity(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """0 removes the line."""

    quantity: Quantity


class PutItem(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One line to set, by SKU (and properties) or by its id. Other members of a line are ignored."""

    sku: Id | None = None
    line_id: LineId | None = None
    quantity: Quantity
    properties: Properties | None = None
    variation_key: ReadOnly = None
    product_id: ReadOnly = None
    name: ReadOnly = None
    options: ReadOnly = None
    image: ReadOnly = None
    unit_price: ReadOnly = None
    line_total: ReadOnly = None
    added_at: ReadOnly = None
    updated_at: ReadOnly = None
    is_available: ReadOnly = None
    available_quantity: ReadOnly = None
    hold: ReadOnly = None
    hold_rests_until: ReadOnly = None
    changes: ReadOnly = None
    unreadable: ReadOnly = None


class PutItems(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`all`: everything or nothing. `partial`: each entry on its own, with a result per entry."""

    items: Annotated[list[PutItem], late_meta(field_checks.lines, {})]
    mode: Literal["all", "partial"] = "all"


class ChosenLines(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The lines that are meant; all when absent."""

    line_ids: LineIds | None = None


class LineProblem(msgspec.Struct, kw_only=True):
    """One thing that keeps a line from being bought as it is."""

    code: str
    message: str


class LineVerdict(msgspec.Struct, kw_only=True):
    """Whether one line can be bought as it is."""

    line_id: str
    product_name: str
    requested_quantity: int
    available_quantity: int | None
    is_valid: bool
    item_total: str
    problems: list[LineProblem]


class Validation(msgspec.Struct, kw_only=True):
    """Whether the cart can be bought as it is; `total_valid_amount` adds up the lines that can."""

    is_valid: bool
    total_valid_amount: str
    details: list[LineVerdict]


# --- checkout, orders, payments --------------------------------------------------------------------


class Contact(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How to reach the buyer."""

    email: Email | None = None
    phone: OptionalText | None = None


class Address(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A postal address; `country` is ISO 3166 alpha-2."""

    name: OptionalText | None = None
    phone: OptionalText | None = None
    street: Text
    street2: OptionalText | None = None
    city: Text
    state: OptionalText | None = None
    postal_code: OptionalText | None = None
    country: CountryCode


class BeginCheckout(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All lines, or those named; `expected_total` is what the buyer was shown."""

    line_ids: LineIds | None = None
    contact: Contact | None = None
    payment_method: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.PAYMENT_METHOD_LENGTH_MAX)]
    gateway: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    shipping_address: Address
    billing_address: Address | None = None
    expected_total: Money | None = None
    metadata: Metadata | None = None


class OrderLine(msgspec.Struct, kw_only=True):
    """What was bought, as the buyer saw it."""

    line_id: str
    sku: str
    name: str
    image: str | None
    options: dict[str, str]
    properties: dict[str, Any]
    quantity: int
    unit_price: str
    line_total: str
    unreadable: Unreadable = msgspec.UNSET


FulfilmentState = Literal["unfulfilled", "shipped", "delivered", "returned"]


class Fulfilment(msgspec.Struct, kw_only=True):
    """What the shop did with an order; `updated_at` is null while that is nothing."""

    state: FulfilmentState
    carrier: str | None
    tracking: str | None
    updated_at: Time | None


class OrderContact(msgspec.Struct, kw_only=True):
    """How to reach the buyer."""

    email: str | None
    phone: str | None


class OrderAddress(msgspec.Struct, kw_only=True):
    """A postal address, as the buyer gave it."""

    name: str | None
    phone: str | None
    street: str
    street2: str | None
    city: str
    state: str | None
    postal_code: str | None
    country: str


class Order(msgspec.Struct, kw_only=True):
    """One seller's part of a checkout. `fulfilment` is null while the record cannot be asked for it."""

    order_id: str
    checkout_id: str
    seller: str | None
    status: Literal["pending", "paid", "released", "refund_due", "refunded"]
    release_reason: Literal["expired", "cancelled"] | None
    lines: list[OrderLine]
    total: str
    currency: str
    payment_id: str
    created_at: Time
    fulfilment: Fulfilment | None
    unreadable: Unreadable = msgspec.UNSET


class OrderDetail(Order, kw_only=True):
    """An order with what the buyer gave at checkout: null when it was not given, or removed since."""

    contact: OrderContact | None
    shipping_address: OrderAddress | None
    billing_address: OrderAddress | None
    metadata: dict[str, Any] | None


class CancelledOrder(OrderDetail, kw_only=True):
    """A cancelled order, and all orders of its checkout, which were cancelled with it."""

    cancelled_orders: list[Order]


class SetFulfilment(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What was done with an order. `carrier` and `tracking` are replaced too; null and absent are none."""

    state: FulfilmentState
    carrier: OptionalText | None = None
    tracking: OptionalText | None = None


class Orders(msgspec.Struct, kw_only=True):
    """A page of orders, newest first."""

    items: list[Order]
    next_cursor: str | None


class Payment(msgspec.Struct, kw_only=True):
    """The one payment of a checkout. `client` is what the buyer's client needs to start paying."""

    id: str
    hash: str
    gateway: str
    method: str
    status: Literal["pending", "paid", "expired", "cancelled", "refund_due", "refunded"]
    expires_at: Time
    time_remaining_seconds: int
    client: dict[str, str]


class PaymentDetail(Payment, kw_only=True):
    """A payment with the orders that it is for."""

    checkout_id: str
    amount: str
    currency: str
    attempts: int
    created_at: Time
    orders: list[Order]


class Checkout(msgspec.Struct, kw_only=True):
    """A checkout: one order per seller under one payment. `order_token` reads them without signing in."""

    checkout_type: Literal["single_item", "partial", "full_cart"]
    checkout_id: str
    total_amount: str
    currency: str
    order_count: int
    orders: list[Order]
    payment: Payment
    order_token: str


class Simulate(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How the simulated payment goes."""

    outcome: Literal["succeed", "fail"]


class WebhookReceipt(msgspec.Struct, kw_only=True):
    """`applied`: it changed the payment. `unchanged`: it was known already, or came too late to matter."""

    status: Literal["applied", "unchanged"]


# --- catalog and stock -----------------------------------------------------------------------------


class PurchaseLimit(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How much one customer may buy within a window."""

    quantity: Annotated[int, msgspec.Meta(ge=1, le=limits.QUANTITY_MAX)]
    window_seconds: Annotated[int, msgspec.Meta(ge=1, le=limits.SETTING_MAX)]


class Variant(msgspec.Struct, kw_only=True):
    """One sellable variation. `available`: units to be had; null where stock does not limit sales, and
    while the engine is away. `sale_price` holds from `sale_from` until before `sale_to`; a date is a
    whole day of UTC. `current_price`: what the buyer pays now."""

    sku: str
    options: dict[str, str]
    price: str
    prices: dict[str, str]
    sale_price: str | None
    sale_from: str | None
    sale_to: str | None
    current_price: str
    policy: Literal["deny", "backorder", "untracked"]
    available_on: str | None
    promised_on: str | None
    hold_policy: Literal["on_add", "on_checkout"]
    hold_ttl_seconds: int | None
    min_quantity: int
    max_quantity: int | None
    multiple_of: int
    max_per_customer: PurchaseLimit | None
    available: int | None


class Product(msgspec.Struct, kw_only=True):
    """A product and its variations."""

    id: str
    title: str
    description: str | None
    seller: str | None
    active: bool
    images: list[str]
    options: list[str]
    currency: str
    variants: list[Variant]
    unreadable: Unreadable = msgspec.UNSET


class Products(msgspec.Struct, kw_only=True):
    """A page of products."""

    items: list[Product]
    next_cursor: str | None


PositiveCount = Annotated[int, msgspec.Meta(ge=1, le=limits.QUANTITY_MAX)]


class PutVariant(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A variation to be sold; null is the default of a member."""

    sku: Sku
    options: Annotated[dict[str, str], msgspec.Meta(max_length=limits.OPTIONS_MAX)] | None = None
    price: Money
    prices: Annotated[dict[str, Money], msgspec.Meta(max_length=limits.CURRENCIES_MAX)] | None = None
    sale_price: Money | None = None
    sale_from: OptionalText | None = None
    sale_to: OptionalText | None = None
    current_price: ReadOnly = None
    policy: Literal["deny", "backorder", "untracked"] | None = None
    available_on: OptionalText | None = None
    promised_on: OptionalText | None = None
    hold_policy: Literal["on_add", "on_checkout"] | None = None
    hold_ttl_seconds: Annotated[int, msgspec.Meta(ge=1, le=limits.SETTING_MAX)] | None = None
    min_quantity: PositiveCount | None = None
    max_quantity: PositiveCount | None = None
    multiple_of: PositiveCount | None = None
    max_per_customer: PurchaseLimit | None = None
    available: ReadOnly = None


class PutProduct(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A product as it shall be. `id` is ignored: the path names the product."""

    id: ReadOnly = None
    title: Text
    description: Annotated[str, msgspec.Meta(max_length=limits.DESCRIPTION_LENGTH_MAX)] | None = None
    seller: OptionalText | None = None
    active: bool | None = None
    images: (
        Annotated[
            list[ImageUrl],
            msgspec.Meta(max_length=limits.IMAGES_MAX),
        ]
        | None
    ) = None
    options: Annotated[list[Text], msgspec.Meta(max_length=limits.OPTIONS_MAX)] | None = None
    currency: CurrencyCode | None = None
    variants: Annotated[list[PutVariant], msgspec.Meta(max_length=limits.VARIANTS_MAX)]
    """At least one, unless the product is not active."""
    unreadable: ReadOnly = None


class RejectedRow(msgspec.Struct, kw_only=True):
    """A row that could not be imported."""

    line: int
    name: str
    reason: str


class ImportNote(msgspec.Struct, kw_only=True):
    """Something about a row that was imported."""

    line: int
    name: str
    text: str


class ImportReport(msgspec.Struct, kw_only=True):
    """What an import did."""

    products: int
    imported_variants: int
    changed_products: int
    moved_skus: int
    """SKUs that came from another product."""
    rejected: list[RejectedRow]
    notes: list[ImportNote]
    """What was imported in another way than the file has it."""


class Stock(msgspec.Struct, kw_only=True):
    """The exact counters of one SKU."""

    sku: str
    on_hand: int
    held: int
    available: int | None
    sold: int
    backordered: int
    policy: Literal["deny", "backorder", "untracked"]


class StockAdjusted(Stock, kw_only=True):
    """The counters after an adjustment, and what it changed."""

    delta: int
    reason: str
    reference: str


class StocksAdjusted(msgspec.Struct, kw_only=True):
    """One result per adjustment, in the order of the request."""

    items: list[StockAdjusted]


class AdjustStock(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Units to add (negative: take away). One reference is one adjustment of a SKU, for ever."""

    delta: int
    reason: Reason
    reference: Reference


class AdjustSku(AdjustStock, kw_only=True, forbid_unknown_fields=True):
    """One adjustment of a list."""

    sku: Id


Adjustments = Annotated[list[AdjustSku], msgspec.Meta(min_length=1, max_length=limits.ADJUSTMENTS_MAX)]


class SetStock(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The value that on_hand shall have, applied as a delta. Other members of a stock level are ignored."""

    on_hand: int
    expected_on_hand: int | None = None
    reason: Reason
    reference: Reference
    sku: ReadOnly = None
    held: ReadOnly = None
    available: ReadOnly = None
    sold: ReadOnly = None
    backordered: ReadOnly = None
    policy: ReadOnly = None


class LedgerEntry(msgspec.Struct, kw_only=True):
    """One change of a SKU's on_hand."""

    seq: int
    delta: int
    on_hand: int
    reason: str
    reference: str
    order_id: str | None
    at: Time
    unreadable: Unreadable = msgspec.UNSET


class Ledger(msgspec.Struct, kw_only=True):
    """A page of changes, newest first."""

    items: list[LedgerEntry]
    next_cursor: str | None


# --- operations ------------------------------------------------------------------------------------


class Drift(msgspec.Struct, kw_only=True):
    """One disagreement between engine, catalog and ledger."""

    kind: str
    subject: str
    detail: str
    expected: str
    found: str


class Reconciliation(msgspec.Struct, kw_only=True):
    """What a run proved: `drift` could not be repaired, `skipped` counts what could not be compared."""

    checked: int
    repaired: list[Drift]
    drift: list[Drift]
    skipped: int


class Health(msgspec.Struct, kw_only=True):
    """The process is running."""

    status: Literal["ok"]


class Serving(msgspec.Struct, kw_only=True):
    """Whether this process is to be sent requests."""

    status: Literal["ok", "starting", "stopping"]


class Check(msgspec.Struct, kw_only=True):
    """One thing that readiness depends on. `ok` is null when nobody knows, because another part is away."""

    ok: bool | None
    detail: str


class Readiness(msgspec.Struct, kw_only=True):
    """Whether carts can be changed, and whatever else is not as it should be.

    `degraded`: they can, and the checks that are not ok say what is wrong. `unready`: they cannot.
    """

    ready: bool
    status: Literal["ok", "degraded", "unready"]
    checks: dict[str, Check]


class Stats(msgspec.Struct, kw_only=True):
    """The deployment at a glance."""

    namespace: str
    partitions: int
    checkout_ack: str
    products: int
    ready: bool
    status: Literal["ok", "degraded", "unready"]
    checks: dict[str, Check]
