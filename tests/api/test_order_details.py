"""What integrators read of orders: details, fulfilment, search, and what a cancellation took along."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from conftest import ADDRESS

from cartstore import limits

CONTACT = {"email": "Ann.Bee@Example.org", "phone": "+1 555 0100"}


async def _bought(api: Any, sku: str = "MUG", **body: Any) -> Any:
    """An order of ana that is paid and archived."""
    await api.add(sku)
    checkout = await api.check_out(**body)
    await api.pay(checkout["payment"]["id"])
    await api.archive()
    return checkout["orders"][0]


async def test_orders_carry_contact_addresses_and_metadata(api: Any) -> None:
    await api.sell()
    await api.add()
    said = {"contact": CONTACT, "billing_address": {**ADDRESS, "name": "Ann"}, "metadata": {"po": 12.50}}

    order_id = (await api.check_out(**said))["orders"][0]["order_id"]
    fresh = await api.done(api.ana.get(f"/v1/orders/{order_id}"))
    before = await api.done(api.admin.get(f"/v1/admin/orders/{order_id}"))
    await api.archive()
    archived = await api.done(api.admin.get(f"/v1/admin/orders/{order_id}"))
    (listed,) = (await api.done(api.ana.get("/v1/orders")))["items"]

    assert fresh == before == archived
    assert fresh["contact"] == CONTACT
    whole = dict.fromkeys(("name", "phone", "street2", "state", "postal_code"))
    assert fresh["shipping_address"] == {**whole, **ADDRESS}
    assert fresh["billing_address"] == {**whole, **ADDRESS, "name": "Ann"}
    assert fresh["metadata"] == {"po": 12.5}
    assert fresh["fulfilment"] == {
        "state": "unfulfilled",
        "carrier": None,
        "tracking": None,
        "updated_at": None,
    }
    assert fresh.keys() - listed.keys() == {"contact", "shipping_address", "billing_address", "metadata"}
    assert (await api.ben.get(f"/v1/orders/{order_id}")).status_code == 404
    assert (await api.admin.get("/v1/admin/orders/o0-x-1")).json()["code"] == "ORDER_NOT_FOUND"


async def test_orders_tell_what_was_not_given_as_null(api: Any) -> None:
    await api.sell()
    order = await _bought(api)

    found = await api.done(api.ana.get(f"/v1/orders/{order['order_id']}"))

    assert (found["contact"], found["billing_address"], found["metadata"]) == (None, None, None)


async def test_cancelling_tells_every_order_that_went_with_it(api: Any) -> None:
    await api.sell("MUG", seller="North")
    await api.sell("TEE", seller="South")
    await api.add("MUG")
    await api.add("TEE")
    orders = (await api.check_out())["orders"]
    first = orders[0]["order_id"]

    told = await api.done(api.ana.post(f"/v1/orders/{first}/cancel"))
    again = await api.done(api.ana.post(f"/v1/orders/{first}/cancel"))

    assert told["order_id"] == first
    assert [order["order_id"] for order in told["cancelled_orders"]] == [it["order_id"] for it in orders]
    assert {order["status"] for order in told["cancelled_orders"]} == {"released"}
    assert again == told


async def test_fulfilment_is_set_and_told_in_the_feed(api: Any) -> None:
    await api.sell(seller="North")
    order = await _bought(api)
    path = f"/v1/admin/orders/{order['order_id']}/fulfilment"
    start = (await api.done(api.admin.get("/v1/admin/events")))["next_cursor"]
    sent = {"state": "shipped", "carrier": "DHL", "tracking": "JD-1"}

    shipped = await api.done(api.admin.post(path, json=sent))
    again = await api.done(api.admin.post(path, json=sent))
    await api.done(api.admin.post(path, json={"state": "delivered"}))
    mine = await api.done(api.ana.get(f"/v1/orders/{order['order_id']}"))
    await api.stock("MUG", 1)
    await api.archive()
    feed = await api.done(api.admin.get("/v1/admin/events", params={"after": start}))

    assert {name: shipped["fulfilment"][name] for name in sent} == sent
    assert shipped["fulfilment"]["updated_at"]
    assert again == shipped
    assert (mine["fulfilment"]["state"], mine["fulfilment"]["carrier"]) == ("delivered", None)
    assert [event["type"] for event in feed["items"]] == [
        "fulfilment_changed",
        "fulfilment_changed",
        "stock_adjusted",
    ]
    assert feed["items"][0]["body"] == {
        "order_id": order["order_id"],
        "payment_id": order["payment_id"],
        "seller": "North",
        "previous_state": "unfulfilled",
        **sent,
    }
    # Each position resumes behind its own event, those of the record too.
    for number, event in enumerate(feed["items"]):
        rest = await api.done(api.admin.get("/v1/admin/events", params={"after": event["position"]}))
        assert rest["items"] == feed["items"][number + 1 :]


async def test_fulfilment_is_refused_when_the_order_is_not_paid(api: Any) -> None:
    await api.sell()
    await api.add()
    order = (await api.check_out())["orders"][0]
    path = f"/v1/admin/orders/{order['order_id']}/fulfilment"

    pending = await api.admin.post(path, json={"state": "shipped"})
    absent = await api.admin.post("/v1/admin/orders/o0-x-1/fulfilment", json={"state": "shipped"})
    odd = await api.admin.post(path, json={"state": "lost"})
    buyer = await api.ana.post(path, json={"state": "shipped"})

    assert (pending.status_code, pending.json()["code"]) == (409, "ORDER_STATE")
    assert (absent.status_code, absent.json()["code"]) == (404, "ORDER_NOT_FOUND")
    assert (odd.status_code, odd.json()["field"]) == (422, "state")
    assert buyer.status_code == 403


async def test_fulfilment_is_set_when_the_payment_is_not_archived_yet(api: Any) -> None:
    await api.sell()
    await api.add()
    checkout = await api.check_out()
    await api.archive()
    await api.pay(checkout["payment"]["id"])
    path = f"/v1/admin/orders/{checkout['orders'][0]['order_id']}/fulfilment"

    answer = await api.done(api.admin.post(path, json={"state": "shipped"}))

    assert (answer["status"], answer["fulfilment"]["state"]) == ("paid", "shipped")


async def test_orders_are_found_by_each_condition(api: Any) -> None:
    await api.sell("MUG", seller="North")
    await api.sell("TEE", seller="South")
    first = await _bought(api, contact=CONTACT)
    second = await _bought(api, "TEE", contact={"email": "cee@example.org"})
    await api.add()
    third = (await api.check_out())["orders"][0]
    await api.archive()
    shipped = f"/v1/admin/orders/{second['order_id']}/fulfilment"
    await api.done(api.admin.post(shipped, json={"state": "shipped"}))

    async def found(**conditions: str) -> list[str]:
        items = (await api.done(api.admin.get("/v1/admin/orders", params=conditions)))["items"]
        return [item["order_id"] for item in items]

    a, b, c = (order["order_id"] for order in (first, second, third))
    assert await found() == [c, b, a]
    assert await found(email="ann.bee@EXAMPLE.org") == [a]
    assert await found(email="nobody@example.org") == []
    assert await found(order_id=b) == [b]
    assert await found(payment_id=first["payment_id"]) == [a]
    assert await found(sku="TEE") == [b]
    assert await found(seller="North") == [c, a]
    assert await found(seller="North", status="paid") == [a]
    assert await found(fulfilment="shipped") == [b]
    assert await found(fulfilment="unfulfilled") == [a]
    assert await found(**{"from": second["created_at"]}) == [c, b]
    assert await found(to=second["created_at"]) == [a]
    assert await found(**{"from": "2026-01-01T00:00:00+02:00", "to": "2026-01-02T00:00:00Z"}) == []


@pytest.mark.parametrize("bad", [{"from": "yesterday"}, {"to": "2026-01-01"}, {"email": " "}, {"from_": "x"}])
async def test_orders_are_not_searched_by_what_is_no_condition(api: Any, bad: dict[str, str]) -> None:
    answer = await api.admin.get("/v1/admin/orders", params=bad)

    assert (answer.status_code, answer.json()["field"]) == (422, next(iter(bad)))


async def test_feed_has_numbers_amounts_and_no_internals(api: Any) -> None:
    await api.sell("MUG", seller="North", price="12.50")
    await api.add("MUG", 2)
    cancelled = (await api.check_out())["orders"][0]["order_id"]
    await api.done(api.ana.post(f"/v1/orders/{cancelled}/cancel"))
    checkout = await api.check_out(contact=CONTACT, metadata={"a": [1]})
    await api.pay(checkout["payment"]["id"], "fail")
    await api.pay(checkout["payment"]["id"])
    await api.archive()

    feed = await api.done(api.admin.get("/v1/admin/events"))
    adjusted, _, released, begun, failed, settled = feed["items"]

    assert adjusted["body"]["delta"] == 10
    assert released["body"] | {"payment_id": ""} == {
        "payment_id": "",
        "reason": "cancelled",
        "order_ids": [cancelled],
    }
    order_id, payment_id = checkout["orders"][0]["order_id"], checkout["payment"]["id"]
    assert begun["body"]["amount"] == "25.00"
    assert begun["body"]["contact"] == CONTACT
    assert begun["body"]["metadata"] == {"a": [1]}
    line = {"line_id": "MUG", "sku": "MUG", "quantity": 2, "unit_price": "12.50", "line_total": "25.00"}
    assert begun["body"]["orders"] == [
        {
            "order_id": order_id,
            "seller": "North",
            "total": "25.00",
            "lines": [{**line, "policy": "deny", "properties": {}}],
        }
    ]
    assert failed["body"] == {"payment_id": payment_id, "attempts": 1}
    sale = {"order_id": order_id, "sku": "MUG", "quantity": 2, "taken": 2, "backordered": 0}
    assert settled["body"] == {
        "payment_id": payment_id,
        "outcome": "paid",
        "amount": "25.00",
        "currency": "USD",
        "order_ids": [order_id],
        "sales": [sale],
    }
    for internal in ("fingerprint", "details_json", "revision", "first_held", "_minor", "_ms"):
        assert internal not in str(feed["items"]), internal
    assert feed["next_cursor"] == settled["position"]


async def test_feed_gives_a_cursor_when_nothing_happened_yet(api: Any) -> None:
    empty = await api.done(api.admin.get("/v1/admin/events"))
    await api.sell(stock=1)
    await api.archive()
    later = await api.done(api.admin.get("/v1/admin/events", params={"after": empty["next_cursor"]}))

    assert empty["items"] == []
    assert [event["type"] for event in later["items"]] == ["stock_adjusted"]


async def _table(answer: Any) -> list[dict[str, str]]:
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))


async def test_orders_are_a_table_when_csv_is_accepted(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAGE_SIZE_MAX", 2)
    await api.sell("MUG", seller="=cmd()", price="12.50")
    bought = [await _bought(api) for _ in range(3)]
    ids = [order["order_id"] for order in reversed(bought)]
    path = f"/v1/admin/orders/{ids[0]}/fulfilment"
    await api.done(api.admin.post(path, json={"state": "shipped", "carrier": 'D"H, L', "tracking": "-1"}))
    csv_only = {"Accept": "text/csv"}

    whole = await api.admin.get("/v1/admin/orders", headers=csv_only)
    page = await api.admin.get("/v1/admin/orders?limit=2&status=paid", headers=csv_only)
    link = page.headers["link"]
    rest = await api.admin.get(link[1 : link.index(">")], headers=csv_only)
    json = await api.admin.get("/v1/admin/orders", headers={"Accept": "application/json, text/csv"})

    rows = await _table(whole)
    assert [row["order_id"] for row in rows] == ids
    assert (rows[0]["total"], rows[0]["currency"], rows[0]["lines"]) == ("12.50", "USD", "1 x MUG")
    assert (rows[0]["seller"], rows[0]["carrier"], rows[0]["tracking"]) == ("'=cmd()", 'D"H, L', "'-1")
    assert (rows[0]["fulfilment"], rows[1]["fulfilment"]) == ("shipped", "unfulfilled")
    assert [row["order_id"] for row in await _table(page) + await _table(rest)] == ids
    assert 'rel="next"' in link
    assert "link" not in rest.headers
    assert len(json.json()["items"]) == 3
    assert {answer.headers["cache-control"] for answer in (whole, json)} == {"private, no-store"}


async def test_orders_are_a_problem_when_a_table_is_asked_for_wrongly(api: Any) -> None:
    answer = await api.admin.get("/v1/admin/orders?cursor=x", headers={"Accept": "text/csv"})

    assert (answer.status_code, answer.json()["field"]) == (422, "cursor")
