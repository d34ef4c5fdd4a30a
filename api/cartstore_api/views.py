"""From the store's vocabulary to the contract's shapes. Owns how money, times and names are written.

A line and an order line keep what the buyer saw: their texts come from the catalog revision that they
name. Where that revision cannot be had right now, the SKU stands in for the name. A row whose stored data
cannot be read says so in `unreadable`: it must not keep a whole list from being told.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar, cast

import msgspec

from cartstore import model
from cartstore.archive.details import Address, Details, details_in
from cartstore.archive.repository import LedgerRow
from cartstore.catalog.money import to_text
from cartstore.catalog.rules import sale_start_ms
from cartstore.catalog.sales import price_minor_at
from cartstore.errors import CartError
from cartstore.store import CartStore, payment_hash
from cartstore.stored_json import EMPTY, note_unreadable, passed_through
from cartstore_api import schemas
from cartstore_api.answers import Answer
from cartstore_api.quantities import Rules, rules_of

T = TypeVar("T")

Products = Mapping[int, model.Product]
"""Products by revision."""


_YEAR_10000_MS = 253_402_300_800_000
_MILLISECONDS = tuple(f".{number:03d}Z" for number in range(1_000))


def time_text(at_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return f"{_second_text(at_ms // 1_000)}{_MILLISECONDS[at_ms % 1_000]}"


@lru_cache(4_096)
def _second_text(at_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s))


def seconds_left(expires_at_ms: int, now_ms: int) -> int:
    """Whole seconds until then, rounded up; 0 when it is over."""
    return max(0, -((now_ms - expires_at_ms) // 1_000))


# --- cart ------------------------------------------------------------------------------------------


def revisions_of(lines: Iterable[model.Line]) -> set[int]:
    """What these lines need of the catalog: the texts that were seen, and those that are true now."""
    return {revision for line in lines for revision in (line.revision, line.current_revision)}


def changes_of(line: model.Line, products: Products, currency: str) -> schemas.Changes | None:
    """What is not as the buyer saw it; None when all of it is. `currency`: the cart's."""
    seen, now = products.get(line.revision), products.get(line.current_revision)
    changes = schemas.Changes()
    if line.has_other_currency:
        # The price now is in another currency, so the two are not compared.
        new = now.currency if now is not None else None
        changes.currency = schemas.Change(old=currency, new=new)
    elif line.unit_price_minor != line.current_price_minor:
        changes.price = schemas.Change(
            old=to_text(line.unit_price_minor, currency), new=to_text(line.current_price_minor, currency)
        )
    if seen is not None and now is not None and seen is not now:
        if seen.title != now.title:
            changes.name = schemas.Change(old=seen.title, new=now.title)
        if image_of(seen) != image_of(now):
            changes.image = schemas.Change(old=image_of(seen), new=image_of(now))
    if line.is_changed:
        _tell_terms(changes, line, seen, now)
    if not line.is_active:
        changes.availability = schemas.AvailabilityChange(old="available", new="off_sale")
    elif line.available_quantity is not None and line.available_quantity < line.quantity:
        changes.availability = schemas.AvailabilityChange(old="available", new="insufficient")
    return changes if changes != _UNCHANGED else None


_UNCHANGED = schemas.Changes()


def _tell_terms(
    changes: schemas.Changes, line: model.Line, seen: model.Product | None, now: model.Product | None
) -> None:
    """Tell what keeps the line from being sold before it is accepted. Where nothing differs between the two
    revisions, or one of them cannot be had right now, options are told as far as they are known."""
    if seen is not None and now is not None:
        if seen.identity != now.identity:
            changes.product = schemas.Change(old=seen.id, new=now.id)
        if seen.currency != now.currency:
            changes.currency = schemas.Change(old=seen.currency, new=now.currency)
    old, new = options_of(seen, line.sku), options_of(now, line.sku)
    is_told = changes.product or changes.currency
    if old != new or not is_told:
        changes.options = schemas.OptionsChange(old=old, new=new)


def options_of(product: model.Product | None, sku: str) -> dict[str, str]:
    """The options of a SKU as a product lists it; none where the catalog cannot be had."""
    variant = product.variant(sku) if product is not None else None
    return variant.options if variant is not None else {}


def changes_view(
    cart: model.Cart, chosen: Iterable[str] | None, products: Products, *, currency: str
) -> schemas.ChangesCheck:
    """What changed of the chosen lines (None: all) since the buyer saw them."""
    wanted = set(chosen) if chosen is not None else None
    items = [
        schemas.ChangedLine(
            line_id=line.line_id,
            sku=line.sku,
            name=name_of(products.get(line.revision), line.sku),
            is_available=line.is_available,
            changes=changes_of(line, products, cart.summary.currency or currency) or _UNCHANGED,
        )
        for line in cart.lines
        if wanted is None or line.line_id in wanted
    ]
    return schemas.ChangesCheck(has_changes=any(item.changes != _UNCHANGED for item in items), items=items)


def validation_view(
    cart: model.Cart,
    chosen: Iterable[str] | None,
    products: Products,
    *,
    currency: str,
    quantity_max: int,
    left_to_buy: Mapping[str, int],
) -> schemas.Validation:
    """What `validate` answers: the chosen lines (None: all), each with what keeps it from being bought.
    `left_to_buy`: by SKU, of those with a purchase limit."""
    currency = cart.summary.currency or currency
    wanted = set(chosen) if chosen is not None else None
    details, valid_minor = [], 0
    counted: defaultdict[str, int] = defaultdict(int)
    for line in cart.lines:
        if wanted is not None and line.line_id not in wanted:
            continue
        now = products.get(line.current_revision)
        variant = now.variant(line.sku) if now is not None else None
        others = counted[line.sku]
        counted[line.sku] += line.quantity
        problems = _problems_of(line, variant, rules_of(variant, quantity_max), currency, cart.read_at_ms)
        if not problems:
            problems = _problems_over_lines(line, variant, others, left_to_buy.get(line.sku))
        if not problems:
            valid_minor += line.line_total_minor
        details.append(
            schemas.LineVerdict(
                line_id=line.line_id,
                product_name=name_of(products.get(line.revision), line.sku),
                requested_quantity=line.quantity,
                available_quantity=line.available_quantity,
                is_valid=not problems,
                item_total=to_text(line.line_total_minor, currency),
                problems=problems,
            )
        )
    return schemas.Validation(
        is_valid=all(verdict.is_valid for verdict in details),
        total_valid_amount=to_text(valid_minor, currency),
        details=details,
    )


def _problems_over_lines(
    line: model.Line, variant: model.Variant | None, others: int, left: int | None
) -> list[schemas.LineProblem]:
    """What checkout would refuse a line for because of units that other lines of its SKU have, or that its
    buyer has bought before (`left`: what he may still buy)."""
    has = f"; other lines have {others}" if others else ""
    units = others + line.quantity
    if variant is not None and variant.max_quantity is not None and units > variant.max_quantity:
        message = f"A cart may have {variant.max_quantity} of it{has}."
        return [schemas.LineProblem(code="INVALID_QUANTITY", message=message)]
    if left is not None and units > left:
        message = f"One customer may buy {left} more of it now{has}."
        return [schemas.LineProblem(code="PURCHASE_LIMIT", message=message)]
    return []


def _problems_of(
    line: model.Line, variant: model.Variant | None, rules: Rules, currency: str, now_ms: int
) -> list[schemas.LineProblem]:
    """What checkout would refuse this line for, in checkout's order."""
    starts_on = variant.available_on if variant is not None else None
    if not line.is_active and starts_on and sale_start_ms(starts_on) > now_ms:
        message = f"Its sale starts on {starts_on}."
        return [schemas.LineProblem(code="NOT_YET_ON_SALE", message=message)]
    if not line.is_active:
        return [schemas.LineProblem(code="PRODUCT_INACTIVE", message="It is not on sale any more.")]
    if line.is_changed or line.has_other_currency:
        message = (
            "It is sold in another currency now; it can only be removed."
            if line.has_other_currency
            else "It is not what was seen; accept its changes, or remove it."
        )
        return [schemas.LineProblem(code="LINE_CHANGED", message=message)]
    if not rules.allows(line.quantity):
        return [schemas.LineProblem(code="INVALID_QUANTITY", message=f"A quantity is {rules}.")]
    if line.current_price_minor > line.unit_price_minor:
        message = (
            f"The price rose from {to_text(line.unit_price_minor, currency)} "
            f"to {to_text(line.current_price_minor, currency)}."
        )
        return [schemas.LineProblem(code="PRICE_CHANGED", message=message)]
    if not line.is_available:
        message = f"Only {line.available_quantity} of {line.quantity} can be had."
        return [schemas.LineProblem(code="INSUFFICIENT_STOCK", message=message)]
    return []


# --- checkout, orders, payments --------------------------------------------------------------------


class OrderFacts(NamedTuple):
    """What is told of orders beside themselves: texts of the catalog, and what the shop did with them."""

    products: Products
    fulfilments: Mapping[str, model.Fulfilment] | None
    """By order, those that are not `unfulfilled`; None while the record cannot be asked."""


_SHIPPABLE: Final = frozenset({"paid", "refunded"})


async def facts_of_orders(store: CartStore, orders: Iterable[model.Order]) -> OrderFacts:
    """Raises nothing: without the catalog and the record orders are told with less."""
    orders = tuple(orders)
    products = await store.products_by_revision({line.revision for order in orders for line in order.lines})
    # Nothing is done with an order before it is paid, so that a checkout asks the record for nothing.
    shippable = [order.order_id for order in orders if order.status in _SHIPPABLE]
    return OrderFacts(products, await store.fulfilments_of(shippable) if shippable else {})


def contact_view(details: Details) -> schemas.OrderContact | None:
    found = details.contact
    return schemas.OrderContact(email=found.email, phone=found.phone) if found is not None else None


def address_view(found: Address | None) -> schemas.OrderAddress | None:
    if found is None:
        return None
    return schemas.OrderAddress(**{name: getattr(found, name) for name in found.__struct_fields__})


class RowReader:
    """Reads the members of one row of a list, and names those that cannot be read."""

    def __init__(self, kind: str, name: str) -> None:
        self._kind, self._name = kind, name
        self._unreadable: list[str] = []

    def read(self, member: str, value: Callable[[], T], otherwise: T) -> T:
        """The member's value; `otherwise` when what is stored of it does not give one."""
        try:
            return value()
        except (CartError, ValueError, TypeError, ArithmeticError, LookupError, OSError) as error:
            self.note(member, error)
            return otherwise

    def note(self, member: str, error: Exception | None = None) -> None:
        """This member cannot be read."""
        self._unreadable.append(member)
        note_unreadable(self._kind, self._name, member, error)

    def json(self, member: str, text: str | None) -> dict[str, Any]:
        """A stored JSON object, undecoded; empty when it cannot be handed on."""
        found = passed_through(text)
        if found is None:
            self.note(member)
        return cast(dict[str, Any], found or EMPTY)

    def time(self, member: str, at_ms: int) -> str:
        """A time; that of 0 when RFC 3339 has no word for it: clients parse every time that they get."""
        if 0 <= at_ms < _YEAR_10000_MS:
            return time_text(at_ms)
        self.note(member)
        return time_text(0)

    @property
    def unreadable(self) -> list[str] | msgspec.UnsetType:
        return self._unreadable or msgspec.UNSET


def order_view(order: model.Order, facts: OrderFacts) -> schemas.Order:
    """An order as lists tell it."""
    return schemas.Order(**_order_fields(order, facts, RowReader("order", order.order_id)))


def order_detail_view(order: model.Order, payment: model.Payment, facts: OrderFacts) -> schemas.OrderDetail:
    """An order as it is told by itself, with the details of its checkout."""
    return schemas.OrderDetail(**_order_detail_fields(order, payment, facts))


def cancelled_order_view(
    order: model.Order, payment: model.Payment, orders: Iterable[model.Order], facts: OrderFacts
) -> schemas.CancelledOrder:
    """An order with all that were cancelled with it."""
    return schemas.CancelledOrder(
        **_order_detail_fields(order, payment, facts),
        cancelled_orders=[order_view(other, facts) for other in orders],
    )


def _order_detail_fields(order: model.Order, payment: model.Payment, facts: OrderFacts) -> dict[str, Any]:
    row = RowReader("order", order.order_id)
    details = details_in(payment.details_json)
    for member in details.unreadable:
        row.note(member)
    told = details.metadata_json
    fields = {
        "contact": contact_view(details),
        "shipping_address": address_view(details.shipping_address),
        "billing_address": address_view(details.billing_address),
        "metadata": row.json("metadata", told) if told is not None else None,
    }
    return {**_order_fields(order, facts, row), **fields}


def _order_fields(order: model.Order, facts: OrderFacts, row: RowReader) -> dict[str, Any]:
    products = facts.products
    # Every order has lines and a currency; one that cannot be read at all has neither.
    if not order.lines:
        row.note("lines")
    fields = {
        "order_id": order.order_id,
        "checkout_id": order.checkout_id,
        "seller": order.seller or None,
        "status": order.status,
        "release_reason": order.release_reason,
        "lines": [
            _order_line_view(line, products.get(line.revision), order, number)
            for number, line in enumerate(order.lines)
        ],
        "total": row.read("total", lambda: to_text(order.total_minor, order.currency), ""),
        "currency": order.currency,
        "payment_id": order.payment_id,
        "created_at": row.time("created_at", order.created_at_ms if order.currency else -1),
        "fulfilment": _fulfilment_of(order, facts),
    }
    return {**fields, "unreadable": row.unreadable}


def _fulfilment_of(order: model.Order, facts: OrderFacts) -> schemas.Fulfilment | None:
    if facts.fulfilments is None and order.status in _SHIPPABLE:
        return None
    return fulfilment_view((facts.fulfilments or {}).get(order.order_id, model.UNFULFILLED))


def fulfilment_view(found: model.Fulfilment) -> schemas.Fulfilment:
    return schemas.Fulfilment(
        state=found.state,
        carrier=found.carrier,
        tracking=found.tracking,
        updated_at=time_text(found.updated_at_ms) if found.updated_at_ms is not None else None,
    )


def _order_line_view(
    line: model.OrderLine, seen: model.Product | None, order: model.Order, number: int
) -> schemas.OrderLine:
    row = RowReader("order line", f"{order.order_id} {number}")
    currency = order.currency
    variant = seen.variant(line.sku) if seen else None
    properties = row.json("properties", line.properties_json)
    return schemas.OrderLine(
        line_id=line.line_id,
        sku=line.sku,
        name=name_of(seen, line.sku),
        image=image_of(seen),
        options=variant.options if variant else {},
        properties=properties,
        quantity=line.quantity,
        unit_price=row.read("unit_price", lambda: to_text(line.unit_price_minor, currency), ""),
        line_total=row.read(
            "line_total", lambda: to_text(line.unit_price_minor * line.quantity, currency), ""
        ),
        unreadable=row.unreadable,
    )


def _payment_fields(
    store: CartStore, payment: model.Payment, orders: Iterable[model.Order], read_at_ms: int
) -> dict[str, Any]:
    # 0: it came from the record, which has no clock of the engine.
    now_ms = read_at_ms or int(time.time() * 1_000)
    is_open = payment.status == "pending"
    gateway = store.gateways.get(payment.gateway)
    return {
        "id": payment.payment_id,
        "hash": payment_hash(payment, list(orders)),
        "gateway": payment.gateway,
        "method": payment.method,
        "status": payment.status,
        "expires_at": time_text(payment.expires_at_ms),
        "time_remaining_seconds": seconds_left(payment.expires_at_ms, now_ms) if is_open else 0,
        "client": gateway.client_fields(payment) if gateway is not None and is_open else {},
    }


def payment_detail_view(
    store: CartStore, found: model.Checkout | model.PaymentResult, facts: OrderFacts
) -> schemas.PaymentDetail:
    payment = found.payment
    return schemas.PaymentDetail(
        **_payment_fields(store, payment, found.orders, found.read_at_ms),
        checkout_id=payment.checkout_id,
        amount=to_text(payment.amount_minor, payment.currency),
        currency=payment.currency,
        attempts=payment.attempts,
        created_at=time_text(payment.created_at_ms),
        orders=[order_view(order, facts) for order in found.orders],
    )


def checkout_view(
    store: CartStore, checkout: model.Checkout, facts: OrderFacts, order_token: str
) -> schemas.Checkout:
    payment = checkout.payment
    return schemas.Checkout(
        checkout_type=payment.checkout_type,
        checkout_id=payment.checkout_id,
        total_amount=to_text(payment.amount_minor, payment.currency),
        currency=payment.currency,
        order_count=len(checkout.orders),
        orders=[order_view(order, facts) for order in checkout.orders],
        payment=schemas.Payment(**_payment_fields(store, payment, checkout.orders, checkout.read_at_ms)),
        order_token=order_token,
    )


# --- catalog and stock -----------------------------------------------------------------------------


def product_answer(product: model.Product, levels: Mapping[str, model.StockLevel]) -> Answer:
    """A product with its ETag: its revision, and a digest of what may change without it."""
    body = msgspec.json.encode(product_view(product, levels))
    etag = b'"%d-%b"' % (product.revision, hashlib.sha256(body).hexdigest()[:16].encode())
    return Answer(body, 200, ((b"etag", etag),))


def product_view(product: model.Product, levels: Mapping[str, model.StockLevel]) -> schemas.Product:
    """A product; `available` of its variants is told where the level is known."""
    row = RowReader("product", product.id)
    now_ms = time.time_ns() // 1_000_000
    if not product.currency:
        # What of its revision could be read.
        row.note("variants")
    return schemas.Product(
        id=product.id,
        title=product.title,
        description=product.description,
        seller=product.seller,
        active=product.active,
        images=list(product.images),
        options=list(product.options),
        currency=product.currency,
        variants=row.read(
            "variants",
            lambda: [
                _variant_view(variant, product.currency, levels.get(variant.sku), now_ms)
                for variant in product.variants
            ],
            [],
        ),
        unreadable=row.unreadable,
    )


def _variant_view(
    variant: model.Variant, currency: str, level: model.StockLevel | None, now_ms: int
) -> schemas.Variant:
    limit = variant.max_per_customer
    return schemas.Variant(
        sku=variant.sku,
        options=variant.options,
        price=to_text(variant.price_minor, currency),
        prices={code: to_text(minor, code) for code, minor in variant.prices_minor.items()},
        sale_price=(
            to_text(variant.sale_price_minor, currency) if variant.sale_price_minor is not None else None
        ),
        sale_from=variant.sale_from,
        sale_to=variant.sale_to,
        current_price=to_text(price_minor_at(variant, now_ms), currency),
        policy=variant.policy,
        available_on=variant.available_on,
        promised_on=variant.promised_on,
        hold_policy=variant.hold_policy,
        hold_ttl_seconds=variant.hold_ttl_seconds,
        min_quantity=variant.min_quantity,
        max_quantity=variant.max_quantity,
        multiple_of=variant.multiple_of,
        max_per_customer=(
            schemas.PurchaseLimit(quantity=limit.quantity, window_seconds=limit.window_seconds)
            if limit
            else None
        ),
        available=level.available if level else None,
    )


def ledger_entry_view(entry: LedgerRow) -> schemas.LedgerEntry:
    row = RowReader("ledger entry", f"{entry.seq}")
    return schemas.LedgerEntry(
        seq=entry.seq,
        delta=entry.delta,
        on_hand=entry.on_hand,
        reason=entry.reason,
        reference=entry.reference,
        order_id=entry.order_id,
        at=row.time("at", entry.at_ms),
        unreadable=row.unreadable,
    )


def stock_view(level: model.StockLevel) -> schemas.Stock:
    return schemas.Stock(**_stock_fields(level))


def adjusted_view(
    level: model.StockLevel, delta: int, *, reason: str, reference: str
) -> schemas.StockAdjusted:
    return schemas.StockAdjusted(**_stock_fields(level), delta=delta, reason=reason, reference=reference)


def _stock_fields(level: model.StockLevel) -> dict[str, Any]:
    return {
        "sku": level.sku,
        "on_hand": level.on_hand,
        "held": level.held,
        "available": level.available,
        "sold": level.sold,
        "backordered": level.backordered,
        "policy": level.policy,
    }


def name_of(product: model.Product | None, sku: str) -> str:
    """The name that is told; the SKU where the catalog cannot be had."""
    return product.title if product is not None else sku


def image_of(product: model.Product | None) -> str | None:
    """The image that is told: the product's first."""
    return product.images[0] if product is not None and product.images else None
