"""SKUs that move between the products of a file: whose they are afterwards, and what the engine is told.

Files are tried with their products in every order; the answer must be the same.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from import_shop import HEADER, ImportShop, file, orders, product, variant

from cartstore.archive import Archive
from cartstore.catalog.importing import import_catalog
from cartstore.catalog.moves import SkuOwner
from cartstore.errors import InvalidField, StoreUnavailable
from cartstore.model import Partition, Product

ZETA = product("zeta", "ZS-S=S", "ZS-M=M")
ALPHA_AND_ZETA = (product("alpha", "ZS-S@11.00"), product("zeta", "ZS-M=M"))


@pytest.fixture
async def archive(database_url: str) -> AsyncIterator[Archive]:
    archive = await Archive.open(database_url, Partition("main"))
    yield archive
    await archive.close()


@pytest.fixture
def shop(archive: Archive) -> ImportShop:
    return ImportShop(archive)


@pytest.mark.parametrize("second", orders(*ALPHA_AND_ZETA))
async def test_import_moves_a_sku_that_another_product_takes_over(shop: ImportShop, second: str) -> None:
    await shop.run(file(ZETA))
    first = shop.told["ZS-S"]

    report = await shop.run(second)

    assert (report.rejected, report.products, report.moved_skus) == ([], 2, 1)
    assert await shop.check() == {"ZS-S": ("alpha", True), "ZS-M": ("zeta", True)}
    assert sorted(shop.last_told) == ["ZS-M", "ZS-S"]
    alpha = await shop.get("alpha")
    assert shop.told["ZS-S"].revision == alpha.revision > first.revision
    assert alpha.identity != (await shop.get("zeta")).identity
    again = await shop.run(second)
    assert (again.changed_products, again.moved_skus, again.rejected) == (0, 0, [])


@pytest.mark.parametrize("first", orders(*ALPHA_AND_ZETA))
async def test_import_gives_skus_back_when_the_files_come_the_other_way_round(
    shop: ImportShop, first: str
) -> None:
    await shop.run(first)

    for _ in range(2):
        await shop.run(file(ZETA))
        alpha = await shop.get("alpha")
        assert (alpha.active, alpha.variants, alpha.removed) == (False, (), ())
        assert await shop.check() == {"ZS-S": ("zeta", True), "ZS-M": ("zeta", True)}
        await shop.run(file(ZETA))
        assert await shop.get("alpha") == alpha

        await shop.run(first)
        assert (await shop.get("alpha")).active
        assert await shop.check() == {"ZS-S": ("alpha", True), "ZS-M": ("zeta", True)}


async def test_import_leaves_an_emptied_product_inactive_when_an_admin_made_it_so(shop: ImportShop) -> None:
    await shop.run(file(*ALPHA_AND_ZETA))
    await shop.change("alpha", active=False)
    await shop.run(file(ZETA))

    await shop.run(file(*ALPHA_AND_ZETA))

    assert await shop.check() == {"ZS-S": ("alpha", False), "ZS-M": ("zeta", True)}


@pytest.mark.parametrize("swapped", orders(product("cup", "MUG"), product("mug", "CUP")))
async def test_import_swaps_the_skus_of_two_products(shop: ImportShop, swapped: str) -> None:
    await shop.run(file(product("cup", "CUP"), product("mug", "MUG")))
    await shop.change_variant("cup", "CUP", price_minor=700, multiple_of=2)

    report = await shop.run(swapped)

    assert (report.rejected, report.moved_skus) == ([], 2)
    assert await shop.check() == {"CUP": ("mug", True), "MUG": ("cup", True)}
    (moved,) = (await shop.get("mug")).variants
    assert (moved.price_minor, moved.multiple_of) == (700, 2)
    assert (await shop.get("mug")).identity == "mug"


@pytest.mark.parametrize(
    "turned", orders(product("a", "B"), product("b", "C"), product("c", "A"), product("d", "D"))[::7]
)
async def test_import_turns_skus_round_when_each_batch_has_room_for_one_product(
    shop: ImportShop, turned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products that exchange SKUs are one transaction, wherever they are in the file."""
    monkeypatch.setattr("cartstore.catalog.importing.BATCH_PRODUCTS", 1)
    await shop.run(file(*(product(name.lower(), name) for name in "ABCD")))

    report = await shop.run(turned)

    assert (report.rejected, report.moved_skus) == ([], 3)
    owners = {"A": ("c", True), "B": ("a", True), "C": ("b", True), "D": ("d", True)}
    assert await shop.check() == owners


async def test_import_keeps_what_an_admin_set_when_a_handle_is_renamed(shop: ImportShop) -> None:
    await shop.run(file(product("tee", "T-S=S", "T-M=M", "T-L=L", title="Tee"), product("mug", "MUG")))
    await shop.remove("tee", "T-L")
    await shop.change_variant("tee", "T-S", price_minor=700, max_quantity=3)
    tee = await shop.get("tee")
    own = variant("OWN", options={"Size": "XL"})
    tee = await shop.change("tee", title="Ours", seller="Us", active=False, variants=(*tee.variants, own))

    renamed = product("shirt", "T-S=S", "T-M=M@12.00", "T-L=L", title="Tee")
    report = await shop.run(file(product("mug", "MUG"), renamed))

    shirt = await shop.get("shirt")
    assert (report.rejected, report.moved_skus) == ([], 3)
    assert (shirt.title, shirt.seller, shirt.active, shirt.identity) == ("Ours", "Us", False, "tee")
    small, medium, own = tee.variants
    assert shirt.variants == (small, msgspec.structs.replace(medium, price_minor=1_200), own)
    left = await shop.get("tee")
    assert (left.active, left.variants, left.removed) == (False, (), ())
    owners = dict.fromkeys(("T-S", "T-M", "T-L", "OWN"), ("shirt", False))
    assert await shop.check() == {**owners, "MUG": ("mug", True)}
    assert (await shop.run(file(product("mug", "MUG"), renamed))).changed_products == 0


async def test_import_renames_a_handle_back(shop: ImportShop) -> None:
    await shop.run(file(product("tee", "TEE")))
    await shop.run(file(product("shirt", "TEE")))
    await shop.change("shirt", seller="Us")

    await shop.run(file(product("tee", "TEE")))

    tee = await shop.get("tee")
    assert (tee.seller, tee.active, tee.identity) == ("Us", True, "tee")
    assert await shop.check() == {"TEE": ("tee", True)}


async def test_import_tells_a_new_product_of_an_old_handle_from_the_one_that_was_renamed(
    shop: ImportShop,
) -> None:
    await shop.run(file(product("tee", "TEE")))
    await shop.run(file(product("shirt", "TEE")))

    await shop.run(file(product("shirt", "TEE"), product("tee", "NEW", title="Another")))

    tee, shirt = await shop.get("tee"), await shop.get("shirt")
    assert (tee.title, tee.active) == ("Another", True)
    assert shirt.identity == "tee" != tee.identity
    assert await shop.check() == {"TEE": ("shirt", True), "NEW": ("tee", True)}


@pytest.mark.parametrize("second", orders(product("one", "T-S=S"), product("two", "T-M=M")))
async def test_import_splits_a_product_that_the_file_lacks(shop: ImportShop, second: str) -> None:
    await shop.run(file(product("tee", "T-S=S", "T-M=M")))

    await shop.run(second)

    assert await shop.check() == {"T-S": ("one", True), "T-M": ("two", True)}
    assert (await shop.get("tee")).variants == ()
    assert {(await shop.get(name)).identity for name in ("one", "two")} == {"one", "two"}
    await shop.run(file(product("tee", "T-S=S"), product("one", "NEW=M")))
    assert await shop.check() == {"T-S": ("tee", True), "T-M": ("two", True), "NEW": ("one", True)}
    await shop.run(file(product("tee", "T-S=S", "T-M=M")))
    assert (await shop.check())["T-M"] == ("tee", True)


async def test_import_takes_no_sku_that_an_admin_gave_to_a_product(shop: ImportShop) -> None:
    await shop.put(Product(id="own", title="Own", currency="USD", variants=(variant("OWN"),)))
    await shop.change("own", active=False)

    for _ in range(2):
        report = await shop.run(file(product("tee", "TEE=S", "OWN=M")))
        assert ["OWN belongs to product own" in row.reason for row in report.rejected] == [True]
        assert await shop.catalog.get_product("tee") is None
    await shop.delete("own")
    report = await shop.run(file(product("tee", "TEE=S", "OWN=M")))

    assert report.rejected == []
    assert await shop.check() == {"OWN": ("tee", True), "TEE": ("tee", True)}


@pytest.mark.parametrize("second", orders(product("cup", "MUG=L"), product("mug", "CUP=S", "OWN=M")))
async def test_import_leaves_skus_where_they_are_when_their_taker_cannot_be_stored(
    shop: ImportShop, second: str
) -> None:
    """None ends up nowhere: also the product that would have had the other one's SKU is named."""
    await shop.put(Product(id="own", title="Own", currency="USD", variants=(variant("OWN"),)))
    await shop.run(file(product("cup", "CUP=S"), product("mug", "MUG=L")))
    before = await shop.check()

    report = await shop.run(second)

    assert sorted(row.name for row in report.rejected) == ["cup", "mug"]
    assert await shop.check() == before
    assert (report.products, report.moved_skus) == (0, 0)


@pytest.mark.parametrize("second", orders(product("cup", "MUG"), product("mug", "CUP@free")))
async def test_import_takes_nothing_off_sale_whose_row_is_wrong(shop: ImportShop, second: str) -> None:
    await shop.run(file(product("cup", "CUP"), product("mug", "MUG")))

    report = await shop.run(second)

    assert sorted(row.name for row in report.rejected) == ["CUP", "cup"]
    assert all(is_active for _, is_active in (await shop.check()).values())


async def test_import_finishes_a_move_that_was_not_published(shop: ImportShop) -> None:
    await shop.run(file(ZETA))
    shop.down = True
    with pytest.raises(StoreUnavailable):
        await shop.run(file(*ALPHA_AND_ZETA))
    shop.down = False

    report = await shop.run(file(*ALPHA_AND_ZETA))

    assert report.changed_products == 0
    assert await shop.check() == {"ZS-S": ("alpha", True), "ZS-M": ("zeta", True)}


async def test_import_decides_by_the_catalog_as_it_is_when_it_stores(
    shop: ImportShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An admin may delete, or give a SKU away, after the first pass has seen whose the SKUs are."""
    await shop.run(file(ZETA))
    seen = shop.catalog.owners

    async def seen_before(skus: list[str]) -> dict[str, SkuOwner]:
        found = await seen(skus)
        await shop.delete("zeta")
        await shop.put(Product(id="own", title="Own", currency="USD", variants=(variant("ZS-S"),)))
        return found

    monkeypatch.setattr(shop.catalog, "owners", seen_before)
    report = await shop.run(file(*ALPHA_AND_ZETA))

    assert [row.name for row in report.rejected] == ["alpha"]
    assert (await shop.check())["ZS-S"] == ("own", True)


async def test_import_stores_what_is_left_when_the_file_changes_between_its_passes(
    shop: ImportShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two products that exchange SKUs one is gone when the file is read to be stored."""
    await shop.run(file(ZETA))
    source = tmp_path / "catalog.csv"
    source.write_text(file(*ALPHA_AND_ZETA))
    seen = shop.catalog.owners

    async def rewritten(skus: list[str]) -> dict[str, SkuOwner]:
        source.write_text(file(ALPHA_AND_ZETA[0]))
        return await seen(skus)

    monkeypatch.setattr(shop.catalog, "owners", rewritten)
    report = await import_catalog(
        source, catalog=shop.catalog, currency="USD", publish=shop.publish, adjust=shop.adjust
    )

    assert report.products == 1
    assert await shop.check() == {"ZS-S": ("alpha", True), "ZS-M": ("zeta", True)}


async def test_put_takes_no_sku_of_a_deactivated_product_and_any_of_a_deleted_one(shop: ImportShop) -> None:
    await shop.run(file(ZETA))
    await shop.change("zeta", active=False)
    heir = Product(id="heir", title="Heir", currency="USD", variants=(variant("ZS-S"),))

    with pytest.raises(InvalidField, match="belongs to product zeta"):
        await shop.put(heir)
    await shop.delete("zeta")
    await shop.delete("zeta")
    await shop.put(heir)

    assert await shop.check() == {"ZS-S": ("heir", True), "ZS-M": ("zeta", False)}
    assert (await shop.run(file(ZETA))).products == 0
    report = await shop.run(file(ZETA.replace("10.00", "12.00")))
    assert ["belongs to product heir" in row.reason for row in report.rejected] == [True]
    assert await shop.check() == {"ZS-S": ("heir", True), "ZS-M": ("zeta", False)}


async def test_catalog_names_each_sku_once_when_a_put_takes_one_that_was_removed(
    shop: ImportShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both products were told to a rebuild, and the one that came later counted."""
    monkeypatch.setattr("cartstore.catalog.repository.PRODUCTS_PER_CHUNK", 1)
    await shop.put(Product(id="zeta", title="Zeta", currency="USD", variants=(variant("X"),)))
    await shop.change("zeta", variants=(variant("Y"),))
    await shop.put(Product(id="alpha", title="Alpha", currency="USD", variants=(variant("X"),)))

    assert await shop.check() == {"X": ("alpha", True), "Y": ("zeta", True)}


async def test_import_gives_the_same_catalog_whatever_the_order_of_products(shop: ImportShop) -> None:
    """Several kinds of moves in one file, from the same beginning each time."""
    beginning = file(
        product("a", "A1=S", "A2=M"), product("b", "B1"), product("c", "C1"), product("d", "D1=S", "D2=M")
    )
    end = [
        product("a", "B1"),
        product("b", "A2=S", "NEW=M"),
        product("e", "C1"),
        product("d", "A1=S", "D2=M"),
    ]
    found = []
    for order in itertools.islice(itertools.permutations(end), 0, None, 11):
        await shop.run(beginning)
        await shop.run(HEADER + "".join(order))
        found.append(await shop.check())
        for name in ("a", "b", "c", "d", "e"):
            await shop.delete(name)
        changed = beginning.replace("10.00", f"1{len(found)}.00")
        beginning = changed

    assert found == [
        {
            "A1": ("d", True),
            "A2": ("b", True),
            "B1": ("a", True),
            "C1": ("e", True),
            "D1": ("d", False),
            "D2": ("d", True),
            "NEW": ("b", True),
        }
    ] * len(found)
