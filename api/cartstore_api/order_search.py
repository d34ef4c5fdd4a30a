"""How orders of all carts are asked for: the query parameters of the list, and what they mean."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from litestar.params import QueryParameter

from cartstore import limits
from cartstore.errors import InvalidField
from cartstore_api.bodies import check_text

Status = Annotated[
    Literal["pending", "paid", "released", "refund_due", "refunded"] | None,
    QueryParameter(description="Only orders in this state."),
]
FulfilmentFilter = Annotated[
    Literal["unfulfilled", "shipped", "delivered", "returned"] | None,
    QueryParameter(
        description="Only orders that this was done with; `unfulfilled`: paid, and nothing done yet."
    ),
]
EmailFilter = Annotated[
    str | None, QueryParameter(description="Only orders with this contact, in capitals or not.")
]
OrderIdFilter = Annotated[str | None, QueryParameter(description="Only this order.")]
PaymentIdFilter = Annotated[str | None, QueryParameter(description="Only orders of this payment.")]
SkuFilter = Annotated[str | None, QueryParameter(description="Only orders with this SKU.")]
SellerFilter = Annotated[str | None, QueryParameter(description="Only orders of this seller.")]
FromTime = Annotated[
    str | None,
    QueryParameter(
        name="from",
        description="Only orders created at this time (RFC 3339) or later.",
        schema_extra={"format": "date-time"},
    ),
]
ToTime = Annotated[
    str | None,
    QueryParameter(
        description="Only orders created before this time (RFC 3339).",
        schema_extra={"format": "date-time"},
    ),
]


def text_of(value: str | None, field: str) -> str | None:
    """A parameter's text; None when it is absent or empty. Raises VALIDATION_FAILED."""
    return check_text(value, field, limits.TEXT_LENGTH_MAX) if value else None


def time_ms_of(value: str | None, field: str) -> int | None:
    """A time in milliseconds, rounded up, so that times told by us are found again. Raises InvalidField."""
    if not value:
        return None
    # In a query string a bare + is a blank.
    text = value.replace(" ", "+")
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None or "T" not in text.upper():
            raise ValueError("no offset")
        since = found - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        message = f"{field} must be a time like 2026-11-20T09:55:47Z (RFC 3339)."
        raise InvalidField(message, field=field) from None
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return -(-microseconds // 1_000)
