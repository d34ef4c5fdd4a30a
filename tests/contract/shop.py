"""A small shop around one engine: what the contract suite and the property test drive.

Owns the controllable clock, the terms and fields that tests vary one at a time, and short forms of the
verbs. Knows no backend: `backends.py` opens the engines.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from msgspec.structs import replace

from cartstore.engine import CartEngine
from cartstore.model import (
    Cart,
    CartResult,
    CartTerms,
    Checkout,
    CheckoutRequest,
    Event,
    Guard,
    HoldResult,
    Line,
    LineResult,
    Order,
    Partition,
    Payment,
    PaymentResult,
    PutItem,
    PutItemByLine,
    PutResult,
    SkuFields,
    StockLevel,
    StockResult,
    Summary,
    checkout_ids,
)
from cartstore.redis.gate import DiskMark

ANN = "u.ann"
BEN = "u.ben"
GUS = "g.gus"
GIL = "g.gil"

START_MS = 1_900_000_000_000
"""Ahead of any wall clock, so that a lifetime which a server counts by its own clock is never over."""

SECOND_MS = 1_000
MINUTE_MS = 60_000

TERMS = CartTerms(
    hold_ttl_ms=10 * MINUTE_MS,
    hold_cap_ms=30 * MINUTE_MS,
    hold_rest_ms=10 * SECOND_MS,
    cart_ttl_ms=7 * 24 * 60 * MINUTE_MS,
    quantity_max=99,
    lines_max=20,
    items_max=500,
    held_max=400,
    guest_share_ppm=1_000_000,
    reservations=True,
)
WINDOW_MS = 15 * MINUTE_MS
LIFETIME_MS = 120 * MINUTE_MS
UNPAID_KEPT_MS = 20 * 60 * MINUTE_MS
"""How long a released payment may still be paid: shorter than a tombstone, so that tests can reach it."""
PARTITION = Partition("main")


class Clock:
    """The engine's clock, moved by hand."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms


class Shop:
    """One fresh engine with a clock. Every method is one verb, with defaults for what a test leaves open."""

    def __init__(
        self,
        engine: CartEngine,
        clock: Clock,
        read_events: Callable[[], Awaitable[list[Event]]],
        read_holders: Callable[[Sequence[str]], Awaitable[list[set[str]]]],
        mark_disk: Callable[[DiskMark], Awaitable[None]],
        *,
        partition: Partition = PARTITION,
    ) -> None:
        self.engine = engine
        self.clock = clock
        self.events = read_events
        self.holders = read_holders
        """Who holds each SKU, by the engine's own index: `c US cart_id US line_id` or `o US order_id`."""
        self.mark_disk = mark_disk
        """Tell the engine how much room its disk has; `out` only where there is a disk."""
        self.partition = partition
        self._revisions = itertools.count(1)
        self._references = itertools.count(1)
        self._fields: dict[str, SkuFields] = {}

    @property
    def now_ms(self) -> int:
        return self.clock.now_ms

    def advance(self, elapsed_ms: int) -> None:
        self.clock.now_ms += elapsed_ms

    async def publish(self, sku: str, /, *, changes_terms: bool = False, **changes: Any) -> SkuFields:
        """Publish the SKU's next revision: as before, but for the changes. `changes_terms`: buyers of an
        earlier one saw other options, another product or currency."""
        before = self._fields.get(sku) or SkuFields(
            sku=sku,
            product_id=f"product-of-{sku}",
            seller="acme",
            revision=0,
            price_minor=1_000,
            currency="USD",
            is_active=True,
            policy="deny",
            hold_policy="on_add",
            hold_ttl_ms=0,
            min_quantity=1,
            max_quantity=0,
            multiple_of=1,
        )
        fields = replace(before, **{"revision": next(self._revisions), **changes})
        if changes_terms:
            fields = replace(fields, terms_revision=fields.revision)
        self._fields[sku] = fields
        await self.engine.publish_skus([fields])
        return fields

    async def sell(self, sku: str, units: int, /, **fields: Any) -> None:
        """Publish a SKU and put units of it on hand."""
        await self.publish(sku, **fields)
        if units:
            await self.adjust(sku, units)

    async def adjust(
        self, sku: str, delta: int, *, reference: str | None = None, fingerprint: str = "f"
    ) -> StockResult:
        return await self.engine.adjust_stock(
            sku,
            delta=delta,
            reason="count",
            reference=reference or f"reference-{next(self._references)}",
            fingerprint=fingerprint,
        )

    async def set_stock(
        self,
        sku: str,
        on_hand: int,
        *,
        expected: int | None = None,
        reference: str | None = None,
        fingerprint: str = "f",
    ) -> StockResult:
        return await self.engine.set_stock(
            sku,
            on_hand=on_hand,
            expected_on_hand=expected,
            reason="count",
            reference=reference or f"reference-{next(self._references)}",
            fingerprint=fingerprint,
        )

    async def level(self, sku: str) -> StockLevel:
        level = (await self.engine.read_stock([sku]))[0]
        assert level is not None
        return level

    async def counters(self, sku: str) -> tuple[int, int, int, int]:
        """(on_hand, held, sold, backordered)."""
        level = await self.level(sku)
        return level.on_hand, level.held, level.sold, level.backordered

    async def cart(self, cart_id: str, *, terms: CartTerms = TERMS) -> Cart:
        return await self.engine.read_cart(cart_id, terms=terms)

    async def summary(self, cart_id: str) -> Summary:
        return await self.engine.read_summary(cart_id)

    async def line(self, cart_id: str, line_id: str, *, terms: CartTerms = TERMS) -> Line:
        line = (await self.cart(cart_id, terms=terms)).line(line_id)
        assert line is not None
        return line

    async def quantities(self, cart_id: str) -> dict[str, int]:
        """Quantity by line id, in the order of the lines."""
        return {line.line_id: line.quantity for line in (await self.cart(cart_id)).lines}

    async def add(
        self,
        cart_id: str,
        sku: str,
        quantity: int = 1,
        *,
        properties: str | None = None,
        terms: CartTerms = TERMS,
        key: str | None = None,
        fingerprint: str = "add",
        if_match: int | None = None,
    ) -> LineResult:
        return await self.engine.add_line(
            cart_id,
            sku,
            quantity,
            properties_json=properties,
            terms=terms,
            guard=Guard(idempotency_key=key, fingerprint=fingerprint, if_match=if_match),
        )

    async def set(
        self,
        cart_id: str,
        line_id: str,
        quantity: int,
        *,
        terms: CartTerms = TERMS,
        key: str | None = None,
        fingerprint: str = "set",
        if_match: int | None = None,
    ) -> LineResult:
        return await self.engine.set_quantity(
            cart_id,
            line_id,
            quantity,
            terms=terms,
            guard=Guard(idempotency_key=key, fingerprint=fingerprint, if_match=if_match),
        )

    async def remove(
        self,
        cart_id: str,
        line_id: str,
        *,
        terms: CartTerms = TERMS,
        key: str | None = None,
        fingerprint: str = "remove",
        if_match: int | None = None,
    ) -> LineResult:
        return await self.engine.remove_line(
            cart_id,
            line_id,
            terms=terms,
            guard=Guard(idempotency_key=key, fingerprint=fingerprint, if_match=if_match),
        )

    async def clear(
        self,
        cart_id: str,
        *,
        terms: CartTerms = TERMS,
        key: str | None = None,
        fingerprint: str = "clear",
        if_match: int | None = None,
    ) -> CartResult:
        return await self.engine.clear_cart(
            cart_id,
            terms=terms,
            guard=Guard(idempotency_key=key, fingerprint=fingerprint, if_match=if_match),
        )

    async def put(
        self,
        cart_id: str,
        *items: PutItem | PutItemByLine | tuple[str, int],
        mode: Literal["all", "partial"] = "all",
        terms: CartTerms = TERMS,
        key: str | None = None,
        fingerprint: str = "put",
        if_match: int | None = None,
    ) -> PutResult:
        return await self.engine.put_lines(
            cart_id,
            [PutItem(sku=item[0], quantity=item[1]) if isinstance(item, tuple) else item for item in items],
            mode=mode,
            terms=terms,
            guard=Guard(idempotency_key=key, fingerprint=fingerprint, if_match=if_match),
        )

    async def accept(
        self,
        cart_id: str,
        line_ids: Sequence[str] | None = None,
        *,
        terms: CartTerms = TERMS,
        key: str | None = None,
        fingerprint: str = "accept",
        if_match: int | None = None,
    ) -> CartResult:
        return await self.engine.accept_changes(
            cart_id,
            line_ids,
            terms=terms,
            guard=Guard(idempotency_key=key, fingerprint=fingerprint, if_match=if_match),
        )

    async def hold(
        self,
        cart_id: str,
        line_ids: Sequence[str] | None = None,
        *,
        terms: CartTerms = TERMS,
        extend: bool = False,
    ) -> Cart:
        return (await self.hold_lines(cart_id, line_ids, terms=terms, extend=extend)).cart

    async def hold_lines(
        self,
        cart_id: str,
        line_ids: Sequence[str] | None = None,
        *,
        extend: bool = False,
        terms: CartTerms = TERMS,
        key: str | None = None,
        fingerprint: str = "hold",
        if_match: int | None = None,
    ) -> HoldResult:
        return await self.engine.hold_lines(
            cart_id,
            line_ids,
            terms=terms,
            extend=extend,
            guard=Guard(idempotency_key=key, fingerprint=fingerprint, if_match=if_match),
        )

    async def checkout(
        self,
        cart_id: str,
        *,
        key: str = "k",
        line_ids: tuple[str, ...] | None = None,
        expected: int | None = None,
        fingerprint: str = "checkout",
        window_ms: int = WINDOW_MS,
        terms: CartTerms = TERMS,
        if_match: int | None = None,
        details_json: str = "{}",
        record_was_asked: bool = True,
        gateway: str = "simulated",
        identities: tuple[str, ...] | None = (),
    ) -> Checkout:
        checkout_id, payment_id = checkout_ids(
            self.partition, cart_id, key, record_was_asked=record_was_asked
        )
        _, other_id = checkout_ids(self.partition, cart_id, key, record_was_asked=not record_was_asked)
        return await self.engine.begin_checkout(
            cart_id,
            checkout_id,
            payment_id,
            CheckoutRequest(
                line_ids=line_ids,
                gateway=gateway,
                payment_method="card",
                expected_total_minor=expected,
                details_json=details_json,
                identities=identities,
            ),
            fingerprint=fingerprint,
            window_ms=window_ms,
            terms=terms,
            if_match=if_match,
            other_payment_id=other_id,
            record_was_asked=record_was_asked,
        )

    async def buy(self, cart_id: str, sku: str, quantity: int = 1, *, key: str = "k") -> str:
        """Add and check out in one go; the id of the pending payment."""
        await self.add(cart_id, sku, quantity)
        return (await self.checkout(cart_id, key=key)).payment.payment_id

    async def payment(self, payment_id: str) -> Checkout:
        checkout = await self.engine.read_payment(payment_id)
        assert checkout is not None
        return checkout

    async def settle(self, payment_id: str) -> PaymentResult:
        return await self.engine.settle_payment(payment_id)

    async def fail(self, payment_id: str) -> PaymentResult:
        return await self.engine.fail_payment(payment_id)

    async def cancel(self, payment_id: str) -> PaymentResult:
        return await self.engine.release_payment(payment_id, "cancelled")

    async def expire(self, payment_id: str) -> PaymentResult:
        return await self.engine.release_payment(payment_id, "expired")

    async def close_refund(self, order_id: str) -> PaymentResult:
        return await self.engine.close_refund(order_id)

    async def restore(
        self, payment: Payment, orders: Sequence[Order], *, identities: Sequence[str] = ()
    ) -> None:
        await self.engine.restore_payment(payment, orders, identities=identities)

    async def event_types(self) -> list[str]:
        return [event.type for event in await self.events()]


def terms(**changes: Any) -> CartTerms:
    """The usual terms, but for the changes."""
    return replace(TERMS, **changes)
