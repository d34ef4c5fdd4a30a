"""The REST contract's shapes, written down once more and by hand: what every answer must look like.

Deliberately not made from the product's own schemas. `check_answer` is called for every answer that any
acceptance test gets: members, types and formats of successes by their route, and of problems by the table
of codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import httpx

Check = Callable[[Any, str], None]


# --- how shapes are written ------------------------------------------------------------------------------


def _check(value: Any, shape: Any, at: str) -> None:
    if isinstance(shape, dict):
        assert isinstance(value, dict), f"{at}: {value!r} is no object"
        optional = {name[:-1] for name in shape if name.endswith("?")}
        names = {name.rstrip("?") for name in shape}
        assert set(value) <= names, f"{at}: members that the contract does not know: {set(value) - names}"
        assert names - optional <= set(value), f"{at}: missing members {names - optional - set(value)}"
        for name, inner in shape.items():
            bare = name.rstrip("?")
            if bare in value:
                _check(value[bare], inner, f"{at}.{bare}")
    elif isinstance(shape, list):
        assert isinstance(value, list), f"{at}: {value!r} is no list"
        for number, entry in enumerate(value):
            _check(entry, shape[0], f"{at}[{number}]")
    elif isinstance(shape, frozenset):
        assert value in shape, f"{at}: {value!r} is none of {sorted(shape)}"
    elif isinstance(shape, re.Pattern):
        assert isinstance(value, str), f"{at}: {value!r} is no text"
        assert shape.fullmatch(value), f"{at}: {value!r} is not {shape.pattern}"
    elif isinstance(shape, type):
        assert isinstance(value, shape), f"{at}: {value!r} is no {shape.__name__}"
        assert shape is bool or not isinstance(value, bool), f"{at}: {value!r} is no {shape.__name__}"
    else:
        shape(value, at)


def _maybe(shape: Any) -> Check:
    def check(value: Any, at: str) -> None:
        if value is not None:
            _check(value, shape, at)

    return check


def _map(shape: Any) -> Check:
    def check(value: Any, at: str) -> None:
        assert isinstance(value, dict), f"{at}: {value!r} is no object"
        for name, member in value.items():
            _check(member, shape, f"{at}.{name}")

    return check


def _count(value: Any, at: str) -> None:
    assert type(value) is int, f"{at}: {value!r} is no integer"
    assert value >= 0, f"{at}: {value} is negative"


def _anything(value: Any, at: str) -> None:
    return


ID = re.compile(r"[A-Za-z0-9._~-]{1,160}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
MONEY = re.compile(r"\d+(\.\d{1,4})?")
CURRENCY = re.compile(r"[A-Z]{3}")
POLICY = frozenset({"deny", "backorder", "untracked"})

CHANGE = {"old": _maybe(str), "new": _maybe(str)}
CHANGES = {
    "name?": CHANGE,
    "price?": CHANGE,
    "image?": CHANGE,
    "options?": {"old": _map(str), "new": _map(str)},
    "currency?": CHANGE,
    "product?": CHANGE,
    "availability?": {"old": str, "new": str},
}
LINE = {
    "line_id": ID,
    "variation_key": ID,
    "sku": ID,
    # The contract knows no null here; it is what is told while the catalog cannot be asked.
    "product_id": _maybe(ID),
    "name": str,
    "options": _map(str),
    "properties": _map(_anything),
    "image": _maybe(str),
    "quantity": _count,
    "unit_price": MONEY,
    "line_total": MONEY,
    "added_at": TIME,
    "updated_at": TIME,
    "is_available": bool,
    "available_quantity": _maybe(_count),
    "hold": _maybe({"quantity": _count, "expires_at": TIME, "expires_in_seconds": _count}),
    "hold_rests_until": _maybe(TIME),
    "changes": CHANGES,
}
SUMMARY = {
    "items_count": _count,
    "total_items": _count,
    "subtotal": MONEY,
    "currency": CURRENCY,
    "version": _count,
}
CART = {
    "id": ID,
    "owner": frozenset({"user", "guest"}),
    "currency": CURRENCY,
    "items": [LINE],
    "saved": [LINE],
    "items_count": _count,
    "total_items": _count,
    "subtotal": MONEY,
    "discounts": [_anything],
    "total": MONEY,
    "has_unavailable_items": bool,
    "has_changes": bool,
    "version": _count,
    "created_at": _maybe(TIME),
    "updated_at": _maybe(TIME),
    "expires_at": _maybe(TIME),
}
LINE_CHANGE = {"line": _maybe(LINE), "summary": SUMMARY, "version": _count}
CART_CHANGE = {"summary": SUMMARY, "version": _count}
CHANGES_CHECK = {
    "has_changes": bool,
    "items": [{"line_id": ID, "sku": ID, "name": str, "is_available": bool, "changes": CHANGES}],
}
ITEMS_CHANGE = {
    "results": [
        {
            "line_id": ID,
            "sku": ID,
            "code": str,
            "requested_quantity": _count,
            "available_quantity": _maybe(_count),
        }
    ],
    "summary": SUMMARY,
    "version": _count,
}
VALIDATION = {
    "is_valid": bool,
    "total_valid_amount": MONEY,
    "details": [
        {
            "line_id": ID,
            "product_name": str,
            "requested_quantity": _count,
            "available_quantity": _maybe(_count),
            "is_valid": bool,
            "item_total": MONEY,
            "problems": [_anything],
        }
    ],
}
FULFILMENT = {
    "state": frozenset({"unfulfilled", "shipped", "delivered", "returned"}),
    "carrier": _maybe(str),
    "tracking": _maybe(str),
    "updated_at": _maybe(TIME),
}
ORDER = {
    "order_id": ID,
    "checkout_id": ID,
    "seller": _maybe(str),
    "status": frozenset({"pending", "paid", "released", "refund_due", "refunded"}),
    "release_reason?": _maybe(frozenset({"expired", "cancelled"})),
    "lines": [
        {
            "line_id": ID,
            "sku": ID,
            "name": str,
            "image": _maybe(str),
            "options": _map(str),
            "properties": _map(_anything),
            "quantity": _count,
            "unit_price": MONEY,
            "line_total": MONEY,
        }
    ],
    "total": MONEY,
    "currency": CURRENCY,
    "payment_id": ID,
    "created_at": TIME,
    "fulfilment": _maybe(FULFILMENT),
}
ADDRESS = {
    "name": _maybe(str),
    "phone": _maybe(str),
    "street": str,
    "street2": _maybe(str),
    "city": str,
    "state": _maybe(str),
    "postal_code": _maybe(str),
    "country": re.compile(r"[A-Z]{2}"),
}
ORDER_DETAIL = ORDER | {
    "contact": _maybe({"email": _maybe(str), "phone": _maybe(str)}),
    "shipping_address": _maybe(ADDRESS),
    "billing_address": _maybe(ADDRESS),
    "metadata": _maybe(dict),
}
CANCELLED_ORDER = ORDER_DETAIL | {"cancelled_orders": [ORDER]}
PAYMENT = {
    "id": ID,
    "hash": str,
    "gateway": str,
    "method": str,
    "status": frozenset({"pending", "paid", "expired", "cancelled", "refund_due", "refunded"}),
    "expires_at": TIME,
    "time_remaining_seconds": _count,
    "client": _map(_anything),
}
PAYMENT_DETAIL = PAYMENT | {
    "checkout_id": ID,
    "amount": MONEY,
    "currency": CURRENCY,
    "attempts": _count,
    "created_at": TIME,
    "orders": [ORDER],
}
CHECKOUT = {
    "checkout_type": frozenset({"single_item", "partial", "full_cart"}),
    "checkout_id": ID,
    "total_amount": MONEY,
    "currency": CURRENCY,
    "order_count": _count,
    "orders": [ORDER],
    "payment": PAYMENT,
    "order_token": str,
}
PRODUCT = {
    "id": ID,
    "title": str,
    "description?": _maybe(str),
    "seller?": _maybe(str),
    "active": bool,
    "images": [str],
    "options": [str],
    "currency": CURRENCY,
    "variants": [
        {
            "sku": ID,
            "options": _map(str),
            "price": MONEY,
            "prices?": _map(MONEY),
            "sale_price?": _maybe(MONEY),
            "sale_from?": _maybe(str),
            "sale_to?": _maybe(str),
            "current_price?": MONEY,
            "policy?": POLICY,
            "available_on?": _maybe(str),
            "promised_on?": _maybe(str),
            "hold_policy?": frozenset({"on_add", "on_checkout"}),
            "hold_ttl_seconds?": _maybe(_count),
            "min_quantity?": _maybe(_count),
            "max_quantity?": _maybe(_count),
            "multiple_of?": _maybe(_count),
            "max_per_customer?": _maybe({"quantity": _count, "window_seconds": _count}),
            "available": _maybe(_count),
        }
    ],
}
STOCK = {
    "sku": ID,
    "on_hand": _count,
    "held": _count,
    "available": _maybe(_count),
    "sold": _count,
    "backordered": _count,
    "policy": POLICY,
}
STOCK_ADJUSTED = STOCK | {"delta": int, "reason": str, "reference": str}
LEDGER = {
    "seq": _count,
    "delta": int,
    "on_hand": _count,
    "reason": str,
    "reference": str,
    "order_id?": _maybe(ID),
    "at": TIME,
}
EVENT = {"position": str, "type": str, "at": TIME, "body": dict}
RECONCILIATION = {"checked": _count, "repaired": [_anything], "drift": [_anything], "skipped?": _count}
IMPORTED = {
    "products": _count,
    "imported_variants": _count,
    "changed_products": _count,
    "moved_skus": _count,
    "notes": [{"line": _count, "name": str, "text": str}],
    "rejected": [{"line": _count, "name": str, "reason": str}],
}
READINESS = {"ready": bool, "status": str, "checks": _map({"ok": _maybe(bool), "detail": str})}


def _page(shape: Any) -> dict[str, Any]:
    return {"items": [shape], "next_cursor": _maybe(str)}


SUCCESSES: dict[str, tuple[int, Any]] = {
    "POST /v1/guest": (201, {"token": str, "expires_at": TIME}),
    "GET /v1/cart": (200, CART),
    "GET /v1/cart/summary": (200, SUMMARY),
    "POST /v1/cart/items": (201, LINE_CHANGE),
    "PATCH /v1/cart/items/*": (200, LINE_CHANGE),
    "DELETE /v1/cart/items/*": (200, LINE_CHANGE),
    "PUT /v1/cart/items": (200, ITEMS_CHANGE),
    "DELETE /v1/cart": (200, CART_CHANGE),
    "POST /v1/cart/validate": (200, VALIDATION),
    "POST /v1/cart/changes/check": (200, CHANGES_CHECK),
    "POST /v1/cart/changes/accept": (200, CART_CHANGE),
    "POST /v1/cart/holds/extend": (200, CART),
    "POST /v1/checkout": (201, CHECKOUT),
    "GET /v1/orders": (200, _page(ORDER)),
    "GET /v1/orders/*": (200, ORDER_DETAIL),
    "POST /v1/orders/*/cancel": (200, CANCELLED_ORDER),
    "GET /v1/payments/*": (200, PAYMENT_DETAIL),
    "POST /v1/payments/*/confirm": (200, PAYMENT_DETAIL),
    "POST /v1/payments/*/simulate": (200, PAYMENT_DETAIL),
    "GET /v1/products": (200, _page(PRODUCT)),
    "GET /v1/products/*": (200, PRODUCT),
    "GET /v1/stock/*": (200, STOCK),
    "PUT /v1/admin/products/*": (200, PRODUCT),
    "POST /v1/admin/products/import": (200, IMPORTED),
    "POST /v1/admin/stock/*/adjust": (200, STOCK_ADJUSTED),
    "POST /v1/admin/stock/adjust": (200, {"items": [STOCK_ADJUSTED]}),
    "PUT /v1/admin/stock/*": (200, STOCK_ADJUSTED),
    "GET /v1/admin/stock/*/ledger": (200, _page(LEDGER)),
    "GET /v1/admin/carts/*": (200, CART),
    "GET /v1/admin/orders": (200, _page(ORDER)),
    "GET /v1/admin/orders/*": (200, ORDER_DETAIL),
    "POST /v1/admin/orders/*/fulfilment": (200, ORDER_DETAIL),
    "POST /v1/admin/orders/*/refunded": (200, ORDER_DETAIL),
    "GET /v1/admin/events": (200, {"items": [EVENT], "next_cursor": str}),
    "GET /v1/admin/reconcile": (200, RECONCILIATION),
    "POST /v1/admin/reconcile": (200, RECONCILIATION),
    "GET /health/ready": (200, READINESS),
}


# --- problems --------------------------------------------------------------------------------------------

CODES: dict[int, frozenset[str]] = {
    status: frozenset(codes.split())
    for status, codes in {
        400: "MALFORMED_JSON IDEMPOTENCY_KEY_REQUIRED SIGNATURE_INVALID",
        401: "UNAUTHENTICATED",
        403: "FORBIDDEN CSRF_FAILED",
        404: "ITEM_NOT_FOUND PRODUCT_NOT_FOUND ORDER_NOT_FOUND PAYMENT_NOT_FOUND COUPON_NOT_FOUND NOT_FOUND",
        405: "METHOD_NOT_ALLOWED",
        409: "CART_EMPTY INSUFFICIENT_STOCK PRODUCT_INACTIVE PRICE_CHANGED TOTAL_CHANGED "
        "CHECKOUT_VALIDATION_FAILED STOCK_CONFLICT COUPON_NOT_APPLICABLE CURRENCY_MISMATCH ORDER_STATE "
        "PAYMENT_EXPIRED PAYMENT_STATE IDEMPOTENCY_IN_PROGRESS",
        412: "VERSION_CONFLICT",
        413: "BODY_TOO_LARGE",
        415: "UNSUPPORTED_MEDIA_TYPE",
        422: "VALIDATION_FAILED INVALID_QUANTITY OPTION_REQUIRED OPTION_NOT_AVAILABLE LIMIT_EXCEEDED "
        "NOT_YET_ON_SALE PURCHASE_LIMIT IDEMPOTENCY_KEY_REUSED FEATURE_OFF",
        429: "RATE_LIMITED",
        503: "STORE_UNAVAILABLE STORE_RECOVERING STORE_FULL",
        504: "OUTCOME_UNKNOWN",
    }.items()
}

PROBLEM = {
    "type": str,
    "title": str,
    "status": _count,
    "detail": str,
    "instance": str,
    "code": str,
    "field?": str,
    "errors?": [{"field": str, "detail": str}],
    "line_id?": str,
    "sku?": str,
    "available_quantity?": _count,
    "requested_quantity?": int,
    "shortfalls?": [
        {
            "code": str,
            "line_id?": str,
            "sku?": str,
            "requested_quantity?": int,
            "available_quantity?": _count,
            "old_price?": MONEY,
            "new_price?": MONEY,
            "detail?": str,
        }
    ],
    "suggested_action?": str,
    "fix?": {
        "method": frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"}),
        "path": str,
        "body": _anything,
    },
    "request_id": str,
    "cart?": CART,
}

FIXED = frozenset(
    {
        "CART_EMPTY",
        "INSUFFICIENT_STOCK",
        "ITEM_NOT_FOUND",
        "OPTION_NOT_AVAILABLE",
        "OPTION_REQUIRED",
        "PAYMENT_EXPIRED",
        "PRICE_CHANGED",
        "PRODUCT_INACTIVE",
        "TOTAL_CHANGED",
        "VERSION_CONFLICT",
    }
)
"""What a buyer can always solve: these never come without a fix on the buyers' paths."""


def check_answer(method: str, path: str, answer: httpx.Response, told: Any) -> None:
    """Hold one answer to the contract; an AssertionError names the member that is wrong."""
    at = f"{method} {path} {answer.status_code}"
    assert answer.headers.get("x-request-id"), f"{at}: no X-Request-Id"
    if answer.status_code >= 400 and not path.startswith("/health/"):
        check_problem(at, path, answer.status_code, answer.headers, told)
    elif answer.status_code == 304:
        assert not answer.content, at
        assert answer.headers.get("etag"), at
    elif answer.status_code < 300 and method != "HEAD":
        _check_success(at, method, path, answer, told)


def check_problem(at: str, path: str, status: int, headers: Mapping[str, str], told: Any) -> None:
    """A problem is one of the table, in the shape that RFC 9457 and the contract give it."""
    assert headers["content-type"].split(";")[0] == "application/problem+json", (at, headers["content-type"])
    _check(told, PROBLEM, at)
    assert told["status"] == status, (at, told)
    assert told["code"] in CODES.get(status, ()), (at, told)
    assert told["request_id"] == headers["x-request-id"], (at, told)
    assert told["detail"], (at, told)
    assert told["title"], (at, told)
    if told["code"] == "VERSION_CONFLICT":
        assert "cart" in told, (at, told)
    if told["code"] in ("VALIDATION_FAILED", "INVALID_QUANTITY"):
        assert "field" in told or "shortfalls" in told, (at, told)
        if told["code"] == "VALIDATION_FAILED" and "field" in told:
            assert told["errors"][0]["field"] == told["field"], (at, told)
    if told["code"] in FIXED and path.startswith(("/v1/cart", "/v1/checkout")):
        assert "fix" in told, (at, told)
    if status in (429, 503):
        assert headers.get("retry-after", "").isdigit(), (at, dict(headers))
    if status == 401:
        assert headers.get("www-authenticate"), (at, dict(headers))
    if status == 405:
        assert headers.get("allow"), (at, dict(headers))


def _check_success(at: str, method: str, path: str, answer: httpx.Response, told: Any) -> None:
    bare = path.partition("?")[0]
    found = SUCCESSES.get(f"{method} {bare}") or SUCCESSES.get(f"{method} {_template_of(bare)}")
    if found is None:
        return
    status, shape = found
    if answer.headers.get("preference-applied") == "return=representation":
        shape = CART
    assert answer.status_code == status, at
    assert answer.headers["content-type"].split(";")[0] == "application/json", at
    _check(told, shape, at)
    if shape is CART and bare == "/v1/cart":
        assert re.fullmatch(rf'"{told["version"]}-[A-Za-z0-9]+"', answer.headers["etag"]), at
    if shape is CHECKOUT:
        assert told["order_count"] == len(told["orders"]), at
        assert {order["payment_id"] for order in told["orders"]} == {told["payment"]["id"]}, at


_IDS = re.compile(
    r"(?P<head>/v1/(?:cart/items|orders|payments|products|stock|admin/products|admin/stock|admin/carts"
    r"|admin/orders))/[^/]+(?P<tail>/[a-z]+)?"
)


def _template_of(path: str) -> str:
    match = _IDS.fullmatch(path)
    return f"{match['head']}/*{match['tail'] or ''}" if match else path
