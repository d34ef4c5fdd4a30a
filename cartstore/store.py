"""CartStore: the public verbs. Owns what comes before and after an engine's transition: checks of the
arguments, the look-ups in the record that make a repeated call safe, and the acknowledgement.

Refuses to know how a cart is kept (`engine.py`), how the record is written (`archive/`), and HTTP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar, cast, get_args

import msgspec

from cartstore import limits
from cartstore.affinity import Affinity, in_child
from cartstore.archive.acknowledgement import Acknowledgement
from cartstore.archive.drain import Outbox, drain
from cartstore.archive.fulfilment import FULFILLED_FROM
from cartstore.archive.quarantine import QuarantineCounts
from cartstore.archive.repository import Archive
from cartstore.archive.retention import Retention, RetentionBatch, RetentionKind, policy_of
from cartstore.catalog.cache import RevisionCache, SkuCache
from cartstore.catalog.importing import IMPORT_REFERENCE, ImportReport, import_catalog
from cartstore.catalog.money import to_minor
from cartstore.catalog.repository import CatalogRepository, IfMatch
from cartstore.catalog.rules import Reach
from cartstore.customers import names_somebody
from cartstore.engine import CartEngine
from cartstore.errors import (
    HOW_TO_REPEAT,
    CartEmpty,
    CartError,
    IdempotencyKeyReused,
    Invalid,
    InvalidField,
    InvalidQuantity,
    ItemNotFound,
    OptionNotAvailable,
    OptionRequired,
    OrderNotFound,
    OrderState,
    OtherProcess,
    OutcomeUnknown,
    PaymentExpired,
    PaymentNotFound,
    PaymentState,
    ProductInactive,
    ProductNotFound,
    Repeat,
    StockConflict,
    StoreError,
    StoreUnavailable,
)
from cartstore.failpoints import reach
from cartstore.free_json import canonical_properties, check_properties_json, details_text
from cartstore.model import (
    ID_PATTERN,
    NO_GATEWAY,
    NO_GUARD,
    Cart,
    CartResult,
    CartTerms,
    Checkout,
    CheckoutRequest,
    Fulfilment,
    FulfilmentState,
    Guard,
    HoldResult,
    LineResult,
    Order,
    Owner,
    OwnerKind,
    Partition,
    Payment,
    PaymentResult,
    Product,
    PutItem,
    PutItemByLine,
    PutResult,
    SkuFields,
    StockLevel,
    StockResult,
    Summary,
    Variant,
    checkout_ids,
    is_sku,
    owner_kind_of,
    payment_id_of_order,
)
from cartstore.payments import Gateway, Verdict
from cartstore.public_calls import check_types, checked_calls
from cartstore.readiness import Readiness
from cartstore.recovery.gate import Recovery
from cartstore.recovery.purchases import load_unloaded
from cartstore.recovery.rebuild import Progress, no_progress
from cartstore.recovery.snapshots import DumpingEngine, sweep_activity, take_snapshots
from cartstore.redis.memory import EngineMemory
from cartstore.redis.purchases import PurchaseCounts
from cartstore.redis.store import RedisEngine
from cartstore.settings import Settings
from cartstore.stored_json import note_unreadable
from cartstore.texts import has_control

_LINE_ID_LENGTH_MAX = limits.ID_LENGTH_MAX + 14

T = TypeVar("T")


@contextmanager
def _known_by(repeat: Repeat) -> Iterator[None]:
    """Say of an unknown outcome by what the call is known when it is repeated."""
    try:
        yield
    except OutcomeUnknown as error:
        told = type(error)(f"{error.message} {HOW_TO_REPEAT[repeat]}", repeat=repeat)
        raise told from error.__cause__ or error


def _fingerprint(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def _checked_text(value: str, field: str, length_max: int) -> str:
    if not value or len(value) > length_max or has_control(value):
        raise InvalidField(
            f"{field} must be 1 to {length_max} characters without control characters.", field=field
        )
    return value


def terms_of(settings: Settings, kind: OwnerKind) -> CartTerms:
    """The limits and lifetimes of one kind of owner's carts."""
    is_guest = kind == "guest"
    ttl_seconds = settings.hold_ttl_guest_seconds if is_guest else settings.hold_ttl_member_seconds
    ttl_days = settings.guest_cart_ttl_days if is_guest else settings.member_cart_ttl_days
    return CartTerms(
        hold_ttl_ms=ttl_seconds * 1_000,
        hold_cap_ms=settings.hold_cap_seconds * 1_000,
        hold_rest_ms=settings.hold_rest_seconds * 1_000,
        cart_ttl_ms=ttl_days * 86_400_000,
        quantity_max=settings.max_quantity_per_line,
        lines_max=settings.max_lines_per_cart,
        items_max=settings.max_items_per_cart,
        held_max=settings.max_held_per_owner,
        guest_share_ppm=round(settings.guest_share_of_stock * 1_000_000) if is_guest else 1_000_000,
        reservations=settings.reservations == "on",
    )


def reach_of(settings: Settings) -> Reach:
    """How many units of one SKU a cart can have."""
    return Reach(
        units_max=min(settings.max_quantity_per_line, settings.max_items_per_cart),
        held_max=settings.max_held_per_owner,
    )


class FreezingEngine(Protocol):
    """What stopping a SKU's sale asks of the real engine."""

    async def freeze_skus(self, skus: Sequence[str], *, frozen: bool) -> None: ...


_HOT: Final = ("add_line", "products_by_revision", "read_cart", "read_summary", "remove_line", "set_quantity")
"""Verbs of nearly every request, which look at their arguments themselves."""


@checked_calls(hot=_HOT)
class CartStore:
    """A shop's carts, stock, checkouts and catalog. Open one with `cartstore.open_store(settings)`.

    It belongs to the process and the event loop that opened it. Every verb may raise StoreUnavailable (not
    applied) and, if it writes, OutcomeUnknown (repeat it with the same idempotency key or reference);
    UsageError from another process or loop, and InvalidField for an argument of a wrong type. What else it
    raises is said at the verb.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        partition: Partition,
        engine: CartEngine,
        archive: Archive,
        catalog: CatalogRepository,
        outbox: Outbox,
        acknowledgement: Acknowledgement,
        gateways: Mapping[str, Gateway],
        recovery: Recovery,
        engine_memory: Callable[[], Awaitable[EngineMemory | None]] | None = None,
        archives_itself: bool = False,
    ) -> None:
        """`archives_itself`: whoever made this store carries its events into the record, without a worker."""
        self.settings = settings
        self.partition = partition
        self.engine = engine
        self.archive = archive
        self.catalog = catalog
        self.gateways = gateways
        self._outbox = outbox
        self._recovery = recovery
        self._engine_memory = engine_memory
        self._acknowledgement = acknowledgement
        self._retention = Retention(archive.database, partition, outbox, policy_of(settings))
        self._readiness = Readiness(
            engine=engine,
            outbox=outbox,
            archive=archive,
            recovery=recovery,
            archives_itself=archives_itself,
        )
        acknowledgement.silence = self._readiness.worker_silence_seconds
        self._revisions = RevisionCache(catalog)
        self._by_sku = SkuCache(catalog)
        self._activity_offset = 0
        self._terms = {kind: terms_of(settings, kind) for kind in get_args(OwnerKind)}
        self._affinity = Affinity()
        in_child(self._become_forked)

    def _become_forked(self) -> None:
        self.__class__ = _ForkedStore

    def cart_ttl_ms(self, cart_id: str) -> int:
        """How long a cart is kept after its last change, in ms. Without an id: the longest time."""
        if cart_id:
            return self._terms[owner_kind_of(cart_id)].cart_ttl_ms
        return max(terms.cart_ttl_ms for terms in self._terms.values())

    # --- cart ----------------------------------------------------------------------------------

    async def read_cart(self, owner: Owner) -> Cart:
        """The cart with exact availability; an absent one reads as empty. Never writes to the cart."""
        if type(owner) is not Owner:
            check_types(CartStore.read_cart, owner)
        return await self.engine.read_cart(owner.cart_id, terms=self._terms[owner.kind])

    async def left_to_buy(self, owner: Owner, variant: Variant) -> int | None:
        """Units of a variant that this owner's cart may still buy; None: it has no limit."""
        self._affinity.check()
        limit = variant.max_per_customer
        if limit is None:
            return None
        counts = PurchaseCounts(cast(RedisEngine, self.engine))
        return max(0, limit.quantity - await counts.bought(variant.sku, owner.cart_id))

    async def read_summary(self, owner: Owner) -> Summary:
        """The running totals, at the cost of one hash read."""
        if type(owner) is not Owner:
            check_types(CartStore.read_summary, owner)
        return await self.engine.read_summary(owner.cart_id)

    async def add_line(
        self,
        owner: Owner,
        sku: str,
        quantity: int = 1,
        *,
        properties: Mapping[str, Any] | None = None,
        guard: Guard = NO_GUARD,
    ) -> LineResult:
        """Add units of a variation and hold them. Raises what `CartEngine.add_line` raises, InvalidField
        and InvalidQuantity (quantity below 1)."""
        if (
            type(owner) is not Owner
            or type(sku) is not str
            or type(quantity) is not int
            or (properties is not None and type(properties) is not dict)
        ):
            check_types(CartStore.add_line, owner, sku, quantity, properties=properties)
        if not is_sku(sku):
            raise ProductNotFound(sku=sku[: limits.ID_LENGTH_MAX], field="sku")
        if not 1 <= quantity <= limits.QUANTITY_MAX:
            self._check_quantity(quantity, lowest=1)
        properties_json = canonical_properties(properties) if properties else None
        return await self.engine.add_line(
            owner.cart_id,
            sku,
            quantity,
            properties_json=properties_json,
            terms=self._terms[owner.kind],
            guard=guard
            if guard is NO_GUARD
            else self._guard(guard, "add_line", sku, quantity, properties_json),
        )

    async def find_variant(self, product_id: str, options: Mapping[str, str] | None) -> Variant:
        """The variant that these options choose.

        Raises ProductNotFound, ProductInactive (it has no variants any more), OptionRequired (an option is
        not chosen, and more than one variant is left), OptionNotAvailable (no such option or value, or
        options for a product that has none).
        """
        product = await self.catalog.get_product(product_id) if ID_PATTERN.match(product_id) else None
        if product is None:
            raise ProductNotFound(field="product_id")
        if not product.variants:
            raise ProductInactive(field="product_id")
        chosen = dict(options or {})
        for name, value in chosen.items():
            if name not in product.options:
                raise OptionNotAvailable(f"The product has no option {name[:64]!r}.", field="options")
            if all(variant.options.get(name) != value for variant in product.variants):
                raise OptionNotAvailable(f"{name} cannot be {value[:64]!r}.", field="options")
        matching = [
            variant
            for variant in product.variants
            if all(variant.options.get(name) == value for name, value in chosen.items())
        ]
        if not matching:
            raise OptionNotAvailable("These options are not sold together.", field="options")
        missing = [name for name in product.options if name not in chosen]
        if missing:
            raise OptionRequired(f"Choose {', '.join(missing)}.", field="options")
        return matching[0]

    async def set_quantity(
        self, owner: Owner, line_id: str, quantity: int, *, guard: Guard = NO_GUARD
    ) -> LineResult:
        """Set a line's quantity; 0 removes it. Raises what `CartEngine.set_quantity` raises."""
        if type(owner) is not Owner or type(line_id) is not str or type(quantity) is not int:
            check_types(CartStore.set_quantity, owner, line_id, quantity)
        self._check_line_id(line_id)
        self._check_quantity(quantity, lowest=0)
        return await self.engine.set_quantity(
            owner.cart_id,
            line_id,
            quantity,
            terms=self._terms[owner.kind],
            guard=self._guard(guard, "set_quantity", line_id, quantity),
        )

    async def remove_line(self, owner: Owner, line_id: str, *, guard: Guard = NO_GUARD) -> LineResult:
        """Remove a line; its hold goes back in the same step. Raises ItemNotFound."""
        if type(owner) is not Owner or type(line_id) is not str:
            check_types(CartStore.remove_line, owner, line_id)
        self._check_line_id(line_id)
        return await self.engine.remove_line(
            owner.cart_id,
            line_id,
            terms=self._terms[owner.kind],
            guard=self._guard(guard, "remove_line", line_id),
        )

    async def clear_cart(self, owner: Owner, *, guard: Guard = NO_GUARD) -> CartResult:
        """Remove all lines; clearing an empty cart changes nothing."""
        return await self.engine.clear_cart(
            owner.cart_id, terms=self._terms[owner.kind], guard=self._guard(guard, "clear_cart")
        )

    async def put_lines(
        self,
        owner: Owner,
        items: Sequence[PutItem | PutItemByLine],
        *,
        mode: Literal["all", "partial"] = "all",
        guard: Guard = NO_GUARD,
    ) -> PutResult:
        """Set several lines at once. Raises what `CartEngine.put_lines` raises, and InvalidField when a line
        is named twice or more lines are named than a cart may have."""
        if not items or len(items) > self.settings.max_lines_per_cart:
            raise InvalidField(
                f"items must have 1 to {self.settings.max_lines_per_cart} entries.", field="items"
            )
        self._check_items(items)
        named = [(type(item).__name__, item.line_id, item.quantity) for item in items]
        return await self.engine.put_lines(
            owner.cart_id,
            items,
            mode=mode,
            terms=self._terms[owner.kind],
            guard=self._guard(guard, "put_lines", named, mode),
        )

    async def check_changes(self, owner: Owner, line_ids: Sequence[str] | None = None) -> Cart:
        """The cart, in which each of these lines (None: all) tells what it is now beside what the buyer saw.
        Never writes to the cart. Raises ItemNotFound."""
        self._check_line_ids(line_ids)
        cart = await self.read_cart(owner)
        for line_id in line_ids or ():
            if cart.line(line_id) is None:
                raise ItemNotFound(line_id=line_id)
        return cart

    async def accept_changes(
        self, owner: Owner, line_ids: Sequence[str] | None = None, *, guard: Guard = NO_GUARD
    ) -> CartResult:
        """Take the current prices, options and texts of lines (None: all) as seen. Raises ItemNotFound, and
        CurrencyMismatch for a line that is sold in another currency by now: it can only be removed."""
        self._check_line_ids(line_ids)
        return await self.engine.accept_changes(
            owner.cart_id,
            line_ids,
            terms=self._terms[owner.kind],
            guard=self._guard(guard, "accept_changes", line_ids),
        )

    async def validate_cart(
        self, owner: Owner, line_ids: Sequence[str] | None = None, *, guard: Guard = NO_GUARD
    ) -> HoldResult:
        """Try to hold lapsed lines again and give the cart as it then is; its version stays. A call that held
        nothing again is not remembered under its key. Raises ItemNotFound."""
        self._check_line_ids(line_ids)
        return await self.engine.hold_lines(
            owner.cart_id,
            line_ids,
            terms=self._terms[owner.kind],
            extend=False,
            guard=self._guard(guard, "validate_cart", line_ids),
        )

    async def extend_holds(self, owner: Owner, *, guard: Guard = NO_GUARD) -> HoldResult:
        """Extend all holds up to their cap and try to hold lapsed lines again: a change of the cart,
        unless nothing in it can be held."""
        return await self.engine.hold_lines(
            owner.cart_id,
            None,
            terms=self._terms[owner.kind],
            extend=True,
            guard=self._guard(guard, "extend_holds"),
        )

    # --- checkout, orders, payments ------------------------------------------------------------

    async def begin_checkout(
        self,
        owner: Owner,
        *,
        idempotency_key: str,
        gateway: str,
        payment_method: str,
        line_ids: Sequence[str] | None = None,
        expected_total: str | None = None,
        details: Mapping[str, Any] | None = None,
        if_match: int | None = None,
    ) -> Checkout:
        """Turn lines into pending orders under one payment and acknowledge that as the settings say.

        The same key gives the same checkout for ever; while the record is away, that of a checkout which the
        engine has forgotten begins nothing (StoreUnavailable). Raises what `CartEngine.begin_checkout`
        raises, InvalidField, and OutcomeUnknown when an `archived` acknowledgement did not come in time.
        """
        _checked_text(idempotency_key, "Idempotency-Key", limits.IDEMPOTENCY_KEY_LENGTH_MAX)
        _checked_text(payment_method, "payment_method", limits.PAYMENT_METHOD_LENGTH_MAX)
        if gateway not in self.gateways and gateway != NO_GATEWAY:
            raise InvalidField(f"gateway must be one of: {', '.join(self.gateways)}.", field="gateway")
        if line_ids is not None and not line_ids:
            raise InvalidField("line_ids must name at least one line, or be absent.", field="line_ids")
        self._check_line_ids(line_ids)
        details_json = details_text(details)
        fingerprint = _fingerprint(
            "begin_checkout",
            sorted(line_ids) if line_ids is not None else None,
            gateway,
            payment_method,
            expected_total,
            details_json,
        )
        payment_ids = self._payment_ids(owner, idempotency_key)
        was_asked, archived = await self._archived_checkout(payment_ids, fingerprint)
        reach("checkout.looked_up")
        if archived is not None:
            return archived
        checkout_id, payment_id = checkout_ids(
            self.partition, owner.cart_id, idempotency_key, record_was_asked=was_asked
        )
        request = CheckoutRequest(
            line_ids=tuple(line_ids) if line_ids is not None else None,
            gateway=gateway,
            payment_method=payment_method,
            expected_total_minor=await self._total_in_minor(owner, expected_total),
            details_json=details_json,
            identities=await self._identities((details or {}).get("contact")),
        )
        checkout = await self.engine.begin_checkout(
            owner.cart_id,
            checkout_id,
            payment_id,
            request,
            fingerprint=fingerprint,
            window_ms=self.settings.payment_window_seconds * 1_000,
            terms=self._terms[owner.kind],
            if_match=if_match,
            other_payment_id=payment_ids[was_asked],
            record_was_asked=was_asked,
        )
        reach("checkout.begun")
        await self._acknowledgement.wait(checkout.position)
        reach("checkout.acknowledged")
        return checkout

    async def find_checkout(self, owner: Owner, idempotency_key: str) -> Checkout | None:
        """The checkout that this owner began under this key, wherever it is kept."""
        for payment_id in self._payment_ids(owner, idempotency_key):
            found = await self._find_payment(payment_id)
            if found is not None:
                return found
        return None

    def _payment_ids(self, owner: Owner, idempotency_key: str) -> tuple[str, str]:
        """What a checkout under this key is called: if the record was asked for the key, and if not."""
        asked, unasked = (
            checkout_ids(self.partition, owner.cart_id, idempotency_key, record_was_asked=was_asked)[1]
            for was_asked in (True, False)
        )
        return asked, unasked

    async def list_checkouts(
        self, owner: Owner, *, limit: int = limits.PAGE_SIZE_DEFAULT, cursor: str | None = None
    ) -> tuple[list[Checkout], str | None]:
        """The owner's checkouts, newest first, and the cursor of the next page.

        What the engine still keeps is shown as the engine has it, so that a checkout is listed the moment
        it was acknowledged, whether the record has it already or not.
        """
        before = _parse_page_cursor(cursor)
        kept = {
            checkout.payment.payment_id: checkout
            for checkout in await self.engine.list_payments(owner.cart_id)
        }
        page = dict(kept)
        for payment, orders in await self.archive.list_payments(
            owner.cart_id, limit=limit + len(kept) + 1, before=before
        ):
            listed = page.get(payment.payment_id)
            if listed is None or not listed.payment.is_readable:
                page[payment.payment_id] = _checkout_from_record(payment, orders)
        found = sorted(page.values(), key=_page_key, reverse=True)
        if before is not None:
            found = [checkout for checkout in found if _page_key(checkout) < before]
        more = len(found) > limit
        found = found[:limit]
        return found, f"{_page_key(found[-1])[0]}:{_page_key(found[-1])[1]}" if more else None

    async def read_order(self, order_id: str, owner: Owner | None) -> tuple[Checkout, Order]:
        """An order with its checkout. `owner` None: the caller has checked another proof of access.

        Raises OrderNotFound, also for another owner's order.
        """
        found = (
            await self._find_payment(payment_id_of_order(order_id)) if ID_PATTERN.match(order_id) else None
        )
        order = next((order for order in found.orders if order.order_id == order_id), None) if found else None
        if found is None or order is None or (owner is not None and order.cart_id != owner.cart_id):
            raise OrderNotFound()
        return found, order

    async def read_payment(self, payment_id: str, owner: Owner | None) -> Checkout:
        """A payment with its orders. Raises PaymentNotFound, also for another owner's payment."""
        found = await self._find_payment(payment_id) if ID_PATTERN.match(payment_id) else None
        if found is None or (owner is not None and found.payment.cart_id != owner.cart_id):
            raise PaymentNotFound()
        return found

    async def apply_verdict(self, payment_id: str, verdict: Verdict) -> PaymentResult:
        """Carry out what a gateway said of a payment; returns only once that is acknowledged.

        Raises PaymentNotFound; for `failed`: PaymentState, PaymentExpired.
        """
        checkout = await self.read_payment(payment_id, None)
        reach("settle.read")
        if verdict == "pending":
            return PaymentResult(
                payment=checkout.payment,
                orders=checkout.orders,
                read_at_ms=checkout.read_at_ms,
                changed=False,
            )
        if verdict == "succeeded":
            result = await self._with_restored(checkout, self.engine.settle_payment)
        else:
            if checkout.payment.status == "expired":
                raise PaymentExpired()
            if checkout.payment.status != "pending":
                raise PaymentState(f"The payment is {checkout.payment.status}.")
            result = await self.engine.fail_payment(payment_id)
        reach("settle.settled")
        await self._acknowledgement.wait(result.position, repeat="call")
        reach("settle.acknowledged")
        return result

    async def cancel_order(self, order_id: str, owner: Owner) -> PaymentResult:
        """Cancel the whole checkout that an order belongs to. Raises OrderNotFound, OrderState."""
        checkout, _ = await self.read_order(order_id, owner)
        result = await self._with_restored(
            checkout, lambda payment_id: self.engine.release_payment(payment_id, "cancelled")
        )
        await self._acknowledgement.wait(result.position, repeat="call")
        return result

    async def close_refund(self, order_id: str) -> PaymentResult:
        """Record that the money of a refund_due order went back. Raises OrderNotFound, OrderState."""
        checkout, _ = await self.read_order(order_id, None)
        result = await self._with_restored(checkout, lambda _: self.engine.close_refund(order_id))
        await self._acknowledgement.wait(result.position, repeat="call")
        return result

    async def fulfilments_of(self, order_ids: Sequence[str]) -> dict[str, Fulfilment] | None:
        """What the shop did with these orders, by order; one that is absent is unfulfilled. None while the
        record cannot be asked."""
        try:
            return await self.archive.fulfilments.of_orders(order_ids)
        except StoreError:
            return None

    async def set_fulfilment(
        self,
        order_id: str,
        state: FulfilmentState,
        *,
        carrier: str | None = None,
        tracking: str | None = None,
    ) -> Fulfilment:
        """Record what was done with a paid order. Repeated: nothing changes.

        Raises OrderNotFound, OrderState.
        """
        if not ID_PATTERN.match(order_id):
            raise OrderNotFound()
        for name, text in (("carrier", carrier), ("tracking", tracking)):
            if text:
                _checked_text(text, name, limits.TEXT_LENGTH_MAX)
        said = {"carrier": carrier or None, "tracking": tracking or None}
        try:
            return await self.archive.fulfilments.put(order_id, state, **said)
        except (OrderNotFound, OrderState):
            # The record may not know yet what the engine has answered already.
            _, order = await self.read_order(order_id, None)
            if order.status not in FULFILLED_FROM:
                raise OrderState(f"The order is {order.status}.") from None
            await self.drain_outbox()
            return await self.archive.fulfilments.put(order_id, state, **said)

    # --- stock ---------------------------------------------------------------------------------

    async def read_stock(self, sku: str) -> StockLevel:
        """The exact counters of one SKU. Raises ProductNotFound."""
        level = (await self.engine.read_stock([sku]))[0] if is_sku(sku) else None
        if level is None:
            raise ProductNotFound(sku=sku[: limits.ID_LENGTH_MAX])
        return level

    async def adjust_stock(self, sku: str, delta: int, *, reason: str, reference: str) -> StockResult:
        """Add units to on_hand (negative: take away). One reference is one adjustment of a SKU, for ever.

        Raises ProductNotFound, StockConflict, InvalidField, LimitExceeded.
        """
        self._check_adjustment(sku, reason, reference)
        if delta == 0 or abs(delta) > limits.STOCK_MAX:
            raise InvalidField(f"delta must not be 0 and within ±{limits.STOCK_MAX}.", field="delta")
        fingerprint = _fingerprint("adjust_stock", sku, delta, reason)
        repeated = await self._archived_adjustment(sku, reference, fingerprint)
        if repeated is not None:
            return repeated
        with _known_by("reference"):
            result = await self.engine.adjust_stock(
                sku, delta=delta, reason=reason, reference=reference, fingerprint=fingerprint
            )
        await self._acknowledgement.wait(result.position, repeat="reference")
        return result

    async def set_stock(
        self, sku: str, on_hand: int, *, reason: str, reference: str, expected_on_hand: int | None = None
    ) -> StockResult:
        """Move on_hand to a value, as a delta; an untracked SKU becomes `deny`.

        Raises as adjust_stock does.
        """
        self._check_adjustment(sku, reason, reference)
        if not 0 <= on_hand <= limits.STOCK_MAX:
            raise InvalidField(f"on_hand must be 0 to {limits.STOCK_MAX}.", field="on_hand")
        fingerprint = _fingerprint("set_stock", sku, on_hand, expected_on_hand, reason)
        result = await self._archived_adjustment(sku, reference, fingerprint)
        if result is None:
            with _known_by("reference"):
                result = await self.engine.set_stock(
                    sku,
                    on_hand=on_hand,
                    expected_on_hand=expected_on_hand,
                    reason=reason,
                    reference=reference,
                    fingerprint=fingerprint,
                )
        # The count comes first: a death between the two leaves an untracked SKU that the repeated call
        # finishes, while the other order would leave a `deny` SKU without stock, a false "sold out".
        level = await self.read_stock(sku)
        if level.policy == "untracked" and await self._is_latest_count(result, reference):
            try:
                product = await self.catalog.set_policy(sku, "deny")
                self._by_sku.clear()
                await self.engine.publish_skus(self.catalog.published([product]))
            except StoreError as error:
                raise OutcomeUnknown(
                    "The stock was set, but the SKU is not limited by it yet. Repeat the call.",
                    repeat="reference",
                ) from error
            level = await self.read_stock(sku)
        await self._acknowledgement.wait(result.position, repeat="reference")
        return result if result.replayed else msgspec.structs.replace(result, level=level)

    async def _is_latest_count(self, result: StockResult, reference: str) -> bool:
        """Whether nothing was counted of this SKU since; a repeated call must not undo a later decision."""
        rows, _ = await self.archive.ledger(result.level.sku, limit=1)
        return not rows or rows[0].reference == reference or rows[0].seq <= result.position.seq

    # --- catalog -------------------------------------------------------------------------------

    async def put_product(self, product: Product, *, if_match: IfMatch | None = None) -> Product:
        """Create or change a product, visible to the next call. `if_match`: only while it has one of these
        revisions; `*`: only if it is there.

        Raises InvalidField, VersionConflict.
        """
        stored, _ = await self.catalog.put_product(product, if_match=if_match)
        self._by_sku.clear()
        # Published also when nothing changed: an earlier call may have died between record and engine.
        await self.engine.publish_skus(self.catalog.published([stored]))
        if any(variant.max_per_customer for variant in stored.variants):
            # A new limit knows earlier purchases by the time that this call answers. Where that fails,
            # reconcile goes on with it.
            with suppress(StoreError):
                await self.load_purchases()
        return stored

    async def delete_product(self, product_id: str, *, if_match: IfMatch | None = None) -> None:
        """Take a product off sale for good and free its SKUs for others; stock, holds and orders stay.

        Repeated, it changes nothing and publishes again. Raises ProductNotFound, VersionConflict.
        """
        if not ID_PATTERN.match(product_id):
            raise ProductNotFound()
        gone = await self.catalog.delete_product(product_id, if_match=if_match)
        self._by_sku.clear()
        await self.engine.publish_skus(self.catalog.published([gone]))

    async def get_product(self, product_id: str) -> Product:
        """A product as it is now. Raises ProductNotFound."""
        product = await self.catalog.get_product(product_id) if ID_PATTERN.match(product_id) else None
        if product is None:
            raise ProductNotFound()
        return product

    async def list_products(
        self,
        *,
        q: str | None = None,
        seller: str | None = None,
        limit: int = limits.PAGE_SIZE_DEFAULT,
        cursor: str | None = None,
    ) -> tuple[list[Product], str | None]:
        """A page of products and the cursor of the next one."""
        return await self.catalog.list_products(q=q, seller=seller, limit=limit, cursor=cursor)

    async def stock_of(self, products: Iterable[Product]) -> dict[str, StockLevel]:
        """The levels of all variants of these products; empty while the engine is away (browsing goes on)."""
        skus = [variant.sku for product in products for variant in product.variants]
        try:
            levels = await self.engine.read_stock(skus) if skus else []
        except StoreError:
            # An engine that hangs is as much away as one that refuses.
            return {}
        return {level.sku: level for level in levels if level is not None}

    async def products_by_revision(self, revisions: Iterable[int]) -> dict[int, Product]:
        """What the catalog said in these revisions; those that cannot be had right now are absent."""
        self._affinity.check()
        return await self._revisions.get(revisions)

    async def variant_of(self, sku: str) -> Variant | None:
        """The variant of this SKU, for advice: a change made by another process may be seen
        catalog.cache.SKU_SECONDS late. Raises StoreUnavailable."""
        return await self._by_sku.get(sku)

    async def import_catalog(
        self,
        source: Path | bytes,
        *,
        currency: str | None = None,
        columns: Mapping[str, str] | None = None,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> ImportReport:
        """Import a shop's export by api.md's import rules; rows that cannot be taken are in the report.

        `currency`: of its prices (ISO 4217); None is the setting. `columns`: names that the readers know, by
        those that a CSV file has in their place. Raises InvalidField when the source is no catalog.
        """

        async def publish(skus: Sequence[SkuFields]) -> None:
            self._by_sku.clear()
            await self.engine.publish_skus(skus)

        async def adjust(sku: str, quantity: int) -> None:
            await self._import_stock(sku, quantity)

        return await import_catalog(
            source,
            catalog=self.catalog,
            currency=currency or self.settings.currency,
            blank_tracker=self.settings.import_blank_tracker,
            columns=columns or {},
            publish=publish,
            adjust=adjust,
            on_progress=on_progress,
        )

    # --- service -------------------------------------------------------------------------------

    @property
    def ack_mode(self) -> str:
        """When checkouts are acknowledged: `engine` or `archived`."""
        return self._acknowledgement.mode

    async def drain_outbox(self) -> int:
        """Carry all waiting events into the record; the number carried. May run beside itself."""
        return await drain(self.archive, self._outbox)

    async def load_purchases(self) -> int:
        """Count earlier orders against purchase limits that were set, or whose window became longer, since;
        the number of SKUs. May run beside itself. Costs one question when there is nothing to load."""
        counts = PurchaseCounts(cast(RedisEngine, self.engine))
        return await load_unloaded(counts, self.archive, self.drain_outbox)

    async def release_due(self, limit: int) -> int:
        """Release up to `limit` due holds; the number released."""
        return await self.engine.release_due_holds(limit)

    async def expire_payments(self, limit: int) -> int:
        """Release up to `limit` payments whose window is over; the number released."""
        released = await self.engine.release_due_payments(limit)
        if released:
            self._acknowledgement.ring()
        return released

    async def snapshot_carts(self) -> int:
        """Carry the carts that changed into the record; the number carried. May run beside itself."""
        engine = cast(DumpingEngine, self.engine)
        taken = await take_snapshots(
            engine,
            self.archive.snapshots,
            drain=self.drain_outbox,
            abandoned_after_ms=self.settings.abandoned_after_hours * 3_600_000,
        )
        self._activity_offset = await sweep_activity(engine, self.archive.snapshots, self._activity_offset)
        return taken

    async def apply_retention(self, kind: RetentionKind) -> RetentionBatch:
        """Remove a batch of one kind of what the record keeps no longer (settings `retention_*_days`). May
        run beside itself and beside everything else."""
        return await self._retention.run_batch(kind)

    async def unfreeze_sku(self, sku: str) -> bool:
        """Let the sale of a SKU go on that a rejected event stopped; whether the record had it as frozen.

        For a person who has put engine and record right. The record is told first: a death in between leaves
        a SKU that is not sold, which reconcile tells, and repeating the call finishes.

        Raises ProductNotFound.
        """
        if not is_sku(sku):
            raise ProductNotFound(sku=sku[: limits.ID_LENGTH_MAX])
        was_frozen = await self.archive.quarantine.thaw(sku)
        await cast(FreezingEngine, self.engine).freeze_skus([sku], frozen=False)
        return was_frozen

    async def count_quarantined(self) -> QuarantineCounts:
        """What waits for a person: events that the record could not take, SKUs not sold because of them."""
        return await self.archive.quarantine.counts()

    async def freeze_skus(self, skus: Sequence[str], reason: str) -> None:
        """Stop the sale of SKUs until somebody unfreezes them, in the record first: reconcile freezes them in
        the engine too if this process cannot."""
        await self.archive.quarantine.freeze(skus, reason)
        await cast(FreezingEngine, self.engine).freeze_skus(skus, frozen=True)

    async def count_salvages(self) -> int:
        """How often the engine's log was damaged and was salvaged, as far as the engine knows."""
        return (await self._recovery.gate())[0].salvages

    async def recover(self, on_progress: Progress = no_progress, *, rebuilds: bool = False) -> bool:
        """Open the gate if the engine was restarted or replaced; whether this call did. May run beside
        itself. `rebuilds`: rebuild the engine from the record even if nothing is wrong with it; every event
        in its outbox is applied or put aside first. Raises StoreRecovering while another process is at it."""
        return await self._recovery.recover(on_progress, rebuilds=rebuilds)

    async def read_engine_memory(self) -> EngineMemory | None:
        """What is left of the engine's memory bound. None without a bound, and while the engine is away."""
        try:
            return await self._engine_memory() if self._engine_memory is not None else None
        except StoreError:
            return None

    async def readiness(self) -> dict[str, Any]:
        """What `Readiness.look` finds. Raises nothing but UsageError."""
        return await self._readiness.look()

    # --- how it is done ------------------------------------------------------------------------

    @staticmethod
    def _guard(guard: Guard, verb: str, *arguments: object) -> Guard:
        if (
            type(guard) is not Guard
            or (guard.if_match is not None and type(guard.if_match) is not int)
            or (guard.idempotency_key is not None and type(guard.idempotency_key) is not str)
        ):
            check_types(CartStore.clear_cart, guard=guard)
        if guard.idempotency_key is None:
            return guard
        _checked_text(guard.idempotency_key, "Idempotency-Key", limits.IDEMPOTENCY_KEY_LENGTH_MAX)
        return msgspec.structs.replace(guard, fingerprint=_fingerprint(verb, *arguments))

    def _check_quantity(self, quantity: int, *, lowest: int, field: str = "quantity") -> None:
        if not lowest <= quantity <= limits.QUANTITY_MAX:
            raise InvalidQuantity(
                f"{field} must be {lowest} to {self.settings.max_quantity_per_line}.",
                field=field,
                requested_quantity=quantity,
            )

    def _check_items(self, items: Sequence[PutItem | PutItemByLine]) -> None:
        """Raise what the first entry that cannot be set is refused with; its `errors` names all of them."""
        seen: set[str] = set()
        refused: list[CartError] = []
        for number, item in enumerate(items):
            at = f"items[{number}]"
            try:
                if isinstance(item, PutItem):
                    if not is_sku(item.sku):
                        raise ProductNotFound(sku=item.sku[: limits.ID_LENGTH_MAX], field=f"{at}.sku")
                    check_properties_json(item.properties_json, f"{at}.properties")
                else:
                    self._check_line_id(item.line_id)
                self._check_quantity(item.quantity, lowest=0, field=f"{at}.quantity")
                if item.line_id in seen:
                    raise InvalidField("A line is named twice.", field=at, line_id=item.line_id)
            except CartError as error:
                error.field = error.field or at
                refused.append(error)
            seen.add(item.line_id)
        if refused:
            refused[0].errors = [(error.field or "", error.message) for error in refused]
            raise refused[0]

    @staticmethod
    def _check_line_id(line_id: str) -> None:
        if len(line_id) > _LINE_ID_LENGTH_MAX or not ID_PATTERN.match(line_id[: limits.ID_LENGTH_MAX]):
            raise ItemNotFound(line_id=line_id[:_LINE_ID_LENGTH_MAX])
        if not ID_PATTERN.match(line_id[-limits.ID_LENGTH_MAX :]):
            raise ItemNotFound(line_id=line_id)

    def _check_line_ids(self, line_ids: Sequence[str] | None) -> None:
        for line_id in line_ids or ():
            self._check_line_id(line_id)
        if line_ids is not None and len(set(line_ids)) != len(line_ids):
            raise InvalidField("A line is named twice.", field="line_ids")

    @staticmethod
    def _check_adjustment(sku: str, reason: str, reference: str) -> None:
        if not is_sku(sku):
            raise ProductNotFound(sku=sku[: limits.ID_LENGTH_MAX])
        _checked_text(reason, "reason", limits.REASON_LENGTH_MAX)
        _checked_text(reference, "reference", limits.REFERENCE_LENGTH_MAX)

    async def _total_in_minor(self, owner: Owner, expected_total: str | None) -> int | None:
        """The expected total in minor units of the cart's currency, which only the cart knows."""
        if expected_total is None:
            return None
        summary = await self.engine.read_summary(owner.cart_id)
        if summary.currency is None:
            raise CartEmpty()
        try:
            return to_minor(expected_total, summary.currency, maximum=limits.TOTAL_MINOR_MAX)
        except Invalid as error:
            raise InvalidField(str(error), field="expected_total") from error

    async def _identities(self, contact: object) -> tuple[str, ...] | None:
        """By what purchase limits know a customer, beside the cart; None: the record cannot be asked for the
        secret now, and was not asked before."""
        if not names_somebody(contact):
            return ()
        try:
            return await self.archive.purchases.identities(contact)
        except StoreError:
            return None

    async def _find_payment(self, payment_id: str) -> Checkout | None:
        """From the engine while it keeps it, else from the record."""
        kept = await self.engine.read_payment(payment_id)
        if kept is not None:
            return kept
        record = await self.archive.find_payment(payment_id)
        return _checkout_from_record(*record) if record is not None else None

    async def _archived_checkout(
        self, payment_ids: tuple[str, str], fingerprint: str
    ) -> tuple[bool, Checkout | None]:
        """Whether the record could be asked, and a checkout that it has: the engine forgets a terminal one
        after a day. Of two, the first that the key began."""
        try:
            records = await self.archive.find_payments(payment_ids)
        except StoreUnavailable:
            # Checkouts go on while the database is away if the acknowledgement does not need it.
            if self._acknowledgement.mode == "archived":
                raise
            return False, None
        if not records:
            return True, None
        payment, orders = min(records, key=lambda record: record[0].created_at_ms)
        if payment.fingerprint != fingerprint:
            raise IdempotencyKeyReused()
        kept = await self.engine.read_payment(payment.payment_id)
        return True, msgspec.structs.replace(kept or _checkout_from_record(payment, orders), replayed=True)

    async def _archived_adjustment(self, sku: str, reference: str, fingerprint: str) -> StockResult | None:
        """An adjustment that only the record still has. Raises StoreUnavailable: without the record nobody
        can tell whether a reference was used, and stock that is counted twice is sold twice."""
        record = await self.archive.find_stock_adjustment(sku, reference)
        if record is None:
            return None
        if record[0] != fingerprint:
            raise StockConflict("This reference was used for another adjustment of this SKU.", sku=sku)
        return msgspec.structs.replace(record[1], replayed=True)

    async def _import_stock(self, sku: str, quantity: int) -> None:
        """As adjust_stock, of a SKU that the import has just looked up in the record: asking again for each
        of them takes most of an import's time."""
        fingerprint = _fingerprint("adjust_stock", sku, quantity, "import")
        try:
            with _known_by("reference"):
                result = await self.engine.adjust_stock(
                    sku, delta=quantity, reason="import", reference=IMPORT_REFERENCE, fingerprint=fingerprint
                )
        except StockConflict:
            # An earlier import gave this SKU another quantity; importing again never changes stock.
            return
        await self._acknowledgement.wait(result.position, repeat="reference")

    async def _with_restored(self, checkout: Checkout, transition: Callable[[str], Awaitable[T]]) -> T:
        """Run a transition on a payment that the engine may have forgotten since it became terminal."""
        payment_id = checkout.payment.payment_id
        try:
            return await transition(payment_id)
        except (PaymentNotFound, OrderNotFound):
            # As it is by now: between the look and the transition it may have been settled, and the engine
            # been rebuilt; put back as pending it would be settled, and its units sold, once more.
            record = await self.archive.find_payment(payment_id)
            if record is None:
                raise
            if record[0].status == "pending":
                # The engine lost what only a rebuild brings back: the units that this payment holds.
                raise StoreUnavailable("The engine has lost this payment; it is not changed.") from None
            identities = await self._identities(_contact_of(record[0]))
            await self.engine.restore_payment(*record, identities=identities or ())
            return await transition(payment_id)


class _ForkedStore(CartStore):
    """What a store is in a forked child: nothing of it can be reached, not even a coroutine made that another
    thread's event loop, which is not there in the child, would be given."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        raise OtherProcess


def payment_hash(payment: Payment, orders: Sequence[Order]) -> str:
    """Digest over payment, orders, amounts and currency: what a client may compare to see that the payment
    is for what it was shown."""
    parts = [payment.payment_id, str(payment.amount_minor), payment.currency]
    parts += [f"{order.order_id}={Decimal(order.total_minor)}" for order in orders]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _checkout_from_record(payment: Payment, orders: Sequence[Order]) -> Checkout:
    return Checkout(payment=payment, orders=tuple(orders), read_at_ms=0)


def _contact_of(payment: Payment) -> object:
    try:
        return msgspec.json.decode(payment.details_json, type=dict[str, Any]).get("contact")
    except msgspec.DecodeError as error:
        note_unreadable("payment", payment.payment_id, "details_json", error)
        return None


def _page_key(checkout: Checkout) -> tuple[int, str]:
    return checkout.payment.created_at_ms, checkout.payment.payment_id


def _parse_page_cursor(cursor: str | None) -> tuple[int, str] | None:
    if cursor is None:
        return None
    created, _, payment_id = cursor.partition(":")
    if not (created.isascii() and created.isdigit() and len(created) < 17 and ID_PATTERN.match(payment_id)):
        raise InvalidField("This cursor was not given by this list.", field="cursor")
    return int(created), payment_id
