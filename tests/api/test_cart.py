"""The cart's routes, from an empty cart to a cleared one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cartstore.model import Owner

CART_MEMBERS = {
    "id",
    "owner",
    "currency",
    "items",
    "saved",
    "items_count",
    "total_items",
    "subtotal",
    "discounts",
    "total",
    "has_unavailable_items",
    "has_changes",
    "version",
    "created_at",
    "updated_at",
    "expires_at",
}
LINE_MEMBERS = {
    "line_id",
    "variation_key",
    "sku",
    "product_id",
    "name",
    "options",
    "properties",
    "image",
    "quantity",
    "unit_price",
    "line_total",
    "added_at",
    "updated_at",
    "is_available",
    "available_quantity",
    "hold_rests_until",
    "hold",
    "changes",
}


async def test_read_gives_an_empty_cart_when_nothing_was_added(api: Any) -> None:
    response = await api.ana.get("/v1/cart")

    cart = response.json()
    assert response.status_code == 200
    assert set(cart) == CART_MEMBERS
    assert (cart["id"], cart["owner"], cart["items"], cart["version"]) == ("u.ana", "user", [], 0)
    assert (cart["currency"], cart["subtotal"], cart["expires_at"]) == ("USD", "0.00", None)


async def test_add_gives_line_and_summary_when_there_is_stock(api: Any) -> None:
    await api.sell("MUG", stock=10)

    response = await api.ana.post(
        "/v1/cart/items", json={"sku": "MUG", "quantity": 2, "properties": {"engraving": "Hi"}}
    )

    body = response.json()
    line = body["line"]
    assert response.status_code == 201
    assert set(line) == LINE_MEMBERS
    assert (line["sku"], line["quantity"], line["unit_price"], line["line_total"]) == (
        "MUG",
        2,
        "9.99",
        "19.98",
    )
    assert (line["name"], line["image"], line["product_id"]) == (
        "The MUG",
        "https://img.test/MUG.jpg",
        "p-MUG",
    )
    assert line["properties"] == {"engraving": "Hi"}
    assert line["line_id"] == line["variation_key"] != "MUG"
    assert (line["is_available"], line["available_quantity"], line["changes"]) == (True, 10, {})
    assert (line["hold"]["quantity"], line["hold"]["expires_in_seconds"]) == (2, 1800)
    assert line["added_at"].endswith("Z")
    assert len(line["added_at"]) == len("2026-01-01T00:00:00.000Z")
    assert body["summary"] == {
        "items_count": 1,
        "total_items": 2,
        "subtotal": "19.98",
        "currency": "USD",
        "version": body["version"],
    }


async def test_add_adds_to_the_line_when_a_number_of_its_properties_is_written_otherwise(api: Any) -> None:
    await api.sell("MUG", stock=10)

    for number in ("1", "1.0", "1e0"):
        body = f'{{"sku": "MUG", "properties": {{"size": {number}}}}}'
        await api.done(api.ana.post("/v1/cart/items", content=body))

    (line,) = (await api.ana.get("/v1/cart")).json()["items"]
    assert (line["quantity"], line["properties"]) == (3, {"size": 1})


async def test_add_adds_to_the_line_when_the_variation_is_there(api: Any) -> None:
    await api.sell()
    await api.add(quantity=2)

    again = await api.ana.post("/v1/cart/items", json={"sku": "MUG"})

    assert again.status_code == 201
    assert again.json()["line"]["quantity"] == 3


async def test_add_finds_the_variant_when_product_and_options_are_named(api: Any) -> None:
    product = {
        "title": "Shirt",
        "options": ["Size"],
        "variants": [
            {"sku": "S-M", "price": "5", "options": {"Size": "M"}},
            {"sku": "S-L", "price": "6.50", "options": {"Size": "L"}},
        ],
    }
    await api.done(api.admin.put("/v1/admin/products/shirt", json=product))
    await api.stock("S-L", 3)

    response = await api.ana.post("/v1/cart/items", json={"product_id": "shirt", "options": {"Size": "L"}})

    assert response.status_code == 201
    assert response.json()["line"]["sku"] == "S-L"
    assert response.json()["line"]["options"] == {"Size": "L"}


async def test_add_gives_the_whole_cart_when_that_is_preferred(api: Any) -> None:
    await api.sell()

    response = await api.ana.post(
        "/v1/cart/items", json={"sku": "MUG"}, headers={"Prefer": "return=representation"}
    )

    assert response.status_code == 201
    assert response.headers["Preference-Applied"] == "return=representation"
    assert set(response.json()) == CART_MEMBERS
    assert response.headers["ETag"] == (await api.ana.get("/v1/cart")).headers["ETag"]


async def test_set_changes_the_quantity_when_the_line_is_there(api: Any) -> None:
    await api.sell()
    await api.add()

    response = await api.ana.patch("/v1/cart/items/MUG", json={"quantity": 4})

    assert response.status_code == 200
    assert response.json()["line"]["quantity"] == 4
    assert (await api.ana.get("/v1/stock/MUG")).json()["held"] == 4


@pytest.mark.parametrize("verb", ["PATCH", "DELETE"])
async def test_remove_gives_a_null_line_when_the_line_was_there(api: Any, verb: str) -> None:
    await api.sell()
    await api.add()

    response = await api.ana.request(
        verb, "/v1/cart/items/MUG", json={"quantity": 0} if verb == "PATCH" else None
    )

    assert response.status_code == 200
    assert response.json()["line"] is None
    assert response.json()["summary"]["items_count"] == 0
    assert (await api.ana.get("/v1/stock/MUG")).json()["held"] == 0


async def test_put_sets_all_lines_when_all_can_be_had(api: Any) -> None:
    await api.sell("MUG")
    await api.sell("CUP")
    await api.add("MUG", 3)

    response = await api.ana.put(
        "/v1/cart/items", json={"items": [{"line_id": "MUG", "quantity": 1}, {"sku": "CUP", "quantity": 2}]}
    )

    assert response.status_code == 200
    assert [result["code"] for result in response.json()["results"]] == ["OK", "OK"]
    lines = (await api.ana.get("/v1/cart")).json()["items"]
    assert {line["sku"]: line["quantity"] for line in lines} == {"MUG": 1, "CUP": 2}


async def test_put_changes_nothing_and_names_all_when_all_are_wanted_and_some_cannot_be_had(api: Any) -> None:
    await api.sell("MUG", stock=2)
    await api.sell("CUP", stock=1)
    items = [{"sku": "MUG", "quantity": 5}, {"sku": "CUP", "quantity": 4}]

    response = await api.ana.put("/v1/cart/items", json={"items": items})

    problem = response.json()
    assert (response.status_code, problem["code"]) == (409, "INSUFFICIENT_STOCK")
    assert [(entry["sku"], entry["available_quantity"]) for entry in problem["shortfalls"]] == [
        ("MUG", 2),
        ("CUP", 1),
    ]
    assert (await api.ana.get("/v1/cart")).json()["items"] == []
    assert (await api.fixed(problem)).status_code == 200
    lines = (await api.ana.get("/v1/cart")).json()["items"]
    assert [(line["sku"], line["quantity"]) for line in lines] == [("MUG", 2), ("CUP", 1)]


async def test_put_gives_a_result_per_item_when_the_mode_is_partial(api: Any) -> None:
    await api.sell("MUG", stock=2)
    await api.sell("CUP", stock=1)
    items = [{"sku": "MUG", "quantity": 2}, {"sku": "CUP", "quantity": 4}]

    response = await api.ana.put("/v1/cart/items", json={"items": items, "mode": "partial"})

    assert response.status_code == 200
    assert [(result["sku"], result["code"]) for result in response.json()["results"]] == [
        ("MUG", "OK"),
        ("CUP", "INSUFFICIENT_STOCK"),
    ]


async def test_put_takes_what_get_gave_when_it_is_sent_back(api: Any) -> None:
    await api.sell()
    await api.ana.post("/v1/cart/items", json={"sku": "MUG", "properties": {"a": None}})
    await api.add("MUG", 2)
    read = (await api.ana.get("/v1/cart")).json()["items"]

    response = await api.ana.put("/v1/cart/items", json={"items": read})

    assert response.status_code == 200, response.text
    after = (await api.ana.get("/v1/cart")).json()["items"]
    assert [(line["line_id"], line["quantity"]) for line in after] == [
        (line["line_id"], line["quantity"]) for line in read
    ]


async def test_put_refuses_when_line_and_sku_do_not_fit(api: Any) -> None:
    await api.sell()

    items = [{"line_id": "CUP", "sku": "MUG", "quantity": 1}]
    response = await api.ana.put("/v1/cart/items", json={"items": items})

    assert (response.status_code, response.json()["field"]) == (422, "items[0].line_id")


async def test_clear_empties_the_cart_when_it_has_lines(api: Any) -> None:
    await api.sell()
    await api.add()

    response = await api.ana.delete("/v1/cart")

    assert response.status_code == 200
    assert response.json()["summary"]["items_count"] == 0
    assert response.json()["version"] == (await api.ana.get("/v1/cart")).json()["version"]


async def test_summary_counts_lines_and_units_when_there_are_some(api: Any) -> None:
    await api.sell("MUG")
    await api.sell("CUP")
    await api.add("MUG", 2)
    await api.add("CUP", 3)

    summary = (await api.ana.get("/v1/cart/summary")).json()

    assert (summary["items_count"], summary["total_items"], summary["subtotal"]) == (2, 5, "49.95")


async def test_validate_tells_the_problem_when_a_price_rose(api: Any) -> None:
    await api.sell("MUG", price="9.99")
    await api.sell("CUP", price="1.00")
    await api.add("MUG", 2)
    await api.add("CUP", 1)
    await api.sell("MUG", price="12.00", stock=None)

    verdict = (await api.ana.post("/v1/cart/validate")).json()

    assert (verdict["is_valid"], verdict["total_valid_amount"]) == (False, "1.00")
    mug, cup = verdict["details"]
    assert (mug["line_id"], mug["product_name"], mug["is_valid"]) == ("MUG", "The MUG", False)
    assert mug["problems"][0]["code"] == "PRICE_CHANGED"
    assert (cup["is_valid"], cup["problems"], cup["item_total"]) == (True, [], "1.00")
    assert (await api.ana.post("/v1/cart/validate", json={"line_ids": ["CUP"]})).json()["is_valid"] is True


@pytest.mark.parametrize(
    ("change", "code"),
    [({"active": False}, "PRODUCT_INACTIVE"), ({"max_quantity": 1}, "INVALID_QUANTITY")],
)
async def test_validate_tells_the_problem_when_the_product_changed(
    api: Any, change: dict[str, Any], code: str
) -> None:
    await api.sell("MUG")
    await api.add("MUG", 2)
    await api.sell("MUG", stock=None, **change)

    verdict = (await api.ana.post("/v1/cart/validate", json={})).json()

    assert verdict["details"][0]["problems"][0]["code"] == code


async def test_read_leaves_out_of_the_total_what_cannot_be_had(api: Any) -> None:
    await api.sell("MUG", price="9.99")
    await api.sell("CUP", price="1.00")
    await api.add("MUG", 2)
    await api.add("CUP", 1)
    await api.sell("MUG", stock=None, active=False)

    cart = (await api.ana.get("/v1/cart")).json()

    assert cart["has_unavailable_items"] is True
    assert [line["is_available"] for line in cart["items"]] == [False, True]
    assert (cart["subtotal"], cart["total"]) == ("1.00", "1.00")


async def test_read_names_the_changes_when_price_name_and_image_moved(api: Any) -> None:
    await api.sell("MUG", price="9.99")
    await api.add("MUG")
    product = {"title": "A better mug", "images": [], "variants": [{"sku": "MUG", "price": "8.50"}]}
    await api.done(api.admin.put("/v1/admin/products/p-MUG", json=product))

    cart = (await api.ana.get("/v1/cart")).json()

    (line,) = cart["items"]
    assert cart["has_changes"] is True
    assert (line["name"], line["unit_price"], line["image"]) == (
        "The MUG",
        "9.99",
        "https://img.test/MUG.jpg",
    )
    assert line["changes"] == {
        "price": {"old": "9.99", "new": "8.50"},
        "name": {"old": "The MUG", "new": "A better mug"},
        "image": {"old": "https://img.test/MUG.jpg", "new": None},
    }


async def test_accept_takes_what_is_now_when_a_price_moved(api: Any) -> None:
    await api.sell("MUG", price="9.99")
    await api.add("MUG")
    await api.sell("MUG", price="12.00", stock=None)

    response = await api.ana.post("/v1/cart/changes/accept", json={"line_ids": ["MUG"]})

    assert response.status_code == 200
    cart = (await api.ana.get("/v1/cart")).json()
    assert (cart["items"][0]["unit_price"], cart["has_changes"]) == ("12.00", False)


async def test_extend_gives_the_cart_when_there_are_holds(api: Any) -> None:
    await api.sell()
    await api.add()

    response = await api.ana.post("/v1/cart/holds/extend")

    assert response.status_code == 200
    assert response.json()["items"][0]["hold"]["quantity"] == 1
    assert response.headers["ETag"]


@pytest.mark.parametrize("path", ["/v1/cart/holds/extend", "/v1/cart/validate"])
async def test_extend_and_validate_refuse_when_the_version_is_another(api: Any, path: str) -> None:
    await api.sell()
    await api.add()

    response = await api.ana.post(path, headers={"If-Match": "987654321"})

    assert (response.status_code, response.json()["code"]) == (412, "VERSION_CONFLICT")


async def test_read_gives_304_when_the_etag_is_still_current(api: Any) -> None:
    await api.sell()
    await api.add()
    etag = (await api.ana.get("/v1/cart")).headers["ETag"]

    for sent in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = await api.ana.get("/v1/cart", headers={"If-None-Match": sent})

        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["ETag"] == etag


async def test_read_gives_another_etag_when_only_the_stock_changed(api: Any) -> None:
    await api.sell()
    version = (await api.add())["version"]
    etag = (await api.ana.get("/v1/cart")).headers["ETag"]
    await api.add("MUG", 3, by=api.ben)

    response = await api.ana.get("/v1/cart", headers={"If-None-Match": etag})

    assert response.status_code == 200
    assert response.json()["version"] == version
    assert response.headers["ETag"] != etag


@pytest.mark.parametrize("form", ["{etag}", "{version}", '"{version}"', 'W/"{version}"', "*"])
async def test_set_is_done_when_if_match_names_the_version(api: Any, form: str) -> None:
    await api.sell()
    version = (await api.add())["version"]
    etag = (await api.ana.get("/v1/cart")).headers["ETag"]

    response = await api.ana.patch(
        "/v1/cart/items/MUG",
        json={"quantity": 2},
        headers={"If-Match": form.format(etag=etag, version=version)},
    )

    assert response.status_code == 200


async def test_mutations_refuse_with_the_cart_when_the_version_is_another(api: Any) -> None:
    await api.sell()
    await api.add()
    calls = [
        ("POST", "/v1/cart/items", {"sku": "MUG"}),
        ("PATCH", "/v1/cart/items/MUG", {"quantity": 2}),
        ("DELETE", "/v1/cart/items/MUG", None),
        ("PUT", "/v1/cart/items", {"items": [{"sku": "MUG", "quantity": 2}]}),
        ("POST", "/v1/cart/changes/accept", {}),
        ("DELETE", "/v1/cart", None),
    ]

    for method, path, body in calls:
        response = await api.ana.request(method, path, json=body, headers={"If-Match": '"987654321"'})

        problem = response.json()
        assert (response.status_code, problem.get("code")) == (412, "VERSION_CONFLICT"), (path, problem)
        assert problem["cart"]["items"][0]["quantity"] == 1
        assert (await api.fixed(problem)).status_code == 200


@pytest.mark.parametrize(
    "value", ["x", '"', '"1', "1-", '"1-a b"', '"1", x', '"1", *', '"ab", "c"', "-1", "1" * 17]
)
async def test_set_refuses_when_if_match_is_malformed(api: Any, value: str) -> None:
    response = await api.ana.patch("/v1/cart/items/MUG", json={"quantity": 1}, headers={"If-Match": value})

    assert (response.status_code, response.json()["field"]) == (422, "If-Match")


async def test_if_match_takes_a_list_when_one_of_its_versions_is_the_carts(api: Any) -> None:
    await api.sell()
    changing = [
        ("POST", "/v1/cart/items", {"sku": "MUG"}, 201),
        ("PATCH", "/v1/cart/items/MUG", {"quantity": 1}, 200),
        ("PUT", "/v1/cart/items", {"items": [{"sku": "MUG", "quantity": 3}]}, 200),
        ("POST", "/v1/cart/validate", {}, 200),
        ("POST", "/v1/cart/holds/extend", None, 200),
        ("POST", "/v1/cart/changes/accept", {}, 200),
        ("DELETE", "/v1/cart/items/MUG", None, 200),
        ("DELETE", "/v1/cart", None, 200),
    ]
    for number, (method, path, body, status) in enumerate(changing):
        await api.add()
        etag = (await api.ana.get("/v1/cart")).headers["etag"]
        version = int(etag.strip('"').partition("-")[0])
        newer, older = f'"{version + 10}"', f'"{version - 1}-ab"'
        lists = [
            [("If-Match", f'{older}, {etag},{newer}, "another"')],
            [("If-Match", newer), ("If-Match", etag)],
        ]
        refused = [
            [("If-Match", f"{older}, {newer}")],
            [("If-Match", older), ("If-Match", f'W/"x,y", {newer}')],
        ]

        for headers in refused:
            response = await api.ana.request(method, path, json=body, headers=headers)
            assert (response.status_code, response.json()["code"]) == (412, "VERSION_CONFLICT"), path
        response = await api.ana.request(method, path, json=body, headers=lists[number % 2])
        assert response.status_code == status, (path, response.text)


async def test_checkout_takes_a_list_of_versions(api: Any) -> None:
    await api.sell()
    await api.add()
    version = (await api.ana.get("/v1/cart")).json()["version"]
    body = {
        "gateway": "simulated",
        "payment_method": "card",
        "shipping_address": {"street": "1 Main St", "city": "Springfield", "country": "US"},
    }

    answers = [
        await api.ana.post("/v1/checkout", json=body, headers={"Idempotency-Key": "k", "If-Match": versions})
        for versions in (f'"1", "{version + 1}"', f'"1", "{version}", "{version + 1}"')
    ]

    assert [answer.status_code for answer in answers] == [412, 201]


async def test_if_none_match_is_one_list_when_it_comes_in_several_lines(api: Any) -> None:
    etag = (await api.ana.get("/v1/cart")).headers["etag"]

    for lines, status in (
        (['"x"', etag], 304),
        ([etag, '"x"'], 304),
        ([f'"x", W/{etag}', '"y"'], 304),
        (['"x"', "*"], 304),
        (['"x"', '"y"'], 200),
    ):
        headers = [("If-None-Match", line) for line in lines]
        assert (await api.ana.get("/v1/cart", headers=headers)).status_code == status, lines


async def test_mutations_are_replayed_when_the_key_comes_again(api: Any) -> None:
    await api.sell()
    calls = [
        ("POST", "/v1/cart/items", {"sku": "MUG"}, 201),
        ("PATCH", "/v1/cart/items/MUG", {"quantity": 2}, 200),
        ("PUT", "/v1/cart/items", {"items": [{"sku": "MUG", "quantity": 3}]}, 200),
        ("POST", "/v1/cart/changes/accept", {}, 200),
        ("DELETE", "/v1/cart/items/MUG", None, 200),
    ]

    for number, (method, path, body, status) in enumerate(calls):
        first = await api.ana.request(method, path, json=body, headers={"Idempotency-Key": f"key-{number}"})
        again = await api.ana.request(method, path, json=body, headers={"Idempotency-Key": f'"key-{number}"'})

        assert (first.status_code, again.status_code) == (status, status), first.text
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.json()["version"] == first.json()["version"]
        assert again.json()["summary"] == first.json()["summary"]


async def test_extend_is_replayed_when_the_key_comes_again(api: Any) -> None:
    await api.sell()
    await api.add()
    key = {"Idempotency-Key": "k"}
    first = await api.ana.post("/v1/cart/holds/extend", headers=key)
    await api.ana.patch("/v1/cart/items/MUG", json={"quantity": 2})

    again = await api.ana.post("/v1/cart/holds/extend", headers=key)
    other = await api.ana.post("/v1/cart/validate", headers=key)

    assert "Idempotent-Replayed" not in first.headers
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")
    now = await api.ana.get("/v1/cart")
    assert again.headers["ETag"] == now.headers["ETag"]
    assert again.json()["version"] == now.json()["version"]
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_validate_is_replayed_when_it_had_held_a_line_again(api: Any, monkeypatch: Any) -> None:
    await api.sell()
    await api.add()
    key = {"Idempotency-Key": "k"}
    unchanged = await api.ana.post("/v1/cart/validate", headers=key)
    lapsed_ms = int(time.time() * 1_000) + api.store.settings.hold_ttl_member_seconds * 1_000
    monkeypatch.setattr(api.store.engine, "_now_ms", lambda: lapsed_ms)
    version = (await api.ana.get("/v1/cart")).json()["version"]

    first = await api.ana.post("/v1/cart/validate", headers=key)
    again = await api.ana.post("/v1/cart/validate", headers=key)
    other = await api.ana.post("/v1/cart/validate", json={"line_ids": ["MUG"]}, headers=key)

    assert "Idempotent-Replayed" not in unchanged.headers
    assert "Idempotent-Replayed" not in first.headers
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")
    assert again.json() == first.json()
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert (await api.ana.get("/v1/cart")).json()["version"] == version


async def test_add_refuses_when_the_key_was_used_for_another_body(api: Any) -> None:
    await api.sell()
    key = {"Idempotency-Key": "k"}
    await api.ana.post("/v1/cart/items", json={"sku": "MUG"}, headers=key)

    response = await api.ana.post("/v1/cart/items", json={"sku": "MUG", "quantity": 2}, headers=key)

    assert (response.status_code, response.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_add_does_not_replay_when_the_key_is_anothers(api: Any) -> None:
    await api.sell()
    await api.ana.post("/v1/cart/items", json={"sku": "MUG"}, headers={"Idempotency-Key": "k"})

    response = await api.ben.post("/v1/cart/items", json={"sku": "MUG"}, headers={"Idempotency-Key": "k"})

    assert response.status_code == 201
    assert "Idempotent-Replayed" not in response.headers


async def test_add_is_done_each_time_when_the_key_is_empty(api: Any) -> None:
    await api.sell()

    for _ in range(2):
        response = await api.ana.post(
            "/v1/cart/items", json={"sku": "MUG"}, headers={"Idempotency-Key": '""'}
        )

    assert response.json()["line"]["quantity"] == 2


@pytest.mark.parametrize("key", ["k" * 256, '"open', 'a"b"c' * 52, "käse".encode("latin-1"), '"a" b'])
async def test_add_refuses_when_the_key_is_malformed(api: Any, key: str | bytes) -> None:
    response = await api.ana.post("/v1/cart/items", json={"sku": "MUG"}, headers={"Idempotency-Key": key})

    assert (response.status_code, response.json()["field"]) == (422, "Idempotency-Key")


async def test_read_shows_the_sku_when_its_revision_cannot_be_had(api: Any, monkeypatch: Any) -> None:
    await api.sell()
    # Not by a request: what was told once is told again without asking the catalog.
    await api.store.add_line(Owner("user", "ana"), "MUG")

    async def nothing(revisions: Any) -> dict[int, Any]:
        return {}

    monkeypatch.setattr(api.app.state.services.text, "_load", nothing)
    (line,) = (await api.ana.get("/v1/cart")).json()["items"]

    assert (line["name"], line["product_id"], line["image"], line["options"]) == ("MUG", None, None, {})
