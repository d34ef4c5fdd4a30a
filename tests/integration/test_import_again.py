"""A file says only what it says: what importing again takes from it, and what an admin did since."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest
from import_shop import ImportShop, file, product, variant

from cartstore.archive import Archive
from cartstore.model import Partition, Product

FULL = """\
Handle,Title,Body (HTML),Vendor,Status,Image Src,Option1 Name,Option1 Value,Variant SKU,\
Variant Inventory Qty,Variant Inventory Policy,Variant Price
tee,Tee,A plain tee,Tern,active,https://img.test/tee.png,Size,S,TEE-S,3,deny,20.00
tee,,,,,,,M,TEE-M,4,deny,20.00
"""
TEE = product("tee", "TEE-S=S", "TEE-M=M")
WOO = "ID,Type,SKU,Name,Published,In stock?,Stock,Regular price"


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[ImportShop]:
    archive = await Archive.open(database_url, Partition("main"))
    yield ImportShop(archive)
    await archive.close()


async def test_import_leaves_what_an_admin_did_when_the_file_is_as_before(shop: ImportShop) -> None:
    await shop.run(FULL)
    tee = await shop.get("tee")
    small, medium = (msgspec.structs.replace(its, price_minor=1_500, multiple_of=2) for its in tee.variants)
    changed = await shop.change(
        "tee",
        title="Ours",
        description=None,
        seller="Us",
        active=False,
        images=(),
        variants=(medium, msgspec.structs.replace(small, policy="backorder")),
    )

    report = await shop.run(FULL)

    assert (report.products, report.changed_products) == (1, 0)
    assert await shop.get("tee") == changed
    assert await shop.check() == {"TEE-S": ("tee", False), "TEE-M": ("tee", False)}


async def test_import_takes_what_the_file_says_otherwise_than_before(shop: ImportShop) -> None:
    await shop.run(FULL)
    await shop.change("tee", title="Ours", seller="Us", active=False)
    await shop.change_variant("tee", "TEE-S", price_minor=1_500)

    await shop.run(
        FULL.replace("Tern,active", "Gull,draft").replace("TEE-S,3,deny,20", "TEE-S,3,continue,21")
    )
    await shop.change("tee", active=False)
    await shop.run(FULL.replace("Tern,active", "Gull,active"))

    after = await shop.get("tee")
    assert (after.title, after.seller, after.active) == ("Ours", "Gull", True)
    assert [(its.price_minor, its.policy) for its in after.variants] == [(2_000, "deny"), (2_000, "deny")]


async def test_import_changes_nothing_that_the_file_has_no_column_for(shop: ImportShop) -> None:
    await shop.run(FULL)
    before = await shop.get("tee")
    await shop.run(FULL.replace("active", "draft"))

    await shop.run(file(product("tee", "TEE-S=S@21.00", "TEE-M=M@20.00")))

    after = await shop.get("tee")
    assert (after.description, after.seller, after.images) == ("A plain tee", "Tern", before.images)
    assert after.active is False
    assert after.variants[0].price_minor == 2_100


async def test_import_keeps_the_seller_when_a_woocommerce_file_comes_again(shop: ImportShop) -> None:
    limited = f"{WOO},Sold individually?\n7,simple,cup,Cup,1,1,4,15.00,1\n"
    await shop.run(limited)
    await shop.change("cup", seller="Us", description="Hand made", images=("https://img.test/cup.png",))
    changed = await shop.change_variant("cup", "cup", max_quantity=4)

    await shop.run(limited)
    await shop.run(f"{WOO}\n7,simple,cup,Cup,1,1,4,15.00\n")

    assert await shop.get("cup") == changed


async def test_import_takes_prices_and_texts_only_when_it_is_the_first_of_a_product(shop: ImportShop) -> None:
    old = variant("TEE-S", options={"Size": "Small"}, policy="backorder", max_quantity=3)
    await shop.put(
        Product(
            id="tee",
            title="Old",
            active=False,
            options=("Size",),
            currency="USD",
            variants=(old,),
            seller="Us",
        )
    )

    await shop.run(FULL)

    after = await shop.get("tee")
    assert (after.title, after.seller, after.active) == ("Tee", "Tern", False)
    assert after.variants[0] == msgspec.structs.replace(
        old, options={"Size": "S"}, price_minor=2_000, terms_revision=after.revision
    )
    assert after.variants[1].policy == "deny"


async def test_import_takes_off_sale_only_what_the_last_file_had(shop: ImportShop) -> None:
    await shop.run(file(TEE))
    tee = await shop.get("tee")
    own = variant("TEE-X", options={"Size": "XL"})
    await shop.change("tee", variants=(own, *tee.variants))

    await shop.run(file(product("tee", "TEE-S=S")))
    assert await shop.skus("tee") == ["TEE-S", "TEE-X"]
    assert (await shop.check())["TEE-M"] == ("tee", False)

    await shop.run(file(TEE))
    assert await shop.skus("tee") == ["TEE-S", "TEE-M", "TEE-X"]
    assert all(is_active for _, is_active in (await shop.check()).values())


async def test_import_leaves_a_removed_variant_gone_until_its_row_changes_or_it_is_put(
    shop: ImportShop,
) -> None:
    await shop.run(file(TEE))
    await shop.change_variant("tee", "TEE-M", multiple_of=2)
    removed = await shop.remove("tee", "TEE-M")

    again = await shop.run(file(TEE.replace("M,5,deny", "M,9,deny")))
    assert again.changed_products == 0
    assert await shop.get("tee") == removed
    await shop.run(file(TEE.replace("M,5,deny,10.00", "M,5,deny,11.00")))
    back = await shop.get("tee")
    assert [(its.sku, its.price_minor, its.multiple_of) for its in back.variants] == [
        ("TEE-S", 1_000, 1),
        ("TEE-M", 1_100, 2),
    ]

    await shop.remove("tee", "TEE-M")
    await shop.put(back)
    await shop.run(file(TEE.replace("M,5,deny,10.00", "M,5,deny,11.00")))
    assert await shop.skus("tee") == ["TEE-S", "TEE-M"]


async def test_import_leaves_a_deleted_product_gone_until_its_rows_change(shop: ImportShop) -> None:
    await shop.run(FULL)
    await shop.change_variant("tee", "TEE-S", multiple_of=2)
    await shop.delete("tee")
    assert await shop.check() == {"TEE-S": ("tee", False), "TEE-M": ("tee", False)}

    for same in (FULL.replace("S,3,deny", "S,8,deny"), file(product("tee", "TEE-S=S@20.00", title="Tee"))):
        report = await shop.run(same)
        assert (report.products, report.changed_products) == (0, 0)
        assert "deleted" in report.notes[0].text
        assert await shop.catalog.get_product("tee") is None
        assert await shop.catalog.list_products() == ([], None)
        assert await shop.catalog.count() == 0
    await shop.run(file(product("tee", "TEE-S=S@20.00", "TEE-M=M@21.00", title="Tee")))

    back = await shop.get("tee")
    assert (back.active, back.seller, [its.multiple_of for its in back.variants]) == (True, "Tern", [2, 1])
    assert await shop.check() == {"TEE-S": ("tee", True), "TEE-M": ("tee", True)}


async def test_import_changes_a_deleted_product_no_more_when_it_was_put_again(shop: ImportShop) -> None:
    await shop.run(FULL)
    before = await shop.get("tee")
    await shop.delete("tee")
    put = await shop.put(msgspec.structs.replace(before, title="Ours", variants=before.variants[:1]))

    report = await shop.run(FULL)

    assert (report.products, report.notes) == (1, [])
    assert await shop.get("tee") == put
    assert await shop.check() == {"TEE-S": ("tee", True), "TEE-M": ("tee", False)}


async def test_import_puts_new_variants_under_the_option_names_of_an_admin(shop: ImportShop) -> None:
    await shop.run(file(TEE))
    tee = await shop.get("tee")
    renamed = tuple(
        msgspec.structs.replace(its, options={"Fit": f"size {its.options['Size']}"}) for its in tee.variants
    )
    await shop.change("tee", options=("Fit",), variants=renamed)

    await shop.run(file(product("tee", "TEE-S=S", "TEE-M=M", "TEE-L=L")))
    named = [its.options for its in (await shop.get("tee")).variants]
    await shop.run(file(product("tee", "TEE-S=S", "TEE-M=M", "TEE-L=L", option="Cut")))

    assert named == [{"Fit": "size S"}, {"Fit": "size M"}, {"Fit": "L"}]
    after = await shop.get("tee")
    assert after.options == ("Cut",)
    assert [its.options for its in after.variants] == [{"Cut": "S"}, {"Cut": "M"}, {"Cut": "L"}]


async def test_import_names_a_new_row_whose_options_an_admin_gave_to_another_variant(
    shop: ImportShop,
) -> None:
    await shop.run(file(TEE))
    tee = await shop.get("tee")
    await shop.change("tee", variants=(*tee.variants, variant("OWN-L", options={"Size": "L"})))
    larger = file(product("tee", "TEE-S=S", "TEE-M=M", "TEE-L=L"))

    for _ in range(2):
        report = await shop.run(larger)
        assert [(row.name, row.reason) for row in report.rejected] == [
            ("TEE-L", "Another variant of this product has the same options.")
        ]
    assert sorted(await shop.skus("tee")) == ["OWN-L", "TEE-M", "TEE-S"]


async def test_import_takes_a_new_sku_for_the_options_of_one_that_the_file_lacks(shop: ImportShop) -> None:
    await shop.run(file(TEE))

    await shop.run(file(product("tee", "TEE-S=S", "TEE-M2=M")))

    assert await shop.skus("tee") == ["TEE-S", "TEE-M2"]
    assert (await shop.check())["TEE-M"] == ("tee", False)


async def test_import_keeps_the_currency_of_an_admin_until_the_file_says_other_prices(
    shop: ImportShop,
) -> None:
    await shop.run(file(TEE))
    tee = await shop.get("tee")
    euros = tuple(msgspec.structs.replace(its, price_minor=900) for its in tee.variants)
    changed = await shop.change("tee", currency="EUR", variants=euros)

    await shop.run(file(TEE))
    assert await shop.get("tee") == changed
    await shop.run(file(product("tee", "TEE-S=S@11.00", "TEE-M=M")))
    after = await shop.get("tee")
    assert (after.currency, [its.price_minor for its in after.variants]) == ("USD", [1_100, 1_000])

    own = variant("OWN", options={"Size": "L"})
    mixed = await shop.change("tee", currency="EUR", variants=(*after.variants, own))
    report = await shop.run(file(product("tee", "TEE-S=S@12.00", "TEE-M=M")))
    assert "OWN is not in the file" in report.rejected[0].reason
    assert await shop.get("tee") == mixed


async def test_import_never_makes_a_counted_sku_untracked(shop: ImportShop) -> None:
    counted = f"{WOO}\n7,simple,cup,Cup,1,1,4,15.00\n"
    await shop.run(counted)

    for _ in range(2):
        report = await shop.run(counted.replace(",4,15", ",,15"))
        assert [note.name for note in report.notes] == ["cup"]
        assert "stays limited by stock" in report.notes[0].text
        assert (await shop.get("cup")).variants[0].policy == "deny"


async def test_import_counts_an_untracked_sku_when_the_file_does(shop: ImportShop) -> None:
    await shop.run(f"{WOO}\n7,simple,cup,Cup,1,1,,15.00\n")

    report = await shop.run(f"{WOO}\n7,simple,cup,Cup,1,1,4,15.00\n")

    assert (await shop.get("cup")).variants[0].policy == "deny"
    assert (shop.stock, report.stocked) == ({}, 0)
    assert "does not set its stock" in report.notes[0].text


async def test_import_keeps_a_variant_without_a_sku_of_its_own_whose_row_is_wrong(shop: ImportShop) -> None:
    """The rejected row names the handle only."""
    generated = product("tee", "=S", "=M")
    await shop.run(file(generated))

    for price in ("free", "10.00"):
        await shop.run(file(generated.replace("M,,5,deny,10.00", f"M,,5,deny,{price}")))
        assert await shop.skus("tee") == ["tee.s", "tee.m"]


async def test_import_takes_off_sale_later_what_was_missing_by_a_mistake_first(shop: ImportShop) -> None:
    await shop.run(file(TEE))

    await shop.run(file(TEE.replace("M,5,deny,10.00", "M,5,deny,free")))
    assert await shop.skus("tee") == ["TEE-S", "TEE-M"]
    await shop.run(file(product("tee", "TEE-S=S")))

    assert await shop.skus("tee") == ["TEE-S"]
