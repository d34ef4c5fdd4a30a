"""What a field's type cannot say: which values of it make sense. Owns the checks that shapes name.

A check takes a value of the field's type and gives what is wrong with it, as the end of a sentence that
begins with the field's name, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from functools import partial
from typing import Any, Final, NamedTuple

import iso3166
import msgspec
from email_validator import EmailNotValidError, validate_email

from cartstore.catalog.money import EXPONENTS
from cartstore.catalog.rules import image_url_problem
from cartstore.errors import InvalidField
from cartstore.free_json import canonical_properties, check_metadata
from cartstore.model import is_sku
from cartstore.settings import Settings

Check = Callable[[Any], str | None]

BoundedCheck = Callable[[Any, "Bounds"], str | None]

_CHECK, _IS_LATE, _TAKES_BOUNDS = "check", "is_late", "takes_bounds"
_COUNTRIES: Final = frozenset(iso3166.countries_by_alpha2)
"""Kosovo's XK included, which ISO 3166 leaves to its users and everybody uses."""


class Bounds(NamedTuple):
    """Limits of fields that are settings of the shop."""

    quantity_max: int
    """MAX_QUANTITY_PER_LINE"""

    lines_max: int
    """MAX_LINES_PER_CART"""


def bounds_of(settings: Settings) -> Bounds:
    return Bounds(settings.max_quantity_per_line, settings.max_lines_per_cart)


def meta(check: Check, schema: dict[str, Any], *, is_late: bool = False, **bounds: Any) -> msgspec.Meta:
    """The bounds of a type together with a check and what the OpenAPI document says of it. `is_late`: the
    store makes this check when it carries the request out; here it is made only to name all wrong fields of a
    body that is refused anyway."""
    return msgspec.Meta(**bounds, extra_json_schema=schema, extra={_CHECK: check, _IS_LATE: is_late})


def late_meta(check: BoundedCheck, schema: dict[str, Any], **bounds: Any) -> msgspec.Meta:
    """As `meta` of a late check, for a check whose limit is a setting."""
    extra = {_CHECK: check, _IS_LATE: True, _TAKES_BOUNDS: True}
    return msgspec.Meta(**bounds, extra_json_schema=schema, extra=extra)


def check_in(found: msgspec.Meta) -> Check | None:
    """The check that a type's metadata names, unless the store makes it."""
    extra = found.extra or {}
    check: Check | None = extra.get(_CHECK)
    return check if check is not None and not extra[_IS_LATE] else None


def any_check_in(found: msgspec.Meta, bounds: Bounds) -> Check | None:
    """The check that a type's metadata names, late or not, within these bounds."""
    extra = found.extra or {}
    if extra.get(_TAKES_BOUNDS):
        return partial(extra[_CHECK], bounds=bounds)
    check: Check | None = extra.get(_CHECK)
    return check


def email(text: str) -> str | None:
    """Its form only: whether somebody reads it is not asked of the network. Blank is none."""
    if not text:
        return None
    try:
        # `.test` is reserved for trying things out, which shops do with everything as in production.
        validate_email(text, check_deliverability=False, test_environment=True, strict=True)
    except EmailNotValidError as error:
        return f"is not an e-mail address: {str(error).rstrip('.')}"
    return None


def country(text: str) -> str | None:
    return None if text in _COUNTRIES else "must be an ISO 3166-1 alpha-2 code, in capitals"


def currency(text: str) -> str | None:
    return None if text in EXPONENTS else "must be an ISO 4217 currency code, in capitals"


def sku(text: str) -> str | None:
    return None if is_sku(text) else "must be 1 to 128 of A-Z a-z 0-9 . _ ~ -"


def image_url(text: str) -> str | None:
    return image_url_problem(text)


def quantity(number: int, bounds: Bounds) -> str | None:
    return _quantity(number, 0, bounds.quantity_max)


def added_quantity(number: int, bounds: Bounds) -> str | None:
    return _quantity(number, 1, bounds.quantity_max)


def _quantity(number: int, lowest: int, highest: int) -> str | None:
    return None if lowest <= number <= highest else f"must be {lowest} to {highest}"


def lines(entries: Sized, bounds: Bounds) -> str | None:
    return None if 1 <= len(entries) <= bounds.lines_max else f"must have 1 to {bounds.lines_max} entries"


def properties(value: dict[str, Any]) -> str | None:
    try:
        canonical_properties(value, "")
    except InvalidField as error:
        return error.message.strip().rstrip(".")
    return None


def metadata(value: dict[str, Any]) -> str | None:
    try:
        check_metadata(value, "")
    except InvalidField as error:
        return error.message.strip().rstrip(".")
    return None
