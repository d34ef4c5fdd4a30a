"""Goal: every row of real shops' exports is imported or named with its reason, and each imported variant,
once it has stock, can be bought.

Method: `up --catalog` with every CSV in the data folder beside the repository; where there is none, with the
shipped demo catalog. The test reads the files by itself and looks for each row in what the API lists. Then
every variant is counted, added, checked out and paid for by a buyer of its own, all side by side.
"""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Iterator
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

from .calling import Call, Caller, Callers, calling
from .running import Shop, running_shop

DATA = Path(__file__).parents[2].parent / "shared" / "data"
COUNTED = 7
BUYERS_AT_ONCE = 16


def catalogs() -> list[Path]:
    """What there is to import here; never nothing."""
    found = sorted(DATA.glob("*.csv")) if DATA.is_dir() else []
    return found or [Path(str(resources.files("cartstore.demo") / "catalog.csv"))]


async def test_every_row_is_imported_or_named_and_every_variant_can_be_bought() -> None:
    files = catalogs()
    with running_shop(catalogs=tuple(files)) as shop:
        async with calling(shop.url) as callers:
            admin = callers.bearer("admin", shop.token("admin", "admin"))
            products = await _products(callers)
            untouched = await _levels(callers, products)

            rows = 0
            for file in files:
                # Again, over HTTP this time: it tells what it leaves out, and changes nothing.
                report = await _import(admin, _bytes_of(file))
                assert report["changed_products"] == 0, (file.name, report)
                rows += _assert_accounted(file, report["rejected"], products, shop)
            assert rows > 0
            assert await _products(callers) == products
            assert await _levels(callers, products) == untouched

            at_once = asyncio.Semaphore(BUYERS_AT_ONCE)
            await asyncio.gather(
                *(
                    _buy(callers, admin, shop, at_once, product, variant)
                    for product in products
                    for variant in product["variants"]
                )
            )
            callers.history.assert_no_defect()
            sold = {variant["sku"]: COUNTED for product in products for variant in product["variants"]}
            await shop.books().assert_agree(sold)


async def _products(callers: Callers) -> list[dict[str, Any]]:
    """All pages of the list."""
    found, cursor = [], ""
    while True:
        page = await callers.guest().get(f"/v1/products?limit=20{cursor}")
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


async def _levels(callers: Callers, products: list[dict[str, Any]]) -> list[dict[str, Any]]:
    skus = [variant["sku"] for product in products for variant in product["variants"]]
    return list(await asyncio.gather(*(callers.guest().get(f"/v1/stock/{sku}") for sku in skus)))


async def _import(admin: Caller, content: bytes) -> dict[str, Any]:
    call = await admin.call("POST", "/v1/admin/products/import", content=content, content_type="text/csv")
    assert call.status == 200, call
    report: dict[str, Any] = call.body
    return report


def _bytes_of(file: Path) -> bytes:
    return file.read_bytes()


# --- rows ------------------------------------------------------------------------------------------------


def _assert_accounted(
    file: Path, rejected: list[dict[str, Any]], products: list[dict[str, Any]], shop: Shop
) -> int:
    """Each row is in the catalog at its price, or rejected by its line; gives the number of rows."""
    named = {entry["line"]: entry["reason"] for entry in rejected}
    assert all(named.values()), rejected
    for line in named:
        # Also on the terminal of `up`, with the file.
        assert f"{file.name}, line {line}" in shop.text(), shop.text()
    with file.open(encoding="utf-8-sig", newline="") as source:
        reader = csv.DictReader(source)
        find = _find_shopify if "Handle" in (reader.fieldnames or ()) else _find_woocommerce
        rows = list(_numbered(reader))
        for line, row in rows:
            # No cell of these files has a line break, so that the row's line is the reader's.
            if line in named:
                continue
            price, found = find(row, products)
            assert found, (file.name, line, row)
            for variant in found:
                if price is not None:
                    assert Decimal(variant["current_price"]) == price, (file.name, line, variant)
    return len(rows)


def _numbered(reader: csv.DictReader[str]) -> Iterator[tuple[int, dict[str, str]]]:
    for row in reader:
        yield reader.line_num, row


def _find_shopify(
    row: dict[str, str], products: list[dict[str, Any]]
) -> tuple[Decimal | None, list[dict[str, Any]]]:
    """The variant of this handle with these option values; a row without a price is one of an image."""
    product = next((product for product in products if product["id"] == row["Handle"]), None)
    if product is None:
        return None, []
    if not row["Variant Price"]:
        return None, product["variants"]
    values = [row[f"Option{n} Value"] for n in (1, 2, 3) if row.get(f"Option{n} Value")]
    wanted = [value for value in values if value != "Default Title"]
    found = [
        variant for variant in product["variants"] if sorted(variant["options"].values()) == sorted(wanted)
    ]
    assert all(row["Variant SKU"] in ("", variant["sku"]) for variant in found), (row, found)
    if row["Title"]:
        assert product["title"] == row["Title"].strip(), (row, product["title"])
    if row["Vendor"]:
        assert product["seller"] == row["Vendor"], (row, product["seller"])
    for variant in found:
        tracked = {"deny": "deny", "continue": "backorder"}[row["Variant Inventory Policy"]]
        assert variant["policy"] == (tracked if row["Variant Inventory Tracker"] else "untracked")
    return Decimal(row["Variant Price"]), found


def _find_woocommerce(
    row: dict[str, str], products: list[dict[str, Any]]
) -> tuple[Decimal | None, list[dict[str, Any]]]:
    """The product of a simple or variable row, the variants of a variation: all those that it stands for."""
    kind, sku, price = row["Type"], row["SKU"], row["Sale price"] or row["Regular price"]
    if kind.startswith("variable"):
        found = [product for product in products if product["id"] == sku]
        return None, [variant for product in found for variant in product["variants"]]
    variants = [variant for product in products for variant in product["variants"]]
    if kind.startswith("variation"):
        given = [row[f"Attribute {n} value(s)"] for n in (1, 2) if row.get(f"Attribute {n} value(s)")]
        parent = next((product for product in products if product["id"] == row["Parent"]), None)
        assert parent is not None, row
        return Decimal(price), [
            variant for variant in parent["variants"] if set(given) <= set(variant["options"].values())
        ]
    return Decimal(price), [variant for variant in variants if variant["sku"] == sku]


# --- buying ----------------------------------------------------------------------------------------------


async def _buy(
    callers: Callers,
    admin: Caller,
    shop: Shop,
    at_once: asyncio.Semaphore,
    product: dict[str, Any],
    variant: dict[str, Any],
) -> None:
    """Count it, buy some of it by product and options, pay, and see it in the stock."""
    sku = variant["sku"]
    async with at_once:
        await admin.put_stock(sku, COUNTED)
        buyer = callers.bearer(f"buyer of {sku}", shop.token(f"buyer-{sku}"))
        quantity = max(variant["min_quantity"], variant["multiple_of"])
        added = await buyer.call(
            "POST",
            "/v1/cart/items",
            {"product_id": product["id"], "options": variant["options"], "quantity": quantity},
        )
        assert added.status == 201, added
        line = added.body["line"]
        assert (line["sku"], line["name"], line["options"], line["unit_price"]) == (
            sku,
            product["title"],
            variant["options"],
            variant["current_price"],
        )
        begun = await buyer.check_out(expected_total=line["line_total"])
        assert begun.status == 201, begun
        paid: Call = await buyer.pay(begun.body["payment"]["id"])
        assert (paid.status, paid.body["status"]) == (200, "paid"), paid
        (order,) = paid.body["orders"]
        assert (order["seller"], order["status"]) == (product["seller"], "paid"), order
        level = await buyer.get(f"/v1/stock/{sku}")
        assert (level["on_hand"], level["held"], level["sold"], level["policy"]) == (
            COUNTED - quantity,
            0,
            quantity,
            "backorder" if variant["policy"] == "backorder" else "deny",
        ), level
