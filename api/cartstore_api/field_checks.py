"""What a field's type cannot say: which values of it make sense. Owns the checks that shapes name.

A check takes a value of the field's type and gives what is wrong with it, as the end of a sentence that
begins with the field's name, or None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import iso3166
import msgspec
from email_validator import EmailNotValidError, validate_email

from cartstore import limits
from cartstore.catalog.money import EXPONENTS
from cartstore.catalog.rules import image_url_problem
from cartstore.errors import InvalidField
from cartstore.free_json import canonical_properties, check_metadata
from cartstore.model import is_sku

Check = Callable[[Any], str | None]

_CHECK, _IS_LATE, _SCHEMA = "check", "is_late", "schema"
_COUNTRIES: Final = frozenset(iso3166.countries_by_alpha2)
"""Kosovo's XK included, which ISO 3166 leaves to its users and everybody uses."""


def meta(check: Check, schema: dict[str, Any], *, is_late: bool = False, **bounds: Any) -> msgspec.Meta:
    """The bounds of a type together with a check and what the OpenAPI document says of it. `is_late`: the
    store makes this check when it carries the request out; here it is made only to name all wrong fields of a
    body that is refused anyway."""
    return msgspec.Meta(**bounds, extra={_CHECK: check, _IS_LATE: is_late, _SCHEMA: schema})


def schema_in(found: msgspec.Meta) -> dict[str, Any]:
    """What the OpenAPI document says of a field with this metadata, beyond its bounds."""
    schema: dict[str, Any] = (found.extra or {}).get(_SCHEMA, {})
    return schema


def check_in(found: msgspec.Meta, *, with_late: bool) -> Check | None:
    """The check that a type's metadata names."""
    extra = found.extra or {}
    check: Check | None = extra.get(_CHECK)
    return check if check is not None and (with_late or not extra[_IS_LATE]) else None


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


def quantity(number: int) -> str | None:
    return _quantity(number, 0)


def added_quantity(number: int) -> str | None:
    return _quantity(number, 1)


def _quantity(number: int, lowest: int) -> str | None:
    if lowest <= number <= limits.QUANTITY_MAX:
        return None
    return f"must be {lowest} to {limits.QUANTITY_MAX}"


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
