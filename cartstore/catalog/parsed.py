"""What reading a shop's export gives: products, and rows that cannot be taken with the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from cartstore.catalog.rules import image_url_problem
from cartstore.errors import InvalidField
from cartstore.limits import STOCK_MAX
from cartstore.model import Product

PRODUCT_FIELDS: Final = ("title", "description", "seller", "active", "images", "options")
"""Fields of a product that a file may say; its id and its variants are said by every file."""

VARIANT_FIELDS: Final = ("options", "price_minor", "policy")
"""Fields of a variant that every export has a column for."""


class ParsedProduct(msgspec.Struct, frozen=True, kw_only=True):
    """A product that satisfies `check_product`."""

    product: Product
    quantities: dict[str, int]
    """Initial stock by SKU; SKUs that the file gives no number for are absent."""
    line: int
    name: str
    is_whole: bool
    """False when rows of it were rejected: variants that it lacks may be those."""
    says: frozenset[str] = frozenset(PRODUCT_FIELDS)
    """Fields of the product that the file has a column for. Of the others it says nothing, whatever their
    value in `product` is."""
    variant_says: frozenset[str] = frozenset(VARIANT_FIELDS)
    """The same of the variants' fields."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was imported in another way than the file has it, or that an operator should know."""

    line: int
    """Of the row's or the product's first line in the file, from 1."""
    name: str
    """SKU, handle or id, as the file has it."""
    text: str
    """A sentence."""


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """A row, or a part of one, that was not imported."""

    line: int
    """Of the row's first line in the file, from 1."""
    name: str
    """SKU, handle or id, as the file has it."""
    reason: str
    """A sentence."""


Parsed = ParsedProduct | Rejection | Note

_QUANTITY = re.compile(r"[0-9]{1,15}\Z")


def units_of(text: str, column: str) -> int:
    """A stock quantity. Raises InvalidField unless it is a whole number from 0 to STOCK_MAX."""
    if text.startswith("-"):
        raise InvalidField(f"{column} is negative: {text[:20]}.", field=column)
    if not _QUANTITY.match(text):
        raise InvalidField(f"{column} is not a whole number: {text[:40]!r}.", field=column)
    if int(text) > STOCK_MAX:
        raise InvalidField(f"{column} is {text}; at most {STOCK_MAX} units can be counted.", field=column)
    return int(text)


def image_problem(url: str) -> str | None:
    """Why this address of an image cannot be kept, or None."""
    problem = image_url_problem(url)
    return f"The image {url[:80]!r} was left out: it {problem}." if problem is not None else None


def said_fields(columns: Sequence[str], said_by: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The fields that a file with these columns says; `said_by` has the columns of each field."""
    return frozenset(field for field, names in said_by.items() if any(name in columns for name in names))


def require_columns(columns: Sequence[str], wanted: Sequence[str], kind: str) -> None:
    """Raise InvalidField when a column is missing that no row can do without."""
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise InvalidField(f"This {kind} file lacks the column {', '.join(missing)}.", field="file")
