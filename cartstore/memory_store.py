"""The reference model: the whole contract of `engine.py` in plain Python.

Owns one partition's carts, stock, payments and events in dictionaries. What the scripts keep as counters
(held units, totals) is counted anew here each time it is needed, so that it cannot drift; clarity goes
before speed everywhere. The contract suite and the property test hold the real engine to this one. It also
serves as a store without servers in the tests of a shop.

Refuses: persistence, concurrency over threads, and any lifetime bound on carts (an idle cart stays).

Where the contract leaves room this model reads it so:

* Due holds of a SKU are released before anything but the idempotency key is looked at: a cart that got
  lines back has a new version, and If-Match is compared with that one.
* Removing, clearing and accepting tell and use no availability, so they release nothing.
* A due hold that nobody released yet counts for nothing, neither as held nor for `held_max`.
* A payment stays pending until something releases it: money that comes first wins, also after the end of
  the window. A cancellation that comes after it releases the payment as expired.
* Only a new line is checked against the lines in the cart, and only a raised quantity against the items, so
  that a cart that has too many (lines came back) can be made smaller step by step.
* Late money takes units of the holds that the returned lines have by then before it takes free ones.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from cartstore import limits
from cartstore.errors import (
    CartEmpty,
    CartError,
    CheckoutRefused,
    ContractError,
    CurrencyMismatch,
    IdempotencyKeyReused,
    InsufficientStock,
    InvalidField,
    InvalidQuantity,
    ItemNotFound,
    LimitExceeded,
    LineChanged,
    NotYetOnSale,
    OrderNotFound,
    OrderState,
    PaymentExpired,
    PaymentNotFound,
    PaymentState,
    PriceChanged,
    ProductInactive,
    ProductNotFound,
    PurchaseLimitReached,
    StockConflict,
    StoreFull,
    StoreUnavailable,
    TotalChanged,
    VersionConflict,
)
from cartstore.model import (
    EMPTY_SUMMARY,
    NO_GATEWAY,
    Beat,
    Beats,
    Cart,
    CartResult,
    CartTerms,
    Checkout,
    CheckoutRequest,
    CheckoutType,
    Event,
    Guard,
    HoldResult,
    ItemOutcome,
    Line,
    LineResult,
    Order,
    OrderLine,
    OrderStatus,
    Partition,
    Payment,
    PaymentResult,
    PaymentStatus,
    Position,
    PutItem,
    PutItemByLine,
    PutResult,
    ReleaseReason,
    SkuFields,
    StockLevel,
    StockPolicy,
    StockResult,
    Summary,
    line_id_of,
    payment_id_of_order,
    sku_of,
)

GUEST_PREFIX = "g."
"""A cart whose id begins so is a guest's (`model.Owner.cart_id`)."""

_MODES: dict[StockPolicy, Literal["held", "backorder", "untracked"]] = {
    "deny": "held",
    "backorder": "backorder",
    "untracked": "untracked",
}

_REFUSALS: tuple[type[CartError], ...] = (
    ItemNotFound,
    ProductNotFound,
    ProductInactive,
    CurrencyMismatch,
    NotYetOnSale,
    InvalidQuantity,
    PurchaseLimitReached,
    LimitExceeded,
    PriceChanged,
    InsufficientStock,
    LineChanged,
)
"""What may be wrong with one of several lines."""

_REFUSAL_BY_CODE = {refusal.code: refusal for refusal in _REFUSALS}


@dataclass(slots=True)
class _Sku:
    fields: SkuFields
    on_hand: int = 0
    sold: int = 0
    backordered: int = 0
    adjustments: dict[str, tuple[str, StockResult]] = field(default_factory=dict)
    """By reference: fingerprint and first result."""


@dataclass(slots=True)
class _Line:
    line_id: str
    sku: str
    properties_json: str | None
    quantity: int
    unit_price_minor: int
    revision: int
    ordinal: int
    added_at_ms: int
    updated_at_ms: int
    held: int = 0
    first_held_at_ms: int = 0
    hold_ttl_ms: int = 0
    """0: it had lapsed when its cart was extended, and stays lapsed."""
    hold_latest_ms: int = 0
    """The cap: no extension goes beyond it."""
    indexed_ms: int = 0
    """The expiry that the SKU's index of holds has: as of when the hold was taken, or was last looked at."""


@dataclass(frozen=True, slots=True)
class _Period:
    """A time in which an owner held units of a SKU, of which every recorded hold has ended."""

    first_ms: int
    ended_ms: int

    def is_over(self, now: int, rest_ms: int) -> bool:
        """Whether a new hold is a first one. An end that is further ahead than a rest lasts shows that the
        clock was set back, and proves nothing."""
        return now >= self.ended_ms + rest_ms or self.ended_ms > now + rest_ms


_Result = TypeVar("_Result", LineResult, CartResult, PutResult, HoldResult)


@dataclass(slots=True)
class _Cart:
    created_at_ms: int
    updated_at_ms: int
    version: int = 0
    currency: str | None = None
    lines: dict[str, _Line] = field(default_factory=dict)
    """By line id, in the order of their ordinals."""
    ordinal: int = 0
    """Of the line added last."""
    extended_at_ms: int = 0
    """When its holds were last extended, all together."""
    periods: dict[str, _Period] = field(default_factory=dict)
    """By SKU: when its owner last held units of it. Some of them may be held still, by lines or orders."""
    remembered: dict[str, tuple[str, LineResult | CartResult | PutResult | HoldResult]] = field(
        default_factory=dict
    )
    """By idempotency key, oldest first: fingerprint and first result."""

    @property
    def total_items(self) -> int:
        return sum(line.quantity for line in self.lines.values())

    @property
    def subtotal_minor(self) -> int:
        return sum(line.quantity * line.unit_price_minor for line in self.lines.values())

    @property
    def summary(self) -> Summary:
        return Summary(
            version=self.version,
            lines_count=len(self.lines),
            total_items=self.total_items,
            subtotal_minor=self.subtotal_minor,
            currency=self.currency,
        )

    def expiry_of(self, line: _Line, now: int) -> int:
        """When a line's hold ends; 0 without one.

        An extension that is yet to come shows that the clock was set back, and counts as one of now."""
        if not line.held or not line.hold_ttl_ms:
            return line.indexed_ms
        extended_ms = min(self.extended_at_ms, now)
        return max(line.indexed_ms, min(extended_ms + line.hold_ttl_ms, line.hold_latest_ms))

    def end_hold(self, line: _Line, now: int, *, keeping: int = 0) -> None:
        """Keep at most `keeping` units under a line's hold; a hold of nothing is none."""
        if line.held and not keeping:
            self.note_end(line.sku, line.first_held_at_ms, self.expiry_of(line, now), now)
        line.held = min(line.held, keeping)
        if line.held == 0:
            line.first_held_at_ms = line.hold_latest_ms = line.indexed_ms = 0

    def note_end(self, sku: str, first_ms: int, ended_ms: int, now: int) -> None:
        """Remember that a hold of a SKU ended: at its expiry, or now if that was to come."""
        ended_ms = min(ended_ms, now)
        known = self.periods.get(sku)
        if known is not None and known.first_ms == first_ms and known.ended_ms <= now:
            ended_ms = max(ended_ms, known.ended_ms)
        self.periods[sku] = _Period(first_ms, ended_ms)

    def add(self, line: _Line) -> None:
        self.ordinal += 1
        line.ordinal = self.ordinal
        self.lines[line.line_id] = line


@dataclass(slots=True)
class _Payment:
    payment: Payment
    orders: tuple[Order, ...]
    number: int
    """Grows with every payment that this store took in."""
    position: Position | None
    """Of the last event that changed it."""
    buyer: tuple[str, ...] = ()
    """Identities that its orders count for, of SKUs with a purchase limit; empty where no SKU had one."""

    @property
    def is_pending(self) -> bool:
        return self.payment.status == "pending"

    def lines(self) -> Iterable[OrderLine]:
        for order in self.orders:
            yield from order.lines

    def move(
        self,
        payment_status: PaymentStatus,
        order_status: OrderStatus,
        reason: ReleaseReason | None = None,
    ) -> None:
        self.payment = replace(self.payment, status=payment_status)
        self.orders = tuple(
            replace(order, status=order_status, release_reason=reason) for order in self.orders
        )


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryEngine:
    """A `CartEngine` that keeps one partition in this process and forgets it with it."""

    def __init__(
        self,
        partition: Partition = Partition("main"),  # noqa: B008 - a frozen value
        *,
        now_ms: Callable[[], int] | None = None,
        lifetime_ms: int = 7_200_000,
        unpaid_kept_ms: int = 0,
    ) -> None:
        """`unpaid_kept_ms`: so long after its checkout a released payment is not paid any more; 0: never.
        `now_ms` is the only clock. No hold and no payment's window lasts longer than `lifetime_ms`: one
        whose end is further away shows that the clock was set back, and is due. A longer one raises it."""
        self.partition = partition
        self.lifetime_ms = lifetime_ms
        self.unpaid_kept_ms = unpaid_kept_ms
        self.events: list[Event] = []
        """The outbox: one entry per transition that changed an order, on_hand or sold."""
        self.is_disk_low = False
        """As if the disk of a real engine were nearly full: what takes units or room raises StoreFull."""
        self._now_ms = now_ms or _wall_clock_ms
        self._change = 0
        self._skus: dict[str, _Sku] = {}
        self._carts: dict[str, _Cart] = {}
        self._payments: dict[str, _Payment] = {}
        self._beats: dict[str, Beat] = {}
        self._bought: defaultdict[tuple[str, str], dict[str, tuple[int, int]]] = defaultdict(dict)
        """By SKU and identity, of SKUs with a purchase limit: when each order began, and its units."""

    # --- catalog and stock ---------------------------------------------------------------------

    async def publish_skus(self, skus: Sequence[SkuFields]) -> None:
        """Set catalog fields; an older revision than the published one is ignored."""
        for fields in skus:
            known = self._skus.get(fields.sku)
            if known is None:
                self._skus[fields.sku] = _Sku(fields)
            elif fields.revision >= known.fields.revision:
                known.fields = fields

    async def adjust_stock(
        self, sku: str, *, delta: int, reason: str, reference: str, fingerprint: str
    ) -> StockResult:
        """Add `delta` units to on_hand, once per reference."""
        now = self._now_ms()
        if first := self._adjusted_before(sku, reference, fingerprint):
            return first
        self._release_due(sku, now)
        return self._adjust(sku, delta, reason, reference, fingerprint, now)

    async def set_stock(
        self,
        sku: str,
        *,
        on_hand: int,
        expected_on_hand: int | None,
        reason: str,
        reference: str,
        fingerprint: str,
    ) -> StockResult:
        """Move on_hand to a value, as a delta, once per reference."""
        now = self._now_ms()
        if first := self._adjusted_before(sku, reference, fingerprint):
            return first
        self._release_due(sku, now)
        current = self._skus[sku].on_hand
        if expected_on_hand is not None and expected_on_hand != current:
            raise StockConflict(f"{current} units are on hand, not {expected_on_hand}.", sku=sku)
        return self._adjust(sku, on_hand - current, reason, reference, fingerprint, now)

    async def read_stock(self, skus: Sequence[str]) -> list[StockLevel | None]:
        """Exact levels, in the order asked; None for a SKU that was never published."""
        now = self._now_ms()
        for sku in skus:
            self._release_due(sku, now)
        return [self._level(sku) if sku in self._skus else None for sku in skus]

    def _adjusted_before(self, sku: str, reference: str, fingerprint: str) -> StockResult | None:
        if sku not in self._skus:
            raise ProductNotFound(sku=sku)
        first = self._skus[sku].adjustments.get(reference)
        if first is None:
            return None
        first_fingerprint, result = first
        if first_fingerprint != fingerprint:
            raise StockConflict("This reference names another adjustment.", sku=sku)
        return replace(result, replayed=True)

    def _adjust(
        self, sku: str, delta: int, reason: str, reference: str, fingerprint: str, now: int
    ) -> StockResult:
        record = self._skus[sku]
        on_hand = record.on_hand + delta
        if on_hand < self._held(sku):
            raise StockConflict("Fewer units would remain than are held.", sku=sku)
        if on_hand > limits.STOCK_MAX:
            raise LimitExceeded(f"No SKU may have more than {limits.STOCK_MAX} units.", sku=sku)
        filled = max(0, min(delta, record.backordered))
        record.on_hand = on_hand - filled
        record.backordered -= filled
        position = self._emit(
            "stock_adjusted",
            now,
            sku=sku,
            delta=str(delta),
            filled=str(filled),
            on_hand=str(record.on_hand),
            reason=reason,
            reference=reference,
            fingerprint=fingerprint,
        )
        result = StockResult(level=self._level(sku), delta=delta, position=position)
        record.adjustments[reference] = (fingerprint, result)
        return result

    def _serve_backorders(self, now: int, skus: Iterable[str] | None = None) -> None:
        """Give free units of SKUs (None: all) to paid backorders, after a step that may have freed some."""
        for sku in sorted(self._skus if skus is None else skus):
            record = self._skus.get(sku)
            # Adding up the holds is slow, and mostly nothing is owed.
            if record is not None and record.backordered and (free := self._free(sku)):
                filled = min(record.backordered, free)
                record.on_hand -= filled
                record.backordered -= filled
                self._emit("backorder_filled", now, sku=sku, filled=str(filled), on_hand=str(record.on_hand))

    def _level(self, sku: str) -> StockLevel:
        record = self._skus[sku]
        return StockLevel(
            sku=sku,
            policy=record.fields.policy,
            on_hand=record.on_hand,
            held=self._held(sku),
            sold=record.sold,
            backordered=record.backordered,
        )

    def _held(self, sku: str, *, guests_only: bool = False) -> int:
        """Units of recorded holds: of lines, and of orders that are being paid."""
        return sum(
            line.held
            for cart_id, cart in self._carts.items()
            for line in cart.lines.values()
            if line.sku == sku and (cart_id.startswith(GUEST_PREFIX) or not guests_only)
        ) + sum(
            line.held
            for record in self._payments.values()
            for line in record.lines()
            if record.is_pending
            and line.sku == sku
            and (record.payment.cart_id.startswith(GUEST_PREFIX) or not guests_only)
        )

    def holders(self, sku: str) -> set[str]:
        """Who holds units of a SKU, spelled as in the engine's index: `c US cart_id US line_id`, `o US
        order_id`."""
        return {
            f"c\x1f{cart_id}\x1f{line.line_id}"
            for cart_id, cart in self._carts.items()
            for line in cart.lines.values()
            if line.sku == sku and line.held
        } | {
            f"o\x1f{order.order_id}"
            for record in self._payments.values()
            for order in record.orders
            if record.is_pending and any(line.sku == sku and line.held for line in order.lines)
        }

    def _free(self, sku: str) -> int:
        return max(0, self._skus[sku].on_hand - self._held(sku))

    def _holdable(self, sku: str, cart_id: str, guest_share_ppm: int) -> int:
        """Units that this cart could have in addition: what is free, for a guest within the guests' share."""
        free = self._free(sku)
        if not cart_id.startswith(GUEST_PREFIX):
            return free
        share = self._skus[sku].on_hand * guest_share_ppm // 1_000_000
        return max(0, min(free, share - self._held(sku, guests_only=True)))

    # --- cart ----------------------------------------------------------------------------------

    async def read_cart(self, cart_id: str, *, terms: CartTerms | None = None) -> Cart:
        """The cart with exact availability of every line, for a guest within the guests' share."""
        now = self._now_ms()
        self._release_due_of_cart(cart_id, now)
        return self._read(cart_id, now, terms)

    async def read_summary(self, cart_id: str) -> Summary:
        """The running totals; EMPTY_SUMMARY for an absent cart."""
        cart = self._carts.get(cart_id)
        return cart.summary if cart else EMPTY_SUMMARY

    async def add_line(
        self,
        cart_id: str,
        sku: str,
        quantity: int,
        *,
        properties_json: str | None,
        terms: CartTerms,
        guard: Guard,
    ) -> LineResult:
        """Add units of a variation and hold them."""
        if quantity < 1:
            raise ContractError("add_line takes a quantity of 1 or more")
        now = self._now_ms()
        if replay := self._replay(cart_id, guard, LineResult):
            return replay
        self._release_due(sku, now)
        cart = self._cart(cart_id, now)
        self._match(cart, guard.if_match)
        if sku not in self._skus:
            raise ProductNotFound(sku=sku)

        line_id = line_id_of(sku, properties_json)
        old = cart.lines.get(line_id)
        total = quantity + (old.quantity if old else 0)
        self._refuse_when_low()
        fields = self._skus[sku].fields
        self._check_line(cart_id, cart, sku, line_id, total, fields.price_at(now), terms, now)

        line = self._write_line(cart_id, cart, sku, properties_json, total, terms, now)
        line.unit_price_minor = fields.price_at(now)
        line.revision = fields.revision
        self._commit(cart_id, cart, now, terms)
        result = LineResult(
            line=self._view(cart_id, line, now, terms),
            summary=cart.summary,
            read_at_ms=now,
            created=old is None,
        )
        return self._remember(cart, guard, result)

    async def set_quantity(
        self, cart_id: str, line_id: str, quantity: int, *, terms: CartTerms, guard: Guard
    ) -> LineResult:
        """Set a line's quantity; 0 removes the line."""
        if quantity == 0:
            return await self.remove_line(cart_id, line_id, terms=terms, guard=guard)
        if quantity < 0:
            raise ContractError("set_quantity takes a quantity of 0 or more")
        now = self._now_ms()
        if replay := self._replay(cart_id, guard, LineResult):
            return replay
        self._release_due(sku_of(line_id), now)
        cart = self._cart(cart_id, now)
        self._match(cart, guard.if_match)
        line = cart.lines.get(line_id)
        if line is None:
            raise ItemNotFound(line_id=line_id)
        if quantity > line.quantity:
            self._refuse_when_low()
        self._check_line(cart_id, cart, line.sku, line_id, quantity, line.unit_price_minor, terms, now)

        self._write_line(cart_id, cart, line.sku, line.properties_json, quantity, terms, now)
        self._commit(cart_id, cart, now, terms)
        self._serve_backorders(now, [line.sku])
        return self._remember(
            cart,
            guard,
            LineResult(
                line=self._view(cart_id, line, now, terms),
                summary=cart.summary,
                read_at_ms=now,
            ),
        )

    async def remove_line(self, cart_id: str, line_id: str, *, terms: CartTerms, guard: Guard) -> LineResult:
        """Remove a line; its hold goes back."""
        now = self._now_ms()
        if replay := self._replay(cart_id, guard, LineResult):
            return replay
        cart = self._cart(cart_id, now)
        self._match(cart, guard.if_match)
        if line_id not in cart.lines:
            raise ItemNotFound(line_id=line_id)

        cart.end_hold(cart.lines[line_id], now)
        del cart.lines[line_id]
        self._commit(cart_id, cart, now, terms)
        self._serve_backorders(now, [sku_of(line_id)])
        return self._remember(cart, guard, LineResult(line=None, summary=cart.summary, read_at_ms=now))

    async def clear_cart(self, cart_id: str, *, terms: CartTerms, guard: Guard) -> CartResult:
        """Remove all lines; all holds go back."""
        now = self._now_ms()
        if replay := self._replay(cart_id, guard, CartResult):
            return replay
        cart = self._cart(cart_id, now)
        self._match(cart, guard.if_match)
        if not cart.lines:
            return CartResult(summary=cart.summary)

        for line in cart.lines.values():
            cart.end_hold(line, now)
        cart.lines.clear()
        self._commit(cart_id, cart, now, terms)
        self._serve_backorders(now)
        return self._remember(cart, guard, CartResult(summary=cart.summary))

    async def put_lines(
        self,
        cart_id: str,
        items: Sequence[PutItem | PutItemByLine],
        *,
        mode: Literal["all", "partial"],
        terms: CartTerms,
        guard: Guard,
    ) -> PutResult:
        """Set several lines to quantities, in order. `all` does what `partial` does if that does every
        entry, and otherwise nothing."""
        now = self._now_ms()
        if replay := self._replay(cart_id, guard, PutResult):
            return replay
        self._refuse_when_low()
        for item in items:
            if item.quantity > 0:
                self._release_due(_sku_of_item(item), now)
        self._match(self._cart(cart_id, now), guard.if_match)

        before = copy.deepcopy(self._carts.get(cart_id))
        cart = self._carts.setdefault(cart_id, self._cart(cart_id, now))
        outcomes: list[ItemOutcome] = []
        is_written = False
        for item in items:
            code, available = "OK", None
            try:
                is_written |= self._put_item(cart_id, cart, item, terms, now)
            except _REFUSALS as refusal:
                code, available = refusal.code, refusal.available_quantity
            outcomes.append(
                ItemOutcome(
                    line_id=item.line_id,
                    sku=_sku_of_item(item),
                    code=code,
                    requested_quantity=item.quantity,
                    available_quantity=available,
                )
            )

        refused = [outcome for outcome in outcomes if outcome.code != "OK"]
        is_refused = mode == "all" and bool(refused)
        if is_refused or not is_written:
            self._carts.pop(cart_id)
            if before is not None:
                self._carts[cart_id] = before
            if is_refused:
                raise _refusal_of([_shortfall(**_fields_of(outcome)) for outcome in refused])
            return PutResult(outcomes=tuple(outcomes), summary=self._cart(cart_id, now).summary)
        self._commit(cart_id, cart, now, terms)
        self._serve_backorders(now)
        return self._remember(cart, guard, PutResult(outcomes=tuple(outcomes), summary=cart.summary))

    def _put_item(
        self, cart_id: str, cart: _Cart, item: PutItem | PutItemByLine, terms: CartTerms, now: int
    ) -> bool:
        """Set one line; whether anything was written."""
        line = cart.lines.get(item.line_id)
        if isinstance(item, PutItemByLine) and line is None:
            raise ItemNotFound(line_id=item.line_id)
        if item.quantity == 0:
            if line is None:
                return False
            cart.end_hold(line, now)
            del cart.lines[item.line_id]
            return True
        sku = _sku_of_item(item)
        if sku not in self._skus:
            raise ProductNotFound(sku=sku)
        properties_json = line.properties_json if line else getattr(item, "properties_json", None)
        price_minor = line.unit_price_minor if line else self._skus[sku].fields.price_at(now)
        self._check_line(cart_id, cart, sku, item.line_id, item.quantity, price_minor, terms, now)
        self._write_line(cart_id, cart, sku, properties_json, item.quantity, terms, now)
        return True

    async def accept_changes(
        self, cart_id: str, line_ids: Sequence[str] | None, *, terms: CartTerms, guard: Guard
    ) -> CartResult:
        """Move the seen price and revision of lines to the current ones."""
        now = self._now_ms()
        if replay := self._replay(cart_id, guard, CartResult):
            return replay
        self._refuse_when_low()
        cart = self._cart(cart_id, now)
        self._match(cart, guard.if_match)
        lines = _chosen(cart, line_ids)
        if not lines:
            return CartResult(summary=cart.summary)
        subtotal_minor = cart.subtotal_minor
        for line in lines:
            fields = self._skus[line.sku].fields
            # Accepting a price in another currency would mix two currencies in one sum.
            if fields.currency != cart.currency:
                raise CurrencyMismatch(line_id=line.line_id, sku=line.sku)
            subtotal_minor += line.quantity * (fields.price_at(now) - line.unit_price_minor)
        if subtotal_minor > limits.TOTAL_MINOR_MAX:
            raise LimitExceeded("The total would be too large.")

        for line in lines:
            fields = self._skus[line.sku].fields
            line.unit_price_minor = fields.price_at(now)
            line.revision = fields.revision
            line.updated_at_ms = now
        self._commit(cart_id, cart, now, terms)
        return self._remember(cart, guard, CartResult(summary=cart.summary))

    async def hold_lines(
        self,
        cart_id: str,
        line_ids: Sequence[str] | None,
        *,
        terms: CartTerms,
        extend: bool,
        guard: Guard,
    ) -> HoldResult:
        """Try to hold what is not held among the lines; with `extend`, also move the expiry of the rest."""
        now = self._now_ms()
        if replay := self._replay(cart_id, guard, HoldResult):
            self._release_due_of_cart(cart_id, now)
            return replace(replay, cart=self._read(cart_id, now, terms))
        self._refuse_when_low()
        for line_id in line_ids or ():
            self._release_due(sku_of(line_id), now)
        self._release_due_of_cart(cart_id, now)
        cart = self._cart(cart_id, now)
        self._match(cart, guard.if_match)
        has_changed = False
        for line in _chosen(cart, line_ids):
            if extend and line.held:
                self._prolong(cart_id, cart, line, terms, now, extends_cart=False)
                has_changed = True
            missing = line.quantity - line.held
            if (
                missing
                and self._is_held_on_add(line.sku, terms)
                and not self._rests_until(cart_id, cart, line, line.sku, terms, now)
                and self._skus[line.sku].fields.is_active
                and now >= self._skus[line.sku].fields.starts_at_ms
                and missing <= self._holdable(line.sku, cart_id, terms.guest_share_ppm)
                and self._held_by_owner(cart_id, now) + missing <= terms.held_max
            ):
                self._hold(cart_id, cart, line, terms, now, extends_cart=False)
                has_changed = True
        if extend and has_changed:
            self._commit(cart_id, cart, now)
        result = HoldResult(summary=cart.summary, cart=self._read(cart_id, now, terms))
        return self._remember(cart, guard, result) if has_changed else result

    # --- parts of a mutation -------------------------------------------------------------------

    def _cart(self, cart_id: str, now: int) -> _Cart:
        """The cart, or a new one that nobody keeps until it is committed."""
        return self._carts.get(cart_id) or _Cart(created_at_ms=now, updated_at_ms=now)

    def _replay(self, cart_id: str, guard: Guard, kind: type[_Result]) -> _Result | None:
        """The first result under this key, if the cart remembers one."""
        if guard.idempotency_key is None or cart_id not in self._carts:
            return None
        remembered = self._carts[cart_id].remembered.get(guard.idempotency_key)
        if remembered is None:
            return None
        fingerprint, result = remembered
        if fingerprint != guard.fingerprint:
            raise IdempotencyKeyReused
        if not isinstance(result, kind):
            raise ContractError("a fingerprint must differ between verbs")
        return replace(result, replayed=True)

    def _remember(self, cart: _Cart, guard: Guard, result: _Result) -> _Result:
        if guard.idempotency_key is not None:
            cart.remembered[guard.idempotency_key] = (guard.fingerprint, result)
            if len(cart.remembered) > limits.IDEMPOTENCY_RING_SIZE:
                del cart.remembered[next(iter(cart.remembered))]
        return result

    def _refuse_when_low(self) -> None:
        if self.is_disk_low:
            raise StoreFull

    def _match(self, cart: _Cart, if_match: int | None) -> None:
        if if_match is not None and if_match != cart.version:
            raise VersionConflict(cart.version)

    def _check_line(
        self,
        cart_id: str,
        cart: _Cart,
        sku: str,
        line_id: str,
        quantity: int,
        price_minor: int,
        terms: CartTerms,
        now: int,
    ) -> None:
        """Whether the line may have `quantity` units at `price_minor`, in the order of the contract."""
        fields = self._skus[sku].fields
        line = cart.lines.get(line_id)
        old_quantity = line.quantity if line else 0
        held = line.held if line else 0
        if not fields.is_active and quantity >= old_quantity:
            raise ProductInactive(line_id=line_id, sku=sku)
        if cart.lines and cart.currency != fields.currency:
            raise CurrencyMismatch(line_id=line_id, sku=sku)
        self._check_sale(cart_id, cart, fields, line_id, quantity, now)

        old_total_minor = line.quantity * line.unit_price_minor if line else 0
        is_reserving = self._is_held_on_add(sku, terms) and not self._rests_until(
            cart_id, cart, line, sku, terms, now
        )
        missing = max(0, quantity - held) if is_reserving else 0
        if (
            quantity > terms.quantity_max
            or (line is None and len(cart.lines) >= terms.lines_max)
            or (quantity > old_quantity and cart.total_items - old_quantity + quantity > terms.items_max)
            or cart.subtotal_minor - old_total_minor + quantity * price_minor > limits.TOTAL_MINOR_MAX
            or (missing and self._held_by_owner(cart_id, now) + missing > terms.held_max)
        ):
            raise LimitExceeded(line_id=line_id, sku=sku, requested_quantity=quantity)

        if fields.policy != "deny":
            return
        available = held + self._holdable(sku, cart_id, terms.guest_share_ppm)
        if quantity > available:
            error = InsufficientStock(
                line_id=line_id, sku=sku, available_quantity=available, requested_quantity=quantity
            )
            error.fitting_quantity = _fitting(fields, available)
            raise error

    def _check_sale(
        self, cart_id: str, cart: _Cart, fields: SkuFields, line_id: str, quantity: int, now: int
    ) -> None:
        """The rules of a SKU: start of sale, quantities, and what one customer may buy."""
        line = cart.lines.get(line_id)
        old_quantity = line.quantity if line else 0
        if now < fields.starts_at_ms and quantity >= old_quantity:
            error = NotYetOnSale(line_id=line_id, sku=fields.sku)
            error.starts_at_ms = fields.starts_at_ms
            raise error
        others = sum(
            other.quantity
            for other in cart.lines.values()
            if other.sku == fields.sku and other.line_id != line_id
        )
        if _breaks_rules(fields, quantity, others if quantity > old_quantity else 0):
            invalid = InvalidQuantity(line_id=line_id, sku=fields.sku, requested_quantity=quantity)
            is_of_the_line = quantity < fields.min_quantity or quantity % fields.multiple_of != 0
            if others and not is_of_the_line:
                invalid.available_quantity = max(0, fields.max_quantity - others)
            raise invalid
        if fields.limit_units and quantity > old_quantity:
            left = self._left_to_buy(fields, (cart_id,), now)
            if others + quantity > left:
                raise PurchaseLimitReached(
                    line_id=line_id,
                    sku=fields.sku,
                    available_quantity=max(0, left - others),
                    requested_quantity=quantity,
                )

    def _left_to_buy(self, fields: SkuFields, identities: Sequence[str], now: int) -> int:
        """Units that a customer may still buy of a SKU with a purchase limit, by the strictest identity."""
        since_ms = now - fields.limit_window_ms
        bought = (
            sum(units for at_ms, units in self._bought[fields.sku, identity].values() if at_ms > since_ms)
            for identity in identities
        )
        return max(0, fields.limit_units - max(bought))

    def bought(self, sku: str, identity: str) -> dict[str, tuple[int, int]]:
        """Orders that count for an identity: when each began, and its units."""
        return dict(self._bought[sku, identity])

    def _note_bought(self, record: _Payment, identities: Sequence[str], now: int) -> None:
        """Count the units of a payment against the purchase limits of its SKUs. What is older than the window
        goes then, and does not come back when the clock is set back."""
        for order in record.orders:
            for line in order.lines:
                fields = self._skus[line.sku].fields
                if fields.limit_units:
                    units = sum(other.quantity for other in order.lines if other.sku == line.sku)
                    for identity in identities:
                        known = self._bought[line.sku, identity]
                        for order_id, (at_ms, _) in list(known.items()):
                            if at_ms <= now - fields.limit_window_ms:
                                del known[order_id]
                        known[order.order_id] = (record.payment.created_at_ms, units)

    def _forget_bought(self, record: _Payment) -> None:
        for order in record.orders:
            for line in order.lines:
                for identity in record.buyer:
                    self._bought[line.sku, identity].pop(order.order_id, None)

    def _write_line(
        self,
        cart_id: str,
        cart: _Cart,
        sku: str,
        properties_json: str | None,
        quantity: int,
        terms: CartTerms,
        now: int,
    ) -> _Line:
        """Set a line that was checked, and its hold."""
        fields = self._skus[sku].fields
        line = cart.lines.get(line_id_of(sku, properties_json))
        if line is None:
            line = _Line(
                line_id=line_id_of(sku, properties_json),
                sku=sku,
                properties_json=properties_json,
                quantity=quantity,
                unit_price_minor=fields.price_at(now),
                revision=fields.revision,
                ordinal=0,
                added_at_ms=now,
                updated_at_ms=now,
            )
            cart.add(line)
            cart.currency = fields.currency
        line.quantity = quantity
        line.updated_at_ms = now
        cart.end_hold(line, now, keeping=quantity)
        if self._is_held_on_add(sku, terms) and not self._rests_until(cart_id, cart, line, sku, terms, now):
            self._hold(cart_id, cart, line, terms, now, extends_cart=True)
        return line

    def _commit(self, cart_id: str, cart: _Cart, now: int, terms: CartTerms | None = None) -> None:
        """Give the changed cart its next version and, under `terms`, its unlapsed holds more time."""
        self._change += 1
        cart.version = self._change
        cart.updated_at_ms = now
        self._carts[cart_id] = cart
        if terms is None:
            return
        for line in cart.lines.values():
            if cart.expiry_of(line, now) <= now:
                line.hold_ttl_ms = 0
        cart.extended_at_ms = now

    def _is_held_on_add(self, sku: str, terms: CartTerms) -> bool:
        fields = self._skus[sku].fields
        return terms.reservations and fields.policy == "deny" and fields.hold_policy == "on_add"

    def _first_held(
        self, cart_id: str, cart: _Cart, sku: str, terms: CartTerms, now: int
    ) -> tuple[int | None, int]:
        """When the owner's first hold of a SKU was, over lines, pending orders and what was held less than a
        rest ago; None when the next hold is a first one. And when all of that ends, or ended."""
        held = [
            (line.first_held_at_ms, cart.expiry_of(line, now))
            for line in cart.lines.values()
            if line.sku == sku and line.held
        ]
        remembered = cart.periods.get(sku)
        if remembered is not None and not remembered.is_over(now, terms.hold_rest_ms):
            held.append((remembered.first_ms, remembered.ended_ms))
        pending = [
            record
            for record in self._payments.values()
            if record.is_pending and record.payment.cart_id == cart_id
        ]
        ordered = [
            line.first_held_at_ms
            for record in pending
            for line in record.lines()
            if line.sku == sku and line.held
        ]
        if ordered:
            last_ms = max(record.payment.expires_at_ms for record in pending)
            held.append((min(ordered), max(now, last_ms)))
        if not held:
            return None, 0
        return min(first for first, _ in held), max(ended for _, ended in held)

    def _rests_until(
        self, cart_id: str, cart: _Cart, line: _Line | None, sku: str, terms: CartTerms, now: int
    ) -> int:
        """Until when a line must not be held, unless by a checkout; 0 when it may, or is held already."""
        if not self._is_held_on_add(sku, terms) or (line is not None and line.held):
            return 0
        first_ms, ended_ms = self._first_held(cart_id, cart, sku, terms, now)
        if first_ms is None or first_ms + terms.hold_cap_ms > now:
            return 0
        return ended_ms + terms.hold_rest_ms

    def _hold(
        self, cart_id: str, cart: _Cart, line: _Line, terms: CartTerms, now: int, *, extends_cart: bool
    ) -> None:
        """Hold the whole line; the caller has seen that the stock is there and does not rest."""
        self._prolong(cart_id, cart, line, terms, now, extends_cart=extends_cart)
        line.held = line.quantity

    def _prolong(
        self, cart_id: str, cart: _Cart, line: _Line, terms: CartTerms, now: int, *, extends_cart: bool
    ) -> None:
        """Let a line's hold begin or go on under the terms of now; never does one end earlier by that.

        `extends_cart`: all holds of the cart are extended next (`_commit`), this one with them.
        """
        is_new = line.held == 0
        before_ms = 0 if is_new else cart.expiry_of(line, now)
        if is_new:
            first_ms, _ = self._first_held(cart_id, cart, line.sku, terms, now)
            line.first_held_at_ms = now if first_ms is None else min(first_ms, now)
        line.hold_ttl_ms = self._skus[line.sku].fields.hold_ttl_ms or terms.hold_ttl_ms
        line.hold_latest_ms = line.first_held_at_ms + terms.hold_cap_ms
        reached_ms = min(now + line.hold_ttl_ms, line.hold_latest_ms)
        self.lifetime_ms = max(self.lifetime_ms, reached_ms - now)
        if is_new or reached_ms < before_ms or not extends_cart:
            line.indexed_ms = max(before_ms, reached_ms)

    def _held_by_owner(self, cart_id: str, now: int) -> int:
        """Units under unlapsed holds of the cart's lines and of its orders that are being paid."""
        cart = self._carts.get(cart_id)
        return sum(
            line.held
            for line in (cart.lines.values() if cart else ())
            if cart and not self._is_due(cart.expiry_of(line, now), now)
        ) + sum(
            line.held
            for record in self._payments.values()
            for line in record.lines()
            if record.payment.cart_id == cart_id and record.is_pending and not self._is_over(record, now)
        )

    def _read(self, cart_id: str, now: int, terms: CartTerms | None) -> Cart:
        cart = self._carts.get(cart_id)
        return Cart(
            cart_id=cart_id,
            summary=cart.summary if cart else EMPTY_SUMMARY,
            lines=(
                tuple(self._view(cart_id, line, now, terms) for line in cart.lines.values()) if cart else ()
            ),
            created_at_ms=cart.created_at_ms if cart else None,
            updated_at_ms=cart.updated_at_ms if cart else None,
            read_at_ms=now,
        )

    def _view(self, cart_id: str, line: _Line, now: int, terms: CartTerms | None) -> Line:
        cart, fields = self._carts[cart_id], self._skus[line.sku].fields
        guest_share_ppm = terms.guest_share_ppm if terms is not None else 1_000_000
        return Line(
            line_id=line.line_id,
            sku=line.sku,
            properties_json=line.properties_json,
            quantity=line.quantity,
            held=line.held,
            hold_expires_at_ms=cart.expiry_of(line, now),
            first_held_at_ms=line.first_held_at_ms,
            unit_price_minor=line.unit_price_minor,
            revision=line.revision,
            ordinal=line.ordinal,
            added_at_ms=line.added_at_ms,
            updated_at_ms=line.updated_at_ms,
            current_price_minor=fields.price_at(now),
            current_revision=fields.revision,
            is_active=fields.is_active and now >= fields.starts_at_ms,
            policy=fields.policy,
            available_quantity=(
                self._holdable(line.sku, cart_id, guest_share_ppm) + line.held
                if fields.policy == "deny"
                else None
            ),
            is_changed=line.revision < fields.terms_revision,
            has_other_currency=fields.currency != cart.currency,
            rests_until_ms=(
                self._rests_until(cart_id, cart, line, line.sku, terms, now) if terms is not None else 0
            ),
        )

    # --- checkout and payment ------------------------------------------------------------------

    async def begin_checkout(
        self,
        cart_id: str,
        checkout_id: str,
        payment_id: str,
        request: CheckoutRequest,
        *,
        fingerprint: str,
        window_ms: int,
        terms: CartTerms,
        if_match: int | None,
        other_payment_id: str | None = None,
        record_was_asked: bool = True,
    ) -> Checkout:
        """Turn lines into pending orders, one per seller, under one payment. Nothing is ever forgotten here,
        so it does not matter whether the record was asked."""
        now = self._now_ms()
        if record := self._payments.get(payment_id) or self._payments.get(other_payment_id or ""):
            if record.payment.fingerprint != fingerprint:
                raise IdempotencyKeyReused
            self._release_if_due(record, now)
            return replace(self._checkout(record, now), replayed=True)
        self._refuse_when_low()

        for line_id in request.line_ids or ():
            self._release_due(sku_of(line_id), now)
        if request.line_ids is None:
            self._release_due_of_cart(cart_id, now)
        cart = self._cart(cart_id, now)
        self._match(cart, if_match)
        if not cart.lines or request.line_ids == ():
            raise CartEmpty
        lines = _chosen(cart, request.line_ids)
        identities = (cart_id, *(request.identities or ()))
        self._check_checkout(cart_id, cart, lines, terms, identities, now)
        limited = [line.sku for line in lines if self._skus[line.sku].fields.limit_units]
        if limited and request.identities is None:
            raise StoreUnavailable
        if limited and cart_id.startswith(GUEST_PREFIX) and not request.identities:
            raise InvalidField(
                "Give an e-mail address or a phone number.", field="contact.email", sku=limited[-1]
            )
        order_lines = [
            (self._skus[line.sku].fields.seller, self._order_line(cart_id, cart, line, terms, now))
            for line in lines
        ]
        missing = sum(
            max(0, bought.held - line.held) for (_, bought), line in zip(order_lines, lines, strict=True)
        )
        if missing and self._held_by_owner(cart_id, now) + missing > terms.held_max:
            raise LimitExceeded
        amount_minor = sum(line.quantity * line.unit_price_minor for _, line in order_lines)
        if request.expected_total_minor is not None and request.expected_total_minor != amount_minor:
            raise TotalChanged(f"The total is {amount_minor}, not {request.expected_total_minor}.")
        if amount_minor and request.gateway == NO_GATEWAY:
            raise InvalidField("There is something to pay.", field="gateway")

        for line in lines:
            cart.end_hold(line, now)
            del cart.lines[line.line_id]
        checkout_type: CheckoutType = (
            "full_cart" if not cart.lines else "single_item" if len(lines) == 1 else "partial"
        )
        self._commit(cart_id, cart, now, terms)
        by_seller: defaultdict[str, list[OrderLine]] = defaultdict(list)
        for seller, order_line in order_lines:
            by_seller[seller].append(order_line)
        currency = cart.currency or ""
        orders = tuple(
            Order(
                order_id=f"o{payment_id[1:]}-{number}",
                payment_id=payment_id,
                checkout_id=checkout_id,
                cart_id=cart_id,
                seller=seller,
                status="pending",
                release_reason=None,
                lines=tuple(of_seller),
                total_minor=sum(line.quantity * line.unit_price_minor for line in of_seller),
                currency=currency,
                created_at_ms=now,
            )
            for number, (seller, of_seller) in enumerate(by_seller.items(), start=1)
        )
        self.lifetime_ms = max(self.lifetime_ms, window_ms)
        payment = Payment(
            payment_id=payment_id,
            checkout_id=checkout_id,
            checkout_type=checkout_type,
            cart_id=cart_id,
            status="pending",
            amount_minor=amount_minor,
            currency=currency,
            gateway=request.gateway if amount_minor else NO_GATEWAY,
            method=request.payment_method,
            attempts=0,
            order_ids=tuple(order.order_id for order in orders),
            expires_at_ms=now + window_ms,
            created_at_ms=now,
            fingerprint=fingerprint,
            details_json=request.details_json,
        )
        record = self._keep(payment, orders)
        record.position = self._emit("checkout_begun", now, **_checkout_begun(payment, orders))
        # A line whose SKU is not held any more gave its hold up.
        self._serve_backorders(now, {line.sku for line in lines})
        if limited:
            record.buyer = identities
            self._note_bought(record, identities, now)
        if amount_minor == 0:
            self._sell(record, now)
        return self._checkout(record, now)

    def _check_checkout(
        self,
        cart_id: str,
        cart: _Cart,
        lines: Sequence[_Line],
        terms: CartTerms,
        identities: Sequence[str],
        now: int,
    ) -> None:
        """Raise all problems of the lines together. Lines of one SKU share what is free, in cart order."""
        shortfalls: list[dict[str, Any]] = []
        promised: defaultdict[str, int] = defaultdict(int)
        counted: defaultdict[str, int] = defaultdict(int)
        for line in lines:
            fields = self._skus[line.sku].fields
            others = counted[line.sku]
            left = (
                self._left_to_buy(fields, identities, now) if fields.limit_units else line.quantity + others
            )
            counted[line.sku] += line.quantity
            missing = line.quantity - line.held if fields.policy == "deny" else 0
            holdable = max(0, self._holdable(line.sku, cart_id, terms.guest_share_ppm) - promised[line.sku])
            problem: dict[str, Any]
            if not fields.is_active:
                problem = {"code": ProductInactive.code}
            elif line.revision < fields.terms_revision:
                problem = {"code": LineChanged.code}
            elif fields.currency != cart.currency:
                problem = {"code": CurrencyMismatch.code}
            elif now < fields.starts_at_ms:
                problem = {"code": NotYetOnSale.code}
            elif _breaks_rules(fields, line.quantity, others):
                problem = {"code": InvalidQuantity.code}
                if others and 0 < fields.max_quantity < line.quantity + others:
                    problem["available_quantity"] = max(0, fields.max_quantity - others)
            elif others + line.quantity > left:
                problem = {"code": PurchaseLimitReached.code, "available_quantity": max(0, left - others)}
            elif fields.price_at(now) > line.unit_price_minor:
                problem = {
                    "code": PriceChanged.code,
                    "old_price_minor": line.unit_price_minor,
                    "new_price_minor": fields.price_at(now),
                }
            else:
                # A line that is short claims what is there: if the buyer lowers each named line to what is
                # available for it, the next try succeeds.
                promised[line.sku] += missing
                if missing <= holdable:
                    continue
                problem = {"code": InsufficientStock.code, "available_quantity": line.held + holdable}
            # With what is left for it: once each named line is lowered to that, all of them fit.
            counted[line.sku] = others + min(line.quantity, problem.get("available_quantity", line.quantity))
            shortfalls.append(
                _shortfall(line_id=line.line_id, sku=line.sku, requested_quantity=line.quantity, **problem)
            )
        if shortfalls:
            raise _refusal_of(shortfalls)

    def _order_line(self, cart_id: str, cart: _Cart, line: _Line, terms: CartTerms, now: int) -> OrderLine:
        fields = self._skus[line.sku].fields
        is_held = fields.policy == "deny"
        first_ms = line.first_held_at_ms
        if not line.held:
            # Units that rest are held by a checkout; their period goes on.
            first_ms = self._first_held(cart_id, cart, line.sku, terms, now)[0] or now
        return OrderLine(
            line_id=line.line_id,
            sku=line.sku,
            quantity=line.quantity,
            held=line.quantity if is_held else 0,
            mode=_MODES[fields.policy],
            unit_price_minor=min(line.unit_price_minor, fields.price_at(now)),
            revision=line.revision,
            first_held_at_ms=first_ms if is_held else 0,
            properties_json=line.properties_json,
        )

    async def read_payment(self, payment_id: str) -> Checkout | None:
        """A payment with its orders, released first when its window is over."""
        now = self._now_ms()
        record = self._payments.get(payment_id)
        if record is None:
            return None
        self._release_if_due(record, now)
        return self._checkout(record, now)

    async def list_payments(self, cart_id: str) -> list[Checkout]:
        """Payments of a cart, newest first, released first where their window is over."""
        now = self._now_ms()
        records = [record for record in self._payments.values() if record.payment.cart_id == cart_id]
        for record in sorted(records, key=_by_expiry):
            self._release_if_due(record, now)
        records.sort(key=lambda record: (record.payment.created_at_ms, record.number), reverse=True)
        return [self._checkout(record, now) for record in records]

    async def settle_payment(self, payment_id: str) -> PaymentResult:
        """The money arrived: sell the units, or take them again if the payment was released, or owe it."""
        now = self._now_ms()
        record = self._payment(payment_id)
        if record.payment.status in ("paid", "refund_due", "refunded"):
            return self._outcome(record, now, changed=False)
        if record.is_pending:
            for line in record.lines():
                if line.mode == "backorder":
                    self._release_due(line.sku, now)
            self._sell(record, now)
            if cart := self._carts.get(record.payment.cart_id):
                self._note_ends(cart, record, now, now)
            return self._outcome(record, now, changed=True)

        for line in record.lines():
            if line.mode != "untracked":
                self._release_due(line.sku, now)
        kept_until_ms = record.payment.created_at_ms + self.unpaid_kept_ms
        is_too_late = record.payment.is_redacted or (self.unpaid_kept_ms > 0 and now >= kept_until_ms)
        if not is_too_late and self._is_servable(record):
            self._take_back(record, now)
            self._sell(record, now)
            self._serve_backorders(now, {line.sku for line in record.lines()})
            self._note_bought(record, record.buyer or (record.payment.cart_id,), now)
        else:
            record.move("refund_due", "refund_due", record.orders[0].release_reason)
            record.position = self._emit(
                "payment_settled", now, payment_id=payment_id, outcome="refund_due", sales=[]
            )
        return self._outcome(record, now, changed=True)

    def _sell(self, record: _Payment, now: int) -> None:
        """Move the units of a payment, which no cart line holds any more, from on_hand to sold."""
        record.move("paid", "paid")
        sales: list[dict[str, str]] = []
        for order in record.orders:
            quantities: defaultdict[str, int] = defaultdict(int)
            modes: dict[str, str] = {}
            for line in order.lines:
                quantities[line.sku] += line.quantity
                modes[line.sku] = line.mode
            for sku, quantity in quantities.items():
                if modes[sku] == "untracked":
                    continue
                taken = quantity if modes[sku] == "held" else min(quantity, self._free(sku))
                stock = self._skus[sku]
                stock.on_hand -= taken
                stock.sold += quantity
                stock.backordered += quantity - taken
                sales.append(
                    {
                        "order_id": order.order_id,
                        "sku": sku,
                        "quantity": str(quantity),
                        "taken": str(taken),
                        "backordered": str(quantity - taken),
                    }
                )
        record.position = self._emit(
            "payment_settled", now, payment_id=record.payment.payment_id, outcome="paid", sales=sales
        )

    def _is_servable(self, record: _Payment) -> bool:
        """Whether a released payment finds its units: free ones, and those that the lines which returned to
        the cart hold by now."""
        needed: defaultdict[str, int] = defaultdict(int)
        returned: defaultdict[str, int] = defaultdict(int)
        for line, kept in self._returned(record):
            if line.mode != "held":
                continue
            needed[line.sku] += line.quantity
            if kept is not None:
                returned[line.sku] += min(kept.held, line.quantity)
        return all(units <= self._free(sku) + returned[sku] for sku, units in needed.items())

    def _take_back(self, record: _Payment, now: int) -> None:
        """Let the lines that returned to the cart leave it again, as far as they are still there."""
        cart_id = record.payment.cart_id
        has_left = False
        for line, kept in self._returned(record):
            if kept is None:
                continue
            has_left = True
            kept.quantity = max(0, kept.quantity - line.quantity)
            self._carts[cart_id].end_hold(kept, now, keeping=max(0, kept.held - line.quantity))
            kept.updated_at_ms = now
            if kept.quantity == 0:
                del self._carts[cart_id].lines[kept.line_id]
        if has_left:
            self._commit(cart_id, self._carts[cart_id], now)

    def _returned(self, record: _Payment) -> list[tuple[OrderLine, _Line | None]]:
        """Each order line with the cart line of the same id. Lines in another currency are others."""
        cart = self._carts.get(record.payment.cart_id)
        lines = cart.lines if cart and cart.currency == record.payment.currency else {}
        return [(line, lines.get(line.line_id)) for line in record.lines()]

    async def fail_payment(self, payment_id: str) -> PaymentResult:
        """One failed attempt; the payment stays pending."""
        now = self._now_ms()
        record = self._payment(payment_id)
        self._release_if_due(record, now)
        if record.payment.status == "expired":
            raise PaymentExpired
        if not record.is_pending:
            raise PaymentState(f"The payment is {record.payment.status}.")
        attempts = record.payment.attempts + 1
        record.payment = replace(record.payment, attempts=attempts)
        record.position = self._emit("payment_failed", now, payment_id=payment_id, attempts=str(attempts))
        return self._outcome(record, now, changed=True)

    async def release_payment(self, payment_id: str, reason: ReleaseReason) -> PaymentResult:
        """Release all orders of a pending payment."""
        now = self._now_ms()
        record = self._payment(payment_id)
        if record.payment.status in ("paid", "refund_due", "refunded"):
            raise OrderState(f"The order is {record.payment.status}.")
        if not record.is_pending or (reason == "expired" and not self._is_over(record, now)):
            return self._outcome(record, now, changed=False)
        self._release(record, "expired" if self._is_over(record, now) else reason, now)
        return self._outcome(record, now, changed=True)

    async def close_refund(self, order_id: str) -> PaymentResult:
        """The money of a refund_due order went back."""
        now = self._now_ms()
        record = self._payments.get(payment_id_of_order(order_id))
        order = (
            next((order for order in record.orders if order.order_id == order_id), None) if record else None
        )
        if record is None or order is None:
            raise OrderNotFound
        if order.status == "refunded":
            return self._outcome(record, now, changed=False)
        if order.status != "refund_due":
            raise OrderState(f"The order is {order.status}.")
        record.orders = tuple(
            replace(other, status="refunded") if other is order else other for other in record.orders
        )
        if all(other.status == "refunded" for other in record.orders):
            record.payment = replace(record.payment, status="refunded")
        record.position = self._emit(
            "order_refunded", now, order_id=order_id, payment_status=record.payment.status
        )
        return self._outcome(record, now, changed=True)

    async def restore_payment(
        self, payment: Payment, orders: Sequence[Order], *, identities: Sequence[str] = ()
    ) -> None:
        """Put a terminal payment back from the record."""
        if payment.status == "pending":
            raise ContractError("only a terminal payment is restored")
        if payment.payment_id not in self._payments:
            record = self._keep(payment, tuple(orders))
            if identities:
                record.buyer = (payment.cart_id, *identities)

    def _payment(self, payment_id: str) -> _Payment:
        record = self._payments.get(payment_id)
        if record is None:
            raise PaymentNotFound
        return record

    def _keep(self, payment: Payment, orders: tuple[Order, ...]) -> _Payment:
        record = _Payment(payment, orders, number=len(self._payments), position=None)
        self._payments[payment.payment_id] = record
        return record

    def _checkout(self, record: _Payment, now: int) -> Checkout:
        return Checkout(
            payment=record.payment, orders=record.orders, read_at_ms=now, position=record.position
        )

    def _outcome(self, record: _Payment, now: int, *, changed: bool) -> PaymentResult:
        return PaymentResult(
            payment=record.payment,
            orders=record.orders,
            read_at_ms=now,
            changed=changed,
            position=record.position,
        )

    # --- releasing -----------------------------------------------------------------------------

    async def release_due_holds(self, limit: int) -> int:
        """Release up to `limit` due holds, those of the SKU with the earliest one first."""
        now = self._now_ms()
        looked = released = 0
        while looked < limit:
            earliest = [(holds[0][0], sku) for sku in self._skus if (holds := self._due_holds(sku, now))]
            if not earliest:
                break
            more_looked, more_released = self._release_due(min(earliest)[1], now, limit - looked)
            looked += more_looked
            released += more_released
        return released

    async def release_due_payments(self, limit: int) -> int:
        """Release up to `limit` payments whose window is over, the oldest window first."""
        now = self._now_ms()
        due = [
            record for record in self._payments.values() if record.is_pending and self._is_over(record, now)
        ]
        due.sort(key=_by_expiry)
        for record in due[:limit]:
            self._release(record, "expired", now)
        return len(due[:limit])

    # --- processes -----------------------------------------------------------------------------

    async def beat(self, process: str, state: str) -> Beats:
        """Note a process as alive, with what it says of itself; gives the beats of all processes."""
        now = self._now_ms()
        before = self._beats.pop(process, None)
        known = [
            msgspec.structs.replace(beat, at_ms=min(beat.at_ms, now))
            for beat in self._beats.values()
            if beat.at_ms >= now - limits.BEAT_KEPT_MS
        ]
        if state:
            known.append(
                Beat(process=process, at_ms=now, count=before.count + 1 if before else 1, state=state)
            )
        known.sort(key=lambda beat: -beat.at_ms)
        del known[limits.BEAT_PROCESSES_MAX :]
        self._beats = {beat.process: beat for beat in known}
        return Beats(now_ms=now, beats=tuple(known))

    def _is_over(self, record: _Payment, now: int) -> bool:
        """Whether the payment's window is over, by the same rule as a hold: its units are in both."""
        return self._is_due(record.payment.expires_at_ms, now)

    def _is_due(self, expires_at_ms: int, now: int) -> bool:
        return expires_at_ms <= now or expires_at_ms > now + self.lifetime_ms

    def _due_holds(self, sku: str, now: int) -> list[tuple[int, str, tuple[_Cart, _Line] | _Payment]]:
        """What is due in a SKU's index, by expiry: holds of lines, and of orders that are being paid."""
        holds: list[tuple[int, str, tuple[_Cart, _Line] | _Payment]] = [
            (line.indexed_ms, f"c {cart_id} {line.line_id}", (cart, line))
            for cart_id, cart in self._carts.items()
            for line in cart.lines.values()
            if line.sku == sku and line.held and self._is_due(line.indexed_ms, now)
        ]
        holds += [
            (record.payment.expires_at_ms, f"o {record.payment.payment_id}", record)
            for record in self._payments.values()
            if record.is_pending
            and self._is_due(record.payment.expires_at_ms, now)
            and any(line.sku == sku and line.held for line in record.lines())
        ]
        return sorted(holds, key=lambda hold: hold[:2])

    def _release_due(self, sku: str, now: int, limit: int | None = None) -> tuple[int, int]:
        """Release the due holds of a SKU, an order with all orders of its payment.

        One that was extended since it was put into the index is only moved there.
        How many were looked at, and how many released."""
        due = self._due_holds(sku, now)[:limit]
        released = 0
        for _, _, holder in due:
            if isinstance(holder, _Payment):
                self._release(holder, "expired", now)
                released += 1
                continue
            cart, line = holder
            expires_at_ms = cart.expiry_of(line, now)
            if self._is_due(expires_at_ms, now):
                if expires_at_ms > now:
                    # The clock was set back: the snapshot has to tell what no clock will.
                    self._change += 1
                    cart.version = self._change
                cart.end_hold(line, now)
                released += 1
            else:
                line.indexed_ms = expires_at_ms
        if released:
            self._serve_backorders(now, [sku])
        return len(due), released

    def _release_due_of_cart(self, cart_id: str, now: int) -> None:
        """Release the due holds of all SKUs of a cart, those of lines that come back meanwhile too."""
        released: set[str] = set()
        while cart := self._carts.get(cart_id):
            waiting = [line.sku for line in cart.lines.values() if line.sku not in released]
            if not waiting:
                return
            for sku in waiting:
                self._release_due(sku, now)
                released.add(sku)

    def _release_if_due(self, record: _Payment, now: int) -> None:
        if record.is_pending and self._is_over(record, now):
            self._release(record, "expired", now)

    def _release(self, record: _Payment, reason: ReleaseReason, now: int) -> None:
        """End a pending payment: its units are free again, its lines return to the cart, unheld."""
        record.move(reason, "released", reason)
        self._forget_bought(record)
        payment = record.payment
        cart = self._cart(payment.cart_id, now)
        self._note_ends(cart, record, payment.expires_at_ms, now)
        if not cart.lines or cart.currency == payment.currency:
            cart.currency = payment.currency
            for line in record.lines():
                self._return_line(cart, line, now)
            self._commit(payment.cart_id, cart, now)
        record.position = self._emit("payment_released", now, payment_id=payment.payment_id, reason=reason)
        self._serve_backorders(now, {line.sku for line in record.lines()})

    def _note_ends(self, cart: _Cart, record: _Payment, ended_ms: int, now: int) -> None:
        """The orders of a payment hold their units no longer."""
        for line in record.lines():
            if line.held:
                cart.note_end(line.sku, line.first_held_at_ms, ended_ms, now)

    def _return_line(self, cart: _Cart, line: OrderLine, now: int) -> None:
        kept = cart.lines.get(line.line_id)
        if kept is not None:
            kept.quantity += line.quantity
            kept.updated_at_ms = now
            return
        cart.add(
            _Line(
                line_id=line.line_id,
                sku=line.sku,
                properties_json=line.properties_json,
                quantity=line.quantity,
                unit_price_minor=line.unit_price_minor,
                revision=line.revision,
                ordinal=0,
                added_at_ms=now,
                updated_at_ms=now,
            )
        )

    def _emit(self, event_type: str, now: int, /, **body: Any) -> Position:
        position = Position(1, len(self.events) + 1)
        self.events.append(
            Event(
                position=position,
                nonce=f"memory-{position}",
                type=event_type,
                at_ms=now,
                body_json=msgspec.json.encode(body).decode(),
                previous=self.events[-1].name if self.events else "",
            )
        )
        return position


def _sku_of_item(item: PutItem | PutItemByLine) -> str:
    return item.sku if isinstance(item, PutItem) else sku_of(item.line_id)


def _chosen(cart: _Cart, line_ids: Sequence[str] | None) -> list[_Line]:
    """The named lines (None: all) in cart order. Raises ItemNotFound for the first that is missing."""
    if line_ids is None:
        return list(cart.lines.values())
    for line_id in line_ids:
        if line_id not in cart.lines:
            raise ItemNotFound(line_id=line_id)
    return [line for line in cart.lines.values() if line.line_id in line_ids]


def _breaks_rules(fields: SkuFields, quantity: int, others: int = 0) -> bool:
    """`others`: units of the SKU in other lines; the maximum counts over all of them."""
    return (
        quantity < fields.min_quantity
        or (fields.max_quantity != 0 and quantity + others > fields.max_quantity)
        or quantity % fields.multiple_of != 0
    )


def _fitting(fields: SkuFields, available: int) -> int:
    """The most of what is available that the rules allow; the maximum is more than that, or more would not
    have been wanted."""
    quantity = available // fields.multiple_of * fields.multiple_of
    return 0 if _breaks_rules(fields, quantity) else quantity


def _by_expiry(record: _Payment) -> tuple[int, str]:
    return (record.payment.expires_at_ms, record.payment.payment_id)


def _fields_of(outcome: ItemOutcome) -> dict[str, Any]:
    return {name: getattr(outcome, name) for name in outcome.__struct_fields__}


def _shortfall(
    *,
    line_id: str,
    sku: str,
    code: str,
    requested_quantity: int,
    available_quantity: int | None = None,
    **prices: int,
) -> dict[str, Any]:
    return {
        "line_id": line_id,
        "sku": sku,
        "code": code,
        "requested_quantity": requested_quantity,
        "available_quantity": available_quantity,
        **prices,
    }


def _refusal_of(shortfalls: list[dict[str, Any]]) -> CartError:
    """One error for several lines: of the one class if they agree, else CheckoutRefused."""
    codes = {shortfall["code"] for shortfall in shortfalls}
    refusal = _REFUSAL_BY_CODE[codes.pop()] if len(codes) == 1 else CheckoutRefused
    return refusal(shortfalls=shortfalls)


def _checkout_begun(payment: Payment, orders: Sequence[Order]) -> dict[str, Any]:
    """The body of a checkout's event: all that the record needs to know. Numbers are decimal strings."""
    return {
        "payment_id": payment.payment_id,
        "checkout_id": payment.checkout_id,
        "checkout_type": payment.checkout_type,
        "cart_id": payment.cart_id,
        "amount_minor": str(payment.amount_minor),
        "currency": payment.currency,
        "gateway": payment.gateway,
        "method": payment.method,
        "expires_at_ms": str(payment.expires_at_ms),
        "created_at_ms": str(payment.created_at_ms),
        "fingerprint": payment.fingerprint,
        "details_json": payment.details_json,
        "orders": [
            {
                "order_id": order.order_id,
                "seller": order.seller,
                "total_minor": str(order.total_minor),
                "lines": [_line_begun(line) for line in order.lines],
            }
            for order in orders
        ],
    }


def _line_begun(line: OrderLine) -> dict[str, str]:
    body = {
        "line_id": line.line_id,
        "sku": line.sku,
        "quantity": str(line.quantity),
        "held": str(line.held),
        "mode": line.mode,
        "unit_price_minor": str(line.unit_price_minor),
        "revision": str(line.revision),
        "first_held_at_ms": str(line.first_held_at_ms),
    }
    if line.properties_json is not None:
        body["properties_json"] = line.properties_json
    return body
