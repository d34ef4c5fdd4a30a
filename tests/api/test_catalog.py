"""Products, stock, import and what operators look at."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import delete, update

from cartstore.archive.tables import events, retention

SHOPIFY = """\
Handle,Title,Vendor,Option1 Name,Option1 Value,Variant SKU,Variant Inventory Qty,\
Variant Inventory Policy,Variant Price
tee,A tee,Weavers,Size,S,TEE-S,3,deny,10.00
tee,,,,M,TEE-M,0,deny,11.00
bad,A bad one,Weavers,Title,Default Title,BAD,1,deny,ten
"""


async def test_put_creates_a_product_when_it_is_new(api: Any) -> None:
    body = {
        "title": "Shirt",
        "description": "Two\nlines",
        "seller": "Weavers",
        "images": ["https://img.test/a.jpg"],
        "options": ["Size"],
        "currency": "EUR",
        "variants": [
            {
                "sku": "S-M",
                "options": {"Size": "M"},
                "price": "19.90",
                "prices": {"USD": "21.00", "JPY": "3000"},
                "policy": "backorder",
                "min_quantity": 2,
                "multiple_of": 2,
                "max_quantity": 8,
                "max_per_customer": {"quantity": 4, "window_seconds": 60},
            }
        ],
    }

    put = await api.admin.put("/v1/admin/products/shirt", json=body)
    read = await api.anyone.get("/v1/products/shirt")

    assert put.status_code == 200
    assert read.json() == put.json()
    product = read.json()
    assert {name: product[name] for name in body if name != "variants"} == {
        name: value for name, value in body.items() if name != "variants"
    }
    (variant,) = product["variants"]
    assert {name: variant[name] for name in body["variants"][0]} == body["variants"][0]
    assert (variant["hold_policy"], variant["hold_ttl_seconds"], variant["available"]) == (
        "on_add",
        None,
        None,
    )


async def test_put_changes_nothing_when_what_was_read_is_sent_back(api: Any) -> None:
    await api.sell()
    read = (await api.anyone.get("/v1/products/p-MUG")).json()

    put = await api.admin.put("/v1/admin/products/p-MUG", json=read)

    assert (put.status_code, put.json()) == (200, read)


async def test_sale_price_is_what_the_buyer_pays_within_its_dates(api: Any) -> None:
    sales = {"ON": ("2020-01-01", "9999-12-31"), "OVER": ("2020-01-01", "2020-12-31"), "OPEN": (None, None)}
    for sku, (start, end) in sales.items():
        await api.sell(sku, price="10.00", sale_price="8.00", sale_from=start, sale_to=end)
        await api.add(sku)

    read = (await api.anyone.get("/v1/products/p-ON")).json()
    put = await api.admin.put("/v1/admin/products/p-ON", json=read)
    cart = (await api.ana.get("/v1/cart")).json()

    shown = {name: read["variants"][0][name] for name in ("price", "sale_price", "sale_from", "sale_to")}
    assert shown == {
        "price": "10.00",
        "sale_price": "8.00",
        "sale_from": "2020-01-01",
        "sale_to": "9999-12-31",
    }
    assert (put.status_code, put.json()) == (200, read)
    current = {
        sku: (await api.anyone.get(f"/v1/products/p-{sku}")).json()["variants"][0]["current_price"]
        for sku in sales
    }
    assert current == {"ON": "8.00", "OVER": "10.00", "OPEN": "8.00"}
    assert {line["sku"]: line["unit_price"] for line in cart["items"]} == current


async def test_put_refuses_when_a_value_is_not_allowed(api: Any) -> None:
    good = {"title": "T", "variants": [{"sku": "S", "price": "1"}]}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"variants": []}, "variants"),
        ({"title": ""}, "title"),
        ({"title": "a\x00b"}, "title"),
        ({"currency": "XXX"}, "currency"),
        ({"options": ["Size"]}, "variants[0].options"),
        ({"variants": [{"sku": "S", "price": "1.999"}]}, "variants[0].price"),
        ({"variants": [{"sku": "a b", "price": "1"}]}, "variants[0].sku"),
        ({"variants": [{"sku": "S", "price": "1", "prices": {"EUR": "1.999"}}]}, "variants[0].prices.EUR"),
        ({"variants": [{"sku": "S", "price": "1", "available_on": "soon"}]}, "variants[0].available_on"),
        ({"variants": [{"sku": "S", "price": "1", "min_quantity": 100}]}, "variants[0].min_quantity"),
        ({"variants": [{"sku": "S", "price": "1", "sale_price": "x"}]}, "variants[0].sale_price"),
        ({"variants": [{"sku": "S", "price": "1", "sale_from": "soon"}]}, "variants[0].sale_from"),
        (
            {"variants": [{"sku": "S", "price": "1", "sale_from": "2030-02-02", "sale_to": "2030-02-01"}]},
            "variants[0].sale_to",
        ),
        ({"variants": [{"sku": "S", "price": 1}]}, "variants[0].price"),
        ({"variants": [{"sku": "S", "price": "1", "policy": "some"}]}, "variants[0].policy"),
    ]

    for change, field in bad:
        response = await api.admin.put("/v1/admin/products/p", json={**good, **change})

        assert (response.status_code, response.json()["field"]) == (422, field), response.text
    assert (await api.anyone.get("/v1/products/p")).status_code == 404


async def test_list_gives_pages_when_there_are_more(api: Any) -> None:
    for sku in ("A", "B", "C"):
        await api.sell(sku, seller="Weavers" if sku == "B" else "Potters")

    first = (await api.anyone.get("/v1/products", params={"limit": 2})).json()
    rest = (await api.anyone.get("/v1/products", params={"cursor": first["next_cursor"]})).json()
    found = (await api.anyone.get("/v1/products", params={"q": "the b", "seller": "Weavers"})).json()

    assert [product["id"] for product in first["items"] + rest["items"]] == ["p-A", "p-B", "p-C"]
    assert rest["next_cursor"] is None
    assert [product["id"] for product in found["items"]] == ["p-B"]
    assert found["items"][0]["variants"][0]["available"] == 10


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=251", "limit"),
        ("limit=x", "limit"),
        ("limit=99999999999999999999999", "limit"),
        ("q=%00", "q"),
        ("q=" + "a" * 300, "q"),
        ("seller=%07", "seller"),
        ("cursor=%00", "cursor"),
    ],
)
async def test_list_refuses_when_a_parameter_is_not_allowed(api: Any, query: str, field: str) -> None:
    response = await api.anyone.get(f"/v1/products?{query}")

    assert (response.status_code, response.json()["field"]) == (422, field)


async def test_stock_is_told_when_it_is_public(api: Any) -> None:
    await api.sell(stock=5)
    await api.add(quantity=2)

    stock = (await api.anyone.get("/v1/stock/MUG")).json()

    assert stock == {
        "sku": "MUG",
        "on_hand": 5,
        "held": 2,
        "available": 3,
        "sold": 0,
        "backordered": 0,
        "policy": "deny",
    }


async def test_stock_is_told_to_the_shop_only_when_it_is_not_public(make_api: Any) -> None:
    api = await make_api(stock_counts_public="off")
    await api.sell()

    for caller in (api.anyone, api.ana):
        refused = await caller.get("/v1/stock/MUG")
        product = (await caller.get("/v1/products/p-MUG")).json()
        listed = (await caller.get("/v1/products")).json()["items"][0]
        assert (refused.status_code, refused.json()["code"]) == (422, "FEATURE_OFF")
        assert product["variants"][0]["available"] is listed["variants"][0]["available"] is None
    assert (await api.admin.get("/v1/stock/MUG")).json()["on_hand"] == 10


async def test_adjust_is_answered_alike_when_the_reference_comes_again(api: Any) -> None:
    await api.sell(stock=None)
    body = {"delta": 5, "reason": "delivery", "reference": "d1"}
    path = "/v1/admin/stock/MUG/adjust"

    first = await api.admin.post(path, json=body)
    await api.stock("MUG", 2)
    await api.add(quantity=3)
    again = await api.admin.post(path, json=body)
    await api.archive()
    recorded = await api.admin.post(path, json=body)
    other = await api.admin.post(path, json={**body, "delta": 6})

    assert first.status_code == 200
    assert (first.json()["on_hand"], first.json()["delta"], first.json()["reference"]) == (5, 5, "d1")
    assert again.json() == recorded.json() == {**first.json(), "held": 3, "available": 2}
    assert again.headers["Idempotent-Replayed"] == recorded.headers["Idempotent-Replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (409, "STOCK_CONFLICT")
    assert (await api.anyone.get("/v1/stock/MUG")).json()["on_hand"] == 7


async def test_set_moves_the_stock_when_it_is_allowed(api: Any) -> None:
    await api.sell(stock=5)
    await api.add(quantity=3)
    path = "/v1/admin/stock/MUG"

    done = await api.admin.put(
        path, json={"on_hand": 4, "expected_on_hand": 5, "reason": "c", "reference": "1"}
    )
    stale = await api.admin.put(
        path, json={"on_hand": 9, "expected_on_hand": 5, "reason": "c", "reference": "2"}
    )
    below = await api.admin.put(path, json={"on_hand": 2, "reason": "c", "reference": "3"})
    read = (await api.anyone.get("/v1/stock/MUG")).json()
    sent_back = await api.admin.put(path, json={**read, "reason": "c", "reference": "4"})

    assert (done.status_code, done.json()["on_hand"], done.json()["delta"]) == (200, 4, -1)
    assert (stale.status_code, stale.json()["code"]) == (409, "STOCK_CONFLICT")
    assert (below.status_code, below.json()["code"]) == (409, "STOCK_CONFLICT")
    assert (sent_back.status_code, sent_back.json()["delta"]) == (200, 0)


async def test_set_limits_sales_by_stock_when_the_sku_was_untracked(api: Any) -> None:
    await api.sell(stock=None, policy="untracked")

    response = await api.admin.put(
        "/v1/admin/stock/MUG", json={"on_hand": 1, "reason": "c", "reference": "1"}
    )

    assert (response.json()["policy"], response.json()["available"]) == ("deny", 1)
    assert (await api.ana.post("/v1/cart/items", json={"sku": "MUG", "quantity": 2})).status_code == 409


async def test_adjust_many_applies_all_when_none_is_refused(api: Any) -> None:
    await api.sell("A", stock=None)
    await api.sell("B", stock=None)
    entries = [
        {"sku": "A", "delta": 5, "reason": "d", "reference": "1"},
        {"sku": "B", "delta": 7, "reason": "d", "reference": "1"},
        {"sku": "A", "delta": -2, "reason": "d", "reference": "2"},
    ]

    response = await api.admin.post("/v1/admin/stock/adjust", json=entries)

    assert response.status_code == 200
    assert [(item["sku"], item["on_hand"]) for item in response.json()["items"]] == [
        ("A", 5),
        ("B", 7),
        ("A", 3),
    ]


async def test_adjust_many_names_the_refused_when_some_are(api: Any) -> None:
    await api.sell("A", stock=None)
    entries = [
        {"sku": "A", "delta": 5, "reason": "d", "reference": "1"},
        {"sku": "NONE", "delta": 7, "reason": "d", "reference": "1"},
        {"sku": "A", "delta": -9, "reason": "d", "reference": "2"},
    ]

    response = await api.admin.post("/v1/admin/stock/adjust", json=entries)

    problem = response.json()
    assert (response.status_code, problem["code"], problem["sku"]) == (404, "PRODUCT_NOT_FOUND", "NONE")
    assert [(entry["sku"], entry["code"]) for entry in problem["shortfalls"]] == [
        ("NONE", "PRODUCT_NOT_FOUND"),
        ("A", "STOCK_CONFLICT"),
    ]
    assert (await api.anyone.get("/v1/stock/A")).json()["on_hand"] == 5


async def test_ledger_gives_changes_newest_first_when_they_were_archived(api: Any) -> None:
    await api.sell(stock=5)
    await api.stock("MUG", 3)
    await api.add()
    checkout = await api.check_out()
    await api.pay(checkout["payment"]["id"])
    await api.archive()

    first = (await api.admin.get("/v1/admin/stock/MUG/ledger", params={"limit": 1})).json()
    rest = (await api.admin.get("/v1/admin/stock/MUG/ledger", params={"cursor": first["next_cursor"]})).json()

    assert [(entry["delta"], entry["on_hand"]) for entry in first["items"] + rest["items"]] == [
        (-1, 7),
        (3, 8),
        (5, 5),
    ]
    assert first["items"][0]["order_id"] == checkout["orders"][0]["order_id"]
    assert (await api.admin.get("/v1/admin/stock/NONE/ledger")).json()["code"] == "PRODUCT_NOT_FOUND"


async def test_import_takes_back_what_was_read_as_ndjson(api: Any) -> None:
    await api.sell("MUG", price="8.00")
    await api.sell("CUP", price="5.00")
    items = (await api.anyone.get("/v1/products")).json()["items"]
    for item in items:
        item["variants"][0]["price"] = "9.00"
    content = "".join(json.dumps(item) + "\n" for item in [*items, {"id": "bad"}])

    response = await api.admin.post(
        "/v1/admin/products/import", content=content, headers={"Content-Type": "application/x-ndjson"}
    )

    assert response.status_code == 200, response.text
    report = response.json()
    assert (report["products"], report["changed_products"]) == (2, 2)
    assert [rejection["line"] for rejection in report["rejected"]] == [3]
    after = (await api.anyone.get("/v1/products")).json()["items"]
    assert [item["variants"][0]["price"] for item in after] == ["9.00", "9.00"]
    assert [item["variants"][0]["available"] for item in after] == [10, 10]


async def test_import_takes_good_rows_and_names_bad_ones_when_a_csv_comes(api: Any) -> None:
    response = await api.admin.post(
        "/v1/admin/products/import", content=SHOPIFY, headers={"Content-Type": "text/csv"}
    )

    report = response.json()
    assert response.status_code == 200, response.text
    assert (report["products"], report["imported_variants"], report["changed_products"]) == (1, 2, 1)
    assert [(row["line"], row["name"]) for row in report["rejected"]] == [(4, "BAD")]
    assert (await api.anyone.get("/v1/stock/TEE-S")).json()["on_hand"] == 3
    again = await api.admin.post("/v1/admin/products/import", content=SHOPIFY)
    assert again.json()["changed_products"] == 0


async def test_import_refuses_when_it_is_no_catalog(api: Any) -> None:
    path = "/v1/admin/products/import"

    empty = await api.admin.post(path, content=b"")
    noise = await api.admin.post(path, content=b"\x00\xff" * 100)
    json_ = await api.admin.post(path, json={})

    assert (empty.status_code, empty.json()["field"]) == (422, "body")
    assert noise.status_code == 422
    assert json_.status_code == 415


async def test_import_refuses_when_the_file_is_too_large(api: Any) -> None:
    pieces = 0

    async def endless() -> Any:
        nonlocal pieces
        while True:
            pieces += 1
            yield b"x" * 1024 * 1024

    response = await api.admin.post("/v1/admin/products/import", content=endless())

    assert (response.status_code, response.json()["code"]) == (413, "BODY_TOO_LARGE")
    assert pieces < 70


async def test_events_name_the_oldest_when_those_asked_for_are_gone(api: Any) -> None:
    await api.sell(stock=1)
    await api.stock("MUG", 1)
    await api.stock("MUG", 1)
    await api.archive()
    items = (await api.admin.get("/v1/admin/events")).json()["items"]
    first, second, oldest = [item["position"] for item in items][-3:]
    epoch, seq = second.split("-")
    async with api.store.archive.database.transaction() as connection:
        values = {"events_gone_epoch": int(epoch), "events_gone_seq": int(seq)}
        await connection.execute(update(retention).values(**values))
        await connection.execute(delete(events).where(events.c.seq <= int(seq)))

    gone = await api.admin.get("/v1/admin/events", params={"after": first})
    fixed = await api.admin.get(gone.json()["fix"]["path"])
    anew = await api.admin.get("/v1/admin/events")
    caught_up = await api.admin.get("/v1/admin/events", params={"after": second})

    assert (gone.status_code, gone.json()["code"], gone.json()["field"]) == (410, "EVENTS_GONE", "after")
    assert oldest in gone.json()["detail"]
    for answer in (fixed, anew, caught_up):
        assert [item["position"] for item in answer.json()["items"]] == [oldest]


async def test_events_are_followed_when_positions_are_passed_on(api: Any) -> None:
    await api.sell(stock=5)
    await api.stock("MUG", 3)
    await api.archive()

    first = (await api.admin.get("/v1/admin/events", params={"limit": 1})).json()
    rest = (await api.admin.get("/v1/admin/events", params={"after": first["next_cursor"]})).json()
    none = (await api.admin.get("/v1/admin/events", params={"after": rest["items"][-1]["position"]})).json()
    bad = await api.admin.get("/v1/admin/events", params={"after": "x"})

    assert {event["type"] for event in first["items"] + rest["items"]} == {"stock_adjusted"}
    assert len(rest["items"]) == 1
    assert rest["next_cursor"] == rest["items"][-1]["position"]
    assert none == {"items": [], "next_cursor": rest["next_cursor"]}
    assert (bad.status_code, bad.json()["field"]) == (422, "after")


async def test_orders_of_all_are_listed_by_status_when_they_were_archived(api: Any) -> None:
    await api.sell()
    for buyer in (api.ana, api.ben):
        await api.add(by=buyer)
        checkout = await api.check_out(by=buyer)
    await api.pay(checkout["payment"]["id"], by=api.ben)
    await api.archive()

    everything = (await api.admin.get("/v1/admin/orders")).json()
    paid = (await api.admin.get("/v1/admin/orders", params={"status": "paid"})).json()
    bad = await api.admin.get("/v1/admin/orders", params={"status": "lost"})

    assert len(everything["items"]) == 2
    assert [order["order_id"] for order in paid["items"]] == [checkout["orders"][0]["order_id"]]
    assert (bad.status_code, bad.json()["field"]) == (422, "status")


async def test_cart_of_anyone_is_read_when_the_caller_operates(api: Any) -> None:
    await api.sell()
    await api.add()

    cart = (await api.admin.get("/v1/admin/carts/u.ana")).json()

    assert (cart["id"], cart["items_count"]) == ("u.ana", 1)
    assert (await api.admin.get("/v1/admin/carts/g.nobody")).json()["owner"] == "guest"
    assert (await api.admin.get("/v1/admin/carts/x")).status_code == 404


async def test_reconcile_finds_no_drift_when_all_is_well(api: Any) -> None:
    await api.sell()
    await api.add()
    await api.archive()

    for verb in ("GET", "POST"):
        report = (await api.admin.request(verb, "/v1/admin/reconcile")).json()

        assert report["checked"] > 0
        assert (report["repaired"], report["drift"]) == ([], [])


async def test_stats_tell_sizes_and_readiness_when_asked(api: Any) -> None:
    await api.sell()

    stats = (await api.admin.get("/v1/admin/stats")).json()

    assert (stats["products"], stats["namespace"], stats["checkout_ack"]) == (1, "main", "engine")
    assert stats["ready"] is True
