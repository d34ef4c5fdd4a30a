"""Every `fix` works: sent as it is, it solves the problem that carried it.

A case provokes a problem, is given the answer to its fix, and sees the problem gone. A kind of problem that
may carry a fix (`Kind.has_fix`) and has no case here fails a test: whoever adds one adds its cases.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest
from cartstore_api import problems
from cartstore_api.context import RequestContext
from cartstore_api.problems import KINDS, ProblemError
from cartstore_api.schemas import Fix
from sqlalchemy import delete, update

from cartstore.archive.tables import events, retention

Steps = AsyncGenerator[httpx.Response, httpx.Response]
Case = Callable[[Any], Steps]

CASES: dict[str, list[tuple[Case, dict[str, Any]]]] = {}
ITEMS = "/v1/cart/items"


def case(code: str, **settings: Any) -> Callable[[Case], Case]:
    """A case of this code, in a shop with these settings."""

    def add(steps: Case) -> Case:
        CASES.setdefault(code, []).append((steps, settings))
        return steps

    return add


async def quantities(api: Any) -> dict[str, int]:
    """Quantity by line id of Ana's cart, all of whose lines can be bought."""
    cart = (await api.ana.get("/v1/cart")).json()
    assert all(line["is_available"] for line in cart["items"]), cart
    return {line["line_id"]: line["quantity"] for line in cart["items"]}


def added(api: Any, sku: str = "MUG", quantity: int = 1, **more: Any) -> Any:
    return api.ana.post(ITEMS, json={"sku": sku, "quantity": quantity, **more})


def put(api: Any, *items: tuple[str, int]) -> Any:
    entries = [{"sku": sku, "quantity": quantity} for sku, quantity in items]
    return api.ana.put(ITEMS, json={"items": entries})


async def add_one_of(api: Any, answer: httpx.Response) -> None:
    """What a list of products tells can be bought."""
    skus = [variant["sku"] for product in answer.json()["items"] for variant in product["variants"]]
    assert [sku for sku in skus if (await added(api, sku)).is_success]


# --- what is short -------------------------------------------------------------------------------


@case("INSUFFICIENT_STOCK")
async def add_more_than_there_is(api: Any) -> Steps:
    await api.sell(stock=5, multiple_of=2, min_quantity=2)
    yield await added(api, quantity=8)
    assert await quantities(api) == {"MUG": 4}


@case("INSUFFICIENT_STOCK")
async def add_one_more_of_the_last(api: Any) -> Steps:
    await api.sell(stock=2)
    await api.add(quantity=2)
    yield await added(api)
    assert await quantities(api) == {"MUG": 2}


@case("INSUFFICIENT_STOCK")
async def add_what_is_sold_out(api: Any) -> Steps:
    await api.sell(stock=None)
    await api.sell("CUP")
    found = yield await added(api)
    await add_one_of(api, found)


@case("INSUFFICIENT_STOCK")
async def set_more_than_there_is(api: Any) -> Steps:
    await api.sell(stock=5)
    await api.add()
    await api.add(quantity=2, by=api.ben)
    yield await api.ana.patch(f"{ITEMS}/MUG", json={"quantity": 4})
    assert await quantities(api) == {"MUG": 3}


@case("INSUFFICIENT_STOCK")
async def set_what_is_sold_out(api: Any) -> Steps:
    await api.sell(stock=2, hold_policy="on_checkout")
    await api.add()
    await api.add(quantity=2, by=api.ben)
    await api.check_out(by=api.ben)
    yield await api.ana.patch(f"{ITEMS}/MUG", json={"quantity": 2})
    assert await quantities(api) == {}


@case("INSUFFICIENT_STOCK")
async def put_more_than_there_is(api: Any) -> Steps:
    await api.sell("A", stock=3)
    await api.sell("B", stock=None)
    await api.sell("C")
    yield await put(api, ("A", 5), ("B", 1), ("C", 2))
    assert await quantities(api) == {"A": 3, "C": 2}


@case("INSUFFICIENT_STOCK")
async def put_what_is_sold_out(api: Any) -> Steps:
    await api.sell(stock=None)
    await api.sell("CUP")
    found = yield await put(api, ("MUG", 1))
    await add_one_of(api, found)


@case("INSUFFICIENT_STOCK")
async def check_out_more_than_there_is(api: Any) -> Steps:
    for sku in ("A", "B"):
        await api.sell(sku, stock=4, hold_policy="on_checkout")
        await api.add(sku, 4)
        await api.add(sku, 3, by=api.ben)
    await api.check_out(by=api.ben)
    yield await api.checking_out()
    assert [line["quantity"] for line in (await api.check_out())["orders"][0]["lines"]] == [1, 1]


# --- what is off sale, or unknown ----------------------------------------------------------------


@case("PRODUCT_INACTIVE")
async def add_what_is_off_sale(api: Any) -> Steps:
    await api.sell(active=False)
    await api.sell("CUP")
    found = yield await added(api)
    await add_one_of(api, found)


@case("PRODUCT_INACTIVE")
async def set_what_is_off_sale(api: Any) -> Steps:
    await api.sell()
    await api.add()
    await api.sell(stock=None, active=False)
    yield await api.ana.patch(f"{ITEMS}/MUG", json={"quantity": 2})
    assert await quantities(api) == {}


@case("PRODUCT_INACTIVE")
async def put_what_is_off_sale(api: Any) -> Steps:
    await api.sell("CUP")
    await api.sell()
    await api.add()
    await api.sell(stock=None, active=False)
    yield await put(api, ("MUG", 2), ("CUP", 1))
    assert await quantities(api) == {"CUP": 1}


@case("PRODUCT_INACTIVE")
async def check_out_what_is_off_sale(api: Any) -> Steps:
    await api.sell("CUP")
    await api.sell()
    await api.add()
    await api.add("CUP")
    await api.sell(stock=None, active=False)
    yield await api.checking_out()
    await api.check_out()


@case("PRODUCT_NOT_FOUND")
async def add_what_is_unknown(api: Any) -> Steps:
    await api.sell("CUP")
    found = yield await added(api, "NONE")
    await add_one_of(api, found)


@case("PRODUCT_NOT_FOUND")
async def add_of_a_product_that_is_unknown(api: Any) -> Steps:
    await api.sell("CUP")
    found = yield await api.ana.post(ITEMS, json={"product_id": "none"})
    await add_one_of(api, found)


@case("ITEM_NOT_FOUND")
async def set_what_is_not_there(api: Any) -> Steps:
    await api.sell()
    await api.add()
    cart = yield await api.ana.patch(f"{ITEMS}/NONE", json={"quantity": 2})
    line_id = cart.json()["items"][0]["line_id"]
    assert (await api.ana.patch(f"{ITEMS}/{line_id}", json={"quantity": 2})).is_success


@case("ITEM_NOT_FOUND")
async def put_what_is_not_there(api: Any) -> Steps:
    await api.sell()
    await api.add()
    cart = yield await api.ana.put(ITEMS, json={"items": [{"line_id": "NONE", "quantity": 1}]})
    assert (await api.ana.put(ITEMS, json={"items": cart.json()["items"]})).is_success


@case("OPTION_REQUIRED")
async def add_without_an_option(api: Any) -> Steps:
    async for _ in _shirts(api):
        found = yield await api.ana.post(ITEMS, json={"product_id": "shirt"})
        await _add_first_variant(api, found)


@case("OPTION_NOT_AVAILABLE")
async def add_with_an_option_that_is_not_there(api: Any) -> Steps:
    async for _ in _shirts(api):
        asked = {"product_id": "shirt", "options": {"Size": "XS"}}
        found = yield await api.ana.post(ITEMS, json=asked)
        await _add_first_variant(api, found)


async def _shirts(api: Any) -> AsyncGenerator[None, None]:
    variants = [
        {"sku": f"S-{size}", "price": "5", "policy": "untracked", "options": {"Size": size}} for size in "ML"
    ]
    shirt = {"title": "Shirt", "options": ["Size"], "variants": variants}
    await api.done(api.admin.put("/v1/admin/products/shirt", json=shirt))
    yield


async def _add_first_variant(api: Any, found: httpx.Response) -> None:
    product = found.json()
    asked = {"product_id": product["id"], "options": product["variants"][0]["options"]}
    assert (await api.ana.post(ITEMS, json=asked)).status_code == 201


# --- quantity rules ------------------------------------------------------------------------------


@case("INVALID_QUANTITY")
async def add_fewer_than_the_minimum(api: Any) -> Steps:
    await api.sell(min_quantity=5, multiple_of=3, max_quantity=14)
    yield await added(api)
    assert await quantities(api) == {"MUG": 6}


@case("INVALID_QUANTITY")
async def add_again_beyond_the_maximum(api: Any) -> Steps:
    await api.sell(max_quantity=5)
    await api.add(quantity=3)
    yield await added(api, quantity=4)
    assert await quantities(api) == {"MUG": 5}


@case("INVALID_QUANTITY")
async def add_again_at_the_maximum(api: Any) -> Steps:
    await api.sell(max_quantity=5)
    await api.add(quantity=5)
    yield await added(api)
    assert await quantities(api) == {"MUG": 5}


@case("INVALID_QUANTITY")
async def add_of_a_minimum_that_is_more_than_there_is(api: Any) -> Steps:
    await api.sell(min_quantity=5, stock=3)
    await api.sell("CUP")
    found = yield await added(api)
    await add_one_of(api, found)


@case("INVALID_QUANTITY")
async def set_of_a_minimum_that_is_more_than_there_is(api: Any) -> Steps:
    await api.sell(stock=3)
    await api.add(quantity=3)
    await api.sell(stock=None, min_quantity=5)
    yield await api.ana.patch(f"{ITEMS}/MUG", json={"quantity": 4})
    assert await quantities(api) == {}


@case("INVALID_QUANTITY")
async def put_of_a_minimum_that_is_more_than_there_is(api: Any) -> Steps:
    await api.sell("A", min_quantity=5, stock=3)
    await api.sell("B", multiple_of=4)
    yield await put(api, ("A", 1), ("B", 3))
    assert await quantities(api) == {"B": 4}


@case("INVALID_QUANTITY")
async def check_out_under_a_new_minimum(api: Any) -> Steps:
    await api.sell("A", stock=3)
    await api.sell("B")
    await api.add("A", 3)
    await api.add("B", 3)
    for sku in ("A", "B"):
        await api.sell(sku, stock=None, min_quantity=5)
    yield await api.checking_out()
    assert [line["quantity"] for line in (await api.check_out())["orders"][0]["lines"]] == [5]


# --- limits --------------------------------------------------------------------------------------


@case("LIMIT_EXCEEDED", max_quantity_per_line=20)
async def add_more_than_a_line_may_have(api: Any) -> Steps:
    await api.sell(stock=50)
    await api.add(quantity=15)
    yield await added(api, quantity=10)
    assert await quantities(api) == {"MUG": 20}


@case("LIMIT_EXCEEDED", max_lines_per_cart=3)
async def add_one_line_too_many(api: Any) -> Steps:
    for sku in ("A", "B", "C", "D"):
        await api.sell(sku)
    for sku in ("A", "B", "C"):
        await api.add(sku)
    await api.sell("B", stock=None, active=False)
    yield await added(api, "D", 2, properties={"text": "Ana"})
    lines = await quantities(api)
    # What cannot be bought makes room.
    assert [line_id.partition("~~")[0] for line_id in lines] == ["A", "C", "D"]
    assert list(lines.values()) == [1, 1, 2]


@case("LIMIT_EXCEEDED", max_lines_per_cart=2)
async def put_one_line_too_many(api: Any) -> Steps:
    for sku in ("A", "B", "C"):
        await api.sell(sku)
        if sku != "C":
            await api.add(sku)
    yield await put(api, ("C", 3))
    assert await quantities(api) == {"A": 1, "C": 3}


@case("LIMIT_EXCEEDED", max_items_per_cart=10)
async def add_more_than_a_cart_may_have(api: Any) -> Steps:
    for sku in ("A", "B", "C"):
        await api.sell(sku, stock=50, multiple_of=2)
    await api.add("A", 6)
    await api.add("B", 4)
    yield await added(api, "C", 4)
    assert await quantities(api) == {"A": 6, "B": 2, "C": 2}


@case("LIMIT_EXCEEDED", max_items_per_cart=10)
async def set_more_than_a_cart_may_have(api: Any) -> Steps:
    for sku in ("A", "B"):
        await api.sell(sku, stock=50)
        await api.add(sku, 4)
    yield await api.ana.patch(f"{ITEMS}/B", json={"quantity": 9})
    assert await quantities(api) == {"A": 4, "B": 6}


@case("LIMIT_EXCEEDED", max_held_per_owner=10)
async def add_more_than_may_be_held(api: Any) -> Steps:
    for sku in ("A", "B"):
        await api.sell(sku, stock=50)
    await api.sell("C", stock=50, hold_policy="on_checkout")
    await api.add("A", 10)
    await api.add("C", 10)
    yield await added(api, "B", 3)
    assert await quantities(api) == {"A": 9, "C": 10, "B": 1}


@case("LIMIT_EXCEEDED", max_held_per_owner=10)
async def add_while_an_order_holds_all(api: Any) -> Steps:
    for sku in ("A", "B"):
        await api.sell(sku, stock=50)
    await api.add("A", 10)
    await api.check_out()
    order = yield await added(api, "B", 3)
    assert order.json()["release_reason"] == "cancelled"
    assert (await added(api, "B", 3)).status_code == 201


@case("LIMIT_EXCEEDED", max_held_per_owner=10)
async def check_out_more_than_may_be_held(api: Any) -> Steps:
    for sku in ("A", "B"):
        await api.sell(sku, stock=50, hold_policy="on_checkout")
        await api.add(sku, 6)
    checkout = yield await api.checking_out(contact={"email": "ana@example.org"})
    assert checkout.json()["checkout_type"] == "single_item"
    assert await quantities(api) == {"B": 6}


@case("LIMIT_EXCEEDED", max_held_per_owner=10)
async def check_out_a_line_that_cannot_be_held(api: Any) -> Steps:
    await api.sell(stock=50, hold_policy="on_checkout")
    await api.add(quantity=12)
    yield await api.checking_out()
    assert [line["quantity"] for line in (await api.check_out())["orders"][0]["lines"]] == [10]


@case("LIMIT_EXCEEDED", max_held_per_owner=10)
async def check_out_while_an_order_holds_all(api: Any) -> Steps:
    await api.sell(stock=50, hold_policy="on_checkout")
    await api.sell("CUP", stock=50, hold_policy="on_checkout")
    await api.add(quantity=10)
    await api.check_out()
    await api.add("CUP", 2)
    yield await api.checking_out()
    await api.check_out(line_ids=["CUP"])


# --- currency ------------------------------------------------------------------------------------


@case("CURRENCY_MISMATCH")
async def add_in_another_currency(api: Any) -> Steps:
    await api.sell()
    await api.sell("EURO", currency="EUR", stock=3)
    await api.add()
    yield await added(api, "EURO", 4, properties={"text": "Ana"})
    cart = (await api.ana.get("/v1/cart")).json()
    assert (cart["currency"], list((await quantities(api)).values())) == ("EUR", [3])
    assert cart["items"][0]["properties"] == {"text": "Ana"}


@case("CURRENCY_MISMATCH")
async def put_in_another_currency(api: Any) -> Steps:
    await api.sell()
    await api.sell("EURO", currency="EUR")
    await api.add()
    yield await put(api, ("EURO", 2))
    assert await quantities(api) == {"EURO": 2}


@case("CURRENCY_MISMATCH")
async def set_what_has_another_currency_by_now(api: Any) -> Steps:
    await _change_currency(api)
    yield await api.ana.patch(f"{ITEMS}/MUG", json={"quantity": 2})
    assert await quantities(api) == {"CUP": 1}


@case("CURRENCY_MISMATCH")
async def accept_what_has_another_currency_by_now(api: Any) -> Steps:
    await _change_currency(api)
    yield await api.ana.post("/v1/cart/changes/accept")
    assert await quantities(api) == {"CUP": 1}


@case("LINE_CHANGED")
async def check_out_what_has_another_currency_by_now(api: Any) -> Steps:
    await _change_currency(api)
    yield await api.checking_out()
    await api.check_out()


@case("LINE_CHANGED")
async def check_out_what_has_other_options_by_now(api: Any) -> Steps:
    for color in ("Red", "Blue"):
        variant = {"sku": "SHIRT", "options": {"Color": color}, "price": "20.00"}
        product = {"title": "Shirt", "options": ["Color"], "variants": [variant]}
        await api.done(api.admin.put("/v1/admin/products/p-SHIRT", json=product))
        if color == "Red":
            await api.stock("SHIRT", 5)
            await api.add("SHIRT")
    yield await api.checking_out()
    await api.check_out()


async def _change_currency(api: Any) -> None:
    await api.sell("CUP")
    await api.sell()
    await api.add()
    await api.add("CUP")
    await api.sell(stock=None, currency="EUR")


# --- checkout ------------------------------------------------------------------------------------


@case("PURCHASE_LIMIT")
async def add_more_than_a_customer_may_buy(api: Any) -> Steps:
    await api.sell(max_per_customer={"quantity": 2, "window_seconds": 3_600})
    yield await added(api, quantity=3)
    assert await quantities(api) == {"MUG": 2}


@case("PURCHASE_LIMIT")
async def add_when_the_limit_is_bought(api: Any) -> Steps:
    await api.sell(max_per_customer={"quantity": 2, "window_seconds": 3_600})
    await api.sell("CUP")
    await api.add(quantity=2)
    await api.check_out()
    found = yield await added(api)
    await add_one_of(api, found)


@case("PURCHASE_LIMIT")
async def check_out_more_than_a_customer_may_buy_by_now(api: Any) -> Steps:
    await api.sell()
    await api.add(quantity=3)
    await api.sell(stock=None, max_per_customer={"quantity": 2, "window_seconds": 3_600})
    yield await api.checking_out()
    assert [line["quantity"] for line in (await api.check_out())["orders"][0]["lines"]] == [2]


@case("NOT_YET_ON_SALE")
async def add_what_is_not_on_sale_yet(api: Any) -> Steps:
    await api.sell(available_on="2999-01-01")
    await api.sell("CUP")
    found = yield await added(api)
    await add_one_of(api, found)


@case("NOT_YET_ON_SALE")
async def check_out_what_is_not_on_sale_yet(api: Any) -> Steps:
    await api.sell()
    await api.sell("CUP")
    await api.add()
    await api.add("CUP")
    await api.sell(stock=None, available_on="2999-01-01")
    yield await api.checking_out()
    assert [line["sku"] for line in (await api.check_out())["orders"][0]["lines"]] == ["CUP"]


@case("CART_EMPTY")
async def check_out_an_empty_cart(api: Any) -> Steps:
    await api.sell()
    found = yield await api.checking_out()
    await add_one_of(api, found)
    await api.check_out()


@case("PRICE_CHANGED")
async def check_out_after_a_price_rose(api: Any) -> Steps:
    await api.sell(price="9.99")
    await api.add()
    await api.sell(price="12.00", stock=None)
    yield await api.checking_out()
    assert (await api.check_out())["total_amount"] == "12.00"


@case("TOTAL_CHANGED")
async def check_out_another_total(api: Any) -> Steps:
    await api.sell(price="9.99")
    await api.add()
    checkout = yield await api.checking_out(expected_total="1.00", contact={"email": "a@b.c"})
    assert (checkout.status_code, checkout.json()["total_amount"]) == (201, "9.99")


@case("CHECKOUT_VALIDATION_FAILED")
async def check_out_lines_that_fail_for_different_reasons(api: Any) -> Steps:
    await api.sell("GONE")
    await api.sell("FEW", stock=3)
    await api.sell("DEAR", price="1.00")
    for sku, quantity in (("GONE", 1), ("FEW", 3), ("DEAR", 1)):
        await api.add(sku, quantity)
    await api.sell("GONE", stock=None, active=False)
    await api.sell("FEW", stock=None, max_quantity=2)
    await api.sell("DEAR", stock=None, price="2.00")
    yield await api.checking_out()
    risen = (await api.checking_out()).json()
    assert risen["code"] == "PRICE_CHANGED"
    assert (await api.fixed(risen)).is_success
    assert (await api.check_out())["total_amount"] == "21.98"


@case("PAYMENT_EXPIRED", payment_window_seconds=1)
async def pay_when_the_window_is_over(api: Any) -> Steps:
    await api.sell()
    await api.add()
    checkout = await api.check_out()
    payment_id = checkout["payment"]["id"]
    while (await api.ana.get(f"/v1/payments/{payment_id}")).json()["status"] == "pending":  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    cart = yield await api.ana.post(f"/v1/payments/{payment_id}/simulate", json={"outcome": "fail"})
    assert [line["sku"] for line in cart.json()["items"]] == ["MUG"]
    await api.check_out()


# --- conditions ----------------------------------------------------------------------------------


@case("VERSION_CONFLICT")
async def set_on_an_old_version(api: Any) -> Steps:
    await api.sell()
    await api.add()
    await api.add()
    change = {"url": f"{ITEMS}/MUG", "json": {"quantity": 5}}
    cart = yield await api.ana.patch(**change, headers={"If-Match": '"1"'})
    again = await api.ana.patch(**change, headers={"If-Match": cart.headers["ETag"]})
    assert again.status_code == 200


@case("VERSION_CONFLICT")
async def put_a_product_on_an_old_version(api: Any) -> Steps:
    await api.sell()
    await api.sell(stock=None, price="4.00")
    path, product = "/v1/admin/products/p-MUG", {"title": "Cup", "variants": [{"sku": "MUG", "price": "5"}]}
    found = yield await api.admin.put(path, json=product, headers={"If-Match": '"1"'})
    again = await api.admin.put(path, json=product, headers={"If-Match": found.headers["ETag"]})
    assert again.status_code == 200


@case("EVENTS_GONE")
async def read_events_that_are_gone(api: Any) -> Steps:
    await api.sell(stock=1)
    await api.stock("MUG", 1)
    await api.archive()
    first, oldest = (item["position"] for item in (await api.admin.get("/v1/admin/events")).json()["items"])
    epoch, seq = first.split("-")
    async with api.store.archive.database.transaction() as connection:
        values = {"events_gone_epoch": int(epoch), "events_gone_seq": int(seq)}
        await connection.execute(update(retention).values(**values))
        await connection.execute(delete(events).where(events.c.seq <= int(seq)))
    kept = yield await api.admin.get("/v1/admin/events", params={"after": "0-0"})
    assert [item["position"] for item in kept.json()["items"]] == [oldest]


# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "steps", "changes"),
    [
        pytest.param(code, steps, settings, id=f"{code}-{steps.__name__}")
        for code, cases in CASES.items()
        for steps, settings in cases
    ],
)
async def test_fix_solves_the_problem(make_api: Any, code: str, steps: Case, changes: dict[str, Any]) -> None:
    api = await make_api(**changes)
    story = steps(api)
    refused = await anext(story)
    problem = refused.json()
    assert problem.get("code") == code, problem
    by = api.admin if refused.request.url.path.startswith("/v1/admin") else api.ana

    # As it is, with the header that its route wants of any request.
    answer = await api.fixed(problem, by=by, **{"Idempotency-Key": "fix"})

    assert answer.is_success, (problem["fix"], answer.text)
    with pytest.raises(StopAsyncIteration):
        await story.asend(answer)


def test_every_kind_of_problem_with_a_fix_has_a_case() -> None:
    assert set(CASES) == {code for code, kind in KINDS.items() if kind.has_fix}


def test_fix_is_left_out_when_the_table_of_problems_knows_of_none() -> None:
    problem = ProblemError("ORDER_STATE", "The order is paid.", fix=Fix(method="GET", path="/v1/orders"))

    answer = problems.answer(RequestContext([]), problem, "POST", "/v1/orders/o/cancel")

    assert not KINDS["ORDER_STATE"].has_fix
    assert b'"fix"' not in answer.body
