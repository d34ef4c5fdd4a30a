"""What the engine is told of the last change of a SKU's options, product or currency."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from import_shop import ImportShop, file, product, variant

from cartstore.archive import Archive
from cartstore.model import Partition, Product


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[ImportShop]:
    archive = await Archive.open(database_url, Partition("main"))
    shop = ImportShop(archive)
    yield shop
    await shop.check()
    await archive.close()


def terms_changed_with(shop: ImportShop, sku: str) -> bool:
    """Whether the revision that the engine has of a SKU is the one that changed what it is."""
    fields = shop.told[sku]
    return fields.terms_revision == fields.revision


async def test_terms_are_told_when_an_admin_changes_a_product(shop: ImportShop) -> None:
    tee = Product(
        id="tee",
        title="Tee",
        currency="USD",
        options=("Size",),
        variants=(variant("T-S", options={"Size": "S"}), variant("T-M", options={"Size": "M"})),
    )
    first = await shop.put(tee)
    assert shop.told["T-S"].terms_revision == first.revision

    await shop.change("tee", title="A tee", active=False)
    await shop.change_variant("tee", "T-S", price_minor=700, terms_revision=99)
    assert {fields.terms_revision for fields in shop.told.values()} == {first.revision}
    await shop.change_variant("tee", "T-S", options={"Size": "Small"})
    assert (terms_changed_with(shop, "T-S"), terms_changed_with(shop, "T-M")) == (True, False)
    await shop.remove("tee", "T-M")
    assert shop.told["T-M"].terms_revision == first.revision
    stored = await shop.change("tee", currency="EUR")
    assert {fields.terms_revision for fields in shop.told.values()} == {stored.revision}
    assert (await shop.get("tee")) == stored
    kept = await shop.catalog.by_revisions([first.revision])
    assert kept[first.revision].variants[0].terms_revision == first.revision


async def test_terms_stay_when_a_file_is_imported_again_or_renames_a_product(shop: ImportShop) -> None:
    await shop.run(file(product("tee", "T-S=S", "T-M=M")))
    first = {sku: fields.terms_revision for sku, fields in shop.told.items()}

    await shop.run(file(product("tee", "T-S=S@12.00", "T-M=M")))
    assert {sku: fields.terms_revision for sku, fields in shop.told.items()} == first
    await shop.run(file(product("shirt", "T-S=S@12.00", "T-M=M")))

    assert shop.told["T-S"].product_id == "shirt"
    assert {sku: fields.terms_revision for sku, fields in shop.told.items()} == first


async def test_terms_are_told_when_a_file_moves_a_sku_or_swaps_options(shop: ImportShop) -> None:
    await shop.run(file(product("tee", "T-S=S", "T-M=M"), product("mug", "MUG=S")))

    await shop.run(file(product("tee", "T-S=M", "T-M=S"), product("mug", "MUG=S")))
    assert [terms_changed_with(shop, sku) for sku in ("T-S", "T-M", "MUG")] == [True, True, True]
    mug_terms = shop.told["MUG"].terms_revision
    await shop.run(file(product("tee", "T-S=M"), product("mug", "MUG=S", "T-M=M")))

    assert (terms_changed_with(shop, "T-S"), terms_changed_with(shop, "T-M")) == (False, True)
    assert shop.told["MUG"].terms_revision == mug_terms < shop.told["MUG"].revision
