"""The vocabulary: frozen Structs that every room shares. No I/O, no driver, no framework.

Money is an integer count of minor units (`*_minor`) beside an ISO 4217 code; times are milliseconds
since the epoch on the engine's clock (`*_ms`); quantities are units. The terms are in docs/keys.md.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec

from cartstore.errors import ContractError, InvalidField

ID_PATTERN = re.compile(r"[A-Za-z0-9._~-]{1,128}\Z")
"""What api.md allows in every id. `\\Z`, because `$` would let a trailing newline through."""

PROPERTIES_MARK = "~~"
"""Between SKU and digest in the id of a line that has properties."""

_LINE_ID_WITH_PROPERTIES = re.compile(r"(?P<sku>.+)~~[0-9a-f]{12}\Z")

StockPolicy = Literal["deny", "backorder", "untracked"]
HoldPolicy = Literal["on_add", "on_checkout"]
OwnerKind = Literal["user", "guest"]
PaymentStatus = Literal["pending", "paid", "expired", "cancelled", "refund_due", "refunded"]
OrderStatus = Literal["pending", "paid", "released", "refund_due", "refunded"]
ReleaseReason = Literal["expired", "cancelled"]
FulfilmentState = Literal["unfulfilled", "shipped", "delivered", "returned"]
CheckoutType = Literal["single_item", "partial", "full_cart"]
CartStatus = Literal["active", "abandoned", "converted", "merged", "expired"]


class Partition(msgspec.Struct, frozen=True):
    """One hash slot's worth of carts and stock. All keys of a partition share its hash tag."""

    namespace: str
    index: int = 0

    @property
    def tag(self) -> str:
        return f"{{{self.namespace}:{self.index}}}"


class Owner(msgspec.Struct, frozen=True):
    """Who a cart belongs to. A cart id derives from its owner, so one active cart per owner holds by
    construction.

    `id` is the token's `sub` (user) or the digest of the guest token (guest).
    """

    kind: OwnerKind
    id: str

    def __post_init__(self) -> None:
        # Owners that are none must not share one cart, as "g.None" would be.
        if type(self.id) is not str:
            raise InvalidField(f"An owner's id must be a str, not {type(self.id).__name__}.", field="id")
        if self.kind != "guest" and self.kind != "user":
            raise InvalidField("An owner's kind must be 'user' or 'guest'.", field="kind")

    @property
    def cart_id(self) -> str:
        """`u.<id>` or `g.<id>`; a user id outside the id alphabet is replaced by a digest of it."""
        return f"g.{self.id}" if self.kind == "guest" else _cart_id_of_user(self.id)

    @property
    def is_guest(self) -> bool:
        return self.kind == "guest"


@lru_cache(8_192)
def _cart_id_of_user(user_id: str) -> str:
    if ID_PATTERN.match(user_id) and not user_id.startswith("~"):
        return f"u.{user_id}"
    return "u.~" + hashlib.sha256(user_id.encode()).hexdigest()[:40]


def owner_kind_of(cart_id: str) -> OwnerKind:
    """Whose cart it is, read off its id."""
    return "guest" if cart_id.startswith("g.") else "user"


def line_id_of(sku: str, properties_json: str | None) -> str:
    """The id of the line for this variation: the SKU itself, or SKU, mark and a digest of the properties.

    Deterministic, so "the same variation adds to its line" needs no lookup, and a line keeps its id when
    it is saved, merged or returned by a released order.
    """
    if not properties_json:
        return sku
    return f"{sku}{PROPERTIES_MARK}{hashlib.sha256(properties_json.encode()).hexdigest()[:12]}"


def sku_of(line_id: str) -> str:
    """The inverse of `line_id_of` for its SKU part."""
    if PROPERTIES_MARK not in line_id:
        return line_id
    match = _LINE_ID_WITH_PROPERTIES.match(line_id)
    return match["sku"] if match else line_id


def is_sku(text: str) -> bool:
    """Whether `text` may be a SKU: an id that `sku_of` cannot mistake for a line with properties."""
    if not ID_PATTERN.match(text):
        return False
    return PROPERTIES_MARK not in text or not _LINE_ID_WITH_PROPERTIES.match(text)


# --- catalog ---------------------------------------------------------------------------------------


class PurchaseLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much one customer may buy of a variant within a window."""

    quantity: int
    window_seconds: int


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One sellable variation of a product, identified by its SKU."""

    sku: str
    options: dict[str, str] = {}
    price_minor: int
    prices_minor: dict[str, int] = {}
    """Prices in other currencies, by ISO 4217 code."""
    sale_price_minor: int | None = None
    """A lower price in the product's currency, while the engine's clock is within the two times."""
    sale_from: str | None = None
    """ISO 8601, UTC where it names no offset; a date is its first moment. None: no start."""
    sale_to: str | None = None
    """The same, and not part of the sale; a date is its last moment. None: no end."""
    policy: StockPolicy = "deny"
    available_on: str | None = None
    """Start of its sale, ISO 8601; a date is midnight UTC."""
    promised_on: str | None = None
    """When units that are not in stock are expected; only shown."""
    hold_policy: HoldPolicy = "on_add"
    hold_ttl_seconds: int | None = None
    min_quantity: int = 1
    max_quantity: int | None = None
    multiple_of: int = 1
    max_per_customer: PurchaseLimit | None = None
    terms_revision: int = 0
    """The last revision that changed its options, its product or its currency: a buyer who saw an earlier one
    saw another thing. 0: not known of any. Kept by the catalog, never set by a caller."""


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """A product as the shop describes it. `revision` is unique over all products and grows with every
    change; the revision of what a buyer saw is what carts and orders refer to."""

    id: str
    title: str
    description: str | None = None
    seller: str | None = None
    active: bool = True
    images: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    currency: str
    variants: tuple[Variant, ...]
    revision: int = 0
    removed: tuple[Variant, ...] = ()
    """Variants that were listed once and are not any more; kept by the catalog, never set by a caller."""
    first_id: str = ""
    """The `identity` of a product that an import renamed; kept by the catalog, never set by a caller."""

    @property
    def identity(self) -> str:
        """What stays the same when a product gets another id: two revisions whose identities are equal
        describe one product. A SKU that moved to another product has another identity since."""
        return self.first_id or self.id

    def variant(self, sku: str) -> Variant | None:
        return next((variant for variant in self.variants if variant.sku == sku), None)


class SkuFields(msgspec.Struct, frozen=True, kw_only=True):
    """What scripts need to know of a SKU; published to the engine whenever its product changes."""

    sku: str
    product_id: str
    seller: str
    revision: int
    price_minor: int
    currency: str
    is_active: bool
    policy: StockPolicy
    hold_policy: HoldPolicy
    hold_ttl_ms: int
    """0: the owner's default."""
    min_quantity: int
    max_quantity: int
    """0: no maximum of its own."""
    multiple_of: int
    terms_revision: int = 0
    """The last revision that changed the SKU's options, product or currency; 0: not known of any."""
    starts_at_ms: int = 0
    """Start of its sale; 0: on sale already."""
    limit_units: int = 0
    """What one customer may buy within `limit_window_ms`; 0: no limit."""
    limit_window_ms: int = 0
    sale_price_minor: int | None = None
    """None: no sale with dates."""
    sale_from_ms: int = 0
    sale_to_ms: int = 0
    """Not part of the sale; 0: no end."""

    def price_at(self, now_ms: int) -> int:
        """The price that holds at a time of the engine's clock, in minor units."""
        if (
            self.sale_price_minor is not None
            and self.sale_from_ms <= now_ms
            and (self.sale_to_ms == 0 or now_ms < self.sale_to_ms)
        ):
            return self.sale_price_minor
        return self.price_minor


# --- stock -----------------------------------------------------------------------------------------


class StockLevel(msgspec.Struct, frozen=True, kw_only=True):
    """The counters of one SKU, in units, after its due holds were released."""

    sku: str
    policy: StockPolicy
    on_hand: int
    held: int
    sold: int
    backordered: int

    @property
    def available(self) -> int | None:
        """Units that the next buyer can have; None where stock does not limit sales."""
        return max(0, self.on_hand - self.held) if self.policy == "deny" else None


class Position(msgspec.Struct, frozen=True, order=True):
    """Where an event stands in its partition's outbox: `<epoch>-<seq>`."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Position:
        epoch, _, seq = text.partition("-")
        return cls(int(epoch), int(seq))


class FeedPosition(msgspec.Struct, frozen=True, order=True):
    """A place in the feed of archived events: `<epoch>-<seq>` of an event, or `<epoch>-<seq>.<line>` of one
    that the record tells beside it."""

    position: Position
    line: int = 0

    def __str__(self) -> str:
        return f"{self.position}.{self.line}" if self.line else str(self.position)

    @classmethod
    def parse(cls, text: str) -> FeedPosition:
        position, _, line = text.partition(".")
        return cls(Position.parse(position), int(line or 0))


class StockResult(msgspec.Struct, frozen=True, kw_only=True):
    level: StockLevel
    delta: int
    position: Position
    replayed: bool = False


# --- cart ------------------------------------------------------------------------------------------


class Line(msgspec.Struct, frozen=True):
    """One line of a cart with what is true of its SKU at the moment of reading."""

    line_id: str
    sku: str
    properties_json: str | None
    quantity: int
    held: int
    """Units under a hold that has not lapsed; 0..quantity."""
    hold_expires_at_ms: int
    """0 when held is 0."""
    first_held_at_ms: int
    unit_price_minor: int
    """As the buyer saw it."""
    revision: int
    """Catalog revision that the buyer saw."""
    ordinal: int
    """Grows with every added line; lines are shown in its order."""
    added_at_ms: int
    updated_at_ms: int
    current_price_minor: int
    current_revision: int
    is_active: bool
    policy: StockPolicy
    available_quantity: int | None
    """What this buyer can have of it: free units plus the line's own; None where stock does not limit."""
    is_changed: bool = False
    """Options, product or currency are others since the buyer saw them; not sold until that is accepted."""
    has_other_currency: bool = False
    """The SKU is sold in another currency than the cart's: it can only be removed."""
    rests_until_ms: int = 0
    """The line is not held before then, unless by a checkout, because its owner held units of the SKU for as
    long as the cap allows; 0: it does not rest."""

    @property
    def is_available(self) -> bool:
        return (
            self.is_active
            and (self.available_quantity is None or self.available_quantity >= self.quantity)
            and not self.is_changed
            and not self.has_other_currency
        )

    @property
    def line_total_minor(self) -> int:
        return self.unit_price_minor * self.quantity


class Summary(msgspec.Struct, frozen=True):
    """The running totals of a cart: all lines at the prices the buyer saw."""

    version: int
    lines_count: int
    total_items: int
    """Units over all lines."""
    subtotal_minor: int
    currency: str | None
    """None while the cart has never had a line."""


EMPTY_SUMMARY = Summary(version=0, lines_count=0, total_items=0, subtotal_minor=0, currency=None)


class Cart(msgspec.Struct, frozen=True, kw_only=True):
    """A whole cart. An absent cart is one with version 0 and no lines."""

    cart_id: str
    summary: Summary
    lines: tuple[Line, ...]
    created_at_ms: int | None
    updated_at_ms: int | None
    read_at_ms: int
    """Engine time of this reading: hold countdowns are relative to it."""

    def line(self, line_id: str) -> Line | None:
        return next((line for line in self.lines if line.line_id == line_id), None)


class SnapshotLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line as its cart's snapshot keeps it: all that a rebuild needs, and what was held."""

    line_id: str
    quantity: int
    held: int
    first_held_at_ms: int
    """Of a line that holds nothing: when its SKU's last hold period began, if that is remembered; else 0."""
    unit_price_minor: int
    revision: int
    ordinal: int
    added_at_ms: int
    updated_at_ms: int
    properties_json: str | None = None
    held_until_ms: int = 0
    """When the hold ends, if nothing extends it; of a line that holds nothing, when the last hold of its SKU
    ended. 0: not known, as in snapshots of an earlier version."""


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """The last sign of life of one process."""

    process: str
    """`<kind>:<host>:<pid>:<run>`"""
    at_ms: int
    """By the engine's clock; never later than the reading."""
    count: int
    """Grows with every beat of the process."""
    state: str
    """What the process says of itself, JSON."""


class Beats(msgspec.Struct, frozen=True, kw_only=True):
    """The last beats of all processes of a partition, as of the engine's time `now_ms`."""

    now_ms: int
    beats: tuple[Beat, ...]


class CartSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A cart as PostgreSQL keeps it, a few seconds old at most."""

    cart_id: str
    version: int
    status: CartStatus = "active"
    currency: str = ""
    lines: tuple[SnapshotLine, ...] = ()
    created_at_ms: int
    updated_at_ms: int
    lifetime_ms: int
    """Inactivity after which the cart expires."""
    watched_until_ms: int = 0
    """Until when somebody watches its changes. Reserved: nothing sets it yet."""
    merged_into: str = ""
    """The cart that this one went into. Reserved: nothing sets it yet."""

    @property
    def total_items(self) -> int:
        return sum(line.quantity for line in self.lines)

    @property
    def subtotal_minor(self) -> int:
        return sum(line.quantity * line.unit_price_minor for line in self.lines)


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """What a mutation is conditional on; checked in the same script as the write."""

    idempotency_key: str | None = None
    fingerprint: str = ""
    """Digest of the verb and its arguments; the same key with another fingerprint is refused."""
    if_match: int | None = None


NO_GUARD = Guard()


class CartTerms(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """The limits and lifetimes under which one owner's cart is changed; derived from the settings."""

    hold_ttl_ms: int
    hold_cap_ms: int
    """How long an owner may hold units of one SKU, counted from the first hold."""
    hold_rest_ms: int
    """How long an owner must have held nothing of a SKU before a hold counts as a first one again."""
    cart_ttl_ms: int
    quantity_max: int
    lines_max: int
    items_max: int
    held_max: int
    guest_share_ppm: int
    """Parts per million of on_hand that guests together may hold."""
    reservations: bool


class LineResult(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of a mutation of one line. `line` is None after a removal."""

    line: Line | None
    summary: Summary
    read_at_ms: int
    created: bool = False
    replayed: bool = False


class CartResult(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of a mutation of the whole cart."""

    summary: Summary
    replayed: bool = False


class HoldResult(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of holding lines again and of extending holds."""

    summary: Summary
    """As this call left the cart; of a replay, as the first call did."""
    cart: Cart
    """As it is by now, also for a replay: what is held is only true of an instant."""
    replayed: bool = False


class PutItem(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a bulk set: quantity 0 removes the line if it is there."""

    sku: str
    quantity: int
    properties_json: str | None = None

    @property
    def line_id(self) -> str:
        return line_id_of(self.sku, self.properties_json)


class PutItemByLine(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a bulk set that names an existing line; an unknown one is ITEM_NOT_FOUND."""

    line_id: str
    quantity: int


class ItemOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one entry of a bulk set. `code` is OK or the code of the problem."""

    line_id: str
    sku: str
    code: str
    requested_quantity: int
    available_quantity: int | None = None


class PutResult(msgspec.Struct, frozen=True, kw_only=True):
    outcomes: tuple[ItemOutcome, ...]
    summary: Summary
    replayed: bool = False


NO_GATEWAY = "none"
"""The gateway of a payment of zero, which its checkout settles."""

# --- checkout --------------------------------------------------------------------------------------


class CheckoutRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a buyer asks for at checkout. `details_json` is kept as it is (contact, addresses, metadata)."""

    line_ids: tuple[str, ...] | None
    """None: all lines."""
    gateway: str
    payment_method: str
    expected_total_minor: int | None = None
    details_json: str = "{}"
    identities: tuple[str, ...] | None = ()
    """Of the customer, beside the cart: what purchase limits count by (customers.py). None: not known,
    because the record is away."""


class OrderLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of an order: what was bought, at the price it is sold for, in the revision the buyer saw."""

    line_id: str
    sku: str
    quantity: int
    held: int
    """Units taken from stock for it: quantity, or 0 where stock does not limit."""
    mode: Literal["held", "backorder", "untracked"]
    unit_price_minor: int
    revision: int
    first_held_at_ms: int = 0
    properties_json: str | None = None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One seller's part of a checkout."""

    order_id: str
    payment_id: str
    checkout_id: str
    cart_id: str
    seller: str
    status: OrderStatus
    release_reason: ReleaseReason | None
    lines: tuple[OrderLine, ...]
    total_minor: int
    currency: str
    created_at_ms: int


class Fulfilment(msgspec.Struct, frozen=True, kw_only=True):
    """What a shop did with a paid order; `updated_at_ms` is None for one that nothing was done with."""

    state: FulfilmentState = "unfulfilled"
    carrier: str | None = None
    tracking: str | None = None
    updated_at_ms: int | None = None


UNFULFILLED: Final = Fulfilment()


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """The one payment that all orders of a checkout share."""

    payment_id: str
    checkout_id: str
    checkout_type: CheckoutType
    cart_id: str
    status: PaymentStatus
    amount_minor: int
    currency: str
    gateway: str
    method: str
    attempts: int
    order_ids: tuple[str, ...]
    expires_at_ms: int
    created_at_ms: int
    fingerprint: str = ""
    details_json: str = "{}"
    is_redacted: bool = False
    """Retention removed the details: it was released and never paid; money that comes now is owed back."""

    @property
    def is_readable(self) -> bool:
        """False for one that a list names although what is stored of it cannot be read."""
        return self.currency != ""


class Checkout(msgspec.Struct, frozen=True, kw_only=True):
    payment: Payment
    orders: tuple[Order, ...]
    read_at_ms: int
    position: Position | None = None
    """Of the event that the acknowledgement waits for; None when it came from PostgreSQL."""
    replayed: bool = False


class PaymentResult(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of settle, fail, cancel or release. `changed` is False for a repeated call."""

    payment: Payment
    orders: tuple[Order, ...]
    read_at_ms: int
    changed: bool
    position: Position | None = None


def checkout_ids(
    partition: Partition, cart_id: str, idempotency_key: str, *, record_was_asked: bool = True
) -> tuple[str, str]:
    """(checkout_id, payment_id) of one owner's checkout under one key: repeated calls find their order.

    A checkout that begins while the record cannot be asked has ids of its own: should an engine ever take a
    used key for a new one, the record can take both. Whoever looks for a key looks for both.

    Order ids are `o<partition>-<base>-<n>` for n = 1.. in the order of the sellers' first lines.
    """
    parts = [cart_id, idempotency_key] + ([] if record_was_asked else ["the record was away"])
    digest = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]
    return f"c{partition.index}-{digest}", f"p{partition.index}-{digest}"


def payment_id_of_order(order_id: str) -> str:
    """The payment that an order belongs to, read off its id; an id of another form gives no payment."""
    return "p" + order_id[1:].rsplit("-", 1)[0]


# --- outbox ----------------------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One entry of the outbox. Two are equal when they say the same, however their JSON is spelled."""

    position: Position
    nonce: str
    type: str
    at_ms: int
    body_json: str
    """A JSON object with the shape of the type's Struct in archive/events.py. Kept as it came: the drain
    decodes it into that Struct and hands the text on to the record, and needs it in no other form."""

    cart_version: int = 0
    """Of the cart that the same step changed; 0 when it changed none."""

    previous: str | None = None
    """Position and nonce of the entry before it in the outbox, separated by a space; empty when there was
    none. None: a version of cartstore that did not name it wrote this entry."""

    line: int = 0
    """From 1 on: what the record tells beside the engine's event at this position, in this order."""

    @property
    def feed_position(self) -> FeedPosition:
        return FeedPosition(self.position, self.line)

    @property
    def name(self) -> str:
        """What the next event's `previous` says of this one."""
        return f"{self.position} {self.nonce}"

    def follows(self, position: Position, nonce: str) -> bool:
        """Whether this is the next event after the one at `position` with `nonce`; seq 0: the first event."""
        if self.position.seq <= position.seq or self.position.epoch < position.epoch:
            return False
        if self.previous is None:
            return self.position.seq == position.seq + 1
        return self.previous == (f"{position} {nonce}" if position.seq else "")

    @property
    def body(self) -> dict[str, Any]:
        """The object, decoded anew each time. Raises ContractError when it is none."""
        try:
            return _decode_object(self.body_json)
        except msgspec.DecodeError as error:
            raise ContractError(f"The body of event {self.position} cannot be read: {error}.") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self._told() == other._told()

    def __hash__(self) -> int:
        return hash((self.position, self.nonce))

    def _told(self) -> tuple[Any, ...]:
        return self.position, self.nonce, self.type, self.at_ms, self.body, self.cart_version


_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
