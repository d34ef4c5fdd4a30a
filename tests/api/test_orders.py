"""Checkout, orders, payments and webhooks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from cartstore.payments import SimulatedGateway

ORDER_MEMBERS = {
    "order_id",
    "checkout_id",
    "seller",
    "status",
    "release_reason",
    "lines",
    "total",
    "currency",
    "payment_id",
    "created_at",
    "fulfilment",
}


async def test_checkout_makes_one_order_per_seller_when_there_are_two(api: Any) -> None:
    await api.sell("MUG", price="9.99", seller="Potters")
    await api.sell("TEA", price="4.00", seller="Leaves")
    await api.add("MUG", 2)
    await api.add("TEA", 1)

    checkout = await api.check_out(expected_total="23.98", contact={"email": "a@b.c"}, metadata={"n": 1})

    assert (checkout["checkout_type"], checkout["order_count"]) == ("full_cart", 2)
    assert (checkout["total_amount"], checkout["currency"]) == ("23.98", "USD")
    assert [set(order) for order in checkout["orders"]] == [ORDER_MEMBERS, ORDER_MEMBERS]
    assert [(order["seller"], order["total"]) for order in checkout["orders"]] == [
        ("Potters", "19.98"),
        ("Leaves", "4.00"),
    ]
    (line,) = checkout["orders"][0]["lines"]
    assert (line["name"], line["unit_price"], line["line_total"]) == ("The MUG", "9.99", "19.98")
    payment = checkout["payment"]
    assert (payment["status"], payment["gateway"], payment["method"]) == ("pending", "simulated", "card")
    assert 0 < payment["time_remaining_seconds"] <= 900
    assert payment["client"] == {"simulate_path": f"/v1/payments/{payment['id']}/simulate"}
    assert len(payment["hash"]) == 64
    assert (await api.ana.get("/v1/cart")).json()["items"] == []


async def test_checkout_tells_its_type_when_lines_are_named(api: Any) -> None:
    for sku in ("A", "B", "C", "D"):
        await api.sell(sku)
        await api.add(sku)

    types = [
        (await api.check_out(line_ids=line_ids))["checkout_type"] for line_ids in (["A"], ["B", "C"], ["D"])
    ]

    assert types == ["single_item", "partial", "full_cart"]


async def test_checkout_is_replayed_when_the_key_comes_again(api: Any) -> None:
    await api.sell()
    await api.add()
    first = await api.check_out(key="k1")

    again = await api.checking_out(key='"k1"')
    other = await api.checking_out(key="k1", payment_method="cash")
    anothers = await api.checking_out(key="k1", by=api.ben)

    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert again.json()["checkout_id"] == first["checkout_id"]
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert anothers.json()["code"] == "CART_EMPTY"


async def test_checkout_begins_once_when_calls_with_one_key_race(api: Any) -> None:
    await api.sell()
    await api.add()

    answers = await asyncio.gather(*(api.checking_out(key="k1") for _ in range(8)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["checkout_id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1


async def test_checkout_refuses_when_the_key_is_missing(api: Any) -> None:
    response = await api.ana.post(
        "/v1/checkout",
        json={"gateway": "simulated", "payment_method": "c", "shipping_address": _ADDRESS},
        headers={"Idempotency-Key": '""'},
    )

    assert (response.status_code, response.json()["code"]) == (400, "IDEMPOTENCY_KEY_REQUIRED")


async def test_checkout_refuses_when_the_version_is_another(api: Any) -> None:
    await api.sell()
    await api.add()
    body = {"gateway": "simulated", "payment_method": "card", "shipping_address": _ADDRESS}

    response = await api.ana.post(
        "/v1/checkout", json=body, headers={"Idempotency-Key": "k", "If-Match": "987654321"}
    )

    assert (response.status_code, response.json()["code"]) == (412, "VERSION_CONFLICT")
    assert response.json()["cart"]["items_count"] == 1


async def test_order_is_read_by_owner_and_token_when_it_exists(api: Any) -> None:
    await api.sell()
    await api.add()
    checkout = await api.check_out()
    order_id, payment_id = checkout["orders"][0]["order_id"], checkout["payment"]["id"]
    token = {"X-Order-Token": checkout["order_token"]}

    for path, code in ((f"/v1/orders/{order_id}", "ORDER"), (f"/v1/payments/{payment_id}", "PAYMENT")):
        assert (await api.ana.get(path)).status_code == 200
        assert (await api.anyone.get(path, headers=token)).status_code == 200
        for caller, headers in (
            (api.ben, {}),
            (api.anyone, {}),
            (api.admin, {}),
            (api.anyone, {"X-Order-Token": token["X-Order-Token"][:-1] + "~"}),
            (api.anyone, {"X-Order-Token": "ü".encode("latin-1")}),
        ):
            refused = await caller.get(path, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (404, f"{code}_NOT_FOUND")
    paid = await api.anyone.post(
        f"/v1/payments/{payment_id}/simulate", json={"outcome": "succeed"}, headers=token
    )
    assert (paid.status_code, paid.json()["code"]) == (404, "PAYMENT_NOT_FOUND")


async def test_orders_of_others_are_not_found_when_they_are_changed(api: Any) -> None:
    await api.sell()
    await api.add()
    checkout = await api.check_out()
    order_id, payment_id = checkout["orders"][0]["order_id"], checkout["payment"]["id"]

    for caller in (api.ben, api.anyone, api.admin):
        cancelled = await caller.post(f"/v1/orders/{order_id}/cancel")
        confirmed = await caller.post(f"/v1/payments/{payment_id}/confirm", json={"outcome": "succeed"})
        assert (cancelled.status_code, cancelled.json()["code"]) == (404, "ORDER_NOT_FOUND")
        assert (confirmed.status_code, confirmed.json()["code"]) == (404, "PAYMENT_NOT_FOUND")
    assert (await api.ana.get(f"/v1/orders/{order_id}")).json()["status"] == "pending"


async def test_list_gives_pages_newest_first_when_checkouts_have_several_orders(api: Any) -> None:
    await api.sell("MUG", seller="Potters", stock=100)
    await api.sell("TEA", seller="Leaves", stock=100)
    made = []
    for _ in range(3):
        await api.add("MUG")
        await api.add("TEA")
        made.insert(0, [order["order_id"] for order in (await api.check_out())["orders"]])
    await api.archive()

    for limit in (1, 2, 3, 4, 6, 50):
        listed: list[str] = []
        cursor = None
        while True:
            page = await api.done(
                api.ana.get("/v1/orders", params={"limit": limit, **({"cursor": cursor} if cursor else {})})
            )
            assert len(page["items"]) <= limit
            listed += [order["order_id"] for order in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert listed == [order_id for pair in made for order_id in pair], limit
    assert (await api.ben.get("/v1/orders")).json() == {"items": [], "next_cursor": None}
    assert (await api.anyone.get("/v1/orders")).json() == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("cursor", ["x", "1:", ":a", "1:a b", "9" * 30 + ":a", "\x00", "1:" + "a" * 600])
async def test_list_refuses_when_the_cursor_is_not_its_own(api: Any, cursor: str) -> None:
    response = await api.ana.get("/v1/orders", params={"cursor": cursor})

    assert (response.status_code, response.json()["field"]) == (422, "cursor")


async def test_cancel_releases_and_returns_the_lines_when_it_is_pending(api: Any) -> None:
    await api.sell()
    await api.add(quantity=2)
    checkout = await api.check_out()
    order_id = checkout["orders"][0]["order_id"]

    first = await api.ana.post(f"/v1/orders/{order_id}/cancel")
    again = await api.ana.post(f"/v1/orders/{order_id}/cancel")

    assert (first.status_code, again.status_code) == (200, 200)
    assert (first.json()["status"], first.json()["release_reason"]) == ("released", "cancelled")
    assert first.json() == again.json()
    (line,) = (await api.ana.get("/v1/cart")).json()["items"]
    assert (line["quantity"], line["hold"]) == (2, None)
    payment = (await api.ana.get(f"/v1/payments/{checkout['payment']['id']}")).json()
    assert (payment["status"], payment["time_remaining_seconds"], payment["client"]) == ("cancelled", 0, {})


async def test_cancel_refuses_when_it_was_paid(api: Any) -> None:
    await api.sell()
    await api.add()
    checkout = await api.check_out()
    await api.pay(checkout["payment"]["id"])

    response = await api.ana.post(f"/v1/orders/{checkout['orders'][0]['order_id']}/cancel")

    assert (response.status_code, response.json()["code"]) == (409, "ORDER_STATE")


async def test_simulate_settles_once_when_it_is_repeated(api: Any) -> None:
    await api.sell(stock=3)
    await api.add(quantity=2)
    checkout = await api.check_out()
    path = f"/v1/payments/{checkout['payment']['id']}/simulate"

    failed = await api.ana.post(path, json={"outcome": "fail"})
    paid = [await api.ana.post(path, json={"outcome": "succeed"}) for _ in range(2)]
    contrary = await api.ana.post(path, json={"outcome": "fail"})

    assert (failed.json()["status"], failed.json()["attempts"]) == ("pending", 1)
    assert [answer.status_code for answer in paid] == [200, 200]
    assert [answer.json()["status"] for answer in paid] == ["paid", "paid"]
    assert paid[0].json()["orders"][0]["status"] == "paid"
    assert (contrary.status_code, contrary.json()["code"]) == (409, "PAYMENT_STATE")
    stock = (await api.anyone.get("/v1/stock/MUG")).json()
    assert (stock["on_hand"], stock["held"], stock["sold"]) == (1, 0, 2)


async def test_confirm_settles_when_the_gateway_agrees(api: Any) -> None:
    await api.sell()
    await api.add()
    path = f"/v1/payments/{(await api.check_out())['payment']['id']}/confirm"

    refused = await api.ana.post(path, json={"outcome": "perhaps"})
    paid = await api.ana.post(path, json={"outcome": "succeed"})

    assert (refused.status_code, refused.json()["field"]) == (422, "outcome")
    assert paid.json()["status"] == "paid"


async def test_payment_expires_when_its_window_is_over(make_api: Any) -> None:
    api = await make_api(payment_window_seconds=1)
    await api.sell()
    await api.add()
    checkout = await api.check_out()
    payment_id = checkout["payment"]["id"]
    while (await api.ana.get(f"/v1/payments/{payment_id}")).json()["status"] == "pending":  # noqa: ASYNC110
        await asyncio.sleep(0.1)

    failed = await api.ana.post(f"/v1/payments/{payment_id}/simulate", json={"outcome": "fail"})

    assert (failed.status_code, failed.json()["code"]) == (409, "PAYMENT_EXPIRED")
    assert (await api.fixed(failed.json())).json()["items_count"] == 1
    assert (await api.pay(payment_id))["status"] == "paid"


async def test_refund_is_closed_when_the_money_came_too_late(api: Any) -> None:
    await api.sell(stock=1)
    await api.add()
    checkout = await api.check_out()
    order_id = checkout["orders"][0]["order_id"]
    await api.ana.post(f"/v1/orders/{order_id}/cancel")
    await api.ana.delete("/v1/cart")
    await api.add(by=api.ben)

    late = await api.pay(checkout["payment"]["id"])
    early = await api.ben.post(f"/v1/admin/orders/{order_id}/refunded")
    closed = [await api.admin.post(f"/v1/admin/orders/{order_id}/refunded") for _ in range(2)]

    assert late["status"] == "refund_due"
    assert early.status_code == 403
    assert [(answer.status_code, answer.json()["status"]) for answer in closed] == [(200, "refunded")] * 2


async def test_refund_refuses_when_none_is_due(api: Any) -> None:
    await api.sell()
    await api.add()
    order_id = (await api.check_out())["orders"][0]["order_id"]

    response = await api.admin.post(f"/v1/admin/orders/{order_id}/refunded")

    assert (response.status_code, response.json()["code"]) == (409, "ORDER_STATE")
    assert (await api.admin.post("/v1/admin/orders/o0-x-1/refunded")).json()["code"] == "ORDER_NOT_FOUND"


async def test_webhook_settles_once_when_its_signature_is_valid(api: Any) -> None:
    await api.sell()
    await api.add()
    payment_id = (await api.check_out())["payment"]["id"]
    paid = _signed(api, payment_id, "succeed")
    failed = _signed(api, payment_id, "fail")

    answers = [await api.anyone.post("/v1/webhooks/simulated", **call) for call in (paid, paid, failed)]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [answer.json()["status"] for answer in answers] == ["applied", "unchanged", "unchanged"]
    assert (await api.ana.get(f"/v1/payments/{payment_id}")).json()["status"] == "paid"


async def test_webhook_refuses_when_it_cannot_be_trusted_or_read(api: Any) -> None:
    good = _signed(api, "p0-x", "succeed")
    strange = _signed(api, "p0-x", "perhaps")
    forged = {**good, "content": good["content"] + b" "}
    calls = [
        ("/v1/webhooks/simulated", good, 404, "PAYMENT_NOT_FOUND"),
        ("/v1/webhooks/simulated", strange, 422, "VALIDATION_FAILED"),
        ("/v1/webhooks/simulated", forged, 400, "SIGNATURE_INVALID"),
        ("/v1/webhooks/simulated", {"content": b""}, 400, "SIGNATURE_INVALID"),
        ("/v1/webhooks/other", good, 404, "NOT_FOUND"),
    ]

    for path, call, status, code in calls:
        response = await api.anyone.post(path, **call)

        assert (response.status_code, response.json()["code"]) == (status, code)


async def test_simulate_refuses_when_the_gateway_is_another(api: Any, monkeypatch: Any) -> None:
    await api.sell()
    await api.add()
    payment_id = (await api.check_out())["payment"]["id"]
    monkeypatch.setattr(api.store, "gateways", {})

    simulated = await api.ana.post(f"/v1/payments/{payment_id}/simulate", json={"outcome": "succeed"})
    confirmed = await api.ana.post(f"/v1/payments/{payment_id}/confirm", json={})

    assert simulated.json()["code"] == confirmed.json()["code"] == "PAYMENT_STATE"


async def test_payment_is_read_from_the_record_when_the_engine_forgot_it(api: Any, monkeypatch: Any) -> None:
    await api.sell()
    await api.add()
    payment_id = (await api.check_out())["payment"]["id"]
    await api.archive()

    async def forgotten(payment_id: str) -> None:
        return None

    monkeypatch.setattr(api.store.engine, "read_payment", forgotten)
    payment = (await api.ana.get(f"/v1/payments/{payment_id}")).json()

    assert payment["status"] == "pending"
    assert 0 < payment["time_remaining_seconds"] <= 900


_ADDRESS = {"street": "1 Main St", "city": "Springfield", "country": "US"}


def _signed(api: Any, payment_id: str, outcome: str) -> dict[str, Any]:
    gateway: SimulatedGateway = api.store.gateways["simulated"]
    body = json.dumps({"payment_id": payment_id, "outcome": outcome}).encode()
    return {"content": body, "headers": {"X-Simulated-Signature": gateway.sign(body)}}


async def test_checkout_is_paid_in_its_answer_when_the_total_is_zero(api: Any) -> None:
    await api.sell("GIFT", stock=5, price="0.00")
    await api.add("GIFT", 2)

    checkout = await api.check_out(key="free")
    await api.archive()

    assert (checkout["total_amount"], checkout["orders"][0]["status"]) == ("0.00", "paid")
    payment = checkout["payment"]
    assert (payment["gateway"], payment["status"], payment["client"]) == ("none", "paid", {})
    assert payment["time_remaining_seconds"] == 0
    stock = (await api.anyone.get("/v1/stock/GIFT")).json()
    assert (stock["on_hand"], stock["held"], stock["sold"]) == (3, 0, 2)
    ledger = (await api.admin.get("/v1/admin/stock/GIFT/ledger")).json()["items"]
    assert (ledger[0]["reason"], ledger[0]["delta"]) == ("sale", -2)
    again = await api.checking_out(key="free")
    assert again.headers["idempotent-replayed"] == "true"
