"""Goal: whatever is sent, the answer is a clear problem of the 4xx kind, never a 500, and nothing is changed.

Method: tables of bad requests against the real server. Cart, stock and product are read before and after each
table and must be the same to the last member. Malformed HTTP goes over a bare socket: there the server's own
400 will do, but the next request must be served.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import pytest

from .calling import ADDRESS, Caller, Callers, new_key
from .running import Shop

SKU, OTHER = "BAD-1", "BAD-2"
MEGABYTES_10 = 10 * 1024 * 1024

ITEM = f"/v1/cart/items/{SKU}"
CHECKOUT = {"payment_method": "card", "gateway": "simulated", "shipping_address": ADDRESS}
PRODUCT = {"title": "Bad", "variants": [{"sku": SKU, "price": "1.00"}]}
ADJUST = {"delta": 1, "reason": "count", "reference": "r-bad"}
SET = {"on_hand": 1, "reason": "count", "reference": "r-bad"}


@pytest.fixture
async def buyer(shop: Shop, callers: Callers, admin: Caller) -> Caller:
    """Somebody with a cart that nothing here may change."""
    await admin.put_product("bad", SKU, OTHER, stock=50)
    buyer = callers.bearer("buyer", shop.token("bad-input-buyer"))
    await buyer.call("DELETE", "/v1/cart")
    assert (await buyer.add(SKU, 2)).status == 201
    # The ledger is told from the record, which must not go on changing by itself.
    await shop.books().until_archived()
    return buyer


@asynccontextmanager
async def nothing_changed(buyer: Caller, admin: Caller) -> AsyncIterator[None]:
    before = await _state(buyer, admin)
    yield
    assert await _state(buyer, admin) == before


async def _state(buyer: Caller, admin: Caller) -> Any:
    cart = await buyer.get("/v1/cart")
    for line in cart["items"]:
        line["hold"].pop("expires_in_seconds")
    return [
        cart,
        await buyer.get("/v1/orders"),
        await admin.get(f"/v1/stock/{SKU}"),
        await admin.get(f"/v1/stock/{OTHER}"),
        await admin.get("/v1/products/bad"),
        await admin.get(f"/v1/admin/stock/{SKU}/ledger"),
    ]


# --- bodies ----------------------------------------------------------------------------------------------

NUMBERS: list[tuple[bytes, set[str]]] = [
    (b"0", {"INVALID_QUANTITY", "VALIDATION_FAILED"}),
    (b"-1", {"INVALID_QUANTITY", "VALIDATION_FAILED"}),
    (b"1.5", {"VALIDATION_FAILED"}),
    (b"1e400", {"VALIDATION_FAILED", "MALFORMED_JSON"}),
    (b"99999999999999999999999999", {"VALIDATION_FAILED", "INVALID_QUANTITY"}),
    (b"9223372036854775807", {"INVALID_QUANTITY", "LIMIT_EXCEEDED", "VALIDATION_FAILED"}),
    (b"-9223372036854775808", {"INVALID_QUANTITY", "VALIDATION_FAILED"}),
    (b"2147483648", {"INVALID_QUANTITY", "LIMIT_EXCEEDED"}),
    (b"100", {"LIMIT_EXCEEDED"}),
    (b"NaN", {"MALFORMED_JSON"}),
    (b"Infinity", {"MALFORMED_JSON"}),
    (b"-Infinity", {"MALFORMED_JSON"}),
    (b"01", {"MALFORMED_JSON"}),
    (b'"1"', {"VALIDATION_FAILED"}),
    (b"true", {"VALIDATION_FAILED"}),
    (b"null", {"VALIDATION_FAILED"}),
    (b"[1]", {"VALIDATION_FAILED"}),
    (b"{}", {"VALIDATION_FAILED"}),
]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/cart/items", b'{"sku":"BAD-1","quantity":%s}'),
        ("PATCH", ITEM, b'{"quantity":%s}'),
        ("PUT", "/v1/cart/items", b'{"items":[{"sku":"BAD-1","quantity":%s}]}'),
    ],
)
async def test_no_odd_quantity_is_taken(
    buyer: Caller, admin: Caller, method: str, path: str, body: bytes
) -> None:
    async with nothing_changed(buyer, admin):
        for number, codes in NUMBERS:
            if number == b"0" and method != "POST":
                continue  # It removes the line.
            call = await buyer.call(method, path, content=body % number)
            if method == "PUT" and call.status == 409:
                # All shortfalls at once, each with its own code.
                assert {entry["code"] for entry in call.body["shortfalls"]} <= codes, (number, call)
                continue
            assert call.status in (400, 422), (number, call)
            assert call.code in codes, (number, call)
            if call.status == 422:
                assert "quantity" in call.body.get("field", "quantity"), (number, call)


BODIES: list[tuple[str, str, bytes, set[str]]] = [
    # not JSON
    ("POST", "/v1/cart/items", b"", {"MALFORMED_JSON"}),
    ("POST", "/v1/cart/items", b"{", {"MALFORMED_JSON"}),
    ("POST", "/v1/cart/items", b'{"sku":"BAD-1"} x', {"MALFORMED_JSON"}),
    ("POST", "/v1/cart/items", b'{"sku":"BAD-1",}', {"MALFORMED_JSON"}),
    ("POST", "/v1/cart/items", b"{'sku':'BAD-1'}", {"MALFORMED_JSON"}),
    ("POST", "/v1/cart/items", b'\xff\xfe{"sku":"BAD-1"}', {"MALFORMED_JSON"}),
    ("POST", "/v1/cart/items", b'{"sku":"BAD\xff-1"}', {"MALFORMED_JSON"}),
    ("POST", "/v1/cart/items", '{"sku":"BAD-1"}'.encode("utf-16"), {"MALFORMED_JSON"}),
    ("POST", "/v1/cart/items", b"sku=BAD-1", {"MALFORMED_JSON"}),
    ("POST", "/v1/cart/items", b"[" * 30_000, {"MALFORMED_JSON", "VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b"[" * 30_000 + b"]" * 30_000, {"MALFORMED_JSON", "VALIDATION_FAILED"}),
    (
        "POST",
        "/v1/cart/items",
        b'{"sku":"BAD-1","properties":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001,
        {"MALFORMED_JSON", "VALIDATION_FAILED"},
    ),
    # not this shape
    ("POST", "/v1/cart/items", b"null", {"VALIDATION_FAILED", "MALFORMED_JSON"}),
    ("POST", "/v1/cart/items", b"[]", {"VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'"BAD-1"', {"VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b"{}", {"VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"sku":1}', {"VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"sku":["BAD-1"]}', {"VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"sku":"BAD-1","price":"0.01"}', {"VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"sku":"BAD-1","unit_price":"0.01"}', {"VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"sku":"BAD-1","properties":"x"}', {"VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"sku":"BAD-1","properties":[1]}', {"VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"product_id":"bad","options":{"Kind":1}}', {"VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"product_id":"bad"}', {"OPTION_REQUIRED"}),
    ("POST", "/v1/cart/items", b'{"product_id":"bad","options":{"Kind":"no"}}', {"OPTION_NOT_AVAILABLE"}),
    ("POST", "/v1/cart/items", b'{"product_id":"bad","options":{"Size":"M"}}', {"OPTION_NOT_AVAILABLE"}),
    # names that are none
    ("POST", "/v1/cart/items", b'{"sku":""}', {"VALIDATION_FAILED", "PRODUCT_NOT_FOUND"}),
    ("POST", "/v1/cart/items", b'{"sku":"no-such"}', {"PRODUCT_NOT_FOUND"}),
    ("POST", "/v1/cart/items", b'{"sku":"BAD-1 "}', {"PRODUCT_NOT_FOUND", "VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"sku":"BAD-1\\n"}', {"PRODUCT_NOT_FOUND", "VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"sku":"BAD\\u0000-1"}', {"VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"sku":"BAD\\ud800-1"}', {"MALFORMED_JSON", "VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"sku":"../../etc"}', {"PRODUCT_NOT_FOUND", "VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"sku":"{main:0}:gate"}', {"PRODUCT_NOT_FOUND", "VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"sku":"%s"}' % (b"S" * 5_000), {"PRODUCT_NOT_FOUND", "VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", '{"sku":"ÄÖÜ"}'.encode(), {"PRODUCT_NOT_FOUND", "VALIDATION_FAILED"}),
    # control characters and surrogates in texts that are kept
    ("POST", "/v1/cart/items", b'{"sku":"BAD-1","properties":{"a":"\\u0000"}}', {"VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"sku":"BAD-1","properties":{"\\u0007":"a"}}', {"VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"sku":"BAD-1","properties":{"a":["\\u001b[2J"]}}', {"VALIDATION_FAILED"}),
    ("POST", "/v1/cart/items", b'{"sku":"BAD-1","properties":{"a":"\x07"}}', {"MALFORMED_JSON"}),
    (
        "POST",
        "/v1/cart/items",
        b'{"sku":"BAD-1","properties":{"a":"\\udc00"}}',
        {"MALFORMED_JSON", "VALIDATION_FAILED"},
    ),
    (
        "POST",
        "/v1/cart/items",
        b'{"sku":"BAD-1","properties":{"a":"%s"}}' % (b"x" * 3_000),
        {"VALIDATION_FAILED"},
    ),
    # lines
    ("PATCH", ITEM, b'{"quantity":1,"version":3}', {"VALIDATION_FAILED"}),
    ("PATCH", ITEM, b"{}", {"VALIDATION_FAILED"}),
    ("PATCH", "/v1/cart/items/no-such", b'{"quantity":1}', {"ITEM_NOT_FOUND"}),
    ("PATCH", "/v1/cart/items/%00", b'{"quantity":1}', {"ITEM_NOT_FOUND", "VALIDATION_FAILED"}),
    ("PATCH", "/v1/cart/items/%1f%0a", b'{"quantity":1}', {"ITEM_NOT_FOUND", "VALIDATION_FAILED"}),
    ("PATCH", "/v1/cart/items/" + "x" * 3_000, b'{"quantity":1}', {"ITEM_NOT_FOUND", "VALIDATION_FAILED"}),
    ("DELETE", "/v1/cart/items/no-such", b"", {"ITEM_NOT_FOUND"}),
    ("PUT", "/v1/cart/items", b'{"items":[]}', {"VALIDATION_FAILED"}),
    ("PUT", "/v1/cart/items", b'{"items":{}}', {"VALIDATION_FAILED"}),
    ("PUT", "/v1/cart/items", b'{"items":[{"quantity":1}]}', {"VALIDATION_FAILED"}),
    (
        "PUT",
        "/v1/cart/items",
        b'{"items":[{"sku":"BAD-1","quantity":1}],"mode":"some"}',
        {"VALIDATION_FAILED"},
    ),
    (
        "PUT",
        "/v1/cart/items",
        b'{"items":[{"sku":"BAD-1","quantity":1},{"sku":"BAD-1","quantity":3}]}',
        {"VALIDATION_FAILED"},
    ),
    (
        "PUT",
        "/v1/cart/items",
        b'{"items":[%s]}' % b",".join(b'{"sku":"BAD-%d","quantity":1}' % n for n in range(1_001)),
        {"VALIDATION_FAILED"},
    ),
    ("POST", "/v1/cart/validate", b'{"line_ids":["no-such"]}', {"ITEM_NOT_FOUND"}),
    ("POST", "/v1/cart/validate", b'{"line_ids":"BAD-1"}', {"VALIDATION_FAILED"}),
    ("POST", "/v1/cart/validate", b'{"line_ids":[""]}', {"VALIDATION_FAILED", "ITEM_NOT_FOUND"}),
    ("POST", "/v1/cart/changes/accept", b'{"line_ids":[]}', {"VALIDATION_FAILED"}),
]


async def test_no_odd_body_is_taken(buyer: Caller, admin: Caller) -> None:
    async with nothing_changed(buyer, admin):
        for method, path, body, codes in BODIES:
            call = await buyer.call(method, path, content=body)
            assert 400 <= call.status < 500, (path, body[:100], call)
            assert call.code in codes, (path, body[:100], call)


async def test_duplicate_members_and_odd_but_valid_json_are_no_defect(buyer: Caller, admin: Caller) -> None:
    """The last of two equal members counts, as everywhere; whatever is made of it, it is no 500."""
    call = await buyer.call("POST", "/v1/cart/items", content=b'{"sku":"no","sku":"BAD-1","quantity":1}')
    assert call.status in (201, 400, 422), call
    call = await buyer.call("PATCH", ITEM, content=b'{"quantity":1,"quantity":2}')
    assert call.status in (200, 400, 422), call
    call = await buyer.call("PATCH", ITEM, content=b' \n\t{"quantity" : 2 }\r\n')
    assert call.status == 200, call
    call = await buyer.call("PATCH", ITEM, content=b'\xef\xbb\xbf{"quantity":2}')
    assert call.status in (200, 400), call


def _checkout_with(**changes: Any) -> bytes:
    return json.dumps(
        {name: value for name, value in {**CHECKOUT, **changes}.items() if value != "absent"}
    ).encode()


CHECKOUTS: list[tuple[bytes, set[str]]] = [
    (b"{}", {"VALIDATION_FAILED"}),
    (_checkout_with(payment_method="absent"), {"VALIDATION_FAILED"}),
    (_checkout_with(payment_method=""), {"VALIDATION_FAILED"}),
    (_checkout_with(payment_method="x" * 65), {"VALIDATION_FAILED"}),
    (_checkout_with(payment_method="a\tb"), {"VALIDATION_FAILED"}),
    (_checkout_with(gateway="absent"), {"VALIDATION_FAILED"}),
    (_checkout_with(gateway="gold"), {"VALIDATION_FAILED"}),
    (_checkout_with(shipping_address="absent"), {"VALIDATION_FAILED"}),
    (_checkout_with(shipping_address={}), {"VALIDATION_FAILED"}),
    (_checkout_with(shipping_address={**ADDRESS, "country": "Scotland"}), {"VALIDATION_FAILED"}),
    (_checkout_with(shipping_address={**ADDRESS, "country": "gb"}), {"VALIDATION_FAILED"}),
    (_checkout_with(shipping_address={**ADDRESS, "city": "a\u0000b"}), {"VALIDATION_FAILED"}),
    (_checkout_with(shipping_address={**ADDRESS, "planet": "Mars"}), {"VALIDATION_FAILED"}),
    (_checkout_with(shipping_address={**ADDRESS, "street": "x" * 2_000}), {"VALIDATION_FAILED"}),
    (
        _checkout_with(shipping_address={**ADDRESS, "street": "\ud800"}),
        {"MALFORMED_JSON", "VALIDATION_FAILED"},
    ),
    (_checkout_with(contact={"email": 1}), {"VALIDATION_FAILED"}),
    (_checkout_with(expected_total=20), {"VALIDATION_FAILED"}),
    (_checkout_with(expected_total="-1.00"), {"VALIDATION_FAILED"}),
    (_checkout_with(expected_total="NaN"), {"VALIDATION_FAILED"}),
    (_checkout_with(expected_total="1e3"), {"VALIDATION_FAILED"}),
    (_checkout_with(expected_total="20.001"), {"VALIDATION_FAILED"}),
    (_checkout_with(expected_total="9" * 30), {"VALIDATION_FAILED"}),
    (_checkout_with(expected_total="0.01"), {"TOTAL_CHANGED"}),
    (_checkout_with(line_ids=[]), {"VALIDATION_FAILED"}),
    (_checkout_with(line_ids=["no-such"]), {"ITEM_NOT_FOUND"}),
    (_checkout_with(line_ids=[SKU, SKU]), {"VALIDATION_FAILED"}),
    (_checkout_with(line_ids=SKU), {"VALIDATION_FAILED"}),
    (_checkout_with(metadata={"x": "y" * 10_000}), {"VALIDATION_FAILED"}),
    (_checkout_with(metadata=[1]), {"VALIDATION_FAILED"}),
    (_checkout_with(total_amount="0.01"), {"VALIDATION_FAILED"}),
    (_checkout_with(status="paid"), {"VALIDATION_FAILED"}),
]


async def test_no_odd_checkout_is_taken(buyer: Caller, admin: Caller) -> None:
    async with nothing_changed(buyer, admin):
        for body, codes in CHECKOUTS:
            call = await buyer.call("POST", "/v1/checkout", content=body, key=new_key())
            assert call.code in codes, (body[:200], call)
        call = await buyer.call("POST", "/v1/checkout", CHECKOUT)
        assert (call.status, call.code) == (400, "IDEMPOTENCY_KEY_REQUIRED"), call
        call = await buyer.call("POST", "/v1/checkout", CHECKOUT, key='""')
        assert (call.status, call.code) == (400, "IDEMPOTENCY_KEY_REQUIRED"), call
        call = await buyer.call("POST", "/v1/checkout", CHECKOUT, key="k" * 300)
        assert (call.status, call.code) == (422, "VALIDATION_FAILED"), call
        call = await buyer.call("POST", "/v1/checkout", CHECKOUT, key='"half')
        assert (call.status, call.code) == (422, "VALIDATION_FAILED"), call


def _product_with(**changes: Any) -> bytes:
    variant = {**PRODUCT["variants"][0], **changes.pop("variant", {})}  # type: ignore[dict-item]
    return json.dumps({**PRODUCT, "variants": [variant], **changes}).encode()


ADMINISTRATION: list[tuple[str, str, bytes, set[str]]] = [
    *[
        ("PUT", "/v1/admin/products/bad", body, {"VALIDATION_FAILED", "MALFORMED_JSON"})
        for body in (
            b"",
            b"{}",
            b'{"title":"x","variants":[]}',
            _product_with(title=""),
            _product_with(title="a\u0007b"),
            _product_with(title=5),
            _product_with(currency="usd"),
            _product_with(currency="DOLLAR"),
            _product_with(currency="XXQ"),
            _product_with(revision=7),
            _product_with(options=["A", "B", "C", "D"]),
            _product_with(options=["Size"]),
            _product_with(images=[""]),
            _product_with(images="x.jpg"),
            _product_with(variant={"price": "-1.00"}),
            _product_with(variant={"price": 1}),
            _product_with(variant={"price": "1.005"}),
            _product_with(variant={"price": "NaN"}),
            _product_with(variant={"price": "9" * 20}),
            _product_with(variant={"price": ""}),
            _product_with(variant={"sku": ""}),
            _product_with(variant={"sku": "a b"}),
            _product_with(variant={"sku": "a/b"}),
            _product_with(variant={"sku": "x~~0123456789ab"}),
            _product_with(variant={"policy": "free"}),
            _product_with(variant={"min_quantity": 0}),
            _product_with(variant={"min_quantity": 5, "max_quantity": 2}),
            _product_with(variant={"multiple_of": -1}),
            _product_with(variant={"hold_ttl_seconds": 0}),
            _product_with(variant={"hold_ttl_seconds": 10**12}),
            _product_with(variant={"prices": {"EURO": "1.00"}}),
            _product_with(variant={"max_per_customer": {"quantity": 0, "window_seconds": 5}}),
            json.dumps({**PRODUCT, "variants": PRODUCT["variants"] * 2}).encode(),
        )
    ],
    ("PUT", "/v1/admin/products/%20", json.dumps(PRODUCT).encode(), {"VALIDATION_FAILED", "NOT_FOUND"}),
    ("PUT", "/v1/admin/products/" + "x" * 200, json.dumps(PRODUCT).encode(), {"VALIDATION_FAILED"}),
    # A SKU belongs to one product.
    ("PUT", "/v1/admin/products/thief", json.dumps(PRODUCT).encode(), {"VALIDATION_FAILED"}),
    *[
        (
            "POST",
            f"/v1/admin/stock/{SKU}/adjust",
            json.dumps({**ADJUST, **changes}).encode(),
            {"VALIDATION_FAILED", "STOCK_CONFLICT"},
        )
        for changes in (
            {"delta": 0},
            {"delta": "1"},
            {"delta": 1.5},
            {"delta": 10**30},
            {"delta": 2**62},
            {"delta": -(2**40)},
            {"delta": -51},
            {"delta": -49},
            {"reason": ""},
            {"reason": "x" * 65},
            {"reason": "a\nb"},
            {"reference": ""},
            {"reference": "x" * 200},
            {"reference": "a\u0000b"},
            {"on_hand": 5},
        )
    ],
    *[
        (
            "PUT",
            f"/v1/admin/stock/{SKU}",
            json.dumps({**SET, **changes}).encode(),
            {"VALIDATION_FAILED", "STOCK_CONFLICT"},
        )
        for changes in (
            {"on_hand": -1},
            {"on_hand": 1},
            {"on_hand": 2**60},
            {"on_hand": None},
            {"on_hand": 60, "expected_on_hand": 49},
            {"on_hand": 60, "expected_on_hand": "50"},
            {"delta": 5},
        )
    ],
    ("PUT", "/v1/admin/stock/no-such", json.dumps(SET).encode(), {"PRODUCT_NOT_FOUND"}),
    ("POST", "/v1/admin/stock/no-such/adjust", json.dumps(ADJUST).encode(), {"PRODUCT_NOT_FOUND"}),
    ("POST", "/v1/admin/stock/adjust", b"[]", {"VALIDATION_FAILED"}),
    ("POST", "/v1/admin/stock/adjust", b"{}", {"VALIDATION_FAILED"}),
    ("POST", "/v1/admin/orders/no-such/refunded", b"", {"ORDER_NOT_FOUND"}),
]


async def test_no_odd_administration_is_taken(buyer: Caller, admin: Caller) -> None:
    async with nothing_changed(buyer, admin):
        for method, path, body, codes in ADMINISTRATION:
            call = await admin.call(method, path, content=body)
            assert call.code in codes, (path, body[:200], call)
    gone = await admin.call("GET", "/v1/products/thief")
    assert gone.status == 404, gone


# --- catalogs --------------------------------------------------------------------------------------------

NO_CATALOGS = [
    b"",
    b"\n\n\n",
    b"Roses are red\nViolets are blue\n",
    b'{"title":"json"}',
    b"a,b,c\n1,2,3\n",
    bytes(range(256)) * 20,
    b"PK\x03\x04" + b"\0" * 500,
    b"Handle,Title\n",
    b'Handle,Title,Variant Price\n"unclosed,1,2\n' * 3,
    "Handle,Title,Variant Price\nä,b,1\n".encode("utf-16"),
    b"Handle,Handle,Title,Variant Price\na,b,c,1\n",
    b"Handle;Title;Variant Price\na;b;1\n",
]


async def test_no_odd_catalog_is_taken(buyer: Caller, admin: Caller) -> None:
    async with nothing_changed(buyer, admin):
        known = await _product_ids(admin)
        for number, content in enumerate(NO_CATALOGS):
            call = await admin.call(
                "POST", "/v1/admin/products/import", content=content, content_type="text/csv"
            )
            if call.status == 200:
                # Its header was one: then each row must be named.
                assert call.body["imported_variants"] == 0, (number, call)
                continue
            assert call.status == 422, (number, call)
        call = await admin.call("POST", "/v1/admin/products/import", content=b"{}")
        assert (call.status, call.code) == (415, "UNSUPPORTED_MEDIA_TYPE"), call
        assert await _product_ids(admin) == known


async def _product_ids(admin: Caller) -> set[str]:
    page = await admin.get("/v1/products?limit=250")
    assert page["next_cursor"] is None
    return {product["id"] for product in page["items"]}


# --- who is calling ----------------------------------------------------------------------------------------


def _forged(shop: Shop) -> dict[str, str]:
    now = int(time.time())
    good = {"sub": "bad-input-buyer", "exp": now + 600, "scope": "admin"}

    def encoded(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    unsigned = f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{encoded(good)}."
    signing = f"{encoded({'alg': 'HS256', 'typ': 'JWT'})}.{encoded(good)}"
    real = jwt.encode(good, shop.jwt_secret, algorithm="HS256")
    head, payload, signature = real.split(".")
    weak = hmac.new(b"", signing.encode(), hashlib.sha256).digest()
    return {
        "expired": jwt.encode({**good, "exp": now - 60}, shop.jwt_secret, algorithm="HS256"),
        "not yet": jwt.encode({**good, "nbf": now + 600}, shop.jwt_secret, algorithm="HS256"),
        "no expiry": jwt.encode({"sub": "x"}, shop.jwt_secret, algorithm="HS256"),
        "no subject": jwt.encode({"exp": now + 600}, shop.jwt_secret, algorithm="HS256"),
        "empty subject": jwt.encode({**good, "sub": ""}, shop.jwt_secret, algorithm="HS256"),
        "long subject": jwt.encode({**good, "sub": "x" * 129}, shop.jwt_secret, algorithm="HS256"),
        "subject with control": jwt.encode({**good, "sub": "a\nb"}, shop.jwt_secret, algorithm="HS256"),
        "other secret": jwt.encode(good, "another secret, of enough characters", algorithm="HS256"),
        "other algorithm": jwt.encode(good, shop.jwt_secret + "x" * 32, algorithm="HS512"),
        "same secret, HS512": jwt.encode(good, shop.jwt_secret, algorithm="HS512"),
        "alg none": unsigned,
        "alg None, signed": unsigned.replace(
            encoded({"alg": "none", "typ": "JWT"}), encoded({"alg": "None"})
        ),
        "empty key": f"{signing}.{base64.urlsafe_b64encode(weak).rstrip(b'=').decode()}",
        "cut signature": f"{head}.{payload}.{signature[:-4]}",
        "other payload": f"{head}.{encoded({**good, 'sub': 'victim'})}.{signature}",
        "no parts": "abc",
        "two parts": "a.b",
        "junk": "a.b.c",
        "huge": "a" * 5_000,
        "infinite expiry": f"{head}.{encoded({**good, 'exp': 'never'})}.{signature}",
    }


async def test_no_forged_token_is_taken(shop: Shop, callers: Callers, buyer: Caller, admin: Caller) -> None:
    async with nothing_changed(buyer, admin):
        for name, token in _forged(shop).items():
            caller = callers.bearer(name, token)
            for method, path, body in (
                ("GET", "/v1/cart", None),
                ("POST", "/v1/cart/items", {"sku": SKU}),
                ("POST", f"/v1/admin/stock/{SKU}/adjust", ADJUST),
            ):
                call = await caller.call(method, path, body)
                assert (call.status, call.code) == (401, "UNAUTHENTICATED"), (name, call)
        for value in ("Bearer", "Basic YTpi", "bearer", "", "Bearer a b"):
            call = await callers.guest().call("GET", "/v1/cart", Authorization=value)
            assert (call.status, call.code) == (401, "UNAUTHENTICATED"), (value, call)


async def test_scopes_are_asked_for(shop: Shop, callers: Callers, buyer: Caller, admin: Caller) -> None:
    routes = {
        "catalog:write": [
            ("PUT", "/v1/admin/products/bad", PRODUCT),
            ("POST", "/v1/admin/products/import", None),
        ],
        "stock:write": [
            ("POST", f"/v1/admin/stock/{SKU}/adjust", ADJUST),
            ("PUT", f"/v1/admin/stock/{SKU}", SET),
            ("POST", "/v1/admin/stock/adjust", [{**ADJUST, "sku": SKU}]),
        ],
        "ops:read": [
            ("GET", "/v1/admin/orders", None),
            ("GET", "/v1/admin/events", None),
            ("GET", "/v1/admin/reconcile", None),
            ("GET", "/v1/admin/stats", None),
            ("GET", f"/v1/admin/stock/{SKU}/ledger", None),
            ("GET", "/v1/admin/carts/u.bad-input-buyer", None),
        ],
        "admin": [("POST", "/v1/admin/reconcile", None), ("POST", "/v1/admin/orders/x/refunded", None)],
    }
    async with nothing_changed(buyer, admin):
        for needed, requests in routes.items():
            for method, path, body in requests:
                call = await callers.guest().call(method, path, body)
                assert (call.status, call.code) == (401, "UNAUTHENTICATED"), call
                for scope in {"", "catalog:write", "stock:write", "ops:read", "ADMIN", "administrator"}:
                    if scope != needed:
                        caller = callers.bearer(scope, shop.token("clerk", scope))
                        call = await caller.call(method, path, body)
                        assert (call.status, call.code) == (403, "FORBIDDEN"), (scope, call)


async def test_nobody_elses_things_can_be_seen_or_touched(
    shop: Shop, callers: Callers, buyer: Caller, admin: Caller
) -> None:
    owner = callers.bearer("owner", shop.token("bad-input-owner"))
    assert (await owner.add(OTHER)).status == 201
    begun = await owner.check_out()
    order_id, payment_id = begun.body["orders"][0]["order_id"], begun.body["payment"]["id"]
    strangers = [buyer, callers.guest(), callers.bearer("stranger", shop.token("u.bad-input-owner"))]
    async with nothing_changed(buyer, admin):
        for stranger in strangers:
            for method, path, body, code in (
                ("GET", f"/v1/orders/{order_id}", None, "ORDER_NOT_FOUND"),
                ("POST", f"/v1/orders/{order_id}/cancel", None, "ORDER_NOT_FOUND"),
                ("GET", f"/v1/payments/{payment_id}", None, "PAYMENT_NOT_FOUND"),
                ("POST", f"/v1/payments/{payment_id}/simulate", {"outcome": "succeed"}, "PAYMENT_NOT_FOUND"),
                ("POST", f"/v1/payments/{payment_id}/confirm", {"outcome": "succeed"}, "PAYMENT_NOT_FOUND"),
                ("GET", f"/v1/orders/{payment_id}", None, "ORDER_NOT_FOUND"),
                ("GET", f"/v1/payments/{order_id}", None, "PAYMENT_NOT_FOUND"),
                ("GET", "/v1/orders/%00", None, "ORDER_NOT_FOUND"),
                ("GET", "/v1/orders/" + "o" * 500, None, "ORDER_NOT_FOUND"),
            ):
                call = await stranger.call(method, path, body)
                assert (call.status, call.code) == (404, code), call
                for bad in ("wrong", "x" * 4_000):
                    call = await stranger.call(method, path, body, X_Order_Token=bad)
                    assert call.status == 404, call
    order = await owner.get(f"/v1/orders/{order_id}")
    assert order["status"] == "pending"
    await owner.cancel(order_id)


@pytest.mark.parametrize("bad", ["", "x", "A" * 52, "g.0123", "a" * 5_000, "=;,", "%00"])
async def test_a_guest_token_of_nobody_reads_empty_and_is_replaced(
    callers: Callers, buyer: Caller, admin: Caller, bad: str
) -> None:
    async with nothing_changed(buyer, admin):
        for header in ({"X_Cart_Token": bad}, {"Cookie": f"cart={bad}"}):
            read = await callers.guest().call("GET", "/v1/cart", **header)
            assert (read.status, read.body["items"], read.body["version"]) == (200, [], 0), read
            assert "set-cookie" not in read.headers, read
            assert "cart-token" not in read.headers, read
            tried = await callers.guest().call("PATCH", "/v1/cart/items/none", {"quantity": 1}, **header)
            assert (tried.status, tried.code) == (404, "ITEM_NOT_FOUND"), tried
            assert len(tried.headers["cart-token"]) > 20, tried
            assert tried.headers["cart-token"] != bad


# --- requests --------------------------------------------------------------------------------------------


async def test_no_body_of_10_mb_is_taken(shop: Shop, buyer: Caller, admin: Caller) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(MEGABYTES_10 // 65_536):
            yield b" " * 65_536

    headers = {**admin.headers, "Content-Type": "application/json", "Idempotency-Key": "huge"}
    async with nothing_changed(buyer, admin):
        for method, path in (
            ("POST", "/v1/cart/items"),
            ("PATCH", ITEM),
            ("PUT", "/v1/cart/items"),
            ("POST", "/v1/cart/validate"),
            ("POST", "/v1/checkout"),
            ("POST", f"/v1/admin/stock/{SKU}/adjust"),
            ("POST", "/v1/admin/stock/adjust"),
            ("PUT", "/v1/admin/products/bad"),
            ("POST", "/v1/webhooks/simulated"),
        ):
            for chunked in (False, True):
                body: Any = endless() if chunked else b'"' + b"x" * MEGABYTES_10 + b'"'
                # A connection of its own: the server may close it with the answer.
                async with httpx.AsyncClient(base_url=shop.url, timeout=60) as client:
                    try:
                        answer = await client.request(method, path, content=body, headers=headers)
                    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
                        # It closed while we were still sending, which is an answer too.
                        continue
                told = answer.json()
                assert (answer.status_code, told["code"]) == (413, "BODY_TOO_LARGE"), (path, answer.text)


async def test_media_types_are_held_to(buyer: Caller, admin: Caller) -> None:
    body = b'{"quantity":3}'
    async with nothing_changed(buyer, admin):
        for content_type in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/xml",
            "application/jsonx",
            "application/json; charset=utf-16",
            "json",
            "*/*",
            ";;;",
            "application/msgpack",
        ):
            call = await buyer.call("PATCH", ITEM, content=body, content_type=content_type)
            assert (call.status, call.code) == (415, "UNSUPPORTED_MEDIA_TYPE"), (content_type, call)
    for content_type in ("application/json", "application/json; charset=utf-8", "APPLICATION/JSON"):
        call = await buyer.call("PATCH", ITEM, content=b'{"quantity":2}', content_type=content_type)
        assert call.status == 200, (content_type, call)


async def test_odd_methods_and_paths_are_refused(buyer: Caller, admin: Caller) -> None:
    async with nothing_changed(buyer, admin):
        for method, path in (
            ("POST", "/v1/cart"),
            ("PUT", "/v1/cart"),
            ("PATCH", "/v1/cart"),
            ("GET", "/v1/cart/items"),
            ("GET", ITEM),
            ("GET", "/v1/checkout"),
            ("DELETE", "/v1/orders"),
            ("DELETE", "/v1/products/bad"),
            ("POST", "/v1/products"),
            ("PUT", f"/v1/stock/{SKU}"),
            ("POST", "/health/live"),
            ("TRACE", "/v1/cart"),
            ("get", "/v1/checkout"),
        ):
            call = await buyer.call(method, path)
            assert (call.status, call.code) == (405, "METHOD_NOT_ALLOWED"), call
            assert method not in call.headers["allow"].split(", "), call
        for path in (
            "/v1",
            "/v1/",
            "/v2/cart",
            "/v1/carts",
            "/v1/cart/items/a/b",
            "/v1//cart/x",
            "/..%2f..%2fetc/passwd",
            "/v1/cart%00",
            "/v1/" + "x" * 4_000,
            "/v1/admin",
            "/v1/webhooks",
            "/%ff%fe",
            "/v1/orders/a/cancel/b",
            "/schema/none",
        ):
            for method in ("GET", "POST"):
                call = await buyer.call(method, path)
                assert call.status in (404, 405), call
        for path in (
            "/v1/products?limit=0",
            "/v1/products?limit=-1",
            "/v1/products?limit=1000000",
            "/v1/products?limit=x",
            "/v1/products?limit=1.5",
            "/v1/products?cursor=%00",
            "/v1/products?q=%00",
            "/v1/products?q=" + "x" * 1_000,
            "/v1/orders?limit=0",
            "/v1/orders?cursor=nonsense",
            "/v1/orders?cursor=%ff",
            "/v1/admin/orders?status=lost",
            "/v1/admin/events?after=x",
            "/v1/admin/events?limit=0",
        ):
            call = await admin.call("GET", path)
            assert (call.status, call.code) == (422, "VALIDATION_FAILED"), call
        for path, code in (
            ("/v1/products/no-such", "PRODUCT_NOT_FOUND"),
            ("/v1/products/%00", "PRODUCT_NOT_FOUND"),
            ("/v1/stock/no-such", "PRODUCT_NOT_FOUND"),
            ("/v1/stock/%0a", "PRODUCT_NOT_FOUND"),
            ("/v1/payments/no-such", "PAYMENT_NOT_FOUND"),
            ("/v1/admin/carts/x", "NOT_FOUND"),
        ):
            call = await admin.call("GET", path)
            assert (call.status, call.code) == (404, code), call
        for value in ("abc", '"1", "2"', "-1", '"' + "9" * 40 + '"', '"1', "1-"):
            call = await buyer.call("PATCH", ITEM, {"quantity": 3}, If_Match=value)
            assert call.status in (412, 422), (value, call)
        for value in ("k" * 256, '"open'):
            call = await buyer.call("PATCH", ITEM, {"quantity": 3}, key=value)
            assert (call.status, call.code) == (422, "VALIDATION_FAILED"), (value, call)


async def test_webhooks_are_believed_only_when_signed(
    shop: Shop, callers: Callers, buyer: Caller, admin: Caller
) -> None:
    gateway = callers.guest("gateway")

    def signed(body: bytes) -> str:
        return hmac.new(shop.jwt_secret.encode(), body, hashlib.sha256).hexdigest()

    good = b'{"payment_id":"p0-none","outcome":"succeed"}'
    async with nothing_changed(buyer, admin):
        for signature in ("", "x", signed(good)[:-1], signed(good + b" "), "0" * 64):
            call = await gateway.call(
                "POST", "/v1/webhooks/simulated", content=good, X_Simulated_Signature=signature
            )
            assert (call.status, call.code) == (400, "SIGNATURE_INVALID"), call
        for body in (
            b"",
            b"{}",
            b"[]",
            b"\xff",
            b'{"payment_id":1,"outcome":"succeed"}',
            good[:-1] + b',"a":1}',
        ):
            call = await gateway.call(
                "POST", "/v1/webhooks/simulated", content=body, X_Simulated_Signature=signed(body)
            )
            assert 400 <= call.status < 500, (body, call)
        call = await gateway.call(
            "POST", "/v1/webhooks/simulated", content=good, X_Simulated_Signature=signed(good)
        )
        assert (call.status, call.code) == (404, "PAYMENT_NOT_FOUND"), call
        call = await gateway.call("POST", "/v1/webhooks/none", content=good)
        assert (call.status, call.code) == (404, "NOT_FOUND"), call


_ADD = b"POST /v1/cart/items HTTP/1.1\r\nHost: a\r\n"
RAW = [
    b"BREW /v1/cart HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /v1/cart HTTP/1.1\r\nHost: a\r\nBad Header\r\n\r\n",
    b"GET /v1/cart HTTP/1.1\r\nHost: a\r\nX: " + b"\x00\x01" + b"\r\n\r\n",
    b"GET /v1/\x00cart HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v1/c\xe4rt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET http:// HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET /v1/cart HTTP/1.1\r\nConnection: close\r\n\r\n",
    b"GET /v1/cart HTTP/1.0\r\n\r\n",
    b"GET /v1/cart HTTP/1.1\r\nHost: a\r\nCookie: \xff\xfe=\x80; cart\r\nConnection: close\r\n\r\n",
    b"GET /v1/cart HTTP/1.1\r\nHost: a\r\nX-Cart-Token: \xff\r\nConnection: close\r\n\r\n",
    b"GET /v1/cart HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xc3\xbf\r\nConnection: close\r\n\r\n",
    b"GET /v1/cart?\xff=%zz&&&== HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET /v1/products?q=%zz&limit=%31 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET /v1/cart HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 3_000 + b"Connection: close\r\n\r\n",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    _ADD + b"Content-Length: -5\r\n\r\n",
    _ADD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    _ADD + b"Content-Length: 99999999999999999999\r\n\r\n",
    _ADD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n0\r\n\r\n",
    _ADD + b"Transfer-Encoding: gzip\r\n\r\nabc",
    _ADD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    _ADD + b"Content-Length: 100\r\n\r\n{",
    _ADD + b"Expect: 200-maybe\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    bytes(range(256)),
]


async def test_malformed_http_is_refused_and_the_next_request_served(
    shop: Shop, callers: Callers, buyer: Caller, admin: Caller
) -> None:
    async with nothing_changed(buyer, admin):
        answers = await asyncio.gather(*(_send_raw(shop.url, request) for request in RAW))
        for request, answer in zip(RAW, answers, strict=True):
            if not answer:
                continue  # Closed without a word, as for TLS.
            status = int(answer.split(b" ", 2)[1])
            assert 200 <= status < 500, (request[:120], answer[:300])
            if status >= 400 and b"x-request-id" in answer:
                assert b"application/problem+json" in answer, (request[:120], answer[:300])
    logs = shop.logs()
    assert "Traceback" not in logs, logs[logs.index("Traceback") - 2_000 :][:4_000]


async def _send_raw(url: str, request: bytes) -> bytes:
    """What comes back until the server closes, or falls silent."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    answer = b""
    try:
        with suppress(OSError, TimeoutError):
            writer.write(request)
            await writer.drain()
            async with asyncio.timeout(3):
                while chunk := await reader.read(65_536):
                    answer += chunk
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    return answer
