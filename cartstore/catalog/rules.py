"""What makes a product one that can be stored and sold. Owns the bounds of every field of a product;
whoever makes products (REST, import) is held to the same ones."""

from __future__ import annotations

import unicodedata
from datetime import datetime

from cartstore.catalog.money import exponent_of
from cartstore.errors import InvalidField
from cartstore.limits import (
    DESCRIPTION_LENGTH_MAX,
    IMAGES_MAX,
    OPTIONS_MAX,
    PRICE_MINOR_MAX,
    QUANTITY_MAX,
    SETTING_MAX,
    TEXT_LENGTH_MAX,
    URL_LENGTH_MAX,
    VARIANTS_MAX,
)
from cartstore.model import ID_PATTERN, Product, Variant, is_sku

_LINE_BREAKS = "\n\r\t"


def check_product(product: Product) -> None:
    """Raise InvalidField, naming the field as REST spells it, for the first value that is not allowed."""
    if not ID_PATTERN.match(product.id):
        raise InvalidField("A product id is 1 to 128 of A-Z a-z 0-9 . _ ~ -", field="id")
    _check_text(product.title, "title", TEXT_LENGTH_MAX)
    if product.description is not None:
        _check_text(
            product.description, "description", DESCRIPTION_LENGTH_MAX, lowest=0, allowed=_LINE_BREAKS
        )
    if product.seller is not None:
        _check_text(product.seller, "seller", TEXT_LENGTH_MAX)
    if len(product.images) > IMAGES_MAX:
        raise InvalidField(f"A product has at most {IMAGES_MAX} images.", field="images")
    for number, image in enumerate(product.images):
        _check_text(image, f"images[{number}]", URL_LENGTH_MAX)
    exponent_of(product.currency)
    _check_options(product)
    _check_variants(product)


def _check_options(product: Product) -> None:
    if len(product.options) > OPTIONS_MAX:
        raise InvalidField(f"A product has at most {OPTIONS_MAX} options.", field="options")
    for number, name in enumerate(product.options):
        _check_text(name, f"options[{number}]", TEXT_LENGTH_MAX)
    if len(set(product.options)) != len(product.options):
        raise InvalidField("Two options have the same name.", field="options")


def _check_variants(product: Product) -> None:
    if not 1 <= len(product.variants) <= VARIANTS_MAX:
        raise InvalidField(f"A product has 1 to {VARIANTS_MAX} variants.", field="variants")
    skus: set[str] = set()
    combinations: set[tuple[str, ...]] = set()
    for number, variant in enumerate(product.variants):
        at = f"variants[{number}]"
        _check_variant(variant, at)
        if variant.sku in skus:
            raise InvalidField(f"SKU {variant.sku} is listed twice.", field=f"{at}.sku", sku=variant.sku)
        skus.add(variant.sku)
        if set(variant.options) != set(product.options):
            names = ", ".join(product.options) or "none"
            raise InvalidField(
                f"A variant names exactly the product's options: {names}.", field=f"{at}.options"
            )
        for name, value in variant.options.items():
            _check_text(value, f"{at}.options.{name}", TEXT_LENGTH_MAX)
        combination = tuple(variant.options[name] for name in product.options)
        if combination in combinations:
            raise InvalidField("Two variants have the same options.", field=f"{at}.options", sku=variant.sku)
        combinations.add(combination)


def _check_variant(variant: Variant, at: str) -> None:
    if not is_sku(variant.sku):
        raise InvalidField("A SKU is 1 to 128 of A-Z a-z 0-9 . _ ~ -", field=f"{at}.sku")
    _check_range(variant.price_minor, f"{at}.price", 0, PRICE_MINOR_MAX)
    for currency, price_minor in variant.prices_minor.items():
        exponent_of(currency)
        _check_range(price_minor, f"{at}.prices.{currency}", 0, PRICE_MINOR_MAX)
    if variant.available_on is not None:
        try:
            datetime.fromisoformat(variant.available_on)
        except ValueError:
            raise InvalidField("available_on must be an ISO 8601 date.", field=f"{at}.available_on") from None
    if variant.hold_ttl_seconds is not None:
        _check_range(variant.hold_ttl_seconds, f"{at}.hold_ttl_seconds", 1, SETTING_MAX)
    _check_range(variant.min_quantity, f"{at}.min_quantity", 1, QUANTITY_MAX)
    _check_range(variant.multiple_of, f"{at}.multiple_of", 1, QUANTITY_MAX)
    if variant.max_quantity is not None:
        _check_range(variant.max_quantity, f"{at}.max_quantity", 1, QUANTITY_MAX)
        if variant.max_quantity // variant.multiple_of * variant.multiple_of < variant.min_quantity:
            raise InvalidField(
                "No quantity fits min_quantity, max_quantity and multiple_of.", field=f"{at}.max_quantity"
            )
    if variant.max_per_customer is not None:
        _check_range(variant.max_per_customer.quantity, f"{at}.max_per_customer.quantity", 1, QUANTITY_MAX)
        _check_range(
            variant.max_per_customer.window_seconds, f"{at}.max_per_customer.window_seconds", 1, SETTING_MAX
        )


def _check_range(value: int, field: str, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise InvalidField(f"{field} must be {lowest} to {highest}.", field=field)


def _check_text(value: str, field: str, length_max: int, *, lowest: int = 1, allowed: str = "") -> None:
    if not lowest <= len(value) <= length_max:
        raise InvalidField(f"{field} must have {lowest} to {length_max} characters.", field=field)
    if any(is_control(character) for character in value if character not in allowed):
        raise InvalidField(f"{field} has a control character.", field=field)


def is_control(character: str) -> bool:
    """Control characters, and halves of surrogate pairs, which no UTF-8 can carry."""
    return unicodedata.category(character) in ("Cc", "Cs")
