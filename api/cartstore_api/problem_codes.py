"""Which problem codes each operation may answer with: what the OpenAPI document says beyond the statuses.

Owns the table of codes that depend on the operation. Those that follow from a status alone (a body that is no
JSON, a store that is away) are added to every operation with that status. Tests hold every problem that they
see to this table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

ANYWHERE: Final = frozenset(
    {
        "HEADERS_TOO_LARGE",
        "INTERNAL",
        "MALFORMED_REQUEST",
        "METHOD_NOT_ALLOWED",
        "NOT_FOUND",
        "RATE_LIMITED",
        "REQUEST_TIMEOUT",
    }
)
"""Codes of the connection and of paths: any request may be answered with them. No operation lists them."""

_BY_STATUS: Final[dict[str, tuple[str, ...]]] = {
    "400": ("MALFORMED_JSON",),
    "401": ("UNAUTHENTICATED",),
    "412": ("VERSION_CONFLICT",),
    "413": ("BODY_TOO_LARGE",),
    "415": ("UNSUPPORTED_MEDIA_TYPE",),
    "422": ("VALIDATION_FAILED",),
    "503": ("STORE_UNAVAILABLE", "STORE_RECOVERING"),
    "504": ("OUTCOME_UNKNOWN",),
}

_KEY: Final = "IDEMPOTENCY_IN_PROGRESS IDEMPOTENCY_KEY_REUSED"
_QUANTITY: Final = (
    "INVALID_QUANTITY LIMIT_EXCEEDED PURCHASE_LIMIT INSUFFICIENT_STOCK PRODUCT_INACTIVE NOT_YET_ON_SALE"
)
_STOCK: Final = "PRODUCT_NOT_FOUND STOCK_CONFLICT LIMIT_EXCEEDED"

_BY_OPERATION: Final[dict[str, str]] = {
    "AddLine": f"{_KEY} {_QUANTITY} PRODUCT_NOT_FOUND OPTION_REQUIRED OPTION_NOT_AVAILABLE CURRENCY_MISMATCH"
    " FEATURE_OFF",
    "SetQuantity": f"{_KEY} {_QUANTITY} ITEM_NOT_FOUND PRODUCT_NOT_FOUND CURRENCY_MISMATCH FEATURE_OFF",
    "RemoveLine": f"{_KEY} ITEM_NOT_FOUND FEATURE_OFF",
    "PutLines": f"{_KEY} {_QUANTITY} ITEM_NOT_FOUND PRODUCT_NOT_FOUND CURRENCY_MISMATCH"
    " CHECKOUT_VALIDATION_FAILED FEATURE_OFF",
    "ClearCart": f"{_KEY} FEATURE_OFF",
    "ValidateCart": f"{_KEY} ITEM_NOT_FOUND FEATURE_OFF",
    "ExtendHolds": f"{_KEY} FEATURE_OFF",
    "AcceptChanges": f"{_KEY} ITEM_NOT_FOUND CURRENCY_MISMATCH LINE_CHANGED FEATURE_OFF",
    "CheckChanges": "ITEM_NOT_FOUND",
    "CreateGuest": "FEATURE_OFF",
    "BeginCheckout": f"{_KEY} {_QUANTITY} IDEMPOTENCY_KEY_REQUIRED ITEM_NOT_FOUND CART_EMPTY PRICE_CHANGED"
    " LINE_CHANGED TOTAL_CHANGED CHECKOUT_VALIDATION_FAILED CURRENCY_MISMATCH FEATURE_OFF",
    "ReadOrder": "ORDER_NOT_FOUND",
    "CancelOrder": "ORDER_NOT_FOUND ORDER_STATE FEATURE_OFF",
    "ReadPayment": "PAYMENT_NOT_FOUND",
    "ConfirmPayment": "PAYMENT_NOT_FOUND PAYMENT_STATE PAYMENT_EXPIRED SIGNATURE_INVALID FEATURE_OFF",
    "SimulatePayment": "PAYMENT_NOT_FOUND PAYMENT_STATE PAYMENT_EXPIRED FEATURE_OFF",
    "ReceiveWebhook": "SIGNATURE_INVALID PAYMENT_NOT_FOUND NOT_FOUND",
    "ReadProduct": "PRODUCT_NOT_FOUND",
    "ReadStock": "PRODUCT_NOT_FOUND FEATURE_OFF",
    "PutProduct": "LIMIT_EXCEEDED",
    "DeleteProduct": "PRODUCT_NOT_FOUND",
    "AdjustStock": _STOCK,
    "AdjustStocks": _STOCK,
    "SetStock": _STOCK,
    "ReadLedger": "PRODUCT_NOT_FOUND",
    "ReadAnyOrder": "ORDER_NOT_FOUND",
    "SetFulfilment": "ORDER_NOT_FOUND ORDER_STATE",
    "ReadAnyCart": "NOT_FOUND",
    "CloseRefund": "ORDER_NOT_FOUND ORDER_STATE",
    "ListEvents": "EVENTS_GONE",
}


def codes_of(operation_id: str) -> Iterator[str]:
    """The codes of an operation that do not follow from the statuses it declares."""
    yield from _BY_OPERATION.get(operation_id, "").split()


def codes_of_status(status: str, *, method: str, is_admin: bool) -> Iterator[str]:
    """The codes that every operation with this status may answer with."""
    if status == "403":
        yield "FORBIDDEN" if is_admin else "CSRF_FAILED"
    yield from _BY_STATUS.get(status, ())
    if status == "503" and method != "get":
        yield "STORE_FULL"
