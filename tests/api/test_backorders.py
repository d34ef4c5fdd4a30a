"""Backorders over HTTP: stock that arrives goes to paid orders first, and ledger and feed say to which."""

from __future__ import annotations

from typing import Any


async def test_set_stock_gives_paid_orders_theirs_first_when_units_are_owed(api: Any) -> None:
    await api.sell("KIT", stock=None, policy="backorder")
    order_ids = []
    for quantity in (2, 1):
        await api.add("KIT", quantity)
        checkout = await api.check_out()
        await api.pay(checkout["payment"]["id"])
        order_ids.append(checkout["orders"][0]["order_id"])
    counted = {"on_hand": 10, "expected_on_hand": 0, "reason": "count", "reference": "truck-7"}

    answers = [(await api.admin.put("/v1/admin/stock/KIT", json=counted)) for _ in range(2)]
    await api.archive()
    level = (await api.anyone.get("/v1/stock/KIT")).json()
    ledger = (await api.admin.get("/v1/admin/stock/KIT/ledger")).json()["items"]
    feed = (await api.admin.get("/v1/admin/events")).json()["items"]

    assert [answer.json()["on_hand"] for answer in answers] == [7, 7]
    assert [answer.json()["backordered"] for answer in answers] == [0, 0]
    assert "Idempotent-Replayed" in answers[1].headers
    assert (level["on_hand"], level["sold"], level["backordered"]) == (7, 3, 0)
    assert [(row["delta"], row["on_hand"], row["reason"], row["order_id"]) for row in ledger[:3]] == [
        (-1, 7, "backorder", order_ids[1]),
        (-2, 8, "backorder", order_ids[0]),
        (10, 10, "count", None),
    ]
    arrived = next(event for event in feed if event["type"] == "stock_adjusted")
    told = [event for event in feed if event["type"] == "backorder_assigned"]
    assert [event["body"]["order_id"] for event in told] == order_ids
    assert [event["position"] for event in told] == [f"{arrived['position']}.{line}" for line in (1, 2)]


async def test_feed_misses_no_order_when_a_page_ends_between_two(api: Any) -> None:
    await api.sell("KIT", stock=None, policy="backorder")
    for _ in range(2):
        await api.add("KIT")
        await api.pay((await api.check_out())["payment"]["id"])
    await api.stock("KIT", 2)
    await api.archive()
    whole = (await api.admin.get("/v1/admin/events")).json()["items"]

    after, pages = "0-0", []
    while page := (await api.admin.get("/v1/admin/events", params={"after": after, "limit": 1})).json()[
        "items"
    ]:
        pages += page
        after = page[-1]["position"]

    assert [event["type"] for event in whole].count("backorder_assigned") == 2
    assert pages == whole


async def test_feed_refuses_a_position_that_is_none(api: Any) -> None:
    for after in ("1-2.", "1-2.0", "1-2.x", "1-2.1234567890"):
        refused = await api.admin.get("/v1/admin/events", params={"after": after})
        assert (refused.status_code, refused.json()["field"]) == (422, "after"), after
