"""Products that are put on a condition, deleted, and whose SKUs move while carts and orders have them."""

from __future__ import annotations

import asyncio
from typing import Any

HEADER = (
    "Handle,Title,Vendor,Option1 Name,Option1 Value,Variant SKU,Variant Inventory Qty,"
    "Variant Inventory Policy,Variant Price\n"
)
ZETA = "zeta,Zeta,Weavers,Size,S,ZS-S,5,deny,10.00\nzeta,,,,M,ZS-M,5,deny,10.00\n"
ALPHA = "alpha,Alpha,Potters,Title,Default Title,ZS-S,5,deny,10.00\n"
ZETA_WITHOUT = "zeta,Zeta,Weavers,Size,M,ZS-M,5,deny,10.00\n"
RENAMED = ZETA.replace("zeta", "zeta-2")


async def bring(api: Any, *rows: str) -> Any:
    """Import a file of these rows."""
    return await api.done(api.admin.post("/v1/admin/products/import", content=HEADER + "".join(rows)))


async def test_put_honours_if_match_when_it_names_a_version(api: Any) -> None:
    await api.sell(price="9.99")
    path, admin_path = "/v1/products/p-MUG", "/v1/admin/products/p-MUG"
    read = await api.anyone.get(path)
    etag, product = read.headers["ETag"], read.json()
    version = etag.strip('"').partition("-")[0]

    first = await api.admin.put(admin_path, json={**product, "title": "One"}, headers={"If-Match": etag})
    late = await api.admin.put(admin_path, json={**product, "title": "Two"}, headers={"If-Match": etag})
    bare = await api.admin.put(
        admin_path, json={**product, "title": "Two"}, headers={"If-Match": f'"{version}"'}
    )
    either = await api.admin.put(
        admin_path, json={**product, "title": "3"}, headers={"If-Match": f"{etag}, {first.headers['ETag']}"}
    )
    any_ = await api.admin.put(admin_path, json={**product, "title": "4"}, headers={"If-Match": "*"})
    wrong = await api.admin.put(admin_path, json=product, headers={"If-Match": "seven"})

    assert [answer.status_code for answer in (first, either, any_)] == [200, 200, 200]
    for refused in (late, bare):
        problem = refused.json()
        assert (refused.status_code, problem["code"]) == (412, "VERSION_CONFLICT")
        assert (problem["suggested_action"], problem["fix"]["path"]) == ("read_product", path)
    assert (wrong.status_code, wrong.json()["field"]) == (422, "If-Match")
    current = await api.anyone.get(path)
    assert (current.json()["title"], current.headers["ETag"]) == ("4", any_.headers["ETag"])


async def test_put_creates_nothing_when_if_match_wants_a_product(api: Any) -> None:
    body = {"title": "T", "variants": [{"sku": "S", "price": "1.00"}]}

    for wanted in ("*", '"1"'):
        answer = await api.admin.put("/v1/admin/products/p", json=body, headers={"If-Match": wanted})
        assert (answer.status_code, answer.json().get("fix")) == (412, None)
    assert (await api.anyone.get("/v1/products/p")).status_code == 404


async def test_put_lets_one_of_two_writers_through_when_both_read_the_same(api: Any) -> None:
    await api.sell()
    read = await api.anyone.get("/v1/products/p-MUG")

    answers = await asyncio.gather(
        *(
            api.admin.put(
                "/v1/admin/products/p-MUG",
                json={**read.json(), "title": title},
                headers={"If-Match": read.headers["ETag"]},
            )
            for title in ("A", "B")
        )
    )

    assert sorted(answer.status_code for answer in answers) == [200, 412]


async def test_read_is_answered_unchanged_when_the_etag_is_current(api: Any) -> None:
    await api.sell(stock=5)
    path = "/v1/products/p-MUG"
    etag = (await api.anyone.get(path)).headers["ETag"]

    unchanged = await api.anyone.get(path, headers={"If-None-Match": etag})
    await api.add()
    changed = await api.anyone.get(path, headers={"If-None-Match": etag})

    assert (unchanged.status_code, unchanged.content, unchanged.headers["ETag"]) == (304, b"", etag)
    assert (changed.status_code, changed.json()["variants"][0]["available"]) == (200, 4)


async def test_delete_takes_a_product_off_sale_and_keeps_its_orders(api: Any) -> None:
    await api.sell(stock=5)
    await api.add(quantity=2)
    checkout = await api.check_out()
    await api.add(by=api.ben)
    path = "/v1/admin/products/p-MUG"
    etag = (await api.anyone.get("/v1/products/p-MUG")).headers["ETag"]

    stale = await api.admin.delete(path, headers={"If-Match": '"999"'})
    deleted = await api.admin.delete(path, headers={"If-Match": etag})
    again = await api.admin.delete(path)
    unknown = await api.admin.delete("/v1/admin/products/none")
    buyer = await api.ana.delete(path)

    assert (stale.status_code, deleted.status_code, deleted.content) == (412, 204, b"")
    assert (again.status_code, unknown.status_code, buyer.status_code) == (204, 404, 403)
    assert (await api.anyone.get("/v1/products/p-MUG")).status_code == 404
    assert (await api.anyone.get("/v1/products")).json()["items"] == []
    (line,) = (await api.ben.get("/v1/cart")).json()["items"]
    assert (line["name"], line["is_available"], line["hold"]["quantity"]) == ("The MUG", False, 1)
    refused = await api.ana.post("/v1/cart/items", json={"sku": "MUG"})
    assert (refused.status_code, refused.json()["code"]) == (409, "PRODUCT_INACTIVE")
    await api.pay(checkout["payment"]["id"])
    await api.archive()
    stock = (await api.admin.get("/v1/stock/MUG")).json()
    assert (stock["on_hand"], stock["held"], stock["sold"]) == (3, 1, 2)
    assert (await api.admin.get("/v1/admin/reconcile")).json()["drift"] == []


async def test_delete_frees_skus_with_their_stock_when_another_product_lists_them(api: Any) -> None:
    await api.sell(stock=5)
    await api.add()
    body = {"title": "Heir", "variants": [{"sku": "MUG", "price": "9.99"}]}
    refused = await api.admin.put("/v1/admin/products/heir", json=body)
    await api.admin.delete("/v1/admin/products/p-MUG")

    await api.done(api.admin.put("/v1/admin/products/heir", json=body))

    assert (refused.status_code, refused.json()["sku"]) == (422, "MUG")
    (line,) = (await api.ana.get("/v1/cart")).json()["items"]
    # It is another product's now: the buyer has to see that first. Its unit stays held meanwhile.
    assert line["changes"]["product"] == {"old": "p-MUG", "new": "heir"}
    assert (line["is_available"], line["hold"]["quantity"]) == (False, 1)
    assert (await api.anyone.get("/v1/products/heir")).json()["variants"][0]["available"] == 4


async def test_moved_sku_keeps_stock_holds_and_pending_orders(api: Any) -> None:
    await bring(api, ZETA)
    await api.add("ZS-S", 2)
    checkout = await api.check_out()
    await api.add("ZS-S", by=api.ben)
    before = (await api.anyone.get("/v1/stock/ZS-S")).json()

    report = await bring(api, ALPHA, ZETA_WITHOUT)

    assert (report["moved_skus"], report["rejected"]) == (1, [])
    assert (await api.anyone.get("/v1/stock/ZS-S")).json() == before
    assert before["held"] == 3
    (line,) = (await api.ben.get("/v1/cart")).json()["items"]
    assert line["hold"]["quantity"] == 1
    await api.pay(checkout["payment"]["id"])
    await api.archive()
    (order,) = (await api.ana.get("/v1/orders")).json()["items"]
    assert (order["status"], order["seller"], order["lines"][0]["name"]) == ("paid", "Weavers", "Zeta")
    assert (await api.anyone.get("/v1/stock/ZS-S")).json()["on_hand"] == 3
    assert (await api.admin.get("/v1/admin/reconcile")).json()["drift"] == []
    await api.add("ZS-S", by=api.admin)
    sold = await api.check_out(by=api.admin)
    assert sold["orders"][0]["seller"] == "Potters"


async def test_read_shows_what_is_left_when_all_skus_of_a_product_moved(api: Any) -> None:
    await bring(api, ZETA)
    await bring(api, RENAMED)

    left = (await api.admin.get("/v1/products/zeta")).json()
    sent_back = await api.admin.put("/v1/admin/products/zeta", json=left)

    assert (left["active"], left["variants"], left.get("unreadable")) == (False, [], None)
    assert (sent_back.status_code, sent_back.json()) == (200, left)
    assert len((await api.anyone.get("/v1/products/zeta-2")).json()["variants"]) == 2
    refused = await api.ana.post("/v1/cart/items", json={"product_id": "zeta", "options": {"Size": "S"}})
    assert (refused.status_code, refused.json()["code"]) == (409, "PRODUCT_INACTIVE")
    assert (await api.admin.get("/v1/admin/reconcile")).json()["drift"] == []
