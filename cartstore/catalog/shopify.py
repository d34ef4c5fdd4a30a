"""Shopify's product export. Owns the meaning of its columns.

The rows of one product stand together and share a handle. The first carries title, description, vendor
and option names; each row may carry a variant, an image, or both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final, Literal

import msgspec

from cartstore.catalog import headers
from cartstore.catalog.csv_source import CsvSource, Row
from cartstore.catalog.money import to_minor
from cartstore.catalog.parsed import (
    VARIANT_FIELDS,
    Note,
    Parsed,
    ParsedProduct,
    Rejection,
    image_problem,
    require_columns,
    said_fields,
    units_of,
)
from cartstore.catalog.rules import check_product
from cartstore.catalog.text import generated_sku, id_of, one_line, text_of_html
from cartstore.errors import InvalidField
from cartstore.limits import IMAGES_MAX, TEXT_LENGTH_MAX, VARIANTS_MAX
from cartstore.model import Product, StockPolicy, Variant

COLUMNS: Final = ("Handle", "Title", "Option1 Name", "Option1 Value", "Variant Price")

BlankTracker = Literal["untracked", "deny"]
"""What a blank inventory tracker means. Shopify sells such a variant without limit."""

_QUANTITY: Final = "Variant Inventory Qty"
_TRACKER: Final = "Variant Inventory Tracker"

_SAID_BY: Final = {
    "title": ("Title",),
    "description": ("Body (HTML)",),
    "seller": ("Vendor",),
    "active": ("Published", "Status"),
    "images": ("Image Src", "Variant Image"),
    "options": ("Option1 Name",),
}
"""Columns by the product's field that they say; any one of them will do."""

_OPTION_NUMBERS: Final = (1, 2, 3)
_POLICIES: Final[dict[str, StockPolicy]] = {"deny": "deny", "continue": "backorder", "": "deny"}
"""A blank policy is Shopify's default."""


def is_shopify(columns: Sequence[str]) -> bool:
    """Whether these are the columns of Shopify's export, by their older or newer names."""
    return headers.has(columns, "URL handle") or (
        headers.has(columns, "Handle")
        and any(name.lower().startswith(("variant ", "option1 ")) for name in columns)
    )


def parse_shopify(
    source: CsvSource, *, currency: str, blank_tracker: BlankTracker = "untracked"
) -> Iterator[Parsed]:
    """Products, rejections and notes in the file's order. Raises InvalidField when a column is missing."""
    newer = headers.SHOPIFY_NEWER if headers.has(source.columns, "URL handle") else {}
    source.rename(headers.canonical(source.columns, headers.SHOPIFY, newer))
    require_columns(source.columns, COLUMNS, "Shopify")
    file = _File(
        columns=source.columns,
        currency=currency,
        says=said_fields(source.columns, _SAID_BY),
        variant_says=frozenset(
            field for field in VARIANT_FIELDS if field != "policy" or _says_policy(source.columns)
        ),
        blank_policy=blank_tracker if _TRACKER in source.columns else None,
    )
    return _parsed(source, file)


def _says_policy(columns: Sequence[str]) -> bool:
    return "Variant Inventory Policy" in columns or _TRACKER in columns


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every row of a file."""

    columns: tuple[str, ...]
    currency: str
    says: frozenset[str]
    variant_says: frozenset[str]
    blank_policy: BlankTracker | None
    """The policy of a variant whose tracker is blank; None when the file has no column for trackers."""
    sku_lines: dict[str, int] = msgspec.field(default_factory=dict)


def _parsed(source: CsvSource, file: _File) -> Iterator[Parsed]:
    seen_handles: set[str] = set()
    for handle, rows in groupby(source.rows(), key=lambda row: row["Handle"]):
        if not handle:
            yield from _rejected(rows, "The row has no handle.")
        elif handle in seen_handles:
            yield from _rejected(rows, "The rows of one product must stand together in the file.")
        else:
            seen_handles.add(handle)
            yield from _Group(handle, list(rows), file).parsed()


def _rejected(rows: Iterable[Row], reason: str) -> Iterator[Rejection]:
    for row in rows:
        yield _rejection(row, row.problem or reason)


def _rejection(row: Row, reason: str) -> Rejection:
    return Rejection(line=row.line, name=row["Variant SKU"] or row["Handle"] or row["Title"], reason=reason)


class _Group:
    """The rows of one handle."""

    def __init__(self, handle: str, rows: list[Row], file: _File) -> None:
        self._handle = handle
        self._product_id = id_of(handle)
        self._rows = rows
        self._file = file
        self._head = next((row for row in rows if row["Title"]), None)
        self._option_names = self._names()
        self._variants: list[Variant] = []
        self._combinations: set[tuple[str, ...]] = set()
        self._quantities: dict[str, int] = {}
        self._images: list[tuple[int, str]] = []
        self._rejections: list[Rejection] = []
        self._notes: list[Note] = []

    def parsed(self) -> Iterator[Parsed]:
        if self._head is None:
            yield from _rejected(self._rows, "No row of this product has a title.")
            return
        for row in self._rows:
            self._take(row)
        is_whole = not self._rejections
        try:
            product = self._product(self._head)
        except InvalidField as problem:
            named = {rejection.line for rejection in self._rejections}
            yield from self._rejections
            reason = f"The product cannot be imported: {problem.message}"
            yield from _rejected((row for row in self._rows if row.line not in named), reason)
            return
        yield from self._rejections
        yield from self._notes
        yield ParsedProduct(
            product=product,
            quantities=self._quantities,
            line=self._rows[0].line,
            name=self._handle,
            is_whole=is_whole,
            says=self._file.says,
            variant_says=self._file.variant_says,
        )

    def _take(self, row: Row) -> None:
        """Add what a row carries, or say why it cannot be taken."""
        has_variant = any(
            row[column]
            for column in ("Variant Price", "Variant SKU", *(f"Option{n} Value" for n in _OPTION_NUMBERS))
        )
        try:
            if row.problem is not None:
                raise InvalidField(row.problem)
            if has_variant:
                self._take_variant(row)
            elif not row["Image Src"] and not self._has_text(row):
                raise InvalidField("The row has neither a variant nor an image.")
            elif not row["Image Src"]:
                self._note(row, "The row has no variant and no image; its texts count.")
        except InvalidField as problem:
            self._rejections.append(_rejection(row, problem.message))
            return
        self._take_image(row, row["Image Src"], row["Image Position"])
        self._take_image(row, row["Variant Image"], "")

    def _take_variant(self, row: Row) -> None:
        values = tuple(self._value(row, n) for n in _OPTION_NUMBERS)
        used = tuple(value for value in values if value is not None)
        if not row["Variant Price"]:
            raise InvalidField("Variant Price is blank.")
        said_policy = row["Variant Inventory Policy"].lower()
        policy = _POLICIES.get(said_policy)
        if policy is None:
            raise InvalidField(
                f"Variant Inventory Policy is {row['Variant Inventory Policy'][:40]!r}, not deny or continue."
            )
        if self._file.blank_policy == "untracked" and not row[_TRACKER]:
            policy = "untracked"
        # Shopify puts an apostrophe before SKUs that a spreadsheet would take for numbers.
        given = row["Variant SKU"].removeprefix("'")
        variant = Variant(
            sku=id_of(given) if given else generated_sku(self._product_id, used),
            options=dict(zip(self._option_names.values(), used, strict=True)),
            price_minor=to_minor(row["Variant Price"], self._file.currency),
            policy=policy,
        )
        self._check_unique(row, variant)
        self._variants.append(variant)
        if policy != "untracked":
            self._quantities[variant.sku] = self._units(row)

    def _units(self, row: Row) -> int:
        """A count that is missing or cannot be is none, and said: the row has more to say than its count."""
        if _QUANTITY not in self._file.columns:
            self._note(row, f"The file has no {_QUANTITY}. If it is new, it has 0 units.")
            return 0
        try:
            return units_of(row[_QUANTITY] or "0", _QUANTITY)
        except InvalidField as problem:
            self._note(row, f"{problem.message} If it is new, it has 0 units.")
            return 0

    def _has_text(self, row: Row) -> bool:
        """Whether it is the head of a product whose variants stand in later rows."""
        return row is self._head and any(
            row[column] for column in ("Title", *(f"Option{n} Name" for n in _OPTION_NUMBERS))
        )

    def _note(self, row: Row, text: str) -> None:
        name = row["Variant SKU"] or row["Handle"]
        self._notes.append(Note(line=row.line, name=name, text=text))

    def _check_unique(self, row: Row, variant: Variant) -> None:
        combination = tuple(variant.options.values())
        if combination in self._combinations:
            raise InvalidField("Another row of this product has the same options.")
        if len(self._variants) >= VARIANTS_MAX:
            raise InvalidField(f"The product has more than {VARIANTS_MAX} variants.")
        first_line = self._file.sku_lines.setdefault(variant.sku, row.line)
        if first_line != row.line:
            raise InvalidField(f"SKU {variant.sku} is on line {first_line} already.")
        self._combinations.add(combination)

    def _value(self, row: Row, number: int) -> str | None:
        value = one_line(row[f"Option{number} Value"])
        if number in self._option_names:
            if not value:
                raise InvalidField(f"Option{number} Value is blank ({self._option_names[number]}).")
            if len(value) > TEXT_LENGTH_MAX:
                raise InvalidField(f"Option{number} Value has more than {TEXT_LENGTH_MAX} characters.")
            return value
        if value and value != "Default Title":
            raise InvalidField(f"Option{number} Value is given, but the product has no Option{number} Name.")
        return None

    def _names(self) -> dict[int, str]:
        """Option names by number; "Default Title" means that there are none."""
        head = self._head
        if head is None or (head["Option1 Name"] == "Title" and head["Option1 Value"] == "Default Title"):
            return {}
        names = {number: one_line(head[f"Option{number} Name"]) for number in _OPTION_NUMBERS}
        return {number: name for number, name in names.items() if name}

    def _take_image(self, row: Row, url: str, position: str) -> None:
        if not url or any(url == known for _, known in self._images):
            return
        problem = image_problem(url)
        if len(self._images) >= IMAGES_MAX:
            problem = f"The image was left out: a product has at most {IMAGES_MAX}."
        if problem is not None:
            self._rejections.append(_rejection(row, problem))
            return
        is_number = position.isascii() and position.isdigit() and len(position) < 10
        self._images.append((int(position) if is_number else 10**9, url))

    def _product(self, head: Row) -> Product:
        if not self._variants:
            raise InvalidField("it has no variant that could be taken.")
        product = Product(
            id=self._product_id,
            title=one_line(head["Title"]),
            description=text_of_html(head["Body (HTML)"]) or None,
            seller=one_line(head["Vendor"]) or None,
            active=head["Published"].lower() != "false" and head["Status"].lower() in ("", "active"),
            images=tuple(url for _, url in sorted(self._images, key=lambda image: image[0])),
            options=tuple(self._option_names.values()),
            currency=self._file.currency,
            variants=tuple(self._variants),
        )
        check_product(product)
        return product
