"""Carts as JSON text, in the shapes of `schemas`. Owns what is encoded once and used again: the texts of the
catalog, which are the same for every buyer of a revision.

What a line tells is mostly numbers, times and ids, none of which needs escaping; so a line is one format of
ready parts. `tests/api` holds this text and the shapes together, member by member.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from cartstore import model
from cartstore.catalog.money import to_text
from cartstore.settings import Settings
from cartstore.stored_json import note_unreadable, passed_through
from cartstore_api import views
from cartstore_api.views import Products, time_text

FRAGMENTS_MAX: Final = 20_000
"""Texts of variants that are kept; less than a kilobyte each."""

_DAY_MS = 86_400_000
_encode = msgspec.json.Encoder().encode

_NO_CHANGES: Final = ',"changes":{}}'
_UNREADABLE: Final = ',"unreadable":["properties"]}'
"""The end of a line whose stored properties cannot be told."""

_NO_CHANGES_UNREADABLE: Final = _NO_CHANGES[:-1] + _UNREADABLE
_NO_PRODUCTS: Final[Products] = {}

LineText = tuple[str, str, str]
"""A line in three parts; the one in the middle is the countdown of its hold, or empty."""

Load = Callable[[Iterable[int]], Awaitable[Mapping[int, model.Product]]]


_NO_LINE: Final[LineText] = "null", "", ""


class _Fragment(NamedTuple):
    """What a line tells of the catalog: the members before its properties, and the one after them. `whole`:
    everything up to its quantity, of a line without properties, whose id is its SKU."""

    before: str
    image: str
    whole: str


class CartText:
    """Writes the carts of one shop; `load` gives products by revision."""

    def __init__(self, settings: Settings, load: Load) -> None:
        self._load = load
        self._currency = settings.currency
        self._cart_ttl_ms = {
            "guest": settings.guest_cart_ttl_days * _DAY_MS,
            "user": settings.member_cart_ttl_days * _DAY_MS,
        }
        self._fragments: dict[tuple[int, str], _Fragment] = {}

    async def cart(self, cart: model.Cart, kind: model.OwnerKind) -> tuple[bytes, bytes]:
        """A whole cart, and its ETag: `"<version>-<digest>"`, the digest over everything that is told except
        the countdown of holds."""
        lines = cart.lines
        products = await self._products_of(lines)
        summary = cart.summary
        currency, now_ms = summary.currency or self._currency, cart.read_at_ms
        told: list[str] = []
        stable: list[str] = []
        units = subtotal_minor = 0
        is_unavailable = has_changes = False
        for line in lines:
            is_available = line.is_available
            fragment = self._fragments.get((line.revision, line.sku))
            before, countdown, after = self._line(line, is_available, fragment, products, currency, now_ms)
            told.append(f"{before}{countdown}{after}")
            stable.append(before)
            if after is not _NO_CHANGES:
                has_changes = has_changes or after is not _NO_CHANGES_UNREADABLE
                stable.append(after)
            units += line.quantity
            if is_available:
                subtotal_minor += line.unit_price_minor * line.quantity
            else:
                is_unavailable = True
        subtotal = to_text(subtotal_minor, currency)
        updated_at_ms = cart.updated_at_ms
        head = f'{{"id":{_json(cart.cart_id)},"owner":"{kind}","currency":"{currency}","items":['
        tail = (
            f'],"saved":[],"items_count":{len(lines)},"total_items":{units},"subtotal":"{subtotal}",'
            f'"discounts":[],"total":"{subtotal}","has_unavailable_items":{_bool(is_unavailable)},'
            f'"has_changes":{_bool(has_changes)},"version":{summary.version},'
            f'"created_at":{_time(cart.created_at_ms)},"updated_at":{_time(updated_at_ms)},"expires_at":'
            f"{_time(None if updated_at_ms is None else updated_at_ms + self._cart_ttl_ms[kind])}}}"
        )
        digest = hashlib.sha256(f"{head}{''.join(stable)}{tail}".encode()).hexdigest()[:16]
        return f"{head}{','.join(told)}{tail}".encode(), f'"{summary.version}-{digest}"'.encode()

    async def products_of(self, result: model.LineResult) -> Products:
        """What telling this result needs of the catalog."""
        return await self._products_of((result.line,)) if result.line is not None else _NO_PRODUCTS

    def line_change(self, result: model.LineResult, products: Products | None = None) -> bytes | None:
        """What a mutation of one line did; without `products` None when telling it needs some of them."""
        line, summary = result.line, result.summary
        currency = summary.currency or self._currency
        if line is None:
            before, countdown, after = _NO_LINE
        else:
            fragment = self._fragments.get((line.revision, line.sku))
            if products is None:
                if fragment is None or line.revision != line.current_revision:
                    return None
                products = _NO_PRODUCTS
            before, countdown, after = self._line(
                line, line.is_available, fragment, products, currency, result.read_at_ms
            )
        version = summary.version
        return (
            f'{{"line":{before}{countdown}{after},"summary":{{"items_count":{summary.lines_count},'
            f'"total_items":{summary.total_items},"subtotal":"{to_text(summary.subtotal_minor, currency)}",'
            f'"currency":"{currency}","version":{version}}},"version":{version}}}'
        ).encode()

    def summary(self, summary: model.Summary) -> bytes:
        """The running totals."""
        currency = summary.currency or self._currency
        return (
            f'{{"items_count":{summary.lines_count},"total_items":{summary.total_items},'
            f'"subtotal":"{to_text(summary.subtotal_minor, currency)}","currency":"{currency}",'
            f'"version":{summary.version}}}'
        ).encode()

    async def _products_of(self, lines: Sequence[model.Line]) -> Products:
        """Nothing when all texts are kept and nothing changed; else what all of these lines need: a text that
        is kept now may have made room for another when it is wanted."""
        fragments = self._fragments
        for line in lines:
            if line.revision != line.current_revision or (line.revision, line.sku) not in fragments:
                return await self._load(views.revisions_of(lines))
        return _NO_PRODUCTS

    def _line(
        self,
        line: model.Line,
        is_available: bool,
        fragment: _Fragment | None,
        products: Products,
        currency: str,
        now_ms: int,
    ) -> LineText:
        revision, sku, line_id, quantity = line.revision, line.sku, line.line_id, line.quantity
        fragment = fragment or self._new_fragment(products.get(revision), sku)
        price, available = line.unit_price_minor, line.available_quantity
        no_changes = _NO_CHANGES
        rests_until = _time(line.rests_until_ms) if line.rests_until_ms else "null"
        if line_id == sku:
            beginning = fragment.whole
        else:
            properties = line.properties_json
            if passed_through(properties) is None:
                note_unreadable("cart line", line_id, "properties")
                properties, no_changes = None, _NO_CHANGES_UNREADABLE
            beginning = _beginning(line_id, sku, properties, fragment.before, fragment.image)
        before = (
            f'{beginning}{quantity},"unit_price":"{to_text(price, currency)}",'
            f'"line_total":"{to_text(price * quantity, currency)}",'
            f'"added_at":"{time_text(line.added_at_ms)}","updated_at":"{time_text(line.updated_at_ms)}",'
            f'"is_available":{"true" if is_available else "false"},'
            f'"available_quantity":{"null" if available is None else available},"hold_rests_until":'
            f'{rests_until},"hold":'
        )
        if price == line.current_price_minor and revision == line.current_revision and is_available:
            changes = no_changes
        else:
            found = views.changes_of(line, products, currency)
            end = "}" if no_changes is _NO_CHANGES else _UNREADABLE
            changes = f',"changes":{_json(found)}{end}' if found is not None else no_changes
        if not line.held:
            return f"{before}null", "", changes
        expires_at_ms = line.hold_expires_at_ms
        return (
            f'{before}{{"quantity":{line.held},"expires_at":"{time_text(expires_at_ms)}",'
            '"expires_in_seconds":',
            f"{views.seconds_left(expires_at_ms, now_ms)}}}",
            changes,
        )

    def _new_fragment(self, seen: model.Product | None, sku: str) -> _Fragment:
        """Without the product (the catalog is away) the SKU stands in for the name, and nothing is kept."""
        variant = seen.variant(sku) if seen is not None else None
        before = (
            f'"product_id":{_json(seen.id if seen is not None else None)},'
            f'"name":{_json(views.name_of(seen, sku))},'
            f'"options":{_json(variant.options if variant is not None else {})},"properties":'
        )
        image = f',"image":{_json(views.image_of(seen))}'
        fragment = _Fragment(before, image, _beginning(sku, sku, None, before, image))
        if seen is not None:
            while len(self._fragments) >= FRAGMENTS_MAX:
                del self._fragments[next(iter(self._fragments))]
            self._fragments[seen.revision, sku] = fragment
        return fragment


def _beginning(line_id: str, sku: str, properties_json: str | None, before: str, image: str) -> str:
    return (
        f'{{"line_id":"{line_id}","variation_key":"{line_id}","sku":"{sku}",{before}{properties_json or "{}"}'
        f'{image},"quantity":'
    )


def _json(value: Any) -> str:
    return _encode(value).decode()


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _time(at_ms: int | None) -> str:
    return "null" if at_ms is None else f'"{time_text(at_ms)}"'
