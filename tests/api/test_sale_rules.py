"""Start of sale, maxima over lines and purchase limits, as a buyer meets them."""

from __future__ import annotations

from typing import Any

LIMIT = {"quantity": 3, "window_seconds": 3_600}
SOON = "2999-01-31"


async def add(caller: Any, sku: str = "MUG", quantity: int = 1, **more: Any) -> Any:
    return await caller.post("/v1/cart/items", json={"sku": sku, "quantity": quantity, **more})


async def problem_of(answer: Any, code: str, status: int = 422) -> Any:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return answer.json()


async def test_product_tells_its_dates_and_its_limit(api: Any) -> None:
    await api.sell("MUG", available_on="2020-01-31", promised_on=SOON, max_per_customer=LIMIT)

    product = (await api.anyone.get("/v1/products/p-MUG")).json()

    (variant,) = product["variants"]
    assert (variant["available_on"], variant["promised_on"]) == ("2020-01-31", SOON)
    assert variant["max_per_customer"] == LIMIT
    again = await api.admin.put("/v1/admin/products/p-MUG", json=product)
    assert (again.status_code, again.json()) == (200, product)
    # A date that is only shown keeps nobody from buying.
    assert (await add(api.ana)).status_code == 201


async def test_dates_are_refused_when_they_are_none(api: Any) -> None:
    body = {"title": "Mug", "variants": [{"sku": "MUG", "price": "1", "promised_on": "soon"}]}

    problem = await problem_of(
        await api.admin.put("/v1/admin/products/p-MUG", json=body), "VALIDATION_FAILED"
    )

    assert problem["field"] == "variants[0].promised_on"


async def test_add_before_the_sale_starts_is_refused_with_the_time(api: Any) -> None:
    await api.sell("MUG", available_on=SOON)

    problem = await problem_of(await add(api.ana), "NOT_YET_ON_SALE")

    assert problem["detail"] == "The sale of the product starts at 2999-01-31T00:00:00Z."
    assert (await api.fixed(problem)).status_code == 200


async def test_checkout_before_the_sale_starts_is_refused_and_its_fix_works(api: Any) -> None:
    await api.sell("MUG")
    await api.sell("CAP")
    await api.add("MUG")
    await api.add("CAP")
    await api.sell("MUG", stock=None, available_on=SOON)

    verdict = (await api.ana.post("/v1/cart/validate")).json()
    assert [its["problems"][0]["code"] for its in verdict["details"] if its["problems"]] == [
        "NOT_YET_ON_SALE"
    ]
    cart = (await api.ana.get("/v1/cart")).json()
    assert [line["is_available"] for line in cart["items"]] == [False, True]
    assert cart["total"] == "9.99"
    changed = await problem_of(
        await api.ana.patch("/v1/cart/items/MUG", json={"quantity": 2}), "NOT_YET_ON_SALE"
    )
    assert changed["fix"]["method"] == "DELETE"
    problem = await problem_of(await api.checking_out(), "NOT_YET_ON_SALE")
    assert (await api.fixed(problem)).status_code == 200
    assert (await api.check_out())["total_amount"] == "9.99"


async def test_maximum_is_not_bypassed_by_other_properties(api: Any) -> None:
    await api.sell("MUG", max_quantity=5)
    await api.add("MUG", 3)

    engraved = {"properties": {"engraving": "Ana"}}
    problem = await problem_of(await add(api.ana, quantity=3, **engraved), "INVALID_QUANTITY")

    assert problem["detail"] == "The cart may have at most 5 units of it; other lines have 3 of them."
    assert problem["available_quantity"] == 2
    assert (await api.fixed(problem)).status_code == 200
    cart = (await api.ana.get("/v1/cart")).json()
    assert [line["quantity"] for line in cart["items"]] == [3, 2]
    items = [{"sku": "MUG", "quantity": 4}, {"sku": "MUG", "quantity": 1, "properties": {"a": 1}}]
    problem = await problem_of(await api.ana.put("/v1/cart/items", json={"items": items}), "INVALID_QUANTITY")
    assert (await api.fixed(problem)).json()["results"][0]["code"] == "OK"


async def test_add_beyond_the_purchase_limit_tells_what_is_left_and_its_fix_works(api: Any) -> None:
    await api.sell("MUG", max_per_customer=LIMIT)
    await api.add("MUG", 1)
    await api.pay((await api.check_out())["payment"]["id"])
    await api.add("MUG", 1)

    problem = await problem_of(await add(api.ana, quantity=2), "PURCHASE_LIMIT")

    assert problem["detail"] == "One customer may buy 3 of it within 3600 seconds; 2 of them are left."
    assert (problem["available_quantity"], problem["requested_quantity"]) == (2, 3)
    assert (await api.fixed(problem)).status_code == 200
    assert (await api.ana.get("/v1/cart")).json()["total_items"] == 2
    items = [{"sku": "MUG", "quantity": 3}]
    problem = await problem_of(await api.ana.put("/v1/cart/items", json={"items": items}), "PURCHASE_LIMIT")
    assert (await api.fixed(problem)).json()["results"][0]["code"] == "OK"
    await api.check_out()
    problem = await problem_of(await add(api.ana), "PURCHASE_LIMIT")
    assert problem["fix"] == {"method": "GET", "path": "/v1/products", "body": None}


async def test_validate_tells_what_the_limit_leaves(api: Any) -> None:
    await api.sell("MUG", max_per_customer=LIMIT)
    await api.add("MUG", 3)
    await api.sell("MUG", stock=None, max_per_customer={**LIMIT, "quantity": 2})

    verdict = (await api.ana.post("/v1/cart/validate")).json()

    (line,) = verdict["details"]
    assert line["problems"] == [
        {"code": "PURCHASE_LIMIT", "message": "One customer may buy 2 more of it now."}
    ]
    assert not verdict["is_valid"]


async def test_guest_names_an_address_and_is_known_by_it_in_another_cart(api: Any) -> None:
    await api.sell("MUG", max_per_customer=LIMIT)
    first, second = api.client(), api.client()
    for guest in (first, second):
        guest.headers["X-Cart-Token"] = (await guest.post("/v1/guest")).json()["token"]
        await api.add("MUG", 2, by=guest)

    problem = await problem_of(await api.checking_out(by=first), "VALIDATION_FAILED")
    assert (problem["field"], problem["sku"]) == ("contact.email", "MUG")
    assert [error["field"] for error in problem["errors"]] == ["contact.email", "contact.phone"]
    begun = await api.check_out(by=first, contact={"email": "Gus@Shop.Test"})

    problem = await problem_of(
        await api.checking_out(by=second, contact={"email": "gus+two@shop.test"}), "PURCHASE_LIMIT"
    )
    (short,) = problem["shortfalls"]
    assert (short["sku"], short["requested_quantity"], short["available_quantity"]) == ("MUG", 2, 1)
    assert problem["detail"] == "One customer may buy no more than 1 of it now."
    assert (await api.fixed(problem, by=second)).status_code == 200
    await api.check_out(by=second, contact={"email": "gus+two@shop.test"})

    await api.done(first.post(f"/v1/orders/{begun['orders'][0]['order_id']}/cancel"))
    third = api.client()
    third.headers["X-Cart-Token"] = (await third.post("/v1/guest")).json()["token"]
    await api.add("MUG", 2, by=third)
    await api.check_out(by=third, contact={"email": "gus@shop.test"})
