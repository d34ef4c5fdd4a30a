"""A machine that drives the reference model and another engine through the same history.

Each rule lets some time pass, then calls one verb on both. Holds and orders that fell due meanwhile are so
met by whatever verb comes next, and not only by readings. After each rule all carts, levels, payments and
new events are compared, and the invariants are checked on what the other engine says, without the model.

Few SKUs, carts and keys, and small limits, so that collisions and refusals are common.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, ClassVar, Literal, TypeVar

from contract.backends import open_memory
from contract.shop import LIFETIME_MS, MINUTE_MS, SECOND_MS, TERMS, WINDOW_MS, Shop
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from cartstore.errors import CartError
from cartstore.model import (
    Cart,
    CartTerms,
    Checkout,
    Event,
    PaymentStatus,
    PutItem,
    PutItemByLine,
    StockLevel,
    line_id_of,
    payment_id_of_order,
)

from . import comparing
from .comparing import Versions

T = TypeVar("T")

SKUS: dict[str, dict[str, Any]] = {
    "a": {"seller": "acme"},
    "b": {"seller": "bolt", "hold_ttl_ms": 2 * MINUTE_MS, "max_quantity": 5},
    "c": {"seller": "acme", "hold_policy": "on_checkout"},
    "d": {"seller": "bolt", "policy": "backorder"},
    "e": {"seller": "acme", "policy": "untracked", "multiple_of": 2},
}
CARTS = ("u.ann", "u.ben", "g.gus", "g.gil")
ENGRAVED = '{"text":"Ann"}'
LINES = (*SKUS, line_id_of("a", ENGRAVED))

skus = st.sampled_from(tuple(SKUS))
carts = st.sampled_from(CARTS)
lines = st.sampled_from(LINES)
quantities = st.integers(1, 6)
some_lines = st.none() | st.lists(lines, min_size=1, max_size=3, unique=True)
keys = st.none() | st.none() | st.sampled_from(("k1", "k2"))
matches: st.SearchStrategy[Literal["none", "current", "stale"]] = st.sampled_from(
    ("none", "none", "none", "current", "stale")
)
many = TERMS
few = replace(TERMS, quantity_max=6, lines_max=3, items_max=12, held_max=8)
all_terms = st.sampled_from((many, few, few, replace(few, reservations=False)))
elapses = st.sampled_from(
    (0,) * 8
    + (1, SECOND_MS, MINUTE_MS, 2 * MINUTE_MS, 9 * MINUTE_MS)
    + (TERMS.hold_ttl_ms - 1, TERMS.hold_ttl_ms, WINDOW_MS - 1, WINDOW_MS, TERMS.hold_cap_ms)
    + (-MINUTE_MS, -(LIFETIME_MS + MINUTE_MS))
)

_NEXT: dict[PaymentStatus, tuple[PaymentStatus, ...]] = {
    "pending": ("paid", "expired", "cancelled"),
    "expired": ("paid", "refund_due"),
    "cancelled": ("paid", "refund_due"),
    "refund_due": ("refunded",),
    "paid": (),
    "refunded": (),
}
"""What may become of a payment. Within one step it may also go two ways: expired, then paid late."""


def _reachable(status: PaymentStatus) -> set[PaymentStatus]:
    reached: set[PaymentStatus] = {status}
    for following in _NEXT[status]:
        reached |= _reachable(following)
    return reached


class EnginesMachine(RuleBasedStateMachine):
    """`open_other` opens the engine that is held to the model."""

    open_other: ClassVar[Callable[[], AbstractAsyncContextManager[Shop]]] = open_memory

    def __init__(self) -> None:
        super().__init__()
        # One loop for the life of the machine: connections belong to the loop that opened them.
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.model = self.run(self.stack.enter_async_context(open_memory()))
        self.other = self.run(self.stack.enter_async_context(type(self).open_other()))
        self.shops = (self.model, self.other)
        self.versions = {id(shop): Versions() for shop in self.shops}
        self.payments: dict[str, PaymentStatus] = {}
        self.is_sound = True
        self.changing: set[str] = set()
        """Payments that are pending, or that the last verb was about."""
        self.windows: dict[str, tuple[str, int]] = {}
        """By payment: its cart and the end of its window."""
        self.orders: list[str] = []
        self.deltas: Counter[str] = Counter()
        self.events: list[list[Event]] = [[], []]
        self.events_seen = [0, 0]
        self.forged: dict[str, PaymentStatus] = {}
        """Payments that were put back without having been here, in the state they came in."""

    def teardown(self) -> None:
        try:
            # After a failure the engines differ anyway; only the first difference tells something.
            if self.is_sound:
                self.check(is_last=True)
        finally:
            self.run(self.stack.aclose())
            self.loop.close()

    def run(self, awaitable: Awaitable[T]) -> T:
        return self.loop.run_until_complete(_as_coroutine(awaitable))

    # --- how a rule is done --------------------------------------------------------------------

    def pass_time(self, elapsed_ms: int, cart_id: str | None = None) -> None:
        """Let time pass on both clocks.

        Orders of the acting cart itself that fell due are released by name, oldest first: whether its
        lines are back before or after a verb that touches none of their SKUs is left open by the contract.
        Orders of all other carts are left for the verb to meet.
        """
        for shop in self.shops:
            shop.advance(elapsed_ms)
        if cart_id is None:
            return
        for payment_id, (owner, expires_at_ms) in self.windows.items():
            remaining_ms = expires_at_ms - self.model.now_ms
            if owner == cart_id and not 0 < remaining_ms <= LIFETIME_MS:
                for shop in self.shops:
                    self.run(shop.payment(payment_id))

    def both(self, call: Callable[[Shop], Awaitable[Any]], cart_id: str = "") -> Any:
        """Call a verb on both and compare; the result of the other engine, None if it refused."""
        self.is_sound = False
        results, forms = [], []
        for shop in self.shops:
            versions = self.versions[id(shop)]
            try:
                result = self.run(call(shop))
                form = comparing.of_result(result, cart_id, versions)
            except CartError as error:
                result, form = None, comparing.of_error(error, cart_id, versions)
            results.append(result)
            forms.append(form)
        assert forms[1] == forms[0]
        self.is_sound = True
        return results[1]

    def if_match(self, shop: Shop, cart_id: str, match: str) -> int | None:
        versions = self.versions[id(shop)]
        if match == "none":
            return None
        return versions.last(cart_id) if match == "current" else versions.stale(cart_id)

    # --- catalog and stock ---------------------------------------------------------------------

    @initialize(units=st.lists(st.integers(0, 9), min_size=4, max_size=4))
    def open_the_shop(self, units: list[int]) -> None:
        for sku, fields in SKUS.items():
            self.both(_calling("publish", sku, **fields))
        for sku, count in zip(SKUS, units, strict=False):
            self.adjust(sku, count, "opening", 0)

    @rule(
        sku=skus,
        change=st.sampled_from(
            [{"price_minor": price} for price in (800, 1_000, 1_200)]
            + [{"is_active": True}, {"is_active": True}, {"is_active": False}]
            + [{"policy": policy} for policy in ("deny", "deny", "backorder", "untracked")]
            + [{"hold_policy": "on_add"}, {"hold_policy": "on_checkout"}, {"revision": 1}]
        ),
    )
    def publish(self, sku: str, change: dict[str, Any]) -> None:
        self.both(lambda shop: shop.publish(sku, **change))

    @rule(
        sku=skus,
        delta=st.integers(-4, 6),
        reference=st.sampled_from(("r1", "r2", "r3", "r4")),
        elapsed=elapses,
    )
    def adjust(self, sku: str, delta: int, reference: str, elapsed: int) -> None:
        self.pass_time(elapsed)
        result = self.both(
            lambda shop: shop.adjust(sku, delta, reference=reference, fingerprint=f"by {delta}")
        )
        if result is not None and not result.replayed:
            self.deltas[sku] += result.delta

    @rule(
        sku=skus,
        on_hand=st.integers(0, 9),
        expected=st.none() | st.integers(0, 9),
        reference=st.sampled_from(("r5", "r6", "r7")),
        elapsed=elapses,
    )
    def set_stock(self, sku: str, on_hand: int, expected: int | None, reference: str, elapsed: int) -> None:
        self.pass_time(elapsed)
        result = self.both(
            lambda shop: shop.set_stock(
                sku,
                on_hand,
                expected=expected,
                reference=reference,
                fingerprint=f"to {on_hand} from {expected}",
            )
        )
        if result is not None and not result.replayed:
            self.deltas[sku] += result.delta

    @rule(sku=skus, elapsed=elapses)
    def read_stock(self, sku: str, elapsed: int) -> None:
        self.pass_time(elapsed)
        self.both(lambda shop: shop.engine.read_stock([sku, "unknown"]))

    # --- cart ----------------------------------------------------------------------------------

    @rule(
        cart_id=carts,
        sku=skus,
        quantity=quantities,
        properties=st.sampled_from((None, None, ENGRAVED)),
        terms=all_terms,
        key=keys,
        match=matches,
        elapsed=elapses,
    )
    def add_line(
        self,
        cart_id: str,
        sku: str,
        quantity: int,
        properties: str | None,
        terms: CartTerms,
        key: str | None,
        match: str,
        elapsed: int,
    ) -> None:
        self.pass_time(elapsed, cart_id)
        properties = properties if sku == "a" else None
        self.both(
            lambda shop: shop.add(
                cart_id,
                sku,
                quantity,
                properties=properties,
                terms=_of_owner(terms, cart_id),
                key=key,
                fingerprint=f"add {sku} {quantity} {properties}",
                if_match=self.if_match(shop, cart_id, match),
            ),
            cart_id,
        )

    @rule(cart_id=carts, wanted=st.lists(st.tuples(skus, quantities), min_size=1, max_size=3))
    def fill(self, cart_id: str, wanted: list[tuple[str, int]]) -> None:
        """Several adds at once, so that most histories have full carts."""
        for sku, quantity in wanted:
            self.both(_calling("add", cart_id, sku, quantity, terms=_of_owner(many, cart_id)), cart_id)

    @rule(
        cart_id=carts,
        line_id=lines,
        quantity=st.integers(0, 6),
        terms=all_terms,
        key=keys,
        match=matches,
        elapsed=elapses,
    )
    def set_quantity(
        self,
        cart_id: str,
        line_id: str,
        quantity: int,
        terms: CartTerms,
        key: str | None,
        match: str,
        elapsed: int,
    ) -> None:
        self.pass_time(elapsed, cart_id)
        self.both(
            lambda shop: shop.set(
                cart_id,
                line_id,
                quantity,
                terms=_of_owner(terms, cart_id),
                key=key,
                fingerprint=f"set {line_id} {quantity}",
                if_match=self.if_match(shop, cart_id, match),
            ),
            cart_id,
        )

    @rule(cart_id=carts, line_id=lines, key=keys, match=matches, elapsed=elapses)
    def remove_line(self, cart_id: str, line_id: str, key: str | None, match: str, elapsed: int) -> None:
        self.pass_time(elapsed, cart_id)
        self.both(
            lambda shop: shop.remove(
                cart_id,
                line_id,
                terms=_of_owner(few, cart_id),
                key=key,
                fingerprint=f"remove {line_id}",
                if_match=self.if_match(shop, cart_id, match),
            ),
            cart_id,
        )

    @rule(cart_id=carts, key=keys, match=matches, elapsed=elapses)
    def clear_cart(self, cart_id: str, key: str | None, match: str, elapsed: int) -> None:
        self.pass_time(elapsed, cart_id)
        self.both(
            lambda shop: shop.clear(
                cart_id,
                terms=_of_owner(few, cart_id),
                key=key,
                if_match=self.if_match(shop, cart_id, match),
            ),
            cart_id,
        )

    @rule(
        cart_id=carts,
        items=st.lists(
            st.tuples(lines, st.integers(0, 6), st.booleans()),
            min_size=1,
            max_size=4,
            unique_by=lambda item: item[0],
        ),
        mode=st.sampled_from(("all", "partial")),
        terms=all_terms,
        key=keys,
        match=matches,
        elapsed=elapses,
    )
    def put_lines(
        self,
        cart_id: str,
        items: list[tuple[str, int, bool]],
        mode: Literal["all", "partial"],
        terms: CartTerms,
        key: str | None,
        match: str,
        elapsed: int,
    ) -> None:
        self.pass_time(elapsed, cart_id)
        entries = [
            PutItemByLine(line_id=line_id, quantity=quantity)
            if by_line
            else PutItem(
                sku=line_id.partition("~~")[0],
                quantity=quantity,
                properties_json=ENGRAVED if "~~" in line_id else None,
            )
            for line_id, quantity, by_line in items
        ]
        self.both(
            lambda shop: shop.put(
                cart_id,
                *entries,
                mode=mode,
                terms=_of_owner(terms, cart_id),
                key=key,
                fingerprint=f"put {items} {mode}",
                if_match=self.if_match(shop, cart_id, match),
            ),
            cart_id,
        )

    @rule(cart_id=carts, line_ids=some_lines, key=keys, match=matches, elapsed=elapses)
    def accept_changes(
        self, cart_id: str, line_ids: list[str] | None, key: str | None, match: str, elapsed: int
    ) -> None:
        self.pass_time(elapsed, cart_id)
        self.both(
            lambda shop: shop.accept(
                cart_id,
                line_ids,
                terms=_of_owner(few, cart_id),
                key=key,
                fingerprint=f"accept {line_ids}",
                if_match=self.if_match(shop, cart_id, match),
            ),
            cart_id,
        )

    @rule(cart_id=carts, line_ids=some_lines, terms=all_terms, extend=st.booleans(), elapsed=elapses)
    def hold_lines(
        self, cart_id: str, line_ids: list[str] | None, terms: CartTerms, extend: bool, elapsed: int
    ) -> None:
        self.pass_time(elapsed, cart_id)
        self.both(
            lambda shop: shop.hold(cart_id, line_ids, terms=_of_owner(terms, cart_id), extend=extend), cart_id
        )

    @rule(cart_id=carts, elapsed=elapses)
    def read_cart(self, cart_id: str, elapsed: int) -> None:
        self.pass_time(elapsed, cart_id)
        self.both(lambda shop: shop.cart(cart_id), cart_id)

    # --- checkout and payment ------------------------------------------------------------------

    @rule(
        cart_id=carts,
        key=st.sampled_from(("c1", "c2", "c3", "c4")),
        line_ids=some_lines,
        expects=st.sampled_from((None, None, None, "total", "other")),
        terms=all_terms,
        match=matches,
        elapsed=elapses,
    )
    def begin_checkout(
        self,
        cart_id: str,
        key: str,
        line_ids: list[str] | None,
        expects: str | None,
        terms: CartTerms,
        match: str,
        elapsed: int,
    ) -> None:
        self.pass_time(elapsed, cart_id)
        expected = None
        if expects is not None:
            expected = self.run(self.model.summary(cart_id)).subtotal_minor + (expects == "other")
        result = self.both(
            lambda shop: shop.checkout(
                cart_id,
                key=key,
                line_ids=None if line_ids is None else tuple(line_ids),
                expected=expected,
                fingerprint=f"checkout {line_ids}",
                terms=_of_owner(terms, cart_id),
                if_match=self.if_match(shop, cart_id, match),
            ),
            cart_id,
        )
        if result is not None and not result.replayed:
            payment = result.payment
            self.payments[payment.payment_id] = "pending"
            self.changing.add(payment.payment_id)
            self.windows[payment.payment_id] = (cart_id, payment.expires_at_ms)
            self.orders += result.payment.order_ids

    @rule(cart_id=carts, key=st.sampled_from(("b1", "b2", "b3", "b4")), elapsed=elapses)
    def check_out_all(self, cart_id: str, key: str, elapsed: int) -> None:
        """The plain way, so that most histories have payments."""
        self.begin_checkout(cart_id, key, None, None, many, "none", elapsed)

    @precondition(lambda self: self.payments)
    @rule(data=st.data(), elapsed=elapses)
    def settle_payment(self, data: st.DataObject, elapsed: int) -> None:
        payment_id = self.draw_payment(data)
        self.pass_time(elapsed)
        self.both(lambda shop: shop.settle(payment_id))

    @precondition(lambda self: self.payments)
    @rule(data=st.data(), elapsed=elapses)
    def fail_payment(self, data: st.DataObject, elapsed: int) -> None:
        payment_id = self.draw_payment(data)
        self.pass_time(elapsed)
        self.both(lambda shop: shop.fail(payment_id))

    @precondition(lambda self: self.payments)
    @rule(data=st.data(), reason=st.sampled_from(("cancelled", "cancelled", "expired")), elapsed=elapses)
    def release_payment(
        self, data: st.DataObject, reason: Literal["cancelled", "expired"], elapsed: int
    ) -> None:
        payment_id = self.draw_payment(data)
        self.pass_time(elapsed)
        self.both(lambda shop: shop.engine.release_payment(payment_id, reason))

    @precondition(lambda self: self.orders)
    @rule(data=st.data())
    def close_refund(self, data: st.DataObject) -> None:
        order_id = data.draw(st.sampled_from(self.orders))
        self.changing.add(payment_id_of_order(order_id))
        self.both(lambda shop: shop.close_refund(order_id))

    @precondition(lambda self: "expired" in self.payments.values() or "cancelled" in self.payments.values())
    @rule(data=st.data())
    def restore_payment(self, data: st.DataObject) -> None:
        """Put back a released payment that the engine never had, with what another one bought."""
        released = [one for one, status in self.payments.items() if status in ("expired", "cancelled")]
        template = self.run(self.model.payment(data.draw(st.sampled_from(released))))
        number = len(self.forged)
        payment_id = f"p0-forged{number}"
        payment = replace(
            template.payment,
            payment_id=payment_id,
            order_ids=tuple(f"o0-forged{number}-{n + 1}" for n in range(len(template.orders))),
        )
        orders = [
            replace(order, order_id=order_id, payment_id=payment_id)
            for order, order_id in zip(template.orders, payment.order_ids, strict=True)
        ]
        self.both(lambda shop: shop.restore(payment, orders))
        self.payments[payment_id] = self.forged[payment_id] = payment.status
        self.changing.add(payment_id)
        self.orders += payment.order_ids

    @rule(cart_id=carts, elapsed=elapses)
    def list_payments(self, cart_id: str, elapsed: int) -> None:
        self.pass_time(elapsed, cart_id)

        async def list_sorted(shop: Shop) -> list[Checkout]:
            # One that was put back is kept for late money only; whether it is listed is left open.
            listed = [
                checkout
                for checkout in await shop.engine.list_payments(cart_id)
                if checkout.payment.payment_id not in self.forged
            ]
            newest_first = [checkout.payment.created_at_ms for checkout in listed]
            assert newest_first == sorted(newest_first, reverse=True)
            return sorted(listed, key=lambda checkout: checkout.payment.payment_id)

        self.both(list_sorted)

    @rule(limit=st.sampled_from((1, 3, 100)), elapsed=elapses)
    def release_due_holds(self, limit: int, elapsed: int) -> None:
        """Which holds a limited sweep takes first is its own affair, so it is called until none is left."""
        self.pass_time(elapsed)

        async def sweep(shop: Shop) -> None:
            while await shop.engine.release_due_holds(limit):
                pass

        self.both(sweep)

    @rule(limit=st.sampled_from((1, 3, 100)), elapsed=elapses)
    def release_due_payments(self, limit: int, elapsed: int) -> None:
        self.pass_time(elapsed)
        self.both(lambda shop: shop.engine.release_due_payments(limit))

    def draw_payment(self, data: st.DataObject) -> str:
        payment_id = data.draw(st.sampled_from(list(self.payments)))
        self.changing.add(payment_id)
        return payment_id

    # --- what has to hold after every step -----------------------------------------------------

    @invariant()
    def everything_holds(self) -> None:
        self.check(is_last=False)

    def check(self, *, is_last: bool) -> None:
        """The comparison comes first: its readings release what is due, so that the rest sees an exact
        state."""
        levels, checkouts, carts_read = self.check_engines_agree(is_last=is_last)
        self.is_sound = False
        self.check_units_are_conserved(levels, checkouts, carts_read)
        self.check_payments_end_once(checkouts)
        self.check_events_tell_everything(levels)
        self.is_sound = True

    def check_engines_agree(self, *, is_last: bool) -> tuple[list[StockLevel], list[Checkout], list[Cart]]:
        """The other engine's levels, payments and carts, once the model has the same. Payments that ended
        are read only after a verb that named them, and all of them once more at the end."""
        levels = self.both(lambda shop: shop.engine.read_stock(list(SKUS)))
        checkouts = [
            self.both(_calling("payment", payment_id))
            for payment_id in self.payments
            if is_last or payment_id in self.changing
        ]
        self.changing = {
            checkout.payment.payment_id for checkout in checkouts if checkout.payment.status == "pending"
        }
        carts_read = []
        for cart_id in CARTS:
            carts_read.append(self.both(_calling("cart", cart_id), cart_id))
        for shown in carts_read[: len(carts_read) if is_last else 1]:
            assert self.run(self.other.summary(shown.cart_id)) == shown.summary
        new_events = []
        for index, shop in enumerate(self.shops):
            self.events[index] = self.run(shop.events())
            new = self.events[index][self.events_seen[index] :]
            self.events_seen[index] = len(self.events[index])
            new_events.append(Counter(comparing.of_event(event) for event in new))
        assert new_events[1] == new_events[0]
        return levels, checkouts, carts_read

    def check_units_are_conserved(
        self, levels: list[StockLevel], checkouts: list[Checkout], carts_read: list[Cart]
    ) -> None:
        held: Counter[str] = Counter()
        holders: defaultdict[str, set[str]] = defaultdict(set)
        for cart in carts_read:
            for line in cart.lines:
                assert line.quantity > 0
                assert 0 <= line.held <= line.quantity
                if line.held:
                    assert 0 < line.hold_expires_at_ms - cart.read_at_ms <= LIFETIME_MS
                    held[line.sku] += line.held
                    holders[line.sku].add(f"c\x1f{cart.cart_id}\x1f{line.line_id}")
            assert cart.summary.lines_count == len(cart.lines)
            assert cart.summary.total_items == sum(line.quantity for line in cart.lines)
            assert cart.summary.subtotal_minor == sum(line.line_total_minor for line in cart.lines)
        for order in (order for checkout in checkouts for order in checkout.orders):
            for bought in order.lines:
                if order.status == "pending" and bought.held:
                    held[bought.sku] += bought.held
                    holders[bought.sku].add(f"o\x1f{order.order_id}")
        found = self.run(self.other.holders([level.sku for level in levels]))
        for level, found_holders in zip(levels, found, strict=True):
            assert level.on_hand + level.sold - level.backordered == self.deltas[level.sku]
            assert level.held == held[level.sku]
            assert 0 <= level.held <= level.on_hand
            assert level.backordered >= 0
            assert found_holders == holders[level.sku]

    def check_payments_end_once(self, checkouts: list[Checkout]) -> None:
        for checkout in checkouts:
            payment = checkout.payment
            assert payment.status in _reachable(self.payments[payment.payment_id])
            self.payments[payment.payment_id] = payment.status

    def check_events_tell_everything(self, levels: list[StockLevel]) -> None:
        """The events alone, in order, give the counters and what became of every payment."""
        on_hand: Counter[str] = Counter()
        sold: Counter[str] = Counter()
        backordered: Counter[str] = Counter()
        statuses: dict[str, str] = dict(self.forged)
        for number, event in enumerate(self.events[1], start=1):
            assert (event.position.epoch, event.position.seq) == (1, number)
            body = event.body
            match event.type:
                case "stock_adjusted":
                    on_hand[body["sku"]] += int(body["delta"])
                    assert int(body["on_hand"]) == on_hand[body["sku"]]
                case "checkout_begun":
                    assert body["payment_id"] not in statuses
                    statuses[body["payment_id"]] = "pending"
                case "payment_failed":
                    assert statuses[body["payment_id"]] == "pending"
                case "payment_released":
                    assert statuses[body["payment_id"]] == "pending"
                    statuses[body["payment_id"]] = body["reason"]
                case "payment_settled":
                    assert statuses[body["payment_id"]] in ("pending", "expired", "cancelled")
                    statuses[body["payment_id"]] = body["outcome"]
                    for sale in body.get("sales") or []:
                        on_hand[sale["sku"]] -= int(sale["taken"])
                        sold[sale["sku"]] += int(sale["quantity"])
                        backordered[sale["sku"]] += int(sale["backordered"])
                        assert int(sale["taken"]) + int(sale["backordered"]) == int(sale["quantity"])
                case "order_refunded":
                    payment_id = payment_id_of_order(body["order_id"])
                    assert statuses[payment_id] == "refund_due"
                    statuses[payment_id] = body["payment_status"]
                case _:
                    raise AssertionError(f"an event of type {event.type}")
        for level in levels:
            told = (on_hand[level.sku], sold[level.sku], backordered[level.sku])
            assert (level.on_hand, level.sold, level.backordered) == told
        assert statuses == self.payments


async def _as_coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _calling(verb: str, *args: Any, **kwargs: Any) -> Callable[[Shop], Awaitable[Any]]:
    """A call of one of the shop's verbs; in a loop, where a lambda would see the loop's last values."""

    def call(shop: Shop) -> Awaitable[Any]:
        result: Awaitable[Any] = getattr(shop, verb)(*args, **kwargs)
        return result

    return call


def _of_owner(terms: CartTerms, cart_id: str) -> CartTerms:
    return replace(terms, guest_share_ppm=600_000) if cart_id.startswith("g.") else terms
