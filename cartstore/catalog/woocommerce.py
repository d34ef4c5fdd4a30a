"""WooCommerce's product export. Owns the meaning of its columns.

A simple product is one row. A variable product is a row of its own, and each variation is another one that
names it as its parent, wherever in the file; so variable products come last, when the file is read.

A variation whose attribute is blank stands for every value of it and becomes one variant per value. Where
WooCommerce counts one stock for several variants (such an expansion, or a stock kept at the parent), the
units are shared out among them: giving each the whole count would sell units twice.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from cartstore.catalog.csv_source import CsvSource, Row
from cartstore.catalog.parsed import (
    VARIANT_FIELDS,
    Note,
    Parsed,
    ParsedProduct,
    Rejection,
    image_problem,
    require_columns,
    said_fields,
)
from cartstore.catalog.rules import check_product
from cartstore.catalog.text import generated_sku, id_of, one_line, text_of_html
from cartstore.catalog.woocommerce_cells import (
    Price,
    Stock,
    is_published,
    is_shared,
    price_of,
    shared,
    stock_of,
    unescaped,
    value_of,
    values_of,
)
from cartstore.catalog.woocommerce_headers import woocommerce_columns
from cartstore.errors import InvalidField
from cartstore.limits import IMAGES_MAX, OPTIONS_MAX, VARIANTS_MAX
from cartstore.model import Product, StockPolicy, Variant

COLUMNS: Final = ("Type", "SKU", "Name", "Regular price")

_SAID_BY: Final = {
    "title": ("Name",),
    "description": ("Description", "Short description"),
    "active": ("Published",),
    "images": ("Images",),
    "options": ("Type",),
}
"""Columns by the product's field that they say; any one of them will do. No column says the seller."""

_LIMITED: Final = "Sold individually?"

_SALE_SAID_BY: Final = {
    "sale_price_minor": ("Sale price",),
    "sale_from": ("Date sale price starts",),
    "sale_to": ("Date sale price ends",),
}

_SKIPPED: Final = {
    "grouped": "A grouped product is a list of other products and cannot be sold itself.",
    "external": "An external product is sold by another shop.",
}
_IMAGE_SEPARATOR: Final = re.compile(r",\s*(?=https?://)")
_ATTRIBUTE_NAME: Final = re.compile(r"Attribute (?P<number>[0-9]+) name\Z")


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a row until its product is complete."""

    line: int
    name: str
    sku: str
    price: Price
    stock: Stock
    images: tuple[str, ...]
    is_limited: bool
    """Sold one at a time."""


class _Variation(msgspec.Struct, frozen=True, kw_only=True):
    part: _Part
    position: int
    attributes: dict[str, str]
    """Value by name in lower case; a blank value means any."""


class _Parent(msgspec.Struct, frozen=True, kw_only=True):
    line: int
    name: str
    product: Product
    """Without variants."""
    stock: Stock
    is_limited: bool
    attributes: dict[str, tuple[str, ...]]


def is_woocommerce(columns: Sequence[str]) -> bool:
    """Whether these are the columns of WooCommerce's export, in any language that is known."""
    known = woocommerce_columns(columns)
    return "Type" in known and "SKU" in known and ("Regular price" in known or "Parent" in known)


def parse_woocommerce(source: CsvSource, *, currency: str) -> Iterator[Parsed]:
    """Products, rejections and notes. Raises InvalidField for a missing column."""
    source.rename(woocommerce_columns(source.columns))
    require_columns(source.columns, COLUMNS, "WooCommerce")
    return _Reader(source, currency).parsed()


class _Reader:
    def __init__(self, source: CsvSource, currency: str) -> None:
        self._source = source
        self._currency = currency
        self._says = said_fields(source.columns, _SAID_BY)
        limited = ("max_quantity",) if _LIMITED in source.columns else ()
        sale = said_fields(source.columns, _SALE_SAID_BY)
        # Without a count the policy is only a guess.
        counted = VARIANT_FIELDS if "Stock" in source.columns else VARIANT_FIELDS[:2]
        self._variant_says = sale.union(counted, limited)
        numbers = (_ATTRIBUTE_NAME.match(column) for column in source.columns)
        self._attribute_numbers = [match["number"] for match in numbers if match]
        self._ids: dict[str, int] = {}
        self._sku_lines: dict[str, int] = {}
        self._parents: dict[str, _Parent] = {}
        """By SKU and by `id:<ID>`, the two ways in which a variation names its parent."""
        self._variations: dict[str, list[_Variation]] = {}
        self._left_out: list[Rejection | Note] = []

    def parsed(self) -> Iterator[Parsed]:
        for row in map(unescaped, self._source.rows()):
            try:
                parsed = self._read(row)
            except InvalidField as problem:
                yield Rejection(line=row.line, name=_name_of(row), reason=problem.message)
            else:
                if parsed is not None:
                    yield parsed
            yield from self._take_left_out()
        yield from self._variable_products()

    def _take_left_out(self) -> list[Rejection | Note]:
        left_out, self._left_out = self._left_out, []
        return left_out

    def _read(self, row: Row) -> Parsed | None:
        if row.problem is not None:
            raise InvalidField(row.problem)
        kinds = [kind.strip().lower() for kind in row["Type"].split(",")]
        for kind, reason in _SKIPPED.items():
            if kind in kinds:
                raise InvalidField(reason)
        if "variation" in kinds:
            self._keep_variation(row)
            return None
        if "variable" in kinds:
            self._keep_parent(row)
            return None
        if "simple" not in kinds:
            raise InvalidField(f"Products of type {row['Type'][:40]!r} cannot be imported.")
        return self._simple(row)

    # --- one row -------------------------------------------------------------------------------

    def _simple(self, row: Row) -> ParsedProduct:
        part = self._part(row)
        variant = _variant(part, part.sku, {}, part.stock.policy, part.is_limited)
        product = self._product(row, part.images, (), (variant,))
        check_product(product)
        self._claim_id(product.id, row.line)
        self._claim_sku(part.sku, row.line)
        quantities = {part.sku: part.stock.units} if part.stock.units is not None else {}
        return ParsedProduct(
            product=product,
            quantities=quantities,
            line=row.line,
            name=part.name,
            is_whole=True,
            says=self._says,
            variant_says=self._variant_says,
        )

    def _keep_parent(self, row: Row) -> None:
        attributes: dict[str, tuple[str, ...]] = {}
        for number in self._attribute_numbers:
            name = one_line(html.unescape(row[f"Attribute {number} name"]))
            if name:
                attributes[name] = values_of(row[f"Attribute {number} value(s)"])
        parent = _Parent(
            line=row.line,
            name=_name_of(row),
            product=self._product(row, self._images(row), (), ()),
            stock=self._stock(row, is_parent=True),
            is_limited=row[_LIMITED] == "1",
            attributes=attributes,
        )
        self._claim_id(parent.product.id, row.line)
        for key in _parent_keys(row):
            self._parents.setdefault(key, parent)

    def _keep_variation(self, row: Row) -> None:
        if not row["Parent"]:
            raise InvalidField("The variation names no parent.")
        if not is_published(row):
            raise InvalidField("The variation is not published.")
        attributes = {}
        for number in self._attribute_numbers:
            name = one_line(html.unescape(row[f"Attribute {number} name"]))
            if name:
                attributes[name.lower()] = value_of(row[f"Attribute {number} value(s)"])
        variation = _Variation(
            part=self._part(row, is_variation=True),
            position=_position_of(row["Position"]),
            attributes=attributes,
        )
        self._variations.setdefault(row["Parent"], []).append(variation)

    def _part(self, row: Row, *, is_variation: bool = False) -> _Part:
        return _Part(
            line=row.line,
            name=_name_of(row),
            sku="" if is_variation and not (row["SKU"] or row["ID"]) else _id_of_row(row),
            price=price_of(row, self._currency),
            stock=self._stock(row),
            images=self._images(row),
            is_limited=row[_LIMITED] == "1",
        )

    def _stock(self, row: Row, *, is_parent: bool = False) -> Stock:
        """A count that is missing or cannot be is none, and said: the row has more to say than its count."""
        stock = stock_of(row)
        # Whether units of a product with variations are counted at all is told by its variations.
        if stock.problem is not None and (stock.is_counted or not is_parent):
            text = f"{stock.problem} If it is new, it has 0 units."
            self._left_out.append(Note(line=row.line, name=_name_of(row), text=text))
        return stock

    def _images(self, row: Row) -> tuple[str, ...]:
        images: list[str] = []
        for url in _IMAGE_SEPARATOR.split(row["Images"]):
            if not url.strip():
                continue
            problem = image_problem(url.strip())
            if len(images) >= IMAGES_MAX:
                problem = f"An image was left out: a product has at most {IMAGES_MAX}."
            if problem is None:
                images.append(url.strip())
            else:
                self._left_out.append(Rejection(line=row.line, name=_name_of(row), reason=problem))
        return tuple(dict.fromkeys(images))

    def _product(
        self, row: Row, images: tuple[str, ...], options: tuple[str, ...], variants: tuple[Variant, ...]
    ) -> Product:
        # The exporter writes line breaks as backslash and n.
        source = (row["Description"] or row["Short description"]).replace("\\n", "\n")
        return Product(
            id=_id_of_row(row),
            title=one_line(html.unescape(row["Name"])),
            description=text_of_html(source) or None,
            active=is_published(row),
            images=images,
            options=options,
            currency=self._currency,
            variants=variants,
        )

    def _claim_id(self, product_id: str, line: int) -> None:
        first_line = self._ids.setdefault(product_id, line)
        if first_line != line:
            raise InvalidField(f"Product {product_id} is on line {first_line} already.")

    def _claim_sku(self, sku: str, line: int) -> None:
        first_line = self._sku_lines.setdefault(sku, line)
        if first_line != line:
            raise InvalidField(f"SKU {sku} is on line {first_line} already.")

    # --- variable products ---------------------------------------------------------------------

    def _variable_products(self) -> Iterator[Parsed]:
        by_parent: dict[int, list[_Variation]] = {}
        for key, variations in self._variations.items():
            parent = self._parents.get(key)
            if parent is not None:
                by_parent.setdefault(parent.line, []).extend(variations)
                continue
            for variation in variations:
                reason = f"The variation's parent {key[:80]!r} is no variable product of this file."
                yield _rejected(variation.part, reason)
        for parent in {parent.line: parent for parent in self._parents.values()}.values():
            yield from self._variable(parent, by_parent.get(parent.line, []))

    def _variable(self, parent: _Parent, variations: list[_Variation]) -> Iterator[Parsed]:
        # WooCommerce sells the first variation that fits, by position.
        variations.sort(key=lambda variation: (variation.position, variation.part.line))
        used = {name for variation in variations for name in variation.attributes}
        options = tuple(name for name in parent.attributes if name.lower() in used)
        taken: dict[tuple[str, ...], Variant] = {}
        quantities: dict[str, int] = {}
        images = list(parent.product.images)
        pool: list[str] = []
        accepted: list[_Part] = []
        for variation in variations:
            part = variation.part
            try:
                made = self._variants(parent, options, variation, taken)
            except InvalidField as problem:
                yield _rejected(part, problem.message)
                continue
            accepted.append(part)
            taken.update(made)
            skus = [variant.sku for variant in made.values()]
            if is_shared(part.stock, parent.stock):
                pool += skus
            elif part.stock.units is not None:
                quantities.update(shared(part.stock.units, skus))
            images += part.images
        if pool and parent.stock.units is not None:
            quantities.update(shared(parent.stock.units, pool))
        try:
            product = self._complete(parent, options, taken, images)
        except InvalidField as problem:
            reason = f"The product cannot be imported: {problem.message}"
            yield Rejection(line=parent.line, name=parent.name, reason=reason)
            yield from (_rejected(part, reason) for part in accepted)
            return
        yield ParsedProduct(
            product=product,
            quantities=quantities,
            line=parent.line,
            name=parent.name,
            is_whole=len(accepted) == len(variations),
            says=self._says,
            variant_says=self._variant_says,
        )

    def _variants(
        self,
        parent: _Parent,
        options: tuple[str, ...],
        variation: _Variation,
        taken: dict[tuple[str, ...], Variant],
    ) -> dict[tuple[str, ...], Variant]:
        """The variants that a variation stands for, by their option values."""
        part = variation.part
        foreign = set(variation.attributes) - {name.lower() for name in parent.attributes}
        if foreign:
            raise InvalidField(f"Its product has no attribute {', '.join(sorted(foreign))}.")
        if not options:
            raise InvalidField("The variation names no attribute.")
        if len(options) > OPTIONS_MAX:
            raise InvalidField(f"The product varies by more than {OPTIONS_MAX} attributes.")
        choices = [_choices(name, variation.attributes.get(name.lower(), ""), parent) for name in options]
        is_expanded = [not variation.attributes.get(name.lower()) for name in options]
        count = 1
        for values in choices:
            count *= len(values)
        if count + len(taken) > VARIANTS_MAX:
            raise InvalidField(f"The product would have more than {VARIANTS_MAX} variants.")
        stock = parent.stock if is_shared(part.stock, parent.stock) else part.stock
        made: dict[tuple[str, ...], Variant] = {}
        for combination in itertools.product(*choices):
            if combination in taken:
                continue
            chosen = tuple(
                value for value, expanded in zip(combination, is_expanded, strict=True) if expanded
            )
            if not part.sku:
                # The file has neither its SKU nor its ID.
                sku = generated_sku(parent.product.id, combination)
            else:
                sku = generated_sku(part.sku, chosen) if chosen else part.sku
            self._claim_sku(sku, part.line)
            made[combination] = _variant(
                part,
                sku,
                dict(zip(options, combination, strict=True)),
                stock.policy,
                part.is_limited or parent.is_limited,
            )
        if not made:
            raise InvalidField("Other variations of the product cover all its options already.")
        return made

    def _complete(
        self,
        parent: _Parent,
        options: tuple[str, ...],
        taken: dict[tuple[str, ...], Variant],
        images: list[str],
    ) -> Product:
        if not taken:
            raise InvalidField("it has no variation that could be taken.")
        product = msgspec.structs.replace(
            parent.product,
            options=options,
            variants=tuple(taken.values()),
            images=tuple(dict.fromkeys(images))[:IMAGES_MAX],
        )
        check_product(product)
        return product


def _variant(
    part: _Part, sku: str, options: dict[str, str], policy: StockPolicy, is_limited: bool
) -> Variant:
    return Variant(
        sku=sku,
        options=options,
        policy=policy,
        max_quantity=1 if is_limited else None,
        **msgspec.structs.asdict(part.price),
    )


def _choices(name: str, value: str, parent: _Parent) -> tuple[str, ...]:
    """The values that a variation has for an attribute: its own as the parent spells it, or all."""
    listed = parent.attributes[name]
    if value:
        return (next((known for known in listed if known.lower() == value.lower()), value),)
    if not listed:
        raise InvalidField(f"{name} is blank, which means any value, but its product lists none.")
    return listed


def _name_of(row: Row) -> str:
    return row["SKU"] or (f"id-{row['ID']}" if row["ID"] else row["Name"])


def _id_of_row(row: Row) -> str:
    if not row["SKU"] and not row["ID"]:
        raise InvalidField("The row has neither SKU nor ID.")
    return id_of(row["SKU"] or f"id-{row['ID']}")


def _parent_keys(row: Row) -> list[str]:
    return [key for key in (row["SKU"], f"id:{row['ID']}" if row["ID"] else "") if key]


def _position_of(cell: str) -> int:
    return int(cell) if re.fullmatch(r"[0-9]{1,9}", cell) else 0


def _rejected(part: _Part, reason: str) -> Rejection:
    return Rejection(line=part.line, name=part.name, reason=reason)
