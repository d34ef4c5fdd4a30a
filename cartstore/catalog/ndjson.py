"""NDJSON: one Product of the REST API in each line. Owns the members of such a line.

A member that a line lacks says nothing, as a missing column of a CSV file does. What reading a product gives
can be sent back: its read-only members are ignored. A line gives no stock.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from cartstore.catalog.csv_source import opened_bytes
from cartstore.catalog.money import to_minor
from cartstore.catalog.parsed import VARIANT_FIELDS, Note, Parsed, ParsedProduct, Rejection
from cartstore.catalog.rules import check_product
from cartstore.catalog.text import id_of
from cartstore.errors import InvalidField
from cartstore.limits import IMPORT_ROWS_MAX, RESERVED_IDS
from cartstore.model import HoldPolicy, Product, PurchaseLimit, StockPolicy, Variant

_BLANK: Final = b" \t\r\n\xef\xbb\xbf"
_BEGINNING_BYTES: Final = 4_096


class _Variant(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A variant as a line has it; null is the default of a member."""

    sku: str
    options: dict[str, str] | UnsetType | None = UNSET
    price: str
    prices: dict[str, str] | UnsetType | None = UNSET
    sale_price: str | UnsetType | None = UNSET
    sale_from: str | UnsetType | None = UNSET
    sale_to: str | UnsetType | None = UNSET
    policy: StockPolicy | UnsetType | None = UNSET
    available_on: str | UnsetType | None = UNSET
    promised_on: str | UnsetType | None = UNSET
    hold_policy: HoldPolicy | UnsetType | None = UNSET
    hold_ttl_seconds: int | UnsetType | None = UNSET
    min_quantity: int | UnsetType | None = UNSET
    max_quantity: int | UnsetType | None = UNSET
    multiple_of: int | UnsetType | None = UNSET
    max_per_customer: PurchaseLimit | UnsetType | None = UNSET
    current_price: msgspec.Raw | UnsetType = UNSET
    available: msgspec.Raw | UnsetType = UNSET


_READ_ONLY: Final = frozenset({"current_price", "available"})
_FIELDS: Final = {
    name: {"price": "price_minor", "prices": "prices_minor", "sale_price": "sale_price_minor"}.get(name, name)
    for name in _Variant.__struct_fields__
    if name not in _READ_ONLY and name != "sku"
}
"""Fields of `model.Variant` by the member that says them."""


class _Product(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A line."""

    id: str
    title: str
    description: str | UnsetType | None = UNSET
    seller: str | UnsetType | None = UNSET
    active: bool | UnsetType | None = UNSET
    images: list[str] | UnsetType | None = UNSET
    options: list[str] | UnsetType | None = UNSET
    currency: str | UnsetType | None = UNSET
    variants: list[_Variant]
    unreadable: msgspec.Raw | UnsetType = UNSET


_PRODUCT_MEMBERS: Final = ("description", "seller", "active", "images", "options")

_decode = msgspec.json.Decoder(_Product).decode


class NdjsonSource:
    """An opened file. Raises InvalidField (file) when it is too large or has too many lines."""

    def __init__(self, source: Path | bytes) -> None:
        self._source = source
        self.rows_done = 0
        with opened_bytes(source) as stream:
            self.rows_total = sum(1 for line in stream if line.strip(_BLANK))
        if self.rows_total > IMPORT_ROWS_MAX:
            raise InvalidField(
                f"The file has {self.rows_total} lines; at most {IMPORT_ROWS_MAX} are taken.", field="file"
            )

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """(number from 1, content) of every line that is not blank."""
        self.rows_done = 0
        with opened_bytes(self._source) as stream:
            for number, line in enumerate(stream, 1):
                if content := line.strip(_BLANK):
                    yield number, content
                    self.rows_done += 1


def is_ndjson(source: Path | bytes) -> bool:
    """Whether the file begins as an object of JSON does, which no header of a CSV file does. Raises
    InvalidField (file) when it is too large or cannot be read."""
    with opened_bytes(source) as stream:
        return stream.read(_BEGINNING_BYTES).lstrip(_BLANK).startswith(b"{")


def parse_ndjson(source: NdjsonSource, *, currency: str) -> Iterator[Parsed]:
    """Products, rejections and notes in the file's order. `currency`: of products that name none."""
    lines_by_id: dict[str, int] = {}
    lines_by_sku: dict[str, int] = {}
    for number, content in source.lines():
        name = ""
        try:
            line = _decoded(content)
            name = line.id[:80]
            product = _product_of(line, currency)
            check_product(product)
            _claim(product, number, lines_by_id, lines_by_sku)
        except InvalidField as problem:
            yield Rejection(line=number, name=name, reason=problem.message)
            continue
        said = [_said(variant) for variant in line.variants]
        everywhere = frozenset(VARIANT_FIELDS[:2]).union(frozenset.intersection(*said) if said else ())
        if any(fields - everywhere for fields in said):
            partly = ", ".join(sorted(frozenset.union(*said) - everywhere))
            text = f"Only some of its variants have {partly}: that counts for SKUs that are new."
            yield Note(line=number, name=name, text=text)
        yield ParsedProduct(
            product=product,
            quantities={},
            line=number,
            name=name,
            is_whole=True,
            says=frozenset(("title", *(its for its in _PRODUCT_MEMBERS if getattr(line, its) is not UNSET))),
            variant_says=everywhere,
        )


def _decoded(content: bytes) -> _Product:
    try:
        return _decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        # Its text names the member and never the value.
        raise InvalidField(f"The line is no product: {str(error)[:200]}.") from None


def _claim(product: Product, number: int, by_id: dict[str, int], by_sku: dict[str, int]) -> None:
    if product.id in by_id:
        raise InvalidField(f"Product {product.id} is on line {by_id[product.id]} already.")
    for variant in product.variants:
        if variant.sku in by_sku:
            raise InvalidField(f"SKU {variant.sku} is on line {by_sku[variant.sku]} already.")
    by_id[product.id] = number
    by_sku.update((variant.sku, number) for variant in product.variants)


def _product_of(line: _Product, default_currency: str) -> Product:
    currency = line.currency or default_currency
    return Product(
        id=_id(line.id),
        title=line.title,
        description=line.description or None,
        seller=line.seller or None,
        active=line.active is not False,
        images=tuple(line.images or ()),
        options=tuple(line.options or ()),
        currency=currency,
        variants=tuple(_variant_of(variant, currency) for variant in line.variants),
    )


def _variant_of(line: _Variant, currency: str) -> Variant:
    return Variant(
        sku=_id(line.sku),
        options=line.options or {},
        price_minor=to_minor(line.price, currency),
        prices_minor={code: to_minor(text, code) for code, text in (line.prices or {}).items()},
        sale_price_minor=to_minor(line.sale_price, currency, field="sale_price") if line.sale_price else None,
        sale_from=line.sale_from or None,
        sale_to=line.sale_to or None,
        policy=line.policy or "deny",
        available_on=line.available_on or None,
        promised_on=line.promised_on or None,
        hold_policy=line.hold_policy or "on_add",
        hold_ttl_seconds=_given(line.hold_ttl_seconds),
        min_quantity=_or_one(line.min_quantity),
        max_quantity=_given(line.max_quantity),
        multiple_of=_or_one(line.multiple_of),
        max_per_customer=line.max_per_customer or None,
    )


def _given(value: int | UnsetType | None) -> int | None:
    return None if value is UNSET else value


def _or_one(value: int | UnsetType | None) -> int:
    given = _given(value)
    return 1 if given is None else given


def _id(text: str) -> str:
    """A reserved id is spelled as in every import; any other that is none is refused by the rules."""
    return id_of(text) if text in RESERVED_IDS else text


def _said(variant: _Variant) -> frozenset[str]:
    return frozenset(field for name, field in _FIELDS.items() if getattr(variant, name) is not UNSET)
