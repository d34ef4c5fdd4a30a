"""A machine that drives the reference model and another engine through the same history.

Each rule lets some time pass, then calls one verb on both. Holds and orders that fell due meanwhile are so
met by whatever verb comes next, and not only by readings. After each rule all carts, levels, open payments
and new events are compared, and the invariants are checked on what the other engine says, without the model.

Few SKUs, carts and keys, small limits and little stock, and verbs that mostly name lines and payments that
are there: collisions and refusals are common, and most calls do something. What it finds was measured by
breaking the model in two dozen ways.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar

from contract.backends import open_memory
from contract.shop import LIFETIME_MS, MINUTE_MS, SECOND_MS, START_MS, TERMS, WINDOW_MS, Shop
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
    StockResult,
    line_id_of,
    payment_id_of_order,
    sku_of,
)

from . import comparing
from .comparing import Versions

T = TypeVar("T")
Call = Callable[[Shop], Awaitable[Any]]
Match = Literal["none", "current", "stale"]

SKUS: dict[str, dict[str, Any]] = {
    "a": {"seller": "acme"},
    "b": {"seller": "bolt", "hold_ttl_ms": 2 * MINUTE_MS, "max_quantity": 5},
    "c": {"seller": "acme", "hold_policy": "on_checkout"},
    "d": {"seller": "bolt", "max_quantity": 6, "limit_units": 5, "limit_window_ms": 30 * MINUTE_MS},
    "e": {"seller": "acme", "policy": "untracked", "multiple_of": 2},
}
CARTS = ("u.ann", "u.ben", "g.gus")
ENGRAVED = '{"text":"Ann"}'
LINES = ("a", "d", line_id_of("a", ENGRAVED), "b", "c", "e", line_id_of("d", ENGRAVED))
IDENTITIES = ("e.one", "t.two", "e.three")

CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    *((sku, {"price_minor": price}) for sku in ("a", "b", "e") for price in (800, 1_000, 1_200)),
    *((sku, {"is_active": is_active}) for sku in ("a", "c") for is_active in (True, True, False)),
    *(("d", {"policy": policy}) for policy in ("deny", "deny", "backorder", "untracked")),
    *(("a", {"policy": policy}) for policy in ("deny", "backorder")),
    ("a", {"changes_terms": True}),
    *(("d", {"currency": currency, "changes_terms": True}) for currency in ("EUR", "USD", "USD")),
    *(("c", {"hold_policy": hold_policy}) for hold_policy in ("on_add", "on_checkout")),
    # The window stays: what a longer one lets count again comes from the record, which is not here.
    *(("d", {"limit_units": units}) for units in (2, 5, 8)),
    *(("e", {"starts_at_ms": start}) for start in (0, START_MS + 10 * MINUTE_MS, START_MS + 90 * MINUTE_MS)),
    ("b", {"seller": "acme"}),
    ("b", {"revision": 1, "price_minor": 5}),
)

carts = st.sampled_from(CARTS)
skus = st.sampled_from(tuple(SKUS))
places = st.integers(0, 4)
some_places = st.none() | st.none() | st.lists(places, min_size=1, max_size=3, unique=True)
wishes = st.lists(st.tuples(st.sampled_from(LINES), st.integers(1, 4)), min_size=1, max_size=3)
keys = st.sampled_from((None, None, "k1", "k2"))
matches: st.SearchStrategy[Match] = st.sampled_from(
    ("none", "none", "none", "none", "current", "current", "stale")
)
identities = st.lists(st.sampled_from(IDENTITIES), max_size=2, unique=True).map(tuple)
many = TERMS
few = replace(
    TERMS, quantity_max=6, lines_max=3, items_max=12, held_max=5, hold_cap_ms=TERMS.hold_ttl_ms + MINUTE_MS
)
all_terms = st.sampled_from((many, few, replace(few, held_max=100), replace(many, reservations=False)))
elapses = st.sampled_from(
    (0,) * 14
    + (
        1,
        SECOND_MS,
        TERMS.hold_rest_ms - SECOND_MS,
        TERMS.hold_rest_ms,
        MINUTE_MS,
        2 * MINUTE_MS,
        9 * MINUTE_MS,
        9 * MINUTE_MS,
    )
    + (MINUTE_MS, few.hold_cap_ms - few.hold_ttl_ms)
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


_RANKS: dict[PaymentStatus, int] = {
    status: 0 if status == "pending" else 1 if following else 2 for status, following in _NEXT.items()
}


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
        self.shown: dict[str, list[str]] = {cart_id: [] for cart_id in CARTS}
        """Line ids of each cart, as last compared."""
        self.last: tuple[Callable[[Match, Shop], Awaitable[Any]], str] | None = None
        """The last call under an idempotency key, and its cart."""
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

    def both(self, call: Call, cart_id: str = "") -> Any:
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

    def mutate(
        self,
        verb: str,
        cart_id: str,
        *args: Any,
        terms: CartTerms,
        key: str | None,
        match: Match,
        elapsed: int,
        **kwargs: Any,
    ) -> None:
        """A guarded mutation of a cart."""
        self.pass_time(elapsed, cart_id)

        def call(match: Match, shop: Shop) -> Awaitable[Any]:
            result: Awaitable[Any] = getattr(shop, verb)(
                cart_id,
                *args,
                terms=_of_owner(terms, cart_id),
                key=key,
                fingerprint=f"{verb} {args} {kwargs}",
                if_match=self.if_match(shop, cart_id, match),
                **kwargs,
            )
            return result

        if key is not None:
            self.last = (call, cart_id)
        self.both(partial(call, match), cart_id)

    def if_match(self, shop: Shop, cart_id: str, match: Match) -> int | None:
        versions = self.versions[id(shop)]
        if match == "none":
            return None
        return versions.last(cart_id) if match == "current" else versions.stale(cart_id)

    def line_at(self, cart_id: str, place: int) -> str:
        """A line of the cart; the last place is for one that may not be there."""
        shown = self.shown[cart_id]
        return shown[place % len(shown)] if shown and place < 4 else LINES[place]

    def lines_at(self, cart_id: str, chosen: Sequence[int] | None) -> list[str] | None:
        if chosen is None:
            return None
        return list(dict.fromkeys(self.line_at(cart_id, place) for place in chosen))

    def payment_at(self, place: int) -> str:
        """A payment, newest first, pending ones before those that may still change, and those before the
        rest."""
        newest_first = list(reversed(self.payments))
        newest_first.sort(key=lambda payment_id: _RANKS[self.payments[payment_id]])
        payment_id = newest_first[place % len(newest_first)]
        self.changing.add(payment_id)
        return payment_id

    # --- catalog and stock ---------------------------------------------------------------------

    @initialize(
        units=st.lists(st.integers(1, 6), min_size=4, max_size=4), wanted=st.tuples(wishes, wishes, wishes)
    )
    def open_the_shop(self, units: list[int], wanted: tuple[list[tuple[str, int]], ...]) -> None:
        for sku, fields in SKUS.items():
            self.both(_calling("publish", sku, **fields))
        for sku, count in zip(SKUS, units, strict=False):
            self.adjust(sku, count, "opening")
        for cart_id, wishes_of_cart in zip(CARTS, wanted, strict=True):
            self.fill(cart_id, wishes_of_cart, many)
        # So that there are holds on a SKU that is sold beyond stock from now on.
        self.fill(CARTS[0], [("d", 1)], many)
        self.both(_calling("publish", "d", policy="backorder"))

    @rule(
        sku=st.sampled_from(("a", "b", "e")),
        begins_in_ms=st.sampled_from((0, MINUTE_MS)),
        lasts_ms=st.sampled_from((MINUTE_MS, 5 * MINUTE_MS)),
        price_minor=st.sampled_from((700, 900)),
    )
    def publish_sale(self, sku: str, begins_in_ms: int, lasts_ms: int, price_minor: int) -> None:
        begins_at_ms = self.model.now_ms + begins_in_ms
        sale = {"sale_from_ms": begins_at_ms, "sale_to_ms": begins_at_ms + lasts_ms}
        self.both(_calling("publish", sku, sale_price_minor=price_minor, **sale))

    @rule(change=st.sampled_from(CHANGES))
    def publish(self, change: tuple[str, dict[str, Any]]) -> None:
        sku, fields = change
        self.both(_calling("publish", sku, **fields))

    @rule(
        sku=skus,
        units=st.integers(-3, 9),
        expected=st.sampled_from(("by", "by", "to", "to if")),
        reference=st.integers(0, 9),
        elapsed=elapses,
    )
    def count_stock(self, sku: str, units: int, expected: str, reference: int, elapsed: int) -> None:
        """Adjust by units, or set to them; references repeat, with the same content and with other."""
        self.pass_time(elapsed)
        if expected == "by" or units < 0:
            self.adjust(sku, units, f"r{reference}")
            return
        call = _calling(
            "set_stock",
            sku,
            units,
            expected=units + 1 if expected == "to if" else None,
            reference=f"r{reference}",
            fingerprint=f"{expected} {units}",
        )
        self.count(sku, self.both(call))

    def adjust(self, sku: str, delta: int, reference: str) -> None:
        call = _calling("adjust", sku, delta, reference=reference, fingerprint=f"by {delta}")
        self.count(sku, self.both(call))

    def count(self, sku: str, result: StockResult | None) -> None:
        if result is not None and not result.replayed:
            self.deltas[sku] += result.delta

    # --- cart ----------------------------------------------------------------------------------

    @rule(cart_id=carts, wanted=wishes, terms=all_terms)
    def fill(self, cart_id: str, wanted: list[tuple[str, int]], terms: CartTerms) -> None:
        """Several adds at once, so that most histories have full carts."""
        for line_id, quantity in wanted:
            self.add_line(cart_id, line_id, quantity, terms, None, "none", 0)

    @rule(
        cart_id=carts,
        line_id=st.sampled_from(LINES),
        quantity=st.integers(1, 5),
        terms=all_terms,
        key=keys,
        match=matches,
        elapsed=elapses,
    )
    def add_line(
        self,
        cart_id: str,
        line_id: str,
        quantity: int,
        terms: CartTerms,
        key: str | None,
        match: Match,
        elapsed: int,
    ) -> None:
        self.mutate(
            "add",
            cart_id,
            sku_of(line_id),
            quantity,
            properties=_properties_of(line_id),
            terms=terms,
            key=key,
            match=match,
            elapsed=elapsed,
        )

    @rule(
        cart_id=carts,
        place=places,
        verb=st.sampled_from(("set", "set", "set", "set", "remove", "clear")),
        quantity=st.integers(0, 6),
        terms=all_terms,
        key=keys,
        match=matches,
        elapsed=elapses,
    )
    def change_cart(
        self,
        cart_id: str,
        place: int,
        verb: str,
        quantity: int,
        terms: CartTerms,
        key: str | None,
        match: Match,
        elapsed: int,
    ) -> None:
        line_id = self.line_at(cart_id, place)
        args = {"set": (line_id, quantity), "remove": (line_id,), "clear": ()}[verb]
        self.mutate(verb, cart_id, *args, terms=terms, key=key, match=match, elapsed=elapsed)

    @rule(
        cart_id=carts,
        items=st.lists(
            st.tuples(places, st.integers(0, 6), st.booleans()),
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
        items: list[tuple[int, int, bool]],
        mode: Literal["all", "partial"],
        terms: CartTerms,
        key: str | None,
        match: Match,
        elapsed: int,
    ) -> None:
        entries: dict[str, PutItem | PutItemByLine] = {}
        for place, quantity, is_by_line in items:
            line_id = self.line_at(cart_id, place)
            entries[line_id] = (
                PutItemByLine(line_id=line_id, quantity=quantity)
                if is_by_line
                else PutItem(sku=sku_of(line_id), quantity=quantity, properties_json=_properties_of(line_id))
            )
        self.mutate(
            "put", cart_id, *entries.values(), mode=mode, terms=terms, key=key, match=match, elapsed=elapsed
        )

    @rule(cart_id=carts, chosen=some_places, terms=all_terms, key=keys, match=matches, elapsed=elapses)
    def accept_changes(
        self,
        cart_id: str,
        chosen: list[int] | None,
        terms: CartTerms,
        key: str | None,
        match: Match,
        elapsed: int,
    ) -> None:
        line_ids = self.lines_at(cart_id, chosen)
        self.mutate("accept", cart_id, line_ids, terms=terms, key=key, match=match, elapsed=elapsed)

    @precondition(lambda self: self.last is not None)
    @rule(match=matches, elapsed=elapses)
    def repeat_mutation(self, match: Match, elapsed: int) -> None:
        """The last call under a key comes again, as after a lost answer."""
        assert self.last is not None
        call, cart_id = self.last
        self.pass_time(elapsed, cart_id)
        self.both(partial(call, match), cart_id)

    @rule(
        cart_id=carts,
        chosen=some_places,
        terms=all_terms,
        extend=st.booleans(),
        key=keys,
        match=matches,
        elapsed=elapses,
    )
    def hold_lines(
        self,
        cart_id: str,
        chosen: list[int] | None,
        terms: CartTerms,
        extend: bool,
        key: str | None,
        match: Match,
        elapsed: int,
    ) -> None:
        line_ids = self.lines_at(cart_id, chosen)
        self.mutate(
            *("hold_lines", cart_id, line_ids),
            extend=extend,
            terms=terms,
            key=key,
            match=match,
            elapsed=elapsed,
        )

    # --- checkout and payment ------------------------------------------------------------------

    @rule(
        cart_id=carts,
        key=st.sampled_from(("c1", "c2", "c3", "c4")),
        chosen=some_places,
        expects=st.sampled_from((None, None, "total", "other")),
        identities=identities,
        terms=all_terms,
        match=matches,
        elapsed=elapses,
    )
    def begin_checkout(
        self,
        cart_id: str,
        key: str,
        chosen: list[int] | None,
        expects: str | None,
        identities: tuple[str, ...],
        terms: CartTerms,
        match: Match,
        elapsed: int,
    ) -> None:
        self.pass_time(elapsed, cart_id)
        line_ids = self.lines_at(cart_id, chosen)
        expected = None
        if expects is not None:
            expected = self.run(self.model.summary(cart_id)).subtotal_minor + (expects == "other")
        result = self.both(
            lambda shop: shop.checkout(
                cart_id,
                key=key,
                line_ids=None if line_ids is None else tuple(line_ids),
                expected=expected,
                fingerprint=f"checkout {chosen}",
                identities=identities,
                terms=_of_owner(terms, cart_id),
                if_match=self.if_match(shop, cart_id, match),
            ),
            cart_id,
        )
        if result is None:
            return
        payment = result.payment
        self.changing.add(payment.payment_id)
        if not result.replayed:
            self.payments[payment.payment_id] = "pending"
            self.windows[payment.payment_id] = (cart_id, payment.expires_at_ms)
            self.orders += payment.order_ids

    @rule(cart_id=carts, identities=identities, elapsed=elapses)
    def check_out_all(self, cart_id: str, identities: tuple[str, ...], elapsed: int) -> None:
        """The plain way, so that most histories have payments."""
        key = f"b{len(self.payments)}"
        self.begin_checkout(cart_id, key, None, None, identities, many, "none", elapsed)

    @precondition(lambda self: self.payments)
    @rule(
        place=places,
        verb=st.sampled_from(("settle", "settle", "fail", "fail", "cancel", "expire")),
        elapsed=elapses,
    )
    def pay(self, place: int, verb: str, elapsed: int) -> None:
        payment_id = self.payment_at(place)
        self.pass_time(elapsed)
        self.both(_calling(verb, payment_id))

    @rule(
        holder=carts,
        buyer=carts,
        sku=st.sampled_from(("a", "d")),
        held=st.integers(1, 3),
        bought=st.integers(1, 6),
        is_paid=st.booleans(),
        policy=st.sampled_from(("deny", "deny", "backorder")),
    )
    def sell_beyond_stock(
        self, holder: str, buyer: str, sku: str, held: int, bought: int, is_paid: bool, policy: str
    ) -> None:
        """Units are owed while carts hold some, so that whatever frees these has somebody to give them to."""
        self.both(_calling("publish", sku, policy="deny", is_active=True))
        self.fill(holder, [(sku, held)], many)
        self.both(_calling("publish", sku, policy="backorder"))
        self.fill(buyer, [(sku, bought)], many)
        self.check_out_all(buyer, ("e.one",), 0)
        payment_id = list(self.payments)[-1] if self.payments else None
        if is_paid and payment_id is not None:
            self.changing.add(payment_id)
            self.both(_calling("settle", payment_id))
        self.both(_calling("publish", sku, policy=policy))

    @precondition(lambda self: "pending" in self.payments.values())
    @rule(
        place=places,
        verb=st.sampled_from(("cancel", "expire")),
        cart_id=carts,
        wanted=wishes,
        terms=all_terms,
        is_held_again=st.booleans(),
    )
    def pay_late(
        self,
        place: int,
        verb: str,
        cart_id: str,
        wanted: list[tuple[str, int]],
        terms: CartTerms,
        is_held_again: bool,
    ) -> None:
        """The payment is released, its lines are held again or not, somebody adds to a cart, and then the
        money comes."""
        pending = [one for one, status in self.payments.items() if status == "pending"]
        payment_id = pending[place % len(pending)]
        self.changing.add(payment_id)
        self.pass_time(WINDOW_MS if verb == "expire" else 0)
        self.both(_calling(verb, payment_id))
        if is_held_again:
            self.hold_lines(self.windows[payment_id][0], None, many, False, None, "none", 0)
        self.fill(cart_id, wanted, terms)
        self.both(_calling("settle", payment_id))

    @precondition(lambda self: "refund_due" in self.payments.values() or "paid" in self.payments.values())
    @rule(place=places)
    def close_refund(self, place: int) -> None:
        due = [one for one, status in self.payments.items() if status == "refund_due"]
        payment_id = due[place % len(due)] if due else self.payment_at(place)
        self.changing.add(payment_id)
        orders = [order_id for order_id in self.orders if payment_id_of_order(order_id) == payment_id]
        self.both(_calling("close_refund", orders[place % len(orders)]))

    @precondition(lambda self: "expired" in self.payments.values() or "cancelled" in self.payments.values())
    @rule(place=places, identities=st.sampled_from(((), ("e.one",))))
    def restore_payment(self, place: int, identities: tuple[str, ...]) -> None:
        """Put back a released payment that the engine never had, with what another one bought."""
        released = [one for one, status in self.payments.items() if status in ("expired", "cancelled")]
        template = self.run(self.model.payment(released[place % len(released)]))
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
        self.both(_calling("restore", payment, orders, identities=identities))
        self.payments[payment_id] = self.forged[payment_id] = payment.status
        self.changing.add(payment_id)
        self.orders += payment.order_ids

    @rule(
        verb=st.sampled_from(("stock", "cart", "payments", "sweep holds", "sweep payments")),
        cart_id=carts,
        sku=skus,
        limit=st.sampled_from((1, 3, 100)),
        elapsed=elapses,
    )
    def look(self, verb: str, cart_id: str, sku: str, limit: int, elapsed: int) -> None:
        """Calls that only tell, or release what is due; they meet what fell due first."""
        self.pass_time(elapsed, cart_id)
        call: Call
        match verb:
            case "stock":
                call = _calling_engine("read_stock", [sku, "unknown"])
            case "cart":
                call = _calling("cart", cart_id)
            case "payments":
                call = self.calling_list(cart_id)
            case "sweep holds":
                call = _calling_sweep(limit)
            case _:
                call = _calling_engine("release_due_payments", limit)
        self.both(call, cart_id)

    def calling_list(self, cart_id: str) -> Call:
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

        return list_sorted

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
            cart = self.both(_calling("cart", cart_id, terms=_of_owner(few, cart_id)), cart_id)
            self.shown[cart_id] = [line.line_id for line in cart.lines]
            carts_read.append(cart)
        for shown in carts_read[: len(carts_read) if is_last else 1]:
            assert self.run(self.other.summary(shown.cart_id)) == shown.summary
        new_events = []
        for index, shop in enumerate(self.shops):
            self.events[index] = self.run(shop.events())
            new = self.events[index][self.events_seen[index] :]
            self.events_seen[index] = len(self.events[index])
            new_events.append(comparing.of_events(new))
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
            # Nobody is offered a unit that somebody has paid for.
            assert not level.backordered or level.on_hand == level.held
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
                    on_hand[body["sku"]] += int(body["delta"]) - int(body["filled"])
                    backordered[body["sku"]] -= int(body["filled"])
                    assert int(body["on_hand"]) == on_hand[body["sku"]]
                case "backorder_filled":
                    on_hand[body["sku"]] -= int(body["filled"])
                    backordered[body["sku"]] -= int(body["filled"])
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


def _calling(verb: str, *args: Any, **kwargs: Any) -> Call:
    """A call of one of the shop's verbs; in a loop, where a lambda would see the loop's last values."""

    def call(shop: Shop) -> Awaitable[Any]:
        result: Awaitable[Any] = getattr(shop, verb)(*args, **kwargs)
        return result

    return call


def _calling_engine(verb: str, *args: Any) -> Call:
    def call(shop: Shop) -> Awaitable[Any]:
        result: Awaitable[Any] = getattr(shop.engine, verb)(*args)
        return result

    return call


def _calling_sweep(limit: int) -> Call:
    """Which holds a limited sweep takes first is its own affair, so it is called until none is left."""

    async def sweep(shop: Shop) -> None:
        while await shop.engine.release_due_holds(limit):
            pass

    return sweep


def _properties_of(line_id: str) -> str | None:
    return None if line_id in SKUS else ENGRAVED


def _of_owner(terms: CartTerms, cart_id: str) -> CartTerms:
    return replace(terms, guest_share_ppm=600_000) if cart_id.startswith("g.") else terms
