"""What makes a product one that can be stored and sold. Owns the bounds of every field of a product;
whoever makes products (REST, import) is held to the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import msgspec

from cartstore.catalog.money import exponent_of
from cartstore.catalog.sales import sale_problems
from cartstore.errors import InvalidField
from cartstore.limits import (
    DESCRIPTION_LENGTH_MAX,
    IMAGES_MAX,
    OPTIONS_MAX,
    PRICE_MINOR_MAX,
    QUANTITY_MAX,
    RESERVED_IDS,
    SETTING_MAX,
    TEXT_LENGTH_MAX,
    URL_LENGTH_MAX,
    VARIANTS_MAX,
)
from cartstore.model import ID_PATTERN, Product, Variant, is_sku
from cartstore.texts import has_control

_RESERVED = "{} cannot be an id: in a path it means something else."

FIELDS_NAMED_MAX = 100
"""Wrong fields of one product that are named; whoever has more has made the same mistake again and again."""


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Reach(msgspec.Struct, frozen=True):
    """The most units of one SKU that a cart can have."""

    units_max: int = QUANTITY_MAX
    held_max: int = QUANTITY_MAX
    """Of a SKU whose units are held (`deny`)."""

    def of(self, variant: Variant) -> int:
        return min(self.units_max, self.held_max) if variant.policy == "deny" else self.units_max


ANY_REACH = Reach()
"""Of what is checked before the settings are known."""


class _Known(msgspec.Struct, frozen=True):
    """What the stored product has already."""

    ids: frozenset[str] = frozenset()
    """Its own and its SKUs."""
    images: frozenset[str] = frozenset()
    quantities: frozenset[tuple[str, int, int]] = frozenset()
    """SKU, smallest quantity and multiple of its variants."""

    @classmethod
    def of(cls, stored: Product | None) -> _Known:
        if stored is None:
            return cls()
        variants = (*stored.variants, *stored.removed)
        return cls(
            ids=frozenset((stored.id, *(variant.sku for variant in variants))),
            images=frozenset(stored.images),
            quantities=frozenset(_quantities(variant) for variant in variants),
        )


def check_product(product: Product, stored: Product | None = None, reach: Reach = ANY_REACH) -> None:
    """Raise InvalidField when a value is not allowed: its `field`, as REST spells it, is the first wrong one,
    and its `errors` has all of them. Ids, images and least quantities that `stored` has already are not
    looked at again, so that a product from before a rule can still be changed."""
    known = _Known.of(stored)
    first: InvalidField | None = None
    errors: list[tuple[str, str]] = []
    for problem in _problems_of(product, known, reach):
        first = first or problem
        errors.append((problem.field or "", problem.message))
        if len(errors) == FIELDS_NAMED_MAX:
            break
    if first is not None:
        first.errors = errors
        raise first


def sale_start_ms(text: str) -> int:
    """When a date or time in ISO 8601 begins, ms since the epoch; without a zone it is in UTC. 0 for what is
    before the epoch. Raises ValueError."""
    start = datetime.fromisoformat(text)
    if start.tzinfo is None:
        start = start.replace(tzinfo=UTC)
    return max(0, (start - _EPOCH) // timedelta(milliseconds=1))


def image_url_problem(url: str) -> str | None:
    """What is wrong with the address of an image, as the end of a sentence; None when nothing is.

    Browsers follow it, so it must not be one that runs something (`javascript:`, `data:`).
    """
    if len(url) > URL_LENGTH_MAX:
        return f"must have at most {URL_LENGTH_MAX} characters"
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable()
    except ValueError:
        is_address = False
    if not is_address or url[:1].isspace() or " " in parts.netloc:
        return "must be an http or https URL"
    return None


def _problems_of(product: Product, known: _Known, reach: Reach) -> Iterator[InvalidField]:
    if not ID_PATTERN.match(product.id):
        yield InvalidField("A product id is 1 to 128 of A-Z a-z 0-9 . _ ~ -", field="id")
    elif product.id in RESERVED_IDS - known.ids:
        yield InvalidField(_RESERVED.format(product.id), field="id")
    yield from _text(product.title, "title", TEXT_LENGTH_MAX)
    if product.description is not None:
        yield from _text(
            product.description, "description", DESCRIPTION_LENGTH_MAX, lowest=0, is_multiline=True
        )
    if product.seller is not None:
        yield from _text(product.seller, "seller", TEXT_LENGTH_MAX)
    yield from _images(product.images, known.images)
    yield from _currency(product.currency)
    yield from _options(product)
    yield from _variants(product, known, reach)


def _images(images: tuple[str, ...], known: frozenset[str]) -> Iterator[InvalidField]:
    if len(images) > IMAGES_MAX:
        yield InvalidField(f"A product has at most {IMAGES_MAX} images.", field="images")
        return
    for number, image in enumerate(images):
        if image not in known and (problem := image_url_problem(image)) is not None:
            yield InvalidField(f"images[{number}] {problem}.", field=f"images[{number}]")


def _options(product: Product) -> Iterator[InvalidField]:
    if len(product.options) > OPTIONS_MAX:
        yield InvalidField(f"A product has at most {OPTIONS_MAX} options.", field="options")
        return
    for number, name in enumerate(product.options):
        yield from _text(name, f"options[{number}]", TEXT_LENGTH_MAX)
    if len(set(product.options)) != len(product.options):
        yield InvalidField("Two options have the same name.", field="options")


def _variants(product: Product, known: _Known, reach: Reach) -> Iterator[InvalidField]:
    if not product.variants and not product.active:
        # What is left of a product whose SKUs all went to others.
        return
    if not 1 <= len(product.variants) <= VARIANTS_MAX:
        message = f"A product has 1 to {VARIANTS_MAX} variants, or none while it is not active."
        yield InvalidField(message, field="variants")
        return
    skus: set[str] = set()
    combinations: set[tuple[str, ...]] = set()
    for number, variant in enumerate(product.variants):
        at = f"variants[{number}]"
        yield from _variant(variant, at)
        if _quantities(variant) not in known.quantities:
            yield from _least_quantity(variant, reach.of(variant), at)
        if variant.sku in RESERVED_IDS - known.ids:
            yield InvalidField(_RESERVED.format(variant.sku), field=f"{at}.sku", sku=variant.sku)
        if variant.sku in skus:
            yield InvalidField(f"SKU {variant.sku} is listed twice.", field=f"{at}.sku", sku=variant.sku)
        skus.add(variant.sku)
        if set(variant.options) != set(product.options):
            names = ", ".join(product.options) or "none"
            yield InvalidField(
                f"A variant names exactly the product's options: {names}.", field=f"{at}.options"
            )
            continue
        for name, value in variant.options.items():
            yield from _text(value, f"{at}.options.{name}", TEXT_LENGTH_MAX)
        combination = tuple(variant.options[name] for name in product.options)
        if combination in combinations:
            yield InvalidField("Two variants have the same options.", field=f"{at}.options", sku=variant.sku)
        combinations.add(combination)


def _variant(variant: Variant, at: str) -> Iterator[InvalidField]:
    if not is_sku(variant.sku):
        yield InvalidField("A SKU is 1 to 128 of A-Z a-z 0-9 . _ ~ -", field=f"{at}.sku")
    yield from _range(variant.price_minor, f"{at}.price", 0, PRICE_MINOR_MAX)
    for currency, price_minor in variant.prices_minor.items():
        yield from _currency(currency)
        yield from _range(price_minor, f"{at}.prices.{currency}", 0, PRICE_MINOR_MAX)
    yield from sale_problems(variant, at)
    for name, text in (("available_on", variant.available_on), ("promised_on", variant.promised_on)):
        if text is not None:
            try:
                sale_start_ms(text)
            except ValueError:
                yield InvalidField(f"{name} must be an ISO 8601 date.", field=f"{at}.{name}")
    if variant.hold_ttl_seconds is not None:
        yield from _range(variant.hold_ttl_seconds, f"{at}.hold_ttl_seconds", 1, SETTING_MAX)
    yield from _range(variant.min_quantity, f"{at}.min_quantity", 1, QUANTITY_MAX)
    yield from _range(variant.multiple_of, f"{at}.multiple_of", 1, QUANTITY_MAX)
    if variant.max_quantity is not None:
        yield from _range(variant.max_quantity, f"{at}.max_quantity", 1, QUANTITY_MAX)
        if _fits_nothing(variant, variant.max_quantity):
            yield InvalidField(
                "No quantity fits min_quantity, max_quantity and multiple_of.", field=f"{at}.max_quantity"
            )
    if variant.max_per_customer is not None:
        limit = variant.max_per_customer
        yield from _range(limit.quantity, f"{at}.max_per_customer.quantity", 1, QUANTITY_MAX)
        yield from _range(limit.window_seconds, f"{at}.max_per_customer.window_seconds", 1, SETTING_MAX)


def _quantities(variant: Variant) -> tuple[str, int, int]:
    return variant.sku, variant.min_quantity, variant.multiple_of


def _least_quantity(variant: Variant, units_max: int, at: str) -> Iterator[InvalidField]:
    """A SKU that no cart can have enough of would be shown and never sold."""
    if min(variant.min_quantity, variant.multiple_of) < 1:
        return
    least = -(-variant.min_quantity // variant.multiple_of) * variant.multiple_of
    if least > units_max:
        name = "multiple_of" if variant.min_quantity <= units_max else "min_quantity"
        yield InvalidField(
            f"A cart would need {least} units, and can have at most {units_max}.", field=f"{at}.{name}"
        )


def _fits_nothing(variant: Variant, max_quantity: int) -> bool:
    """Whether no quantity is allowed, of rules that are each in their range."""
    if min(variant.min_quantity, variant.multiple_of, max_quantity) < 1:
        return False
    return max_quantity // variant.multiple_of * variant.multiple_of < variant.min_quantity


def _currency(code: str) -> Iterator[InvalidField]:
    try:
        exponent_of(code)
    except InvalidField as problem:
        yield problem


def _range(value: int, field: str, lowest: int, highest: int) -> Iterator[InvalidField]:
    if not lowest <= value <= highest:
        yield InvalidField(f"{field} must be {lowest} to {highest}.", field=field)


def _text(
    value: str, field: str, length_max: int, *, lowest: int = 1, is_multiline: bool = False
) -> Iterator[InvalidField]:
    if not lowest <= len(value) <= length_max:
        yield InvalidField(f"{field} must have {lowest} to {length_max} characters.", field=field)
    elif has_control(value, is_multiline=is_multiline):
        yield InvalidField(f"{field} has a control character.", field=field)
