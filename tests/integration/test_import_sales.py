"""Sale prices of a WooCommerce file: what the engine is told, and what importing again changes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from import_shop import ImportShop

from cartstore.archive import Archive
from cartstore.model import Partition, SkuFields

HEADER = "Type,ID,SKU,Name,Published,In stock?,Stock,Regular price"
MUG = f"{HEADER}\nsimple,1,MUG,Mug,1,1,5,10.00\n"
ON_SALE = f"""\
{HEADER},Sale price,Date sale price starts,Date sale price ends
simple,1,MUG,Mug,1,1,5,10.00,8.00,2030-01-01,2030-01-31 23:59:59
"""
JANUARY_MS, FEBRUARY_MS = 1_893_456_000_000, 1_896_134_400_000


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[ImportShop]:
    archive = await Archive.open(database_url, Partition("main"))
    yield ImportShop(archive)
    await archive.close()


def sale(fields: SkuFields) -> tuple[int, int | None, int, int]:
    return fields.price_minor, fields.sale_price_minor, fields.sale_from_ms, fields.sale_to_ms


async def test_import_tells_the_engine_price_sale_price_and_times(shop: ImportShop) -> None:
    await shop.run(ON_SALE)

    told = shop.told["MUG"]
    assert sale(told) == (1_000, 800, JANUARY_MS, FEBRUARY_MS)
    assert [told.price_at(at) for at in (JANUARY_MS - 1, JANUARY_MS, FEBRUARY_MS - 1, FEBRUARY_MS)] == [
        *(1_000, 800, 800, 1_000)
    ]


async def test_import_changes_a_sale_only_where_the_file_says_otherwise(shop: ImportShop) -> None:
    await shop.run(ON_SALE)
    await shop.change_variant("MUG", "MUG", sale_price_minor=700)

    await shop.run(ON_SALE)
    assert sale(shop.told["MUG"]) == (1_000, 700, JANUARY_MS, FEBRUARY_MS)
    await shop.run(MUG)
    assert sale(shop.told["MUG"]) == (1_000, 700, JANUARY_MS, FEBRUARY_MS)
    await shop.run(ON_SALE.replace(",8.00,", ",6.00,"))
    assert sale(shop.told["MUG"]) == (1_000, 600, JANUARY_MS, FEBRUARY_MS)
    await shop.run(ON_SALE.replace(",8.00,", ",,"))
    assert sale(shop.told["MUG"]) == (1_000, None, 0, 0)


async def test_import_drops_a_sale_in_another_currency(shop: ImportShop) -> None:
    await shop.run(ON_SALE, currency="EUR")

    await shop.run(MUG, currency="USD")

    assert sale(shop.told["MUG"]) == (1_000, None, 0, 0)
    assert (await shop.get("MUG")).currency == "USD"
