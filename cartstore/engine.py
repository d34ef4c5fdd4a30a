"""The seam between the public store and what keeps the carts: one method per script.

Owns the contract that every engine fulfils, the real one (`redis/store.py`) and the reference model
(`memory_store.py`). One contract suite and one property test hold both to it. Refuses any I/O.

Rules that hold for every method
--------------------------------
* A method is one atomic transition. It checks everything, then writes, then returns. A raised error
  means that nothing of the transition itself was written (due holds may have been released on the way,
  which is a transition of its own).
* Order of the checks of a cart mutation: idempotency key, If-Match, existence (ITEM_NOT_FOUND,
  PRODUCT_NOT_FOUND), activity (PRODUCT_INACTIVE; not when a quantity is lowered or a line removed),
  currency, start of sale (NOT_YET_ON_SALE; as activity), quantity rules (INVALID_QUANTITY), purchase limit
  (PURCHASE_LIMIT; only when a quantity is raised), limits (LIMIT_EXCEEDED), stock (INSUFFICIENT_STOCK).
* max_quantity and the purchase limit of a SKU count over all lines of the cart, when a quantity is raised.
  What a customer has bought of a SKU with a limit is the units of his orders that began within the window:
  pending and paid ones, not released ones. Mutations of the cart know a customer by the cart, a checkout also
  by `request.identities`. Orders that began while the SKU had no limit are counted once the record was read
  for them.
* Before the availability of a SKU is used or told, its due holds and due orders are released. A hold is
  due when its expiry is at or before now, or later than now + the longest lifetime. An order is released
  whole, with all orders of its payment; its lines return to the cart, unheld.
* `held` of a SKU counts recorded holds of lines and of orders being paid. For `deny` SKUs
  `available = on_hand - held`, and `on_hand + sold - backordered` equals the sum of all adjustments.
* Units that become free serve paid backorders first, in the same step: of d units min(d, backordered) lower
  `backordered`, and on_hand by as many if they were counted there (they are, but for adjust and set). While
  any are backordered none is free. An adjustment's event says how many (`filled`); other steps write
  `backorder_filled` beside their own.
* A line of a `deny` SKU with hold policy `on_add` is held whole when it is added or set, if
  `terms.reservations`. With `on_checkout`, or without reservations, add and set only check that the
  quantity is available (available + held of the line >= quantity). Other policies are never held.
* A hold's expiry is min(now + ttl, first_held_at + cap), ttl being the SKU's own or the owner's, ttl and cap
  as they were when the line was last held (add, set, put, hold_lines). A mutation moves the expiry of every
  line of the cart whose hold has not lapsed (that of its own line included), never backwards.
* first_held_at belongs to the owner and the SKU, over all lines and the owner's pending orders, and outlives
  them: a hold starts a new one only when the owner has held nothing of the SKU for terms.hold_rest_ms. Before
  that, once first_held_at + cap is reached, the units rest: add, set, put and hold_lines succeed without
  holding them, as without reservations (the quantity must be available), and the line tells
  rests_until_ms. Only a checkout holds units that rest.
* A line is changed when the revision that its buyer saw is older than the SKU's terms_revision. It stays as
  it is, and is not checked out before its changes are accepted (or it is added to again) or it is removed.
* Units of the owner that are due, lapsed lines and orders whose window is over, do not count against
  terms.held_max.
* A released hold changes neither quantity nor version.
* A mutation that changes the cart gets the next number of the partition's `change` counter as version,
  also when it sets what was set before. set_quantity to 0 and put with quantity 0 remove.
* Seen price and revision of a line are those of its SKU at the last add (or put of a new line, or accept).
  Adding to an existing line moves both; set and put of an existing line do not.
* Only outcomes that wrote are remembered under an idempotency key; a cart remembers its last 16.
* No method counts time itself: the engine's clock, read once per method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from cartstore.model import (
    Beats,
    Cart,
    CartResult,
    CartTerms,
    Checkout,
    CheckoutRequest,
    Guard,
    HoldResult,
    LineResult,
    Order,
    Payment,
    PaymentResult,
    PutItem,
    PutItemByLine,
    PutResult,
    ReleaseReason,
    SkuFields,
    StockLevel,
    StockResult,
    Summary,
)


class CartEngine(Protocol):
    """What keeps one partition's carts, stock and pending orders."""

    # --- catalog and stock ---------------------------------------------------------------------

    async def publish_skus(self, skus: Sequence[SkuFields]) -> None:
        """Set the catalog fields of SKUs; a SKU that is new starts with all counters at 0.

        An older revision than the published one is ignored, so that late publishers change nothing.
        """
        ...

    async def adjust_stock(
        self, sku: str, *, delta: int, reason: str, reference: str, fingerprint: str
    ) -> StockResult:
        """Add `delta` units (negative takes them away) to on_hand.

        The same reference of the same SKU with the same fingerprint gives the first result with
        `replayed`; with another fingerprint: StockConflict. Raises ProductNotFound; StockConflict when
        on_hand would fall below what is held or below 0; LimitExceeded above STOCK_MAX.
        """
        ...

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
        """Move on_hand to a value, applied as a delta. Raises as adjust_stock does, and StockConflict
        when `expected_on_hand` is given and differs."""
        ...

    async def read_stock(self, skus: Sequence[str]) -> list[StockLevel | None]:
        """Exact levels, in the order asked; None for a SKU that was never published."""
        ...

    # --- cart ----------------------------------------------------------------------------------

    async def read_cart(self, cart_id: str, *, terms: CartTerms | None = None) -> Cart:
        """The cart with exact availability of every line, for a guest within the guests' share. Never changes
        a version, never extends. Without terms the share is all of the stock, and no line is told to rest."""
        ...

    async def read_summary(self, cart_id: str) -> Summary:
        """The running totals, O(1); EMPTY_SUMMARY for an absent cart."""
        ...

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
        """Add units of a variation; `created` tells whether the line is new.

        Quantity rules apply to the line's new quantity: at least min_quantity, a multiple of multiple_of, and
        with the SKU's other lines at most max_quantity (INVALID_QUANTITY) and at most what the customer may
        still buy (PURCHASE_LIMIT); at most terms.quantity_max, lines_max lines, items_max units in the
        cart, TOTAL_MINOR_MAX in the subtotal (LIMIT_EXCEEDED). The units that would be newly
        held count against terms.held_max together with all units held by the cart's lines and by its
        pending orders (LIMIT_EXCEEDED), and, for a guest, against guest_share_ppm of on_hand
        (INSUFFICIENT_STOCK with what the share leaves).
        InsufficientStock tells available_quantity, what there is for this line (free units plus its own),
        requested_quantity, what it would have had, and fitting_quantity, the most of what is available that
        the quantity rules allow, 0 for nothing.
        CurrencyMismatch when the cart has lines in another currency; an emptied cart takes a new one.
        """
        ...

    async def set_quantity(
        self, cart_id: str, line_id: str, quantity: int, *, terms: CartTerms, guard: Guard
    ) -> LineResult:
        """Set a line's quantity; 0 removes the line. Raises ItemNotFound and what add_line raises."""
        ...

    async def remove_line(self, cart_id: str, line_id: str, *, terms: CartTerms, guard: Guard) -> LineResult:
        """Remove a line; its hold goes back. Raises ItemNotFound."""
        ...

    async def clear_cart(self, cart_id: str, *, terms: CartTerms, guard: Guard) -> CartResult:
        """Remove all lines; all holds go back. Clearing an empty or absent cart changes nothing."""
        ...

    async def put_lines(
        self,
        cart_id: str,
        items: Sequence[PutItem | PutItemByLine],
        *,
        mode: Literal["all", "partial"],
        terms: CartTerms,
        guard: Guard,
    ) -> PutResult:
        """Set several lines to quantities; lines not named stay.

        `all`: every entry is checked first; if one cannot be done nothing changes, and the error carries
        every problem in `shortfalls` ({line_id, sku, code, requested_quantity, available_quantity}): the
        error's own class when all problems have the same code, else CheckoutRefused with that code.
        `partial`: each entry is done or not on its own, in order. No line may be named twice
        (InvalidField, checked by the caller). A new version only when something was written.
        """
        ...

    async def accept_changes(
        self, cart_id: str, line_ids: Sequence[str] | None, *, terms: CartTerms, guard: Guard
    ) -> CartResult:
        """Move the seen price and revision of lines (None: all) to the current ones. Raises ItemNotFound, and
        CurrencyMismatch for the first line whose SKU is sold in another currency by now."""
        ...

    async def hold_lines(
        self,
        cart_id: str,
        line_ids: Sequence[str] | None,
        *,
        terms: CartTerms,
        extend: bool,
        guard: Guard,
    ) -> HoldResult:
        """Try to hold again what lapsed among the lines (None: all); with `extend`, also move the expiry of
        unlapsed holds up to the cap, of the named lines alone. What cannot be held stays unheld without an
        error. Raises ItemNotFound.

        With `extend` it is a mutation if any of the lines is held then, and else changes nothing. Without, it
        never changes the version, but a call that held something is remembered like a mutation."""
        ...

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
        """Turn lines into pending orders, one per seller, under one payment, held for `window_ms`.

        The same payment_id with the same fingerprint gives the first checkout as it stands now, with
        `replayed`; so does `other_payment_id`, under which the same key may have begun one. With another
        fingerprint: IdempotencyKeyReused. StoreUnavailable when the record could not be asked for the key
        and the engine cannot rule out that it was used and what it began forgotten.

        Then: VersionConflict, CartEmpty (nothing to check
        out), ItemNotFound (a named line is missing). Then every line is checked and all problems are
        raised together (`shortfalls`: {line_id, sku, code, requested_quantity, available_quantity,
        old_price_minor, new_price_minor}): PRODUCT_INACTIVE, else LINE_CHANGED, else CURRENCY_MISMATCH, else
        NOT_YET_ON_SALE, else INVALID_QUANTITY by the SKU's rules, else PURCHASE_LIMIT, else PRICE_CHANGED
        when the current price is higher than the seen one, else INSUFFICIENT_STOCK when the line cannot be
        held whole; one code: that error, several: CheckoutRefused. A line is sold at
        min(seen, current). `deny` lines are held whatever their hold policy; units not yet held count against
        terms.held_max (LimitExceeded) and the guest share. Rules that count over lines count over those
        that are checked out. A SKU with a purchase limit needs to know its customer: InvalidField for a guest
        without identities, StoreUnavailable where they are not known. Then TotalChanged.
        Lines leave the cart. Cart version: next change number. A total of zero is paid in the same step, with
        the event of its settlement and the gateway NO_GATEWAY.
        checkout_type: full_cart when no line is left, else single_item for one line, else partial.
        """
        ...

    async def read_payment(self, payment_id: str) -> Checkout | None:
        """A payment with its orders, released first when its window is over; None when not kept here."""
        ...

    async def list_payments(self, cart_id: str) -> list[Checkout]:
        """Payments of a cart that are still kept here, newest first."""
        ...

    async def settle_payment(self, payment_id: str) -> PaymentResult:
        """The money arrived. pending: paid; every held unit moves from on_hand and held to sold; a
        backorder line takes what is free and counts the rest as backordered.

        Released before: units are taken again if every `held` line can be served from free units plus the
        holds of the cart's lines of the same ids, whatever those were taken for (the buyer has paid):
        paid, and the returned lines leave the cart (as far as they are still there; the cart gets a new
        version); else refund_due. So long after its checkout that the record has removed the address, or
        may have (retention), always refund_due. Repeated: changed=False
        with the state as it is (paid, refund_due or refunded). Raises PaymentNotFound.
        """
        ...

    async def fail_payment(self, payment_id: str) -> PaymentResult:
        """One failed attempt; the payment stays pending. Raises PaymentNotFound, PaymentState (paid,
        refund_due, refunded, cancelled), PaymentExpired."""
        ...

    async def release_payment(self, payment_id: str, reason: ReleaseReason) -> PaymentResult:
        """Release all orders of a pending payment: units go back, lines return to the cart, unheld (added to
        a line of the same id if there is one; nothing returns to a cart that has another currency by now).

        `expired` does nothing (changed=False) while the window is open; once it is over the reason is always
        `expired`, whatever was asked for. Released already: changed=False.
        Raises PaymentNotFound; OrderState when paid, refund_due or refunded.
        """
        ...

    async def close_refund(self, order_id: str) -> PaymentResult:
        """The money of a refund_due order went back: order refunded; the payment too when all its orders
        are. Repeated: changed=False. Raises OrderNotFound, OrderState."""
        ...

    async def restore_payment(
        self, payment: Payment, orders: Sequence[Order], *, identities: Sequence[str] = ()
    ) -> None:
        """Put a terminal payment back from the record, so that a late settlement finds it. Does nothing
        when the payment is kept already. `identities`: of its customer, beside the cart."""
        ...

    # --- sweeping ------------------------------------------------------------------------------

    async def release_due_holds(self, limit: int) -> int:
        """Release up to about `limit` due holds over all SKUs; the number released."""
        ...

    async def release_due_payments(self, limit: int) -> int:
        """Release up to `limit` payments whose window is over; the number released."""
        ...

    # --- processes -----------------------------------------------------------------------------

    async def beat(self, process: str, state: str) -> Beats:
        """Note a process as alive, with what it says of itself; gives the beats of all processes.

        An empty `state` removes the process's entry. Works whatever the gate says and at `maxmemory`. A
        process that was silent for limits.BEAT_KEPT_MS is forgotten. Raises WritesRefused.
        """
        ...
