"""Names of columns: other spellings of those that the readers know. Refuses to know what a column means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

SHOPIFY: Final = (
    *("Handle", "Title", "Body (HTML)", "Vendor", "Published", "Status"),
    *(f"Option{number} {part}" for number in (1, 2, 3) for part in ("Name", "Value")),
    *("Variant SKU", "Variant Price", "Variant Inventory Tracker", "Variant Inventory Qty"),
    *("Variant Inventory Policy", "Image Src", "Image Position", "Variant Image"),
)
"""Shopify's columns, as its exports had them first."""

SHOPIFY_NEWER: Final[Mapping[str, str]] = {
    "URL handle": "Handle",
    "Description": "Body (HTML)",
    "Published on online store": "Published",
    "SKU": "Variant SKU",
    "Price": "Variant Price",
    "Inventory tracker": "Variant Inventory Tracker",
    "Inventory quantity": "Variant Inventory Qty",
    "Continue selling when out of stock": "Variant Inventory Policy",
    "Product image URL": "Image Src",
    "Variant image URL": "Variant Image",
}
"""The names of Shopify's newer template (help.shopify.com, "Using CSV files to import and export products").
Only in a file that has the first of them: `SKU` and `Description` are WooCommerce's as well."""


def canonical(columns: Sequence[str], known: Sequence[str], others: Mapping[str, str]) -> tuple[str, ...]:
    """The columns by the names that a reader knows, in any case; `others` maps further names to those.
    Columns that the reader does not know keep their name."""
    names = {folded(name): name for name in known} | {folded(name): own for name, own in others.items()}
    return tuple(names.get(folded(column), column) for column in columns)


def is_shopify_column(name: str) -> bool:
    """Whether the reader of Shopify's files knows a column of this name."""
    return has((*SHOPIFY, *SHOPIFY_NEWER), name)


def has(columns: Sequence[str], *names: str) -> bool:
    """Whether all of these columns are there, in any case."""
    return {folded(name) for name in names} <= {folded(column) for column in columns}


def folded(name: str) -> str:
    """The name as it is compared: without regard to case and to the kind of its spaces."""
    return " ".join(name.split()).casefold()
