"""The types of fields: their bounds, their checks, and what the OpenAPI document says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from cartstore import limits
from cartstore_api import field_checks
from cartstore_api.field_checks import late_meta, meta

if TYPE_CHECKING:
    ReadOnly = Any
else:
    ReadOnly = msgspec.Raw
"""A member that is taken and ignored, whatever it is."""

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.ID_LENGTH_MAX)]
LineId = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.ID_LENGTH_MAX + 14)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.TEXT_LENGTH_MAX)]
OptionalText = Annotated[str, msgspec.Meta(max_length=limits.TEXT_LENGTH_MAX)]
Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.REASON_LENGTH_MAX)]
Reference = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.REFERENCE_LENGTH_MAX)]
CurrencyCode = Annotated[
    str,
    meta(
        field_checks.currency,
        {"description": "ISO 4217, in capitals."},
        pattern="^[A-Z]{3}$",
        min_length=3,
        max_length=3,
    ),
]
CountryCode = Annotated[
    str,
    meta(
        field_checks.country,
        {"description": "ISO 3166-1 alpha-2, or XK; in capitals."},
        pattern="^[A-Z]{2}$",
        min_length=2,
        max_length=2,
    ),
]
Email = Annotated[
    str,
    meta(
        field_checks.email,
        {"description": "An e-mail address; blank is none.", "format": "email"},
        max_length=limits.TEXT_LENGTH_MAX,
    ),
]
ImageUrl = Annotated[
    str,
    meta(
        field_checks.image_url,
        {"description": "An http or https URL.", "format": "uri"},
        min_length=1,
        max_length=limits.URL_LENGTH_MAX,
    ),
]
Sku = Annotated[
    str,
    meta(
        field_checks.sku,
        {"description": "Of A-Z a-z 0-9 . _ ~ -"},
        is_late=True,
        min_length=1,
        max_length=limits.ID_LENGTH_MAX,
    ),
]
Quantity = Annotated[int, late_meta(field_checks.quantity, {"minimum": 0, "maximum": limits.QUANTITY_MAX})]
AddedQuantity = Annotated[
    int, late_meta(field_checks.added_quantity, {"minimum": 1, "maximum": limits.QUANTITY_MAX})
]
Properties = Annotated[
    dict[str, Any],
    meta(
        field_checks.properties,
        {
            "description": f"At most {limits.PROPERTIES_BYTES_MAX} bytes as JSON, nested at most "
            f"{limits.JSON_DEPTH_MAX} levels deep."
        },
        is_late=True,
    ),
]
Metadata = Annotated[
    dict[str, Any],
    meta(
        field_checks.metadata,
        {
            "description": f"At most {limits.METADATA_BYTES_MAX} bytes as JSON, nested at most "
            f"{limits.JSON_DEPTH_MAX} levels deep."
        },
    ),
]
Unreadable = Annotated[
    list[str] | msgspec.UnsetType,
    msgspec.Meta(description="Members whose stored data cannot be read; they are empty."),
]
"""In rows of lists: absent, unless something stored is damaged."""

Time = Annotated[
    str,
    msgspec.Meta(
        description="RFC 3339, in UTC.",
        examples=["2026-11-20T09:55:47.910Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
"""A time in an answer."""

Money = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,16}([.][0-9]{1,4})?$", max_length=21)]
"""A decimal string in the named currency."""
LineIds = Annotated[list[LineId], msgspec.Meta(min_length=1, max_length=1_000)]
