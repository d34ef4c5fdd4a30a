"""Lines whose product changed under them, as REST tells, refuses and settles them; and lines that rest."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from cartstore_api import schemas

from cartstore.model import Owner

PRODUCT = "p-shirt"


async def put_shirt(api: Any, *, color: str = "Red", sku: str = "SHIRT", **fields: Any) -> None:
    product_id = fields.pop("id", PRODUCT)
    product = {
        "title": "Shirt",
        "options": ["Color"],
        "variants": [{"sku": sku, "options": {"Color": color}, "price": "20.00"}],
        **fields,
    }
    await api.done(api.admin.put(f"/v1/admin/products/{product_id}", json=product))


async def sell_shirt(api: Any) -> None:
    await put_shirt(api)
    await api.stock("SHIRT", 5)
    await api.add("SHIRT")


async def line_of(api: Any, sku: str = "SHIRT") -> Any:
    cart = (await api.ana.get("/v1/cart")).json()
    return next(line for line in cart["items"] if line["sku"] == sku)


async def verdict_of(api: Any) -> Any:
    return (await api.done(api.ana.post("/v1/cart/validate")))["details"][0]


async def test_line_is_not_sold_before_it_is_accepted_when_its_options_changed(api: Any) -> None:
    await sell_shirt(api)
    await put_shirt(api, color="Blue")

    refused = await api.checking_out()

    line = await line_of(api)
    assert line["changes"] == {"options": {"old": {"Color": "Red"}, "new": {"Color": "Blue"}}}
    assert (line["options"], line["is_available"]) == ({"Color": "Red"}, False)
    cart = (await api.ana.get("/v1/cart")).json()
    assert (cart["subtotal"], cart["has_changes"], cart["has_unavailable_items"]) == ("0.00", True, True)
    assert [problem["code"] for problem in (await verdict_of(api))["problems"]] == ["LINE_CHANGED"]
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (409, "LINE_CHANGED")
    assert (await api.fixed(problem)).status_code == 200
    accepted = await line_of(api)
    assert (accepted["changes"], accepted["options"], accepted["is_available"]) == (
        {},
        {"Color": "Blue"},
        True,
    )
    assert (await verdict_of(api))["is_valid"] is True
    assert (await api.check_out())["orders"][0]["lines"][0]["options"] == {"Color": "Blue"}


async def test_line_is_settled_when_the_buyer_adds_what_it_is_now(api: Any) -> None:
    await sell_shirt(api)
    await put_shirt(api, color="Blue")

    added = await api.add("SHIRT")

    assert (added["line"]["changes"], added["line"]["options"]) == ({}, {"Color": "Blue"})
    assert (await api.check_out())["total_amount"] == "40.00"


async def test_line_stays_changed_when_its_quantity_is_set(api: Any) -> None:
    await sell_shirt(api)
    await put_shirt(api, color="Blue")

    answer = await api.ana.patch("/v1/cart/items/SHIRT", json={"quantity": 2})

    line = msgspec.json.decode(answer.content, type=schemas.LineChange).line
    assert line is not None
    assert line.changes.options == schemas.OptionsChange(old={"Color": "Red"}, new={"Color": "Blue"})
    assert line.is_available is False


async def test_line_is_not_changed_when_only_price_and_title_are_others(api: Any) -> None:
    await sell_shirt(api)
    await put_shirt(api, color="Blue")
    await api.done(api.ana.post("/v1/cart/changes/accept"))

    variants = [{"sku": "SHIRT", "options": {"Color": "Blue"}, "price": "19.00"}]
    await put_shirt(api, title="A shirt", variants=variants)

    line = await line_of(api)
    assert set(line["changes"]) == {"name", "price"}
    assert line["is_available"] is True
    assert (await api.check_out())["total_amount"] == "19.00"


async def test_line_can_only_be_removed_when_its_currency_changed(api: Any) -> None:
    await sell_shirt(api)
    await api.sell("MUG")
    await api.add("MUG")
    await put_shirt(api, currency="EUR")

    refused = await api.checking_out()
    accepting = await api.ana.post("/v1/cart/changes/accept")

    line = await line_of(api)
    assert line["changes"] == {"currency": {"old": "USD", "new": "EUR"}}
    assert (line["unit_price"], line["is_available"]) == ("20.00", False)
    assert [problem["code"] for problem in (await verdict_of(api))["problems"]] == ["LINE_CHANGED"]
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (409, "LINE_CHANGED")
    assert (accepting.status_code, accepting.json()["code"]) == (409, "CURRENCY_MISMATCH")
    assert accepting.json()["line_id"] == "SHIRT"
    removal = {"method": "DELETE", "path": "/v1/cart/items/SHIRT", "body": None}
    assert (problem["fix"], accepting.json()["fix"]) == (removal, removal)
    assert (await api.fixed(accepting.json())).status_code == 200
    assert (await api.ana.post("/v1/cart/changes/accept")).status_code == 200
    assert (await api.check_out())["total_amount"] == "9.99"


async def test_setting_a_line_is_fixed_by_its_removal_when_its_currency_changed(api: Any) -> None:
    await sell_shirt(api)
    await put_shirt(api, currency="EUR")

    refused = await api.ana.patch("/v1/cart/items/SHIRT", json={"quantity": 2})

    assert (refused.status_code, refused.json()["code"]) == (409, "CURRENCY_MISMATCH")
    assert (await api.fixed(refused.json())).status_code == 200
    assert (await api.ana.get("/v1/cart")).json()["items"] == []


async def test_line_is_changed_when_its_sku_is_another_products(api: Any) -> None:
    await sell_shirt(api)
    await put_shirt(api, color="Green", sku="GREEN")
    await put_shirt(api, id="p-other", title="Shirt")

    line = await line_of(api)
    refused = await api.checking_out()

    assert line["changes"] == {"product": {"old": "p-shirt", "new": "p-other"}}
    assert (line["product_id"], line["is_available"]) == ("p-shirt", False)
    assert refused.json()["code"] == "LINE_CHANGED"
    assert (await api.fixed(refused.json())).status_code == 200
    assert (await api.check_out())["orders"][0]["lines"][0]["sku"] == "SHIRT"


async def test_line_is_changed_when_the_catalog_went_there_and_back(api: Any) -> None:
    await sell_shirt(api)
    await put_shirt(api, color="Blue")
    await put_shirt(api, color="Red")

    line = await line_of(api)

    assert line["changes"] == {"options": {"old": {"Color": "Red"}, "new": {"Color": "Red"}}}
    assert line["is_available"] is False


@pytest.mark.parametrize(("is_active", "told"), [(False, "off_sale"), (True, "insufficient")])
async def test_read_tells_the_availability_when_a_line_cannot_be_had(
    api: Any, is_active: bool, told: str
) -> None:
    await api.sell("MUG", stock=2, hold_policy="on_checkout", active=True)
    await api.add("MUG", 2)
    if is_active:
        await api.stock("MUG", -1)
    else:
        await api.sell("MUG", stock=None, hold_policy="on_checkout", active=False)

    line = await line_of(api, "MUG")

    assert line["changes"] == {"availability": {"old": "available", "new": told}}
    assert line["is_available"] is False


async def test_check_tells_what_changed_of_the_lines_that_are_named(api: Any) -> None:
    await sell_shirt(api)
    await api.sell("MUG")
    await api.add("MUG")
    version = (await api.ana.get("/v1/cart/summary")).json()["version"]
    await put_shirt(api, color="Blue")

    every = (await api.ana.post("/v1/cart/changes/check")).json()
    named = (await api.ana.post("/v1/cart/changes/check", json={"line_ids": ["MUG"]})).json()
    missing = await api.ana.post("/v1/cart/changes/check", json={"line_ids": ["CUP"]})

    changes = {"options": {"old": {"Color": "Red"}, "new": {"Color": "Blue"}}}
    assert every == {
        "has_changes": True,
        "items": [
            {"line_id": "SHIRT", "sku": "SHIRT", "name": "Shirt", "is_available": False, "changes": changes},
            {"line_id": "MUG", "sku": "MUG", "name": "The MUG", "is_available": True, "changes": {}},
        ],
    }
    assert (named["has_changes"], [item["sku"] for item in named["items"]]) == (False, ["MUG"])
    assert (missing.status_code, missing.json()["code"]) == (404, "ITEM_NOT_FOUND")
    assert (await api.ana.get("/v1/cart/summary")).json()["version"] == version


async def test_check_tells_nothing_when_the_caller_has_no_cart(api: Any) -> None:
    response = await api.anyone.post("/v1/cart/changes/check")

    assert response.json() == {"has_changes": False, "items": []}
    assert "Cart-Token" not in response.headers


async def test_refusal_names_each_line_when_one_changed_and_one_is_dearer(api: Any) -> None:
    await sell_shirt(api)
    await api.sell("MUG")
    await api.add("MUG")
    await put_shirt(api, color="Blue")
    await api.sell("MUG", stock=None, price="11.00")

    refused = (await api.checking_out()).json()

    assert refused["code"] == "CHECKOUT_VALIDATION_FAILED"
    assert [entry["code"] for entry in refused["shortfalls"]] == ["LINE_CHANGED", "PRICE_CHANGED"]
    assert refused["fix"]["body"] == {"line_ids": ["SHIRT", "MUG"]}
    assert (await api.fixed(refused)).status_code == 200
    assert (await api.check_out())["total_amount"] == "31.00"


async def test_line_tells_until_when_it_rests_when_the_cap_is_reached(make_api: Any) -> None:
    api = await make_api(hold_cap_seconds=1, hold_rest_seconds=600)
    await api.sell("MUG", stock=2)
    held = (await api.add("MUG"))["line"]

    async with asyncio.timeout(20):
        while (line := await line_of(api, "MUG"))["hold"] is not None:  # noqa: ASYNC110 (nothing tells when)
            await asyncio.sleep(0.05)

    assert (held["hold"]["quantity"], held["hold_rests_until"]) == (1, None)
    rests_until = line["hold_rests_until"]
    assert rests_until is not None
    changed = await api.ana.patch("/v1/cart/items/MUG", json={"quantity": 2})
    told = msgspec.json.decode(changed.content, type=schemas.LineChange).line
    assert told is not None
    assert (told.hold, told.hold_rests_until, told.is_available) == (None, rests_until, True)
    assert (await verdict_of(api))["is_valid"] is True
    extended = await api.done(api.ana.post("/v1/cart/holds/extend"))
    assert (extended["items"][0]["hold"], extended["items"][0]["hold_rests_until"]) == (None, rests_until)
    assert (await api.store.read_cart(Owner("user", "ana"))).lines[0].held == 0
    assert (await api.check_out())["total_amount"] == "19.98"
