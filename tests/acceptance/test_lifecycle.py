"""Goal: the contract of the REST API as a story, from a guest's first token to a refund, word by word.

Method: one thing after the other against a real shop, each answer compared with what the contract says, and
every `fix` in a problem sent exactly as it came. Shapes, codes and headers of all answers are held to the
contract by `shapes.py` besides. Windows that have to end belong to a second API process with short ones.
"""

from __future__ import annotations

import asyncio
import uuid
from decimal import Decimal
from typing import Any

import pytest

from .calling import ADDRESS, Call, Caller, Callers, calling, new_key, until
from .running import Shop


@pytest.fixture
def tag() -> str:
    """Makes names that no other test has."""
    return uuid.uuid4().hex[:8]


# --- tokens, cart, conditions ------------------------------------------------------------------------------


async def test_a_guest_gets_a_token_adds_and_reads(callers: Callers, admin: Caller, tag: str) -> None:
    sku = f"{tag}-a"
    await admin.put_product(tag, sku, f"{tag}-b", price="49.99", stock=5)

    # A token stores nothing, and comes as cookie and header.
    guest = callers.guest()
    made = await guest.call("POST", "/v1/guest")
    assert made.status == 201, made
    token = made.body["token"]
    assert made.headers["cart-token"] == token
    cookie = made.headers["set-cookie"]
    assert cookie.startswith(f"cart={token};"), cookie
    assert {"httponly", "samesite=lax", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
    by_cookie = callers.guest()
    by_cookie.headers["Cookie"] = f"cart={token}"

    empty = await guest.get("/v1/cart")
    assert (empty["items"], empty["saved"], empty["version"], empty["owner"]) == ([], [], 0, "guest")
    assert (empty["subtotal"], empty["total"], empty["created_at"]) == ("0.00", "0.00", None)

    added = await guest.add(sku, 3, properties={"engraving": "Ann & Bob", "gift": True})
    assert added.status == 201, added
    assert "set-cookie" not in added.headers, "a living token was replaced"
    line, summary = added.body["line"], added.body["summary"]
    assert line["product_id"] == tag
    assert (line["name"], line["options"]) == (tag.title(), {"Kind": sku})
    assert line["properties"] == {"engraving": "Ann & Bob", "gift": True}
    assert (line["quantity"], line["unit_price"], line["line_total"]) == (3, "49.99", "149.97")
    assert (line["is_available"], line["available_quantity"], line["changes"]) == (True, 5, {})
    assert line["hold"]["quantity"] == 3
    assert 0 < line["hold"]["expires_in_seconds"] <= 600
    assert summary == {
        "items_count": 1,
        "total_items": 3,
        "subtotal": "149.97",
        "currency": "USD",
        "version": added.body["version"],
    }

    # The same variation adds to its line; other properties make another one.
    again = await guest.add(sku, 1, properties={"gift": True, "engraving": "Ann & Bob"})
    assert (again.body["line"]["line_id"], again.body["line"]["quantity"]) == (line["line_id"], 4)
    plain = await guest.add(sku)
    assert plain.body["line"]["line_id"] != line["line_id"]
    assert plain.body["summary"]["items_count"] == 2
    by_options = await guest.call(
        "POST", "/v1/cart/items", {"product_id": tag, "options": {"Kind": f"{tag}-b"}}
    )
    assert (by_options.status, by_options.body["line"]["sku"]) == (201, f"{tag}-b"), by_options

    # The cookie opens the same cart, the summary has the same numbers, lines keep their order.
    cart = await by_cookie.get("/v1/cart")
    assert [entry["line_id"] for entry in cart["items"]] == [
        line["line_id"],
        plain.body["line"]["line_id"],
        by_options.body["line"]["line_id"],
    ]
    assert (cart["items_count"], cart["total_items"], cart["subtotal"]) == (3, 6, "299.94")
    brief = await guest.get("/v1/cart/summary")
    assert brief == {name: cart[name] for name in brief}
    level = await guest.get(f"/v1/stock/{sku}")
    assert (level["on_hand"], level["held"], level["available"], level["sold"]) == (5, 5, 0, 0)

    # A first mutation without a token gives one.
    stranger = callers.guest()
    first = await stranger.add(f"{tag}-b")
    assert first.status == 201, first
    assert first.headers["cart-token"] in first.headers["set-cookie"]
    assert (await stranger.get("/v1/cart"))["total_items"] == 1

    # What is not there.
    missing = await guest.call("PATCH", "/v1/cart/items/none", {"quantity": 1})
    assert (missing.status, missing.code) == (404, "ITEM_NOT_FOUND"), missing
    assert (await guest.send_fix(missing)).status == 200


async def test_etags_and_versions_decide(callers: Callers, shop: Shop, admin: Caller, tag: str) -> None:
    await admin.put_product(tag, tag, price="10.00", stock=10)
    buyer = callers.bearer("buyer", shop.token(tag))
    added = await buyer.add(tag, 2)

    read = await buyer.call("GET", "/v1/cart")
    etag = read.headers["etag"]
    assert etag.startswith(f'"{added.body["version"]}-'), etag
    unchanged = await buyer.call("GET", "/v1/cart", If_None_Match=etag)
    assert (unchanged.status, unchanged.headers["etag"]) == (304, etag)
    for value in (f"W/{etag}", f'"other", {etag}', "*"):
        assert (await buyer.call("GET", "/v1/cart", If_None_Match=value)).status == 304, value
    assert (await buyer.call("GET", "/v1/cart", If_None_Match='"0-none"')).status == 200

    # Availability is not in the version, but in the ETag.
    await callers.guest().add(tag)
    reread = await buyer.call("GET", "/v1/cart", If_None_Match=etag)
    assert reread.status == 200, reread
    assert reread.body["version"] == read.body["version"]

    version = added.body["version"]
    for spelled in ("{version}", '"{version}"', "{etag}"):
        if_match = spelled.format(version=version, etag=etag)
        changed = await buyer.call("PATCH", f"/v1/cart/items/{tag}", {"quantity": 3}, If_Match=if_match)
        assert changed.status == 200, changed
        assert changed.body["version"] > version
        stale = await buyer.call("PATCH", f"/v1/cart/items/{tag}", {"quantity": 9}, If_Match=if_match)
        assert (stale.status, stale.code) == (412, "VERSION_CONFLICT"), stale
        current = await buyer.get("/v1/cart")
        assert stale.body["cart"]["version"] == current["version"] == changed.body["version"]
        assert [line["quantity"] for line in stale.body["cart"]["items"]] == [3]
        assert (await buyer.send_fix(stale)).status == 200
        version = changed.body["version"]
        etag = (await buyer.call("GET", "/v1/cart")).headers["etag"]
    for method, path, body in (
        ("DELETE", f"/v1/cart/items/{tag}", None),
        ("DELETE", "/v1/cart", None),
        ("PUT", "/v1/cart/items", {"items": [{"sku": tag, "quantity": 1}]}),
        ("POST", "/v1/cart/items", {"sku": tag}),
        ("POST", "/v1/cart/validate", None),
        ("POST", "/v1/cart/holds/extend", None),
        ("POST", "/v1/cart/changes/accept", None),
        ("POST", "/v1/checkout", _checkout()),
    ):
        stale = await buyer.call(method, path, body, key=new_key(), If_Match='"1"')
        assert (stale.status, stale.code) == (412, "VERSION_CONFLICT"), stale
    assert (await buyer.get("/v1/cart"))["version"] == version

    # The whole cart instead of the change.
    whole = await buyer.call(
        "PATCH", f"/v1/cart/items/{tag}", {"quantity": 1}, Prefer="return=representation"
    )
    assert whole.headers["preference-applied"] == "return=representation"
    assert (whole.status, whole.body["total_items"]) == (200, 1)
    assert whole.headers["etag"].startswith(f'"{whole.body["version"]}-')

    # 0 removes, and so does DELETE; clearing an empty cart is no error.
    gone = await buyer.call("PATCH", f"/v1/cart/items/{tag}", {"quantity": 0})
    assert (gone.status, gone.body["line"], gone.body["summary"]["items_count"]) == (200, None, 0)
    await buyer.add(tag)
    gone = await buyer.call("DELETE", f"/v1/cart/items/{tag}")
    assert (gone.status, gone.body["line"]) == (200, None)
    assert (await buyer.call("DELETE", "/v1/cart")).status == 200


async def test_keys_make_mutations_repeatable(callers: Callers, shop: Shop, admin: Caller, tag: str) -> None:
    await admin.put_product(tag, tag, stock=50)
    buyer = callers.bearer("buyer", shop.token(tag))
    path = f"/v1/cart/items/{tag}"

    first = await buyer.add(tag, 2, key="k1")
    for spelled in ("k1", '"k1"'):
        again = await buyer.add(tag, 2, key=spelled)
        assert (again.status, again.is_replay) == (201, True), again
        assert again.body["version"] == first.body["version"]
        assert again.body["line"]["quantity"] == 2
    assert not first.is_replay
    other = await buyer.add(tag, 3, key="k1")
    assert (other.status, other.code) == (422, "IDEMPOTENCY_KEY_REUSED"), other
    other = await buyer.call("PATCH", path, {"quantity": 2}, key="k1")
    assert (other.status, other.code) == (422, "IDEMPOTENCY_KEY_REUSED"), other
    assert (await buyer.get("/v1/cart"))["total_items"] == 2

    # An empty key is none; keys belong to their callers.
    assert (await buyer.add(tag, 2, key='""')).body["line"]["quantity"] == 4
    stranger = callers.guest()
    mine = await stranger.add(tag, 1, key="k1")
    assert (mine.status, mine.is_replay, mine.body["line"]["quantity"]) == (201, False, 1)

    # Refusals are not remembered: the same key succeeds once there is stock.
    refused = await buyer.add(tag, 90, key="k2")
    assert (refused.status, refused.code) == (409, "INSUFFICIENT_STOCK"), refused
    await admin.put_stock(tag, 200)
    granted = await buyer.add(tag, 90, key="k2")
    assert (granted.status, granted.is_replay) == (201, False), granted

    for method, target, body in (
        ("PATCH", path, {"quantity": 5}),
        ("PUT", "/v1/cart/items", {"items": [{"sku": tag, "quantity": 6}]}),
        ("DELETE", path, None),
        ("DELETE", "/v1/cart", None),
    ):
        key = new_key()
        calls = [await buyer.call(method, target, body, key=key) for _ in range(2)]
        assert [call.status for call in calls] == [200, 200], calls
        changed_nothing = target == "/v1/cart"
        assert calls[1].is_replay or changed_nothing, calls
        assert calls[0].body["version"] == calls[1].body["version"]


async def test_a_bulk_set_is_all_or_as_much_as_possible(
    callers: Callers, shop: Shop, admin: Caller, tag: str
) -> None:
    plenty, scarce, inactive = f"{tag}-p", f"{tag}-s", f"{tag}-i"
    await admin.put_product(f"{tag}p", plenty, stock=50)
    await admin.put_product(f"{tag}s", scarce, stock=2)
    await admin.put_product(f"{tag}i", inactive, stock=5)
    buyer = callers.bearer("buyer", shop.token(tag))
    await buyer.add(plenty)
    wanted = [{"sku": plenty, "quantity": 4}, {"sku": scarce, "quantity": 5}]

    refused = await buyer.call("PUT", "/v1/cart/items", {"items": wanted})
    assert (refused.status, refused.code) == (409, "INSUFFICIENT_STOCK"), refused
    (shortfall,) = refused.body["shortfalls"]
    assert (shortfall["sku"], shortfall["requested_quantity"], shortfall["available_quantity"]) == (
        scarce,
        5,
        2,
    )
    assert (await buyer.get("/v1/cart"))["total_items"] == 1

    partly = await buyer.call("PUT", "/v1/cart/items", {"items": wanted, "mode": "partial"})
    assert partly.status == 200, partly
    assert [(entry["sku"], entry["code"]) for entry in partly.body["results"]] == [
        (plenty, "OK"),
        (scarce, "INSUFFICIENT_STOCK"),
    ]
    assert (await buyer.get("/v1/cart"))["total_items"] == 4

    refused = await buyer.call("PUT", "/v1/cart/items", {"items": wanted})
    fixed = await buyer.send_fix(refused)
    assert fixed.status == 200, fixed
    cart = await buyer.get("/v1/cart")
    assert {line["sku"]: line["quantity"] for line in cart["items"]} == {plenty: 4, scarce: 2}

    # What GET returns, PUT accepts.
    items = cart["items"]
    items[0]["quantity"] = 7
    put = await buyer.call("PUT", "/v1/cart/items", {"items": items})
    assert put.status == 200, put
    assert (await buyer.get("/v1/cart"))["total_items"] == 9


# --- refusals with a way out ------------------------------------------------------------------------------


async def test_every_refusal_of_a_line_has_a_fix_that_works(
    callers: Callers, shop: Shop, admin: Caller, tag: str
) -> None:
    few, packs, single = f"{tag}-f", f"{tag}-k", f"{tag}-1"
    await admin.put_product(f"{tag}f", few, stock=3)
    await admin.put_product(f"{tag}k", packs, stock=50, min_quantity=4, multiple_of=4, max_quantity=12)
    await admin.put_product(f"{tag}1", single, stock=1)

    # Too many wanted of too few, by add and by set.
    buyer = callers.bearer("buyer", shop.token(tag))
    refused = await buyer.add(few, 5, properties={"note": "x"})
    assert (refused.status, refused.code) == (409, "INSUFFICIENT_STOCK"), refused
    assert (refused.body["available_quantity"], refused.body["requested_quantity"]) == (3, 5)
    assert refused.body["sku"] == few
    assert (await buyer.send_fix(refused)).status == 200
    (line,) = (await buyer.get("/v1/cart"))["items"]
    assert (line["quantity"], line["properties"]) == (3, {"note": "x"})
    refused = await buyer.call("PATCH", f"/v1/cart/items/{line['line_id']}", {"quantity": 9})
    assert (refused.status, refused.code) == (409, "INSUFFICIENT_STOCK"), refused
    assert (await buyer.send_fix(refused)).status == 200

    # None left at all.
    assert (await buyer.add(single)).status == 201
    late = callers.bearer("late", shop.token(f"{tag}late"))
    refused = await late.add(single)
    assert (refused.code, refused.body["available_quantity"]) == ("INSUFFICIENT_STOCK", 0), refused
    assert (await late.send_fix(refused)).status == 200

    # The variant's own rules, and the shop's limits.
    for quantity, expected in ((1, 4), (6, 4), (16, 12), (98, 12)):
        refused = await buyer.add(packs, quantity)
        assert (refused.status, refused.code) == (422, "INVALID_QUANTITY"), refused
        assert (await buyer.send_fix(refused)).status == 200
        level = await buyer.get("/v1/cart")
        assert {line["sku"]: line["quantity"] for line in level["items"]}[packs] == expected, (
            quantity,
            level,
        )
        await buyer.call("DELETE", f"/v1/cart/items/{packs}")
    await admin.put_stock(few, 500)
    refused = await buyer.add(few, 200)
    assert (refused.status, refused.code) == (422, "LIMIT_EXCEEDED"), refused
    assert (await buyer.send_fix(refused)).status == 200
    lines = (await buyer.get("/v1/cart"))["items"]
    assert next(line["quantity"] for line in lines if line["line_id"] == few) == 99

    # Choosing, and what is not on sale.
    await admin.put_product(f"{tag}c", f"{tag}-x", f"{tag}-y", stock=5)
    for body, code in (
        ({"product_id": f"{tag}c"}, "OPTION_REQUIRED"),
        ({"product_id": f"{tag}c", "options": {"Kind": "none"}}, "OPTION_NOT_AVAILABLE"),
        ({"product_id": f"{tag}f", "options": {"Kind": "any"}}, "OPTION_NOT_AVAILABLE"),
    ):
        refused = await buyer.call("POST", "/v1/cart/items", body)
        assert (refused.status, refused.code) == (422, code), refused
        assert (await buyer.send_fix(refused)).status == 200
    await buyer.add(f"{tag}-x")
    product = await admin.get(f"/v1/products/{tag}c")
    assert (await admin.call("PUT", f"/v1/admin/products/{tag}c", {**product, "active": False})).status == 200
    refused = await buyer.call("PATCH", f"/v1/cart/items/{tag}-x", {"quantity": 2})
    assert (refused.status, refused.code) == (409, "PRODUCT_INACTIVE"), refused
    cart = await buyer.get("/v1/cart")
    assert cart["has_unavailable_items"] is True
    assert not next(line for line in cart["items"] if line["sku"] == f"{tag}-x")["is_available"]
    shown = sum(Decimal(line["line_total"]) for line in cart["items"] if line["is_available"])
    assert Decimal(cart["subtotal"]) == Decimal(cart["total"]) == shown
    assert (await buyer.send_fix(refused)).status == 200
    assert f"{tag}-x" not in {line["sku"] for line in (await buyer.get("/v1/cart"))["items"]}
    refused = await buyer.add(f"{tag}-x")
    assert (refused.status, refused.code) == (409, "PRODUCT_INACTIVE"), refused


async def test_validate_says_what_checkout_would(
    callers: Callers, shop: Shop, admin: Caller, tag: str
) -> None:
    fine, risen = f"{tag}-f", f"{tag}-r"
    await admin.put_product(f"{tag}f", fine, price="2.50", stock=5)
    await admin.put_product(f"{tag}r", risen, price="1.00", stock=5)
    buyer = callers.bearer("buyer", shop.token(tag))
    await buyer.add(fine, 2)
    await buyer.add(risen, 1)
    await admin.put_product(f"{tag}r", risen, price="1.50")

    told = await buyer.call("POST", "/v1/cart/validate")
    assert (told.status, told.body["is_valid"], told.body["total_valid_amount"]) == (200, False, "5.00")
    by_line = {entry["line_id"]: entry for entry in told.body["details"]}
    assert (by_line[fine]["is_valid"], by_line[fine]["item_total"], by_line[fine]["problems"]) == (
        True,
        "5.00",
        [],
    )
    assert by_line[risen]["is_valid"] is False
    assert by_line[risen]["problems"]
    chosen = await buyer.call("POST", "/v1/cart/validate", {"line_ids": [fine]})
    assert (chosen.body["is_valid"], len(chosen.body["details"])) == (True, 1)
    assert (await buyer.call("POST", "/v1/cart/holds/extend")).status == 200


# --- checkout --------------------------------------------------------------------------------------------


def _checkout(**more: Any) -> dict[str, Any]:
    return {"payment_method": "card", "gateway": "simulated", "shipping_address": ADDRESS, **more}


async def test_a_risen_price_has_to_be_accepted_and_the_order_keeps_it(
    callers: Callers, shop: Shop, admin: Caller, tag: str
) -> None:
    await admin.put_product(tag, tag, price="10.00", stock=9)
    buyer = callers.bearer("buyer", shop.token(tag))
    added = await buyer.add(tag, 2)

    # A drop is taken in the buyer's favour, and shown as a change.
    await admin.put_product(tag, tag, price="8.00")
    cart = await buyer.get("/v1/cart")
    assert cart["has_changes"] is True
    assert cart["version"] == added.body["version"]
    (line,) = cart["items"]
    assert (line["unit_price"], line["changes"]["price"]) == ("10.00", {"old": "10.00", "new": "8.00"})

    # A rise is not.
    await admin.put_product(tag, tag, price="12.50")
    refused = await buyer.check_out()
    assert (refused.status, refused.code) == (409, "PRICE_CHANGED"), refused
    (shortfall,) = refused.body["shortfalls"]
    assert (shortfall["line_id"], shortfall["old_price"], shortfall["new_price"]) == (tag, "10.00", "12.50")
    assert (await buyer.get("/v1/orders"))["items"] == []
    assert (await buyer.send_fix(refused)).status == 200
    (line,) = (await buyer.get("/v1/cart"))["items"]
    assert (line["unit_price"], line["line_total"], line["changes"]) == ("12.50", "25.00", {})

    # The total that was shown has to be the one that is paid.
    refused = await buyer.check_out(expected_total="20.00", metadata={"campaign": "x"}, key="one")
    assert (refused.status, refused.code) == (409, "TOTAL_CHANGED"), refused
    assert refused.body["fix"]["body"]["metadata"] == {"campaign": "x"}
    begun = await buyer.send_fix(refused, key="one")
    assert (begun.status, begun.body["total_amount"]) == (201, "25.00"), begun

    # The order keeps what the buyer saw, whatever becomes of the product.
    changed = {"title": "Another", "variants": [{"sku": tag, "price": "99.00"}], "currency": "USD"}
    assert (await admin.call("PUT", f"/v1/admin/products/{tag}", changed)).status == 200
    order = await buyer.get(f"/v1/orders/{begun.body['orders'][0]['order_id']}")
    assert [(line["name"], line["unit_price"]) for line in order["lines"]] == [(tag.title(), "12.50")]


async def test_one_order_per_seller_under_one_payment(
    callers: Callers, shop: Shop, admin: Caller, tag: str
) -> None:
    for n, seller in enumerate(("North", "South", None)):
        await admin.put_product(f"{tag}{n}", f"{tag}-{n}", price=f"{n + 1}.00", stock=5, seller=seller)
    guest = callers.guest()
    for n in (1, 0, 2):
        assert (await guest.add(f"{tag}-{n}", 2)).status == 201

    begun = await guest.check_out(
        key="sellers", contact={"email": "a@example.org"}, billing_address=ADDRESS, expected_total="12.00"
    )
    assert begun.status == 201, begun
    checkout = begun.body
    assert (checkout["checkout_type"], checkout["order_count"]) == ("full_cart", 3)
    assert (checkout["total_amount"], checkout["currency"]) == ("12.00", "USD")
    assert [(order["seller"], order["total"], order["status"]) for order in checkout["orders"]] == [
        ("South", "4.00", "pending"),
        ("North", "2.00", "pending"),
        (None, "6.00", "pending"),
    ]
    payment = checkout["payment"]
    assert (payment["gateway"], payment["method"], payment["status"]) == ("simulated", "card", "pending")
    assert 0 < payment["time_remaining_seconds"] <= 900
    assert (await guest.get("/v1/cart"))["items"] == []

    # Readable the moment that checkout answered; repeated for ever; other content is refused.
    listed = (await guest.get("/v1/orders"))["items"]
    assert sorted(order["order_id"] for order in listed) == sorted(
        order["order_id"] for order in checkout["orders"]
    )
    again = await guest.check_out(
        key="sellers", contact={"email": "a@example.org"}, billing_address=ADDRESS, expected_total="12.00"
    )
    assert (again.status, again.is_replay) == (201, True), again
    assert again.body["checkout_id"] == checkout["checkout_id"]
    assert again.body["order_token"] == checkout["order_token"]
    assert again.body["payment"]["hash"] == payment["hash"]
    other = await guest.check_out(key="sellers")
    assert (other.status, other.code) == (422, "IDEMPOTENCY_KEY_REUSED"), other
    empty = await guest.check_out()
    assert (empty.status, empty.code) == (409, "CART_EMPTY"), empty
    assert (await guest.send_fix(empty)).status == 200

    # Pages of one.
    seen, cursor = [], ""
    while cursor is not None:
        page = await guest.get(f"/v1/orders?limit=1{cursor}")
        seen += [order["order_id"] for order in page["items"]]
        cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
    assert sorted(seen) == sorted(order["order_id"] for order in checkout["orders"])

    # The guest lost the cookie: the order token still reads, and nothing else does.
    lost, order_id = callers.guest("lost"), checkout["orders"][0]["order_id"]
    for path in (f"/v1/orders/{order_id}", f"/v1/payments/{payment['id']}"):
        assert (await lost.call("GET", path)).status == 404
        told = await lost.call("GET", path, X_Order_Token=checkout["order_token"])
        assert told.status == 200, told
    denied = await lost.call("POST", f"/v1/orders/{order_id}/cancel", X_Order_Token=checkout["order_token"])
    assert (denied.status, denied.code) == (404, "ORDER_NOT_FOUND"), denied

    # A failed attempt, then success; each repeated; then the contrary.
    failed = await guest.pay(payment["id"], "fail")
    assert (failed.status, failed.body["status"], failed.body["attempts"]) == (200, "pending", 1), failed
    paid = await guest.pay(payment["id"])
    assert (paid.status, paid.body["status"]) == (200, "paid"), paid
    assert {order["status"] for order in paid.body["orders"]} == {"paid"}
    assert (paid.body["time_remaining_seconds"], paid.body["amount"]) == (0, "12.00")
    assert (await guest.pay(payment["id"])).body["status"] == "paid"
    late = await guest.pay(payment["id"], "fail")
    assert (late.status, late.code) == (409, "PAYMENT_STATE"), late
    cancelled = await guest.cancel(order_id)
    assert (cancelled.status, cancelled.code) == (409, "ORDER_STATE"), cancelled
    confirmed = await guest.call("POST", f"/v1/payments/{payment['id']}/confirm", {"outcome": "succeed"})
    assert (confirmed.status, confirmed.body["status"]) == (200, "paid"), confirmed
    for n in range(3):
        level = await guest.get(f"/v1/stock/{tag}-{n}")
        assert (level["on_hand"], level["held"], level["sold"]) == (3, 0, 2)
    closing = await admin.call("POST", f"/v1/admin/orders/{order_id}/refunded")
    assert (closing.status, closing.code) == (409, "ORDER_STATE"), closing


async def test_some_lines_or_one_can_be_bought(callers: Callers, shop: Shop, admin: Caller, tag: str) -> None:
    skus = [f"{tag}-{n}" for n in range(4)]
    await admin.put_product(tag, *skus, price="1.00", stock=5)
    buyer = callers.bearer("buyer", shop.token(tag))
    for sku in skus:
        await buyer.add(sku)

    some = await buyer.check_out(line_ids=skus[:2])
    one = await buyer.check_out(line_ids=[skus[2]])
    rest = await buyer.check_out(line_ids=[skus[3]])

    kinds = [call.body["checkout_type"] for call in (some, one, rest)]
    assert kinds == ["partial", "single_item", "full_cart"], kinds
    assert (await buyer.get("/v1/cart"))["items"] == []

    # Cancelled is the whole checkout; its lines return, unheld until somebody mutates or validates.
    cancelled = await buyer.cancel(some.body["orders"][0]["order_id"])
    assert (cancelled.status, cancelled.body["status"]) == (200, "released"), cancelled
    assert cancelled.body["release_reason"] == "cancelled"
    again = await buyer.cancel(some.body["orders"][0]["order_id"])
    assert (again.status, again.body["status"]) == (200, "released"), again
    cart = await buyer.get("/v1/cart")
    assert {(line["sku"], line["quantity"], line["hold"] is None) for line in cart["items"]} == {
        (skus[0], 1, True),
        (skus[1], 1, True),
    }
    payment = await buyer.get(f"/v1/payments/{some.body['payment']['id']}")
    assert payment["status"] == "cancelled"
    failed = await buyer.pay(some.body["payment"]["id"], "fail")
    assert failed.status == 409, failed
    valid = await buyer.call("POST", "/v1/cart/validate")
    assert valid.body["is_valid"] is True
    assert all(line["hold"] for line in (await buyer.get("/v1/cart"))["items"])


async def test_a_checkout_names_every_line_that_cannot_be_had(
    callers: Callers, shop: Shop, admin: Caller, tag: str
) -> None:
    gone, short, risen, fine = (f"{tag}-{name}" for name in "gsrf")
    for sku in (gone, short, risen, fine):
        # Held only at checkout, so that somebody else can come between.
        await admin.put_product(f"p{sku}", sku, price="1.00", stock=5, hold_policy="on_checkout")
    buyer = callers.bearer("buyer", shop.token(tag))
    for sku in (gone, short, risen, fine):
        assert (await buyer.add(sku, 4)).status == 201
    await admin.put_stock(gone, 0)
    await admin.put_stock(short, 2)
    await admin.put_product(f"p{risen}", risen, price="1.10", hold_policy="on_checkout")

    refused = await buyer.check_out()
    assert (refused.status, refused.code) == (409, "CHECKOUT_VALIDATION_FAILED"), refused
    assert {(entry["line_id"], entry["code"]) for entry in refused.body["shortfalls"]} == {
        (gone, "INSUFFICIENT_STOCK"),
        (short, "INSUFFICIENT_STOCK"),
        (risen, "PRICE_CHANGED"),
    }
    steps = 0
    while refused.status == 409:
        assert steps < 4, refused
        assert (await buyer.send_fix(refused)).status == 200
        refused = await buyer.check_out()
        steps += 1
    assert refused.status == 201, refused
    (order,) = refused.body["orders"]
    assert {line["sku"]: (line["quantity"], line["unit_price"]) for line in order["lines"]} == {
        short: (2, "1.00"),
        risen: (4, "1.10"),
        fine: (4, "1.00"),
    }


# --- windows and late money ------------------------------------------------------------------------------


async def test_a_window_ends_and_late_money_is_taken_or_due_back(shop: Shop, admin: Caller, tag: str) -> None:
    kept, lost = f"{tag}-k", f"{tag}-l"
    await admin.put_product(f"{tag}k", kept, stock=1)
    await admin.put_product(f"{tag}l", lost, stock=1)
    with shop.api_beside(payment_window_seconds=1) as url:
        async with calling(url) as callers:
            buyer = callers.bearer("buyer", shop.token(tag))
            rival = callers.bearer("rival", shop.token(f"{tag}rival"))
            ends: dict[str, Call] = {}
            for sku in (kept, lost):
                assert (await buyer.add(sku)).status == 201
                ends[sku] = await buyer.check_out(line_ids=[sku])
                assert ends[sku].status == 201, ends[sku]

            for begun in ends.values():
                await until(lambda begun=begun: _is_released(buyer, begun))
                order = await buyer.get(f"/v1/orders/{begun.body['orders'][0]['order_id']}")
                assert (order["status"], order["release_reason"]) == ("released", "expired")
                failed = await buyer.pay(begun.body["payment"]["id"], "fail")
                assert (failed.status, failed.code) == (409, "PAYMENT_EXPIRED"), failed
                assert (await buyer.send_fix(failed)).status == 200
            cart = await buyer.get("/v1/cart")
            assert {line["sku"] for line in cart["items"]} == {kept, lost}, "the lines did not return"
            assert (await rival.add(lost)).status == 201

            # There is stock: paid after all, and the returned line leaves the cart.
            paid = await buyer.pay(ends[kept].body["payment"]["id"])
            assert (paid.status, paid.body["status"]) == (200, "paid"), paid
            assert paid.body["orders"][0]["status"] == "paid"
            assert paid.body["orders"][0]["release_reason"] is None
            assert {line["sku"] for line in (await buyer.get("/v1/cart"))["items"]} == {lost}

            # There is none: the money has to go back, once.
            due = await buyer.pay(ends[lost].body["payment"]["id"])
            assert (due.status, due.body["status"]) == (200, "refund_due"), due
            assert (await buyer.pay(ends[lost].body["payment"]["id"])).body["status"] == "refund_due"
            order_id = ends[lost].body["orders"][0]["order_id"]
            await shop.books().until_archived()
            waiting = await admin.get("/v1/admin/orders?status=refund_due&limit=250")
            assert order_id in {order["order_id"] for order in waiting["items"]}
            for _ in range(2):
                closed = await admin.call("POST", f"/v1/admin/orders/{order_id}/refunded")
                assert (closed.status, closed.body["status"]) == (200, "refunded"), closed
            payment = await buyer.get(f"/v1/payments/{ends[lost].body['payment']['id']}")
            assert payment["status"] == "refunded"
            callers.history.assert_no_defect()
    await shop.books().assert_agree({kept: 1, lost: 1})


async def _is_released(buyer: Caller, begun: Call) -> bool:
    order = await buyer.get(f"/v1/orders/{begun.body['orders'][0]['order_id']}")
    return bool(order["status"] == "released")


# --- stock and catalog as administrators see them ---------------------------------------------------------


async def test_stock_is_adjusted_once_per_reference_and_told_in_the_ledger(
    callers: Callers, shop: Shop, admin: Caller, tag: str
) -> None:
    await admin.put_product(tag, tag)
    clerk = callers.bearer("clerk", shop.token("clerk", "stock:write ops:read"))
    adjust = f"/v1/admin/stock/{tag}/adjust"
    body = {"delta": 10, "reason": "delivery", "reference": "D-1"}

    first = await clerk.call("POST", adjust, body)
    assert (first.status, first.body["on_hand"], first.body["delta"]) == (200, 10, 10), first
    again = await clerk.call("POST", adjust, body)
    assert (again.status, again.body["on_hand"], again.body["delta"]) == (200, 10, 10), again
    other = await clerk.call("POST", adjust, {**body, "delta": 11})
    assert (other.status, other.code) == (409, "STOCK_CONFLICT"), other
    put = await clerk.call(
        "PUT",
        f"/v1/admin/stock/{tag}",
        {"on_hand": 4, "expected_on_hand": 10, "reason": "count", "reference": "C-1"},
    )
    assert (put.status, put.body["on_hand"], put.body["delta"]) == (200, 4, -6), put
    wrong = await clerk.call(
        "PUT",
        f"/v1/admin/stock/{tag}",
        {"on_hand": 5, "expected_on_hand": 10, "reason": "count", "reference": "C-2"},
    )
    assert (wrong.status, wrong.code) == (409, "STOCK_CONFLICT"), wrong

    # What is held stays.
    buyer = callers.guest()
    assert (await buyer.add(tag, 3)).status == 201
    held = await clerk.call("POST", adjust, {"delta": -2, "reason": "loss", "reference": "L-1"})
    assert (held.status, held.code) == (409, "STOCK_CONFLICT"), held
    held = await clerk.call(
        "PUT", f"/v1/admin/stock/{tag}", {"on_hand": 2, "reason": "count", "reference": "C-3"}
    )
    assert (held.status, held.code) == (409, "STOCK_CONFLICT"), held

    many = await clerk.call(
        "POST",
        "/v1/admin/stock/adjust",
        [{"sku": tag, "delta": n, "reason": "delivery", "reference": f"M-{n}"} for n in (1, 2)],
    )
    assert (many.status, [item["on_hand"] for item in many.body["items"]]) == (200, [5, 7]), many

    begun = await buyer.check_out()
    await buyer.pay(begun.body["payment"]["id"])
    await shop.books().until_archived()
    ledger = await clerk.get(f"/v1/admin/stock/{tag}/ledger")
    assert [(row["delta"], row["on_hand"], row["reference"]) for row in ledger["items"]][1:] == [
        (2, 7, "M-2"),
        (1, 5, "M-1"),
        (-6, 4, "C-1"),
        (10, 10, "D-1"),
    ]
    sale = ledger["items"][0]
    assert (sale["delta"], sale["on_hand"], sale["order_id"]) == (-3, 4, begun.body["orders"][0]["order_id"])
    page = await clerk.get(f"/v1/admin/stock/{tag}/ledger?limit=2")
    rest = await clerk.get(f"/v1/admin/stock/{tag}/ledger?limit=250&cursor={page['next_cursor']}")
    assert page["items"] + rest["items"] == ledger["items"]

    # The feed has it all, in order, for whoever follows it.
    seen, after = [], ""
    while True:
        feed = await clerk.get(f"/v1/admin/events?limit=250{after}")
        seen += feed["items"]
        if not feed["items"]:
            break
        after = f"&after={feed['next_cursor']}"
    positions = [tuple(map(int, event["position"].split("-"))) for event in seen]
    assert positions == sorted(set(positions))
    mine = [event["type"] for event in seen if begun.body["payment"]["id"] in str(event["body"])]
    assert mine == ["checkout_begun", "payment_settled"]


async def test_products_are_visible_to_the_next_request_and_put_takes_what_get_gives(
    callers: Callers, shop: Shop, admin: Caller, tag: str
) -> None:
    body = {
        "title": "Blåhaj & Söhne",
        "description": "Two\nlines",
        "seller": f"Seller {tag}",
        "active": True,
        "images": ["https://example.org/a.jpg"],
        "options": ["Size"],
        "currency": "EUR",
        "variants": [
            {
                "sku": f"{tag}-{size}",
                "options": {"Size": size},
                "price": "19.90",
                "prices": {"USD": "21.00", "JPY": "3000"},
                "policy": policy,
                "hold_policy": "on_add",
                "hold_ttl_seconds": 60,
                "min_quantity": 1,
                "max_quantity": 5,
                "multiple_of": 1,
                "max_per_customer": {"quantity": 3, "window_seconds": 3600},
            }
            for size, policy in (("S", "deny"), ("M", "backorder"), ("L", "untracked"))
        ],
    }
    put = await admin.call("PUT", f"/v1/admin/products/{tag}", body)
    assert put.status == 200, put

    got = await callers.guest().get(f"/v1/products/{tag}")
    for name, value in body.items():
        if name != "variants":
            assert got[name] == value, name
    for sent, variant in zip(body["variants"], got["variants"], strict=True):  # type: ignore[arg-type]
        assert {**variant, **sent} == variant  # type: ignore[dict-item]
    assert [variant["available"] for variant in got["variants"]] == [0, None, None]
    again = await admin.call("PUT", f"/v1/admin/products/{tag}", got)
    assert (again.status, again.body) == (200, got), again
    for query in (f"seller=Seller%20{tag}", "q=bl%C3%A5haj", "q=S%C3%96HNE&limit=250"):
        page = await callers.guest().get(f"/v1/products?{query}")
        assert tag in {product["id"] for product in page["items"]}, query

    # Backorder and untracked sell without stock; putting stock on an untracked one limits it.
    buyer = callers.bearer("buyer", shop.token(tag))
    for size in "ML":
        assert (await buyer.add(f"{tag}-{size}", 2)).status == 201
    sold_out = await buyer.add(f"{tag}-S")
    assert (sold_out.status, sold_out.code) == (409, "INSUFFICIENT_STOCK"), sold_out
    begun = await buyer.check_out()
    assert (begun.status, begun.body["total_amount"], begun.body["currency"]) == (201, "79.60", "EUR"), begun
    assert (await buyer.pay(begun.body["payment"]["id"])).status == 200
    level = await buyer.get(f"/v1/stock/{tag}-M")
    assert (level["policy"], level["backordered"], level["sold"], level["on_hand"]) == ("backorder", 2, 2, 0)
    await admin.put_stock(f"{tag}-L", 1)
    level = await buyer.get(f"/v1/stock/{tag}-L")
    assert (level["policy"], level["available"]) == ("deny", 1)
    assert (await buyer.add(f"{tag}-L")).status == 201
    assert (await callers.guest().add(f"{tag}-L")).status == 409


async def test_the_service_tells_about_itself(callers: Callers, shop: Shop, admin: Caller) -> None:
    guest = callers.guest()
    assert await guest.get("/health/live") == {"status": "ok"}
    ready = await guest.get("/health/ready")
    assert ready["ready"] is True
    assert {"engine", "gate", "database", "drain"} <= set(ready["checks"])
    document = await guest.get("/schema/openapi.json")
    assert document["openapi"].startswith("3.")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation.get("summary"), (path, method)
            assert operation.get("description"), (path, method)
    page = await guest.call("GET", "/schema")
    assert page.status == 200
    assert "://" not in page.body.replace("http://www.w3.org/", ""), "the docs page needs the network"
    metrics = (await guest.call("GET", "/metrics")).body
    counted = await asyncio.gather(*(guest.call("GET", "/metrics") for _ in range(4)))
    assert metrics.startswith("#")
    assert all("cartstore" in call.body for call in counted)
    for named in (shop.jwt_secret, "Bearer "):
        assert named not in metrics + shop.logs()
    echoed = await guest.call("GET", "/health/live", X_Request_Id="trace-7")
    assert echoed.headers["x-request-id"] == "trace-7"
    head = await guest.call("HEAD", "/v1/cart")
    assert (head.status, head.body) == (200, "")
