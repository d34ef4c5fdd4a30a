"""Damaged stored data never breaks a list: the row says what of it cannot be read, all others are told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis
from cartstore_api import feed_schemas, schemas
from sqlalchemy import text

DEEP = '{"a":' * 975 + "1" + "}" * 975
ENDLESS = 2**62
"""A time that no calendar has, in milliseconds."""


@pytest.fixture
def engine_client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


async def _bought(api: Any, count: int) -> list[str]:
    """Archived orders of ana, each of one line with properties; the oldest first."""
    await api.sell(stock=20)
    ids = []
    for number in range(count):
        line = {"sku": "MUG", "properties": {"n": number}}
        await api.done(api.ana.post("/v1/cart/items", json=line))
        ids.append((await api.check_out())["orders"][0]["order_id"])
    await api.archive()
    return ids


async def _damage(api: Any, statement: str, **values: Any) -> None:
    async with api.store.archive.database.transaction() as connection:
        changed = await connection.execute(text(statement), values)
        assert changed.rowcount > 0


async def test_orders_are_all_listed_when_some_cannot_be_read(api: Any, engine_client: Any) -> None:
    ids = await _bought(api, 5)
    properties = "UPDATE order_lines SET properties_json = :text WHERE order_id = :id"
    await _damage(api, properties, id=ids[0], text=DEEP)
    await _damage(api, properties, id=ids[1], text='{"cut off": ')
    await _damage(api, "UPDATE orders SET created_at_ms = :at WHERE order_id = :id", id=ids[2], at=ENDLESS)
    await _damage(
        api,
        "UPDATE payments SET currency = 'ZZZ' WHERE payment_id = :id",
        id="p" + ids[3][1:].rsplit("-", 1)[0],
    )

    listed = await api.admin.get("/v1/admin/orders")
    first = await api.done(api.admin.get("/v1/admin/orders?limit=1"))
    rest = await api.done(api.admin.get(f"/v1/admin/orders?cursor={first['next_cursor']}"))

    msgspec.json.decode(listed.content, type=schemas.Orders)
    orders = {order["order_id"]: order for order in listed.json()["items"]}
    assert sorted(orders) == sorted(ids)
    assert [order["order_id"] for order in first["items"] + rest["items"]] == list(orders)
    lines = [orders[order_id]["lines"][0] for order_id in ids]
    assert [line.get("unreadable") for line in lines] == [
        ["properties"],
        ["properties"],
        None,
        ["unit_price", "line_total"],
        None,
    ]
    assert [line["properties"] for line in lines] == [{}, {}, {"n": 2}, {"n": 3}, {"n": 4}]
    assert [orders[order_id].get("unreadable") for order_id in ids] == [
        None,
        None,
        ["created_at"],
        ["total"],
        None,
    ]

    # What the engine cannot read any more, the record tells.
    for key in engine_client.scan_iter("{main:0}:payment:*"):
        engine_client.hdel(key, "amount")
    mine = await api.done(api.ana.get("/v1/orders"))
    assert {order["order_id"]: order["total"] for order in mine["items"]} == {
        order_id: orders[order_id]["total"] for order_id in ids
    }


async def test_orders_of_a_buyer_are_all_listed_when_the_engine_lost_parts(
    api: Any, engine_client: Any
) -> None:
    await api.sell()
    await api.add()
    lost = (await api.check_out())["orders"][0]["order_id"]
    await api.add()
    kept = (await api.check_out())["orders"][0]["order_id"]
    engine_client.hset("{main:0}:payment:p" + lost[1:].rsplit("-", 1)[0], "amount", "many")

    listed = await api.ana.get("/v1/orders")

    msgspec.json.decode(listed.content, type=schemas.Orders)
    found = [(order["order_id"], order.get("unreadable")) for order in listed.json()["items"]]
    assert found == [(kept, None), (lost, ["lines", "total", "created_at"])]


async def test_feed_and_ledger_are_told_when_some_rows_cannot_be_read(api: Any) -> None:
    await _bought(api, 1)
    await api.stock("MUG", 2)
    await api.archive()
    await _damage(api, "UPDATE events SET body = '[1]' WHERE seq = 1")
    await _damage(api, "UPDATE events SET body = CAST(:deep AS jsonb) WHERE seq = 2", deep=DEEP)
    await _damage(api, "UPDATE events SET at_ms = :at WHERE seq = 3", at=ENDLESS)
    await _damage(api, "UPDATE stock_ledger SET at_ms = :at WHERE seq = 1", at=ENDLESS)

    feed = await api.admin.get("/v1/admin/events")
    ledger = await api.admin.get("/v1/admin/stock/MUG/ledger")

    msgspec.json.decode(feed.content, type=feed_schemas.Events)
    events = feed.json()["items"]
    assert [event.get("unreadable") for event in events] == [["body"], ["body"], ["at"]]
    assert [bool(event["body"]) for event in events] == [False, False, True]
    assert [entry.get("unreadable") for entry in ledger.json()["items"]] == [None, ["at"]]


async def test_carts_are_told_when_properties_of_a_line_cannot_be_read(api: Any, engine_client: Any) -> None:
    await api.sell()
    for number in range(3):
        line = {"sku": "MUG", "properties": {"n": number}}
        await api.done(api.ana.post("/v1/cart/items", json=line))
    cart = (await api.ana.get("/v1/cart")).json()
    ids = [line["line_id"] for line in cart["items"]]
    engine_client.hset("{main:0}:cart:u.ana", f"p:{ids[0]}", DEEP)
    engine_client.hset("{main:0}:cart:u.ana", f"p:{ids[1]}", b'{"a":"\xff"}')

    told = await api.ana.get("/v1/cart")
    changed = await api.ana.patch(f"/v1/cart/items/{ids[0]}", json={"quantity": 2})

    msgspec.json.decode(told.content, type=schemas.Cart)
    lines = told.json()["items"]
    assert [line.get("unreadable") for line in lines] == [["properties"], ["properties"], None]
    assert [line["properties"] for line in lines] == [{}, {}, {"n": 2}]
    assert not told.json()["has_changes"]
    assert changed.json()["line"]["unreadable"] == ["properties"]
    assert (await api.admin.get("/v1/admin/carts/u.ana")).json()["items"] == (
        await api.ana.get("/v1/cart")
    ).json()["items"]


async def test_products_are_listed_and_can_be_mended_when_one_cannot_be_read(api: Any) -> None:
    await api.sell("MUG")
    await api.sell("CUP")
    await _damage(api, "UPDATE product_revisions SET doc = '{\"id\": 7}' WHERE product_id = 'p-CUP'")

    listed = await api.anyone.get("/v1/products")
    fields = [page async for page in api.store.catalog.all_sku_fields()]
    product = {"title": "A cup", "variants": [{"sku": "CUP", "price": "5.00"}]}
    mended = await api.admin.put("/v1/admin/products/p-CUP", json=product)

    msgspec.json.decode(listed.content, type=schemas.Products)
    found = {item["id"]: (item["active"], item.get("unreadable")) for item in listed.json()["items"]}
    assert found == {"p-CUP": (False, ["variants"]), "p-MUG": (True, None)}
    assert [its.sku for page in fields for its in page] == ["MUG"]
    assert mended.status_code == 200
    assert (await api.anyone.get("/v1/products/p-CUP")).json()["variants"][0]["available"] == 10


async def test_carts_come_back_when_snapshots_of_others_cannot_be_read(api: Any) -> None:
    await api.sell()
    for number in range(3):
        await api.add(by=api.client({"X-Cart-Token": (await api.anyone.post("/v1/guest")).json()["token"]}))
        await api.store.snapshot_carts()
        assert number < 3
    snapshots = api.store.archive.snapshots
    everyone = [cart.cart_id for cart in await snapshots.live("", 10)]
    await _damage(
        api,
        "UPDATE cart_snapshots SET lines = '[{}]' WHERE cart_id IN (:a, :b)",
        a=everyone[0],
        b=everyone[1],
    )

    pages, after = [], ""
    while page := await snapshots.live(after, 1):
        pages += [cart.cart_id for cart in page]
        after = page[-1].cart_id

    assert pages == everyone[2:]
    assert await snapshots.find(everyone[0]) is None


async def test_product_can_be_changed_when_its_images_are_from_before_a_rule(api: Any) -> None:
    await api.sell("MUG", stock=0, policy="untracked")
    images = """UPDATE product_revisions SET doc = jsonb_set(doc, '{images}', '["/old.jpg"]')"""
    await _damage(api, images)
    count = {"on_hand": 5, "reason": "count", "reference": "first"}

    counted = await api.admin.put("/v1/admin/stock/MUG", json=count)
    sent_back = await api.admin.put(
        "/v1/admin/products/p-MUG", json=(await api.anyone.get("/v1/products/p-MUG")).json()
    )

    assert (counted.status_code, counted.json()["policy"]) == (200, "deny")
    assert (sent_back.status_code, sent_back.json()["field"]) == (422, "images[0]")
