"""What is looked at before a body, and everything that is wrong with one at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from cartstore_api import bodies
from cartstore_api.app import create_app
from conftest import ADDRESS, bearer
from litestar.routes import HTTPRoute

from cartstore.settings import Settings

BAD_TOKEN = {"Authorization": "Bearer x.y.z"}


def _routes() -> Iterator[tuple[str, str, Any]]:
    """Method, path and handler of every route under /v1."""
    for route in create_app(Settings(jwt_secret="x" * 40)).routes:
        if isinstance(route, HTTPRoute) and route.path.startswith("/v1"):
            for method, (handler, _) in route.route_handler_map.items():
                if method != "OPTIONS":
                    yield method, route.path_format.replace(":str", ""), handler


async def _errors(answer: httpx.Response, code: str = "VALIDATION_FAILED") -> dict[str, str]:
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, code), answer.text
    errors = {entry["field"]: entry["detail"] for entry in problem["errors"]}
    assert len(errors) == len(problem["errors"])
    first = problem["errors"][0]
    assert (problem["field"], problem["detail"]) == (first["field"], first["detail"])
    return errors


# --- before the body ---------------------------------------------------------------------------------------


async def test_callers_are_refused_before_their_bodies_and_parameters_are_looked_at(
    api: Any, monkeypatch: Any
) -> None:
    def decode(*_: Any) -> Any:
        raise AssertionError("a body was decoded")

    monkeypatch.setattr(bodies.BodyDecoder, "decode", decode)
    sent = 0

    async def pieces() -> Any:
        nonlocal sent
        for _ in range(64):
            sent += 1
            yield b" " * 65_536

    seen = set()
    for method, path, handler in _routes():
        url = path.format_map(dict.fromkeys(("product_id", "sku", "line_id", "order_id"), "x") | _OTHERS)
        is_admin = path.startswith("/v1/admin")
        if not is_admin and not path.startswith(("/v1/cart", "/v1/checkout", "/v1/orders", "/v1/payments")):
            continue
        for headers in (BAD_TOKEN, {}) if is_admin else (BAD_TOKEN,):
            kinds = [{"content": b"{", "params": {"nonsense": "1"}}]
            if method in ("POST", "PUT", "PATCH"):
                kinds.append({"content": pieces()})
            for kind in kinds:
                answer = await api.anyone.request(method, url, headers=headers, **kind)
                assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED"), (method, url)
        assert not is_admin or handler.opt["scope"], path
        seen.add((method, path))

    assert len(seen) > 25
    assert sent <= len(seen) * 4
    forbidden = await api.ana.put("/v1/admin/products/x?nonsense=1", content=b"{")
    assert forbidden.status_code == 403


_OTHERS = {"payment_id": "x", "cart_id": "u.x", "gateway_name": "simulated"}


async def test_unknown_query_parameters_are_refused_by_name(api: Any) -> None:
    await api.sell()
    await api.add()
    checked = 0
    for method, path, _ in _routes():
        if "webhooks" in path:
            continue
        url = path.format_map(dict.fromkeys(("product_id", "sku", "line_id", "order_id"), "x") | _OTHERS)
        answer = await api.admin.request(method, url, params={"nonsense": "1", "": "", "%00": "ü"})
        assert list(await _errors(answer)) == ["nonsense", "", "%00"], path
        checked += 1

    assert checked > 30
    near = await api.anyone.get("/v1/products?Sellr=x&limit=2")
    assert (await _errors(near)) == {
        "Sellr": "There is no query parameter 'Sellr' here; did you mean 'seller'?"
    }
    far = await api.anyone.get("/v1/products?page=2")
    assert (await _errors(far))["page"].endswith("there are: cursor, limit, q, seller.")
    both = await api.ana.post("/v1/cart/items?quantity=2", json={"sku": "MUG"})
    assert list(await _errors(both)) == ["quantity"]
    assert (await api.ana.get("/v1/cart")).json()["total_items"] == 1
    assert (await api.ana.get("/v1/orders?limit=2&cursor=")).status_code == 200
    webhook = await api.anyone.post("/v1/webhooks/simulated?v=2", content=b"{}")
    assert webhook.json()["code"] == "SIGNATURE_INVALID"


async def test_query_parameters_are_all_named_when_several_are_wrong(api: Any) -> None:
    answer = await api.admin.get("/v1/admin/orders?limit=0&status=lost")

    assert set(await _errors(answer)) == {"limit", "status"}


async def test_metrics_name_one_charset(api: Any) -> None:
    found = (await api.anyone.get("/metrics")).headers.get_list("Content-Type")

    assert len(found) == 1
    assert found[0].count("charset=") == 1


# --- all that is wrong -------------------------------------------------------------------------------------


async def test_add_names_every_field_that_is_wrong(api: Any) -> None:
    await api.sell()
    body = {
        "sku": 7,
        "product_id": "",
        "options": {"Size": 1, "Col\u0001our": "x"},
        "quantity": -1,
        "properties": {"a": "x" * 3_000},
        "price": "0.01",
    }

    errors = await _errors(await api.ana.post("/v1/cart/items", json=body))

    assert errors == {
        "sku": "sku: Expected str | null, got int.",
        "product_id": "product_id: Expected str of length >= 1.",
        "options": "options contains a control character.",
        "options.Size": "options.Size: Expected str, got int.",
        "quantity": "quantity must be 1 to 99.",
        "properties": "properties have 3008 bytes as JSON; at most 2048 are kept.",
        "price": "price: unknown field.",
    }


async def test_put_names_every_entry_that_is_wrong(api: Any) -> None:
    shape = {"items": [{"quantity": 1, "x": 1}, {"sku": "MUG"}, "MUG", {"sku": "MUG", "quantity": 1.5}]}
    free = {"sku": "MUG", "quantity": 1, "properties": {"a": "x" * 3_000}}
    kept = {"items": [{"quantity": 1}, free, {"sku": "MUG", "line_id": "CUP", "quantity": 1}]}
    amounts = {
        "items": [{"sku": "MUG", "quantity": -1}, {"sku": "a b", "quantity": 1}, {"sku": "A", "quantity": 0}]
    }

    shapes = await _errors(await api.ana.put("/v1/cart/items", json=shape))
    entries = await _errors(await api.ana.put("/v1/cart/items", json=kept))
    refused = await _errors(await api.ana.put("/v1/cart/items", json=amounts), "INVALID_QUANTITY")

    assert list(shapes) == ["items[0].x", "items[1].quantity", "items[2]", "items[3].quantity"]
    assert list(entries) == ["items[0].sku", "items[1].properties", "items[2].line_id"]
    assert list(refused) == ["items[0].quantity", "items[1].sku"]


async def test_put_names_the_limits_in_force(make_api: Any) -> None:
    api = await make_api(max_quantity_per_line=7, max_lines_per_cart=3, max_items_per_cart=9)
    await api.sell("MUG", stock=40)
    await api.sell("PEN", stock=40, max_quantity=4)
    outside = [{"sku": "MUG", "quantity": -1}, {"sku": "PEN", "quantity": -1}]
    above = [{"sku": "MUG", "quantity": 8}, {"sku": "PEN", "quantity": 5}]
    together = [{"sku": "MUG", "quantity": 7}, {"sku": "PEN", "quantity": 3}]
    many = [{"sku": f"S{number}", "quantity": 1} for number in range(4)]

    async def put(items: Any, **more: Any) -> Any:
        return await api.ana.put("/v1/cart/items", json={"items": items, **more})

    assert await _errors(await put(outside), "INVALID_QUANTITY") == {
        "items[0].quantity": "items[0].quantity must be 0 to 7.",
        "items[1].quantity": "items[1].quantity must be 0 to 4.",
    }
    assert [shortfall["detail"] for shortfall in (await put(above)).json()["shortfalls"]] == [
        "A line can have at most 7 units.",
        "The line's quantity must be 1 to 4.",
    ]
    assert (await put(together)).json()["detail"] == (
        "A cart can have at most 3 lines and 9 units over all lines; "
        "at most 500 units can be held for one buyer."
    )
    assert (await _errors(await put(many, x=1)))["items"] == "items must have 1 to 3 entries."


async def test_checkout_names_every_field_that_is_wrong(api: Any) -> None:
    address = {**ADDRESS, "country": "XX", "city": "", "planet": "x"}
    body = {
        "contact": {"email": "ann@gmail", "phone": "1\u0007"},
        "gateway": "simulated",
        "shipping_address": address,
        "billing_address": {"street": "x" * 257},
        "expected_total": 5,
        "metadata": {"a": "x" * 5_000},
    }

    answer = await api.ana.post("/v1/checkout", json=body, headers={"Idempotency-Key": "k"})

    errors = await _errors(answer)
    assert set(errors) == {
        *("contact.email", "contact.phone", "payment_method", "shipping_address.country"),
        *("shipping_address.city", "shipping_address.planet", "billing_address.street"),
        *("billing_address.city", "billing_address.country", "expected_total", "metadata"),
    }
    assert errors["billing_address.street"] == "billing_address.street: Expected str of length <= 256."
    assert errors["metadata"] == "metadata has 5008 bytes as JSON; at most 4096 are kept."
    assert errors["payment_method"] == "payment_method is required."


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"contact": {"email": "ann@gmail"}}, {"contact.email"}),
        ({"metadata": {"a": "x" * 5_000}}, {"metadata"}),
        ({"shipping_address": {**ADDRESS, "country": "XX"}, "billing_address": {}}, None),
        ({"billing_address": {**ADDRESS, "country": "UK"}}, {"billing_address.country"}),
    ],
)
async def test_checkout_makes_its_checks_when_the_shape_is_right(
    api: Any, change: dict[str, Any], wrong: set[str] | None
) -> None:
    wrong = wrong or {
        "shipping_address.country",
        *("billing_address.street", "billing_address.city", "billing_address.country"),
    }

    assert set(await _errors(await api.checking_out(**change))) == wrong


async def test_checkout_takes_kosovo_and_no_email_when_asked_to(api: Any) -> None:
    await api.sell()
    await api.add()

    await api.check_out(shipping_address={**ADDRESS, "country": "XK"}, contact={"email": "", "phone": None})


async def test_product_names_every_field_that_is_wrong(api: Any) -> None:
    shape = {
        "title": "x" * 257,
        "images": ["https://img.test/a.jpg", "javascript:alert(1)", "/b.jpg"],
        "currency": "EURO",
        "variants": [
            {"sku": "a b", "price": "1", "policy": "never"},
            {"sku": "S", "price": 1, "prices": {"EUR": "x"}},
        ],
    }
    rules = {
        "title": "T",
        "options": ["Size"],
        "variants": [
            {"sku": "S", "price": "1.999", "options": {"Size": "M"}},
            {"sku": "T", "price": "1", "min_quantity": 5, "max_quantity": 2},
            {"sku": "T", "price": "1", "options": {"Size": "L"}, "available_on": "soon"},
        ],
    }

    shapes = await _errors(await api.admin.put("/v1/admin/products/p", json=shape))
    images = await _errors(
        await api.admin.put("/v1/admin/products/p", json={**shape, **rules, "currency": None, "title": "T"})
    )
    ruled = await _errors(await api.admin.put("/v1/admin/products/p", json=rules))

    assert set(shapes) == {
        *("title", "images[1]", "images[2]", "currency", "variants[0].sku", "variants[0].policy"),
        *("variants[1].price", "variants[1].prices.EUR"),
    }
    assert list(images) == ["images[1]", "images[2]"]
    assert list(ruled) == [
        *("variants[0].price", "variants[1].max_quantity", "variants[1].options"),
        *("variants[2].available_on", "variants[2].sku"),
    ]


async def test_errors_are_bounded_when_everything_is_wrong(api: Any) -> None:
    body = {"items": [{"sku": 1, "quantity": "x"}] * 1_500}

    answer = await api.ana.put("/v1/cart/items", json=body)

    assert len(await _errors(answer)) == 100


async def test_members_that_nobody_reads_are_not_decoded(api: Any) -> None:
    await api.sell()
    put = b'{"items":[{"sku":"MUG","quantity":1,"options":{"a":"\\u0000"},"hold":%s}]}'

    assert (await api.ana.put("/v1/cart/items", content=put % b"[1]")).status_code == 200
    assert (await api.ana.put("/v1/cart/items", content=put % b"[1")).status_code == 400
    cart = (await api.ana.get("/v1/cart")).json()
    assert (await api.ana.put("/v1/cart/items", json={"items": cart["items"]})).status_code == 200
    assert (await api.anyone.get("/v1/products/p-MUG", headers=bearer("x"))).status_code == 200
