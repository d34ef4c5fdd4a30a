"""What reading a shop's export gives: products, and rows that cannot be taken with the reason."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from cartstore.catalog.rules import image_url_problem
from cartstore.errors import InvalidField
from cartstore.limits import STOCK_MAX
from cartstore.model import Product


class ParsedProduct(msgspec.Struct, frozen=True, kw_only=True):
    """A product that satisfies `check_product`."""

    product: Product
    quantities: dict[str, int]
    """Initial stock by SKU; SKUs that the file gives no number for are absent."""
    line: int
    name: str
    is_whole: bool
    """False when rows of it were rejected: variants that it lacks may be those."""


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """A row, or a part of one, that was not imported."""

    line: int
    """Of the row's first line in the file, from 1."""
    name: str
    """SKU, handle or id, as the file has it."""
    reason: str
    """A sentence."""


Parsed = ParsedProduct | Rejection

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


def require_columns(columns: Sequence[str], wanted: Sequence[str], kind: str) -> None:
    """Raise InvalidField when a column is missing that no row can do without."""
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise InvalidField(f"This {kind} file lacks the column {', '.join(missing)}.", field="file")
