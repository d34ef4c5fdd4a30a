"""The table of problems, what their fixes do, and input that nobody should send."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from cartstore_api import problems
from cartstore_api.context import RequestContext
from cartstore_api.problems import KINDS
from cartstore_api.schemas import Fix
from conftest import ADDRESS

from cartstore import errors
from cartstore.errors import InsufficientStock, OutcomeUnknown, StoreFull, StoreRecovering, StoreUnavailable
from cartstore.model import line_id_of

DECISION = Path(__file__).parents[2] / "docs" / "decisions" / "0005-rest.md"

LATER = {
    "COUPON_NOT_FOUND",
    "COUPON_NOT_APPLICABLE",
    "RATE_LIMITED",
    "IDEMPOTENCY_IN_PROGRESS",
}
"""Of the contract's codes those that nothing answers with yet."""


def _codes_of(kind: type) -> set[str]:
    return {kind.__dict__.get("code", "")} | {
        code for sub in kind.__subclasses__() for code in _codes_of(sub)
    }


def test_codes_are_those_of_the_contract() -> None:
    documented = {
        (int(status), code)
        for status, codes in re.findall(r"^\| ([0-9]{3}) \| (.+) \|$", DECISION.read_text(), re.MULTILINE)
        for code in re.findall(r"`([A-Z_]+)`", codes)
    }

    assert documented == {(kind.status, code) for code, kind in KINDS.items() if code != "INTERNAL"}


def test_codes_of_the_store_are_all_known() -> None:
    raised = _codes_of(errors.CartError) | _codes_of(errors.StoreError)

    assert raised - {"", "CONFLICT"} <= set(KINDS)


async def _problem(answer: httpx.Response, status: int, code: str) -> Any:
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["type"] == "urn:cartstore:problem:" + code.lower().replace("_", "-")
    assert problem["title"] == KINDS[code].title
    assert problem["detail"]
    assert problem["instance"].startswith("/")
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    return problem


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
async def test_fix_takes_what_is_there_when_stock_is_short(api: Any, method: str) -> None:
    await api.sell(stock=5, multiple_of=2, min_quantity=2)
    await api.add(quantity=2, by=api.ben)
    if method == "PATCH":
        await api.add(quantity=2)
    calls = {
        "POST": ("/v1/cart/items", {"sku": "MUG", "quantity": 8, "properties": {"a": 1}}),
        "PATCH": ("/v1/cart/items/MUG", {"quantity": 8}),
        "PUT": ("/v1/cart/items", {"items": [{"sku": "MUG", "quantity": 8, "properties": {"a": 1}}]}),
    }
    path, body = calls[method]

    problem = await _problem(await api.ana.request(method, path, json=body), 409, "INSUFFICIENT_STOCK")

    assert problem["instance"] == path
    line_id = "MUG" if method == "PATCH" else line_id_of("MUG", '{"a":1}')
    assert problem["line_id"] == line_id
    assert problem["suggested_action"] == "reduce_quantity"
    assert (await api.fixed(problem)).is_success
    (line,) = (await api.ana.get("/v1/cart")).json()["items"]
    assert line["quantity"] == 2
    assert line["properties"] == ({} if method == "PATCH" else {"a": 1})


@pytest.mark.parametrize("fix", [None, Fix(method="PATCH", path="/v1/cart/items/MUG", body={"quantity": 4})])
@pytest.mark.parametrize("available", [None, 0, 5, 2**53 + 1])
def test_short_answer_is_that_of_any_problem_when_units_are_missing(
    fix: Fix | None, available: int | None
) -> None:
    error = InsufficientStock(sku="MUG", available_quantity=available, requested_quantity=9)
    problem = problems.ProblemError.of(error)
    problem.line_id, problem.fix = "MUG~~1", fix
    contexts = [RequestContext([(b"x-request-id", b"mine")]) for _ in range(2)]

    expected = problems.answer(contexts[0], problem, "POST", "/v1/cart/items")
    answer = problems.answer_short(contexts[1], error, "MUG~~1", "/v1/cart/items", fix)

    parts = "body", "status", "headers", "content_type"
    assert [getattr(answer, part) for part in parts] == [getattr(expected, part) for part in parts]
    assert contexts[1].code == contexts[0].code == "INSUFFICIENT_STOCK"


@pytest.mark.parametrize("path", ["/v1/cart/items/MUG", "/v1/cart/items/%4DUG"])
async def test_problem_names_the_path_when_a_line_cannot_be_set(api: Any, path: str) -> None:
    await api.sell(stock=2)
    await api.add(quantity=1)

    problem = await _problem(await api.ana.patch(path, json={"quantity": 3}), 409, "INSUFFICIENT_STOCK")

    assert problem["instance"] == "/v1/cart/items/MUG"
    assert problem["line_id"] == problem["sku"] == "MUG"


async def test_no_fix_is_given_when_the_engine_does_not_tell_what_fits(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.sell()

    async def refuse(*_: Any, **__: Any) -> None:
        raise InsufficientStock(line_id="MUG", sku="MUG", available_quantity=5, requested_quantity=9)

    monkeypatch.setattr(api.store.engine, "add_line", refuse)

    refused = await api.ana.post("/v1/cart/items", json={"sku": "MUG", "quantity": 9})

    problem = await _problem(refused, 409, "INSUFFICIENT_STOCK")
    assert problem["available_quantity"] == 5
    assert "fix" not in problem


async def test_fix_removes_the_line_when_nothing_is_left(api: Any) -> None:
    await api.sell(stock=2, hold_policy="on_checkout")
    await api.add(quantity=1)
    await api.add(quantity=2, by=api.ben)
    await api.check_out(by=api.ben)

    problem = await _problem(
        await api.ana.patch("/v1/cart/items/MUG", json={"quantity": 2}), 409, "INSUFFICIENT_STOCK"
    )
    sold_out = await _problem(
        await api.ben.post("/v1/cart/items", json={"sku": "MUG"}), 409, "INSUFFICIENT_STOCK"
    )

    assert (problem["available_quantity"], problem["requested_quantity"]) == (0, 2)
    assert problem["fix"] == {"method": "DELETE", "path": "/v1/cart/items/MUG", "body": None}
    assert (await api.fixed(problem)).status_code == 200
    assert (await api.fixed(sold_out, by=api.ben)).status_code == 200


@pytest.mark.parametrize(("asked", "fixed"), [(1, 6), (0, 6), (-3, 6), (7, 6), (100, 12), (2**70, 12)])
async def test_fix_gives_the_nearest_quantity_when_a_rule_is_broken(api: Any, asked: int, fixed: int) -> None:
    await api.sell(stock=50, min_quantity=5, multiple_of=3, max_quantity=14)

    problem = await _problem(
        await api.ana.post("/v1/cart/items", json={"sku": "MUG", "quantity": asked}), 422, "INVALID_QUANTITY"
    )

    assert (await api.fixed(problem)).status_code == 200
    assert (await api.ana.get("/v1/cart")).json()["items"][0]["quantity"] == fixed


async def test_fix_stays_within_the_limits_when_one_is_exceeded(make_api: Any) -> None:
    api = await make_api(
        max_quantity_per_line=20, max_items_per_cart=30, max_lines_per_cart=2, max_held_per_owner=25
    )
    for sku in ("A", "B", "C"):
        await api.sell(sku, stock=100)

    per_line = await _problem(
        await api.ana.post("/v1/cart/items", json={"sku": "A", "quantity": 21}), 422, "LIMIT_EXCEEDED"
    )
    assert (await api.fixed(per_line)).status_code == 200
    held = await _problem(
        await api.ana.post("/v1/cart/items", json={"sku": "B", "quantity": 6}), 422, "LIMIT_EXCEEDED"
    )
    assert (await api.fixed(held)).status_code == 200
    items = await _problem(
        await api.ana.patch("/v1/cart/items/B", json={"quantity": 11}), 422, "LIMIT_EXCEEDED"
    )
    assert (await api.fixed(items)).status_code == 200
    cart = (await api.ana.get("/v1/cart")).json()
    assert [line["quantity"] for line in cart["items"]] == [20, 5]
    await api.check_out(line_ids=["A"])
    in_orders = await _problem(
        await api.ana.post("/v1/cart/items", json={"sku": "C", "quantity": 2}), 422, "LIMIT_EXCEEDED"
    )
    # Twenty are held by the order, so the other line makes room.
    assert (await api.fixed(in_orders)).status_code == 200
    cart = (await api.ana.get("/v1/cart")).json()
    assert [line["quantity"] for line in cart["items"]] == [4, 1]


async def test_fix_accepts_when_a_price_rose_before_checkout(api: Any) -> None:
    await api.sell(price="9.99")
    await api.add()
    await api.sell(price="12.00", stock=None)

    problem = await _problem(await api.checking_out(), 409, "PRICE_CHANGED")

    (entry,) = problem["shortfalls"]
    assert (entry["line_id"], entry["old_price"], entry["new_price"]) == ("MUG", "9.99", "12.00")
    assert problem["fix"] == {
        "method": "POST",
        "path": "/v1/cart/changes/accept",
        "body": {"line_ids": ["MUG"]},
    }
    assert (await api.fixed(problem)).status_code == 200
    assert (await api.check_out())["total_amount"] == "12.00"


async def test_fix_names_the_total_when_another_was_expected(api: Any) -> None:
    await api.sell(price="9.99")
    await api.add()

    problem = await _problem(
        await api.checking_out(expected_total="1.00", contact={"email": "a@b.c"}), 409, "TOTAL_CHANGED"
    )
    checkout = await api.fixed(problem, **{"Idempotency-Key": "fixed"})

    assert checkout.status_code == 201
    assert checkout.json()["total_amount"] == "9.99"


@pytest.mark.parametrize("lines", [1, 2])
async def test_fix_sets_the_lines_when_checkout_cannot_hold_them(api: Any, lines: int) -> None:
    for number in range(lines):
        sku = f"SKU{number}"
        await api.sell(sku, stock=4, hold_policy="on_checkout")
        await api.add(sku, 4)
        await api.add(sku, 3, by=api.ben)
    await api.check_out(by=api.ben)

    problem = await _problem(await api.checking_out(), 409, "INSUFFICIENT_STOCK")

    assert [entry["available_quantity"] for entry in problem["shortfalls"]] == [1] * lines
    assert (await api.fixed(problem)).status_code == 200
    assert (await api.check_out())["orders"][0]["lines"][0]["quantity"] == 1


async def test_problems_carry_their_code_when_the_store_refuses(api: Any) -> None:
    await api.sell("MUG")
    await api.sell("OFF", active=False)
    await api.sell("EURO", currency="EUR")
    shirt = {
        "title": "Shirt",
        "options": ["Size"],
        "variants": [{"sku": f"S-{size}", "price": "5", "options": {"Size": size}} for size in "ML"],
    }
    await api.done(api.admin.put("/v1/admin/products/shirt", json=shirt))
    items = "/v1/cart/items"
    calls = [
        ("POST", "/v1/checkout", _CHECKOUT, 409, "CART_EMPTY"),
        ("POST", items, {"sku": "NONE"}, 404, "PRODUCT_NOT_FOUND"),
        ("POST", items, {"sku": "a b"}, 404, "PRODUCT_NOT_FOUND"),
        ("POST", items, {"product_id": "none"}, 404, "PRODUCT_NOT_FOUND"),
        ("POST", items, {"product_id": "shirt"}, 422, "OPTION_REQUIRED"),
        ("POST", items, {"product_id": "shirt", "options": {"Size": "XS"}}, 422, "OPTION_NOT_AVAILABLE"),
        ("POST", items, {"product_id": "p-MUG", "options": {"Size": "M"}}, 422, "OPTION_NOT_AVAILABLE"),
        ("POST", items, {"sku": "OFF"}, 409, "PRODUCT_INACTIVE"),
        ("PATCH", f"{items}/MUG", {"quantity": 1}, 404, "ITEM_NOT_FOUND"),
        ("DELETE", f"{items}/MUG", None, 404, "ITEM_NOT_FOUND"),
        ("PUT", items, {"items": [{"line_id": "MUG", "quantity": 1}]}, 404, "ITEM_NOT_FOUND"),
        ("POST", "/v1/cart/validate", {"line_ids": ["MUG"]}, 404, "ITEM_NOT_FOUND"),
        ("POST", "/v1/cart/changes/accept", {"line_ids": ["MUG"]}, 404, "ITEM_NOT_FOUND"),
        ("GET", "/v1/orders/none", None, 404, "ORDER_NOT_FOUND"),
        ("GET", "/v1/payments/none", None, 404, "PAYMENT_NOT_FOUND"),
        ("GET", "/v1/products/none", None, 404, "PRODUCT_NOT_FOUND"),
        ("GET", "/v1/stock/none", None, 404, "PRODUCT_NOT_FOUND"),
        ("GET", "/v1/nothing", None, 404, "NOT_FOUND"),
        ("GET", "/nothing/" + "a" * 3000, None, 404, "NOT_FOUND"),
        ("PUT", "/v1/cart", None, 405, "METHOD_NOT_ALLOWED"),
        ("TRACE", "/v1/cart", None, 405, "METHOD_NOT_ALLOWED"),
    ]

    for method, path, body, status, code in calls:
        answer = await api.ana.request(method, path, json=body, headers={"Idempotency-Key": ""})
        if path == "/v1/checkout":
            answer = await api.checking_out()
        problem = await _problem(answer, status, code)
        if "fix" in problem:
            assert (await api.fixed(problem)).is_success, problem
    await api.add("MUG")
    await _problem(await api.ana.post(items, json={"sku": "EURO"}), 409, "CURRENCY_MISMATCH")
    await api.sell("MUG", stock=None, active=False)
    inactive = await _problem(
        await api.ana.patch(f"{items}/MUG", json={"quantity": 2}), 409, "PRODUCT_INACTIVE"
    )
    assert (await api.fixed(inactive)).status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (StoreUnavailable(), 503, "not applied"),
        (StoreRecovering(), 503, "not applied"),
        (StoreFull(), 503, "not applied"),
        (OutcomeUnknown(), 504, "may have been applied"),
        (ValueError("a secret"), 500, "unknown"),
        (errors.ContractError("a secret"), 500, "unknown"),
    ],
)
async def test_problems_say_what_became_of_the_change_when_the_store_fails(
    api: Any, monkeypatch: Any, error: Exception, status: int, said: str
) -> None:
    async def fail(*arguments: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr(api.store, "add_line", fail)
    answer = await api.anyone.post("/v1/cart/items", json={"sku": "MUG"})

    code = error.code if isinstance(error, errors.StoreError) else "INTERNAL"
    problem = await _problem(answer, status, code)
    assert said in problem["detail"]
    assert "secret" not in answer.text
    assert ("Retry-After" in answer.headers) == (status != 500)
    assert answer.headers["Cart-Token"], "the repeated call must find the same cart"


async def test_problems_go_out_without_a_fix_when_the_store_fails_meanwhile(
    api: Any, monkeypatch: Any
) -> None:
    await api.sell()
    await api.add()

    async def fail(*arguments: Any) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(api.store, "read_cart", fail)
    calls = [
        ("POST", "/v1/cart/items", {"sku": "MUG", "quantity": 200}, 422, "LIMIT_EXCEEDED"),
        ("DELETE", "/v1/cart", None, 412, "VERSION_CONFLICT"),
    ]
    for method, path, body, status, code in calls:
        headers = {"If-Match": "987654321"} if code == "VERSION_CONFLICT" else {}
        problem = await _problem(
            await api.ana.request(method, path, json=body, headers=headers), status, code
        )
        assert "cart" not in problem
    monkeypatch.setattr(api.store.catalog, "find_sku", fail)
    short = await api.ana.post("/v1/cart/items", json={"sku": "MUG", "quantity": 50})
    assert (await _problem(short, 409, "INSUFFICIENT_STOCK"))["fix"]["body"]["items"][0]["quantity"] == 10


DEEP = b"[" * 50_000 + b"]" * 50_000

BODIES: list[tuple[bytes, int, str, str | None]] = [
    (b"", 400, "MALFORMED_JSON", None),
    (b"{", 400, "MALFORMED_JSON", None),
    (b"nonsense", 400, "MALFORMED_JSON", None),
    (b'{"sku": "MUG"} x', 400, "MALFORMED_JSON", None),
    (b'\xef\xbb\xbf{"sku": "MUG"}', 400, "MALFORMED_JSON", None),
    (b'{"sku": "M\xff"}', 400, "MALFORMED_JSON", None),
    (b'{"sku": "\\ud800"}', 400, "MALFORMED_JSON", None),
    (b'{"sku": "a\x00"}', 400, "MALFORMED_JSON", None),
    (b'{"sku": "MUG", "quantity": NaN}', 400, "MALFORMED_JSON", None),
    (
        b'{"sku": "MUG", "properties": {"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}}",
        422,
        "VALIDATION_FAILED",
        "properties",
    ),
    (b"null", 422, "VALIDATION_FAILED", "body"),
    (b"[]", 422, "VALIDATION_FAILED", "body"),
    (b'"MUG"', 422, "VALIDATION_FAILED", "body"),
    (b"{}", 422, "VALIDATION_FAILED", "sku"),
    (b'{"sku": null}', 422, "VALIDATION_FAILED", "sku"),
    (b'{"sku": 7}', 422, "VALIDATION_FAILED", "sku"),
    (b'{"sku": ""}', 422, "VALIDATION_FAILED", "sku"),
    (b'{"sku": "' + b"a" * 200 + b'"}', 422, "VALIDATION_FAILED", "sku"),
    (b'{"sku": "a\\u0000"}', 422, "VALIDATION_FAILED", "sku"),
    (b'{"sku": "a\\u007f"}', 422, "VALIDATION_FAILED", "sku"),
    (b'{"sku": "a\xc2\x85"}', 422, "VALIDATION_FAILED", "sku"),
    (b'{"sku": "MUG", "price": "0.01"}', 422, "VALIDATION_FAILED", "price"),
    (b'{"sku": "MUG", "unit_price": "0.01"}', 422, "VALIDATION_FAILED", "unit_price"),
    (b'{"sku": "MUG", "a\\u0000": 1}', 422, "VALIDATION_FAILED", "a\x00"),
    (b'{"sku": "MUG", "product_id": "p-MUG"}', 422, "VALIDATION_FAILED", "product_id"),
    (b'{"sku": "MUG", "quantity": "1"}', 422, "VALIDATION_FAILED", "quantity"),
    (b'{"sku": "MUG", "quantity": 1.5}', 422, "VALIDATION_FAILED", "quantity"),
    (b'{"sku": "MUG", "quantity": true}', 422, "VALIDATION_FAILED", "quantity"),
    (b'{"sku": "MUG", "quantity": null}', 422, "VALIDATION_FAILED", "quantity"),
    (b'{"sku": "MUG", "quantity": 1e400}', 422, "VALIDATION_FAILED", "quantity"),
    (b'{"sku": "MUG", "quantity": ' + b"9" * 5_000 + b"}", 422, "VALIDATION_FAILED", "quantity"),
    (b'{"sku": "MUG", "quantity": 0}', 422, "INVALID_QUANTITY", "quantity"),
    (b'{"sku": "MUG", "quantity": -1}', 422, "INVALID_QUANTITY", "quantity"),
    (b'{"sku": "MUG", "quantity": 4294967296}', 422, "INVALID_QUANTITY", "quantity"),
    (b'{"sku": "MUG", "quantity": 99999999999999999999999}', 422, "INVALID_QUANTITY", "quantity"),
    (b'{"sku": "MUG", "properties": []}', 422, "VALIDATION_FAILED", "properties"),
    (b'{"sku": "MUG", "properties": {"a": "\\u0000"}}', 422, "VALIDATION_FAILED", "properties.a"),
    (b'{"sku": "MUG", "properties": {"\\u0001": 1}}', 422, "VALIDATION_FAILED", "properties"),
    (b'{"sku": "MUG", "properties": {"a": "' + b"x" * 3_000 + b'"}}', 422, "VALIDATION_FAILED", "properties"),
    (b'{"product_id": "p-MUG", "options": {"Size": 1}}', 422, "VALIDATION_FAILED", "options.Size"),
]


async def test_add_names_the_problem_and_changes_nothing_when_the_body_is_bad(api: Any) -> None:
    await api.sell()

    for body, status, code, field in BODIES:
        answer = await api.ana.post(
            "/v1/cart/items", content=body, headers={"Content-Type": "application/json"}
        )

        problem = await _problem(answer, status, code)
        assert problem.get("field") == field, body[:80]
    assert (await api.ana.get("/v1/cart")).json()["version"] == 0


async def test_add_takes_the_last_when_a_key_is_doubled(api: Any) -> None:
    await api.sell()

    answer = await api.ana.post("/v1/cart/items", content=b'{"sku": "NONE", "sku": "MUG"}')

    assert answer.status_code == 201


CHECKOUTS: list[tuple[dict[str, Any], str]] = [
    ({"gateway": "other"}, "gateway"),
    ({"gateway": 1}, "gateway"),
    ({"payment_method": ""}, "payment_method"),
    ({"payment_method": "x" * 65}, "payment_method"),
    ({"payment_method": "a\u0007"}, "payment_method"),
    ({"line_ids": []}, "line_ids"),
    ({"line_ids": ["MUG", "MUG"]}, "line_ids"),
    ({"line_ids": "MUG"}, "line_ids"),
    ({"expected_total": "-1"}, "expected_total"),
    ({"expected_total": "1.999"}, "expected_total"),
    ({"expected_total": 9.99}, "expected_total"),
    ({"expected_total": "9" * 30}, "expected_total"),
    ({"shipping_address": None}, "shipping_address"),
    ({"shipping_address": {}}, "shipping_address.street"),
    ({"shipping_address": {**ADDRESS, "country": "XX"}}, "shipping_address.country"),
    ({"shipping_address": {**ADDRESS, "country": "USA"}}, "shipping_address.country"),
    ({"shipping_address": {**ADDRESS, "country": "us"}}, "shipping_address.country"),
    ({"shipping_address": {**ADDRESS, "street": "a\u0000b"}}, "shipping_address.street"),
    ({"shipping_address": {**ADDRESS, "planet": "x"}}, "shipping_address.planet"),
    ({"billing_address": {"street": "x"}}, "billing_address.city"),
    ({"contact": {"email": "x" * 300}}, "contact.email"),
    ({"contact": {"email": "ann@gmail"}}, "contact.email"),
    ({"contact": {"email": "Ann <ann@example.org>"}}, "contact.email"),
    ({"contact": {"fax": "1"}}, "contact.fax"),
    ({"metadata": {"a": "x" * 5_000}}, "metadata"),
    ({"metadata": {"a": ["\u0000"]}}, "metadata.a[0]"),
    ({"metadata": []}, "metadata"),
    ({"total": "1.00"}, "total"),
    ({"state": "paid"}, "state"),
]


async def test_checkout_names_the_field_and_changes_nothing_when_the_body_is_bad(api: Any) -> None:
    await api.sell()
    version = (await api.add())["version"]

    for change, field in CHECKOUTS:
        problem = await _problem(await api.checking_out(**change), 422, "VALIDATION_FAILED")
        assert problem["field"] == field, change
    assert (await api.ana.get("/v1/cart")).json()["version"] == version


async def test_checkout_keeps_huge_numbers_when_metadata_has_them(api: Any) -> None:
    await api.sell()
    await api.add()

    checkout = await api.check_out(metadata={"big": 2**80, "float": 1e300, "text": "ünï"})
    await api.archive()

    order_id = checkout["orders"][0]["order_id"]
    assert (await api.admin.get("/v1/admin/orders")).json()["items"][0]["order_id"] == order_id


PUTS: list[tuple[Any, str]] = [
    ({"items": []}, "items"),
    ({"items": [{"quantity": 1}]}, "items[0].sku"),
    ({"items": [{"sku": "MUG", "quantity": 1, "price": "0"}]}, "items[0].price"),
    ({"items": [{"sku": "MUG"}]}, "items[0].quantity"),
    ({"items": [{"sku": "MUG", "quantity": 1}, {"sku": "MUG", "quantity": 2}]}, "items[1]"),
    ({"items": [{"sku": f"S{n}", "quantity": 1} for n in range(101)]}, "items"),
    ({"items": [{"sku": "MUG", "quantity": 1}], "mode": "some"}, "mode"),
    ({"items": [{"sku": "MUG", "quantity": -1}]}, "items[0].quantity"),
    ({"items": [{"sku": "MUG", "quantity": 1, "properties": {"a": "\u0000"}}]}, "items[0].properties.a"),
]


async def test_put_names_the_field_when_the_body_is_bad(api: Any) -> None:
    await api.sell()

    for body, field in PUTS:
        answer = await api.ana.put("/v1/cart/items", json=body)
        assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text


STOCK: list[tuple[dict[str, Any], str]] = [
    ({"delta": 0}, "delta"),
    ({"delta": 2**41}, "delta"),
    ({"delta": -(2**70)}, "delta"),
    ({"delta": "5"}, "delta"),
    ({"delta": 1.5}, "delta"),
    ({"reason": ""}, "reason"),
    ({"reason": "x" * 65}, "reason"),
    ({"reason": "a\u0000"}, "reason"),
    ({"reference": ""}, "reference"),
    ({"reference": "x" * 129}, "reference"),
    ({"reference": None}, "reference"),
    ({"on_hand": 5}, "on_hand"),
]


async def test_adjust_names_the_field_when_the_body_is_bad(api: Any) -> None:
    await api.sell(stock=None)

    for change, field in STOCK:
        body = {"delta": 5, "reason": "r", "reference": "1", **change}
        answer = await api.admin.post("/v1/admin/stock/MUG/adjust", json=body)
        assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text
    for on_hand in (-1, 2**41, 2**70):
        body = {"on_hand": on_hand, "reason": "r", "reference": "1"}
        answer = await api.admin.put("/v1/admin/stock/MUG", json=body)
        assert (answer.status_code, answer.json()["field"]) == (422, "on_hand"), answer.text
    assert (await api.anyone.get("/v1/stock/MUG")).json()["on_hand"] == 0


async def test_body_is_refused_when_its_media_type_is_another(api: Any) -> None:
    await api.sell()
    types = [
        ("application/json", 201),
        ("application/json; charset=utf-8", 201),
        ('Application/JSON; charset="UTF-8"', 201),
        ("application/merge-patch+json", 201),
        ("", 201),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/json; charset=utf-16", 415),
        ("application/jsonp", 415),
        ("nonsense", 415),
        ("\xff/\x7f", 415),
    ]

    for media_type, status in types:
        answer = await api.ana.post(
            "/v1/cart/items",
            content=b'{"sku": "MUG"}',
            headers={"Content-Type": media_type.encode("latin-1"), "Accept": "image/png"},
        )
        assert answer.status_code == status, media_type


async def test_body_is_refused_unread_when_it_is_too_large(api: Any) -> None:
    sent = 0

    async def pieces() -> Any:
        nonlocal sent
        for _ in range(160):
            sent += 1
            yield b" " * 65_536

    announced = await api.ana.post("/v1/cart/items", content=b" " * 10_000_000)
    streamed = await api.ana.post("/v1/cart/items", content=pieces())
    lying = await api.ana.post("/v1/cart/items", content=b"{}", headers={"Content-Length": "-5"})
    absurd = await api.ana.post("/v1/cart/items", content=b"{}", headers={"Content-Length": "many"})
    unasked = await api.ana.request("GET", "/v1/cart", content=b" " * 10_000_000)

    for answer in (announced, streamed):
        await _problem(answer, 413, "BODY_TOO_LARGE")
        assert answer.headers["Connection"] == "close"
    assert sent <= 3
    assert lying.status_code < 500
    await _problem(absurd, 422, "VALIDATION_FAILED")
    assert unasked.status_code == 200


async def test_paths_and_headers_give_no_server_error_when_they_are_odd(api: Any) -> None:
    await api.sell()
    names = [
        "%00",
        "%0a",
        "%ff",
        "%ed%a0%80",
        "a" * 5_000,
        "%2e%2e",
        "..;",
        "%25",
        "~",
        "a%20b",
        "%e2%80%ae",
        "🛒",
    ]
    templates = [
        ("GET", "/v1/products/{}", None),
        ("GET", "/v1/stock/{}", None),
        ("GET", "/v1/orders/{}", None),
        ("GET", "/v1/payments/{}", None),
        ("POST", "/v1/orders/{}/cancel", None),
        ("POST", "/v1/payments/{}/confirm", {}),
        ("POST", "/v1/payments/{}/simulate", {"outcome": "succeed"}),
        ("POST", "/v1/webhooks/{}", None),
        ("PATCH", "/v1/cart/items/{}", {"quantity": 1}),
        ("DELETE", "/v1/cart/items/{}", None),
        ("PUT", "/v1/admin/products/{}", {"title": "T", "variants": [{"sku": "S", "price": "1"}]}),
        ("POST", "/v1/admin/stock/{}/adjust", {"delta": 1, "reason": "r", "reference": "r"}),
        ("PUT", "/v1/admin/stock/{}", {"on_hand": 1, "reason": "r", "reference": "r"}),
        ("GET", "/v1/admin/stock/{}/ledger", None),
        ("GET", "/v1/admin/carts/{}", None),
        ("POST", "/v1/admin/orders/{}/refunded", None),
        ("GET", "/{}", None),
    ]
    odd = ["\x7f", "\xff\xfe", "a" * 9_000, '"', ",,,", "\x01"]
    headers = [
        "Authorization",
        "Cookie",
        "X-Cart-Token",
        "X-Order-Token",
        "X-Request-Id",
        "If-Match",
        "If-None-Match",
        "Idempotency-Key",
        "Prefer",
        "Accept",
        "Origin",
        "Sec-Fetch-Site",
        "Host",
    ]

    for method, template, body in templates:
        for name in names:
            path = template.format(name)
            answer = await api.admin.request(method, httpx.URL("http://shop.test" + path), json=body)
            assert answer.status_code < 500, (method, path, answer.text)
    for header in headers:
        for value in odd:
            sent = {header: value.encode("latin-1")}
            for method, path in (("GET", "/v1/cart"), ("DELETE", "/v1/cart"), ("GET", "/v1/orders")):
                answer = await api.anyone.request(method, path, headers=sent)
                assert answer.status_code < 500, (header, value[:20], answer.text)


_CHECKOUT: dict[str, Any] = {}


async def test_bodies_are_refused_when_they_have_an_encoding(api: Any) -> None:
    await api.sell()
    calls = [
        (api.ana, "POST", "/v1/cart/items", b'{"sku":"MUG"}', 201),
        (api.ana, "PUT", "/v1/cart/items", b'{"items":[{"sku":"MUG","quantity":1}]}', 200),
        (
            api.admin,
            "POST",
            "/v1/admin/products/import",
            b"no catalog",
            422,
        ),
        (api.anyone, "POST", "/v1/webhooks/simulated", b"{}", 400),
    ]
    for caller, method, path, body, status in calls:
        for codings in (["gzip"], ["br"], ["identity, gzip"], ["identity", "x-gzip"], ["x"]):
            headers = [("Content-Encoding", coding) for coding in codings]
            response = await caller.request(method, path, content=body, headers=headers)

            problem = response.json()
            assert (response.status_code, problem["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE"), path
            assert response.headers["accept-encoding"] == "identity"
        taken = await caller.request(method, path, content=body, headers={"Content-Encoding": "Identity"})
        assert taken.status_code == status, taken.text
