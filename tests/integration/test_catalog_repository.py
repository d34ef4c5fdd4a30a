"""The catalog in PostgreSQL: when there is a new revision, whose a SKU is, and what the engine is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from archive_shop import Story

from cartstore.archive import Archive
from cartstore.catalog.repository import CatalogRepository
from cartstore.errors import InvalidField, ProductNotFound
from cartstore.model import Partition, Product, PurchaseLimit, SkuFields, Variant


@pytest.fixture
async def archive(database_url: str) -> AsyncIterator[Archive]:
    archive = await Archive.open(database_url, Partition("main"))
    yield archive
    await archive.close()


@pytest.fixture
def catalog(archive: Archive) -> CatalogRepository:
    return CatalogRepository(archive.database)


def tee(*sizes: str, id: str = "tee", **more: Any) -> Product:
    return Product(
        **{
            "id": id,
            "title": "Plain Tee",
            "seller": "tern",
            "currency": "EUR",
            "options": ("Size",),
            "variants": tuple(
                Variant(sku=f"{id}-{size}", options={"Size": size}, price_minor=1_500) for size in sizes
            ),
            **more,
        }
    )


def told(fields: list[SkuFields]) -> dict[str, bool]:
    return {field.sku: field.is_active for field in fields}


async def test_put_stores_a_product_as_it_was_given(catalog: CatalogRepository) -> None:
    given = tee(
        "S",
        description="Two\nlines, “quoted”",
        images=("https://example.com/a.png",),
        variants=(
            Variant(
                sku="tee-S",
                options={"Size": "S"},
                price_minor=10**11,
                prices_minor={"USD": 1, "JPY": 2},
                policy="backorder",
                available_on="2030-01-31",
                hold_policy="on_checkout",
                hold_ttl_seconds=60,
                min_quantity=2,
                max_quantity=8,
                multiple_of=2,
                max_per_customer=PurchaseLimit(quantity=8, window_seconds=60),
            ),
        ),
    )

    stored, changed = await catalog.put_product(given)

    assert changed is True
    (variant,) = given.variants
    its = msgspec.structs.replace(variant, terms_revision=stored.revision)
    assert stored == msgspec.structs.replace(given, revision=stored.revision, variants=(its,))
    assert await catalog.get_product("tee") == stored


async def test_put_keeps_the_revision_when_nothing_changed(catalog: CatalogRepository) -> None:
    first, _ = await catalog.put_product(tee("S", "M"))

    again, changed = await catalog.put_product(tee("S", "M"))

    assert (again, changed) == (first, False)


@pytest.mark.parametrize(
    "change",
    [
        {"title": "Other"},
        {"description": "New"},
        {"seller": None},
        {"active": False},
        {"images": ("https://example.com/b.png",)},
        {"currency": "USD"},
        {"variants": (Variant(sku="tee-S", options={"Size": "S"}, price_minor=1_501),)},
    ],
)
async def test_put_makes_a_new_revision_of_any_change(
    catalog: CatalogRepository, change: dict[str, Any]
) -> None:
    first, _ = await catalog.put_product(tee("S"))

    second, changed = await catalog.put_product(tee("S", **change))

    assert changed is True
    assert second.revision > first.revision
    assert await catalog.by_revisions([first.revision, second.revision, 999]) == {
        first.revision: first,
        second.revision: second,
    }


async def test_put_ignores_the_revision_and_the_removed_variants_of_its_argument(
    catalog: CatalogRepository,
) -> None:
    first, _ = await catalog.put_product(tee("S"))
    invented = msgspec.structs.replace(first, revision=99, removed=tee("XL").variants)

    assert await catalog.put_product(invented) == (first, False)


async def test_put_counts_revisions_over_all_products(catalog: CatalogRepository) -> None:
    stored = [(await catalog.put_product(tee("S", id=f"p{n}")))[0] for n in range(3)]

    revisions = [product.revision for product in stored]
    assert revisions == sorted(set(revisions))
    assert await catalog.count() == 3


async def test_put_refuses_a_sku_that_another_product_lists(catalog: CatalogRepository) -> None:
    await catalog.put_product(tee("S"))
    thief = tee("A", id="thief")
    thief = msgspec.structs.replace(
        thief,
        variants=(*thief.variants, Variant(sku="tee-S", options={"Size": "B"}, price_minor=1)),
    )

    with pytest.raises(InvalidField, match="belongs to product tee") as caught:
        await catalog.put_product(thief)

    assert (caught.value.field, caught.value.sku) == ("variants[1].sku", "tee-S")
    assert await catalog.get_product("thief") is None


async def test_put_refuses_what_cannot_be_sold(catalog: CatalogRepository) -> None:
    with pytest.raises(InvalidField) as caught:
        await catalog.put_product(tee("S", title="a\0b"))

    assert caught.value.field == "title"


async def test_put_lets_one_product_have_a_sku_when_two_ask_at_once(catalog: CatalogRepository) -> None:
    """Goal: no SKU is listed twice. Method: twelve products that all want the same one, at once."""

    async def put(number: int) -> bool:
        wanted = tee("S", id=f"p{number}")
        shared = msgspec.structs.replace(wanted.variants[0], sku="shared")
        try:
            await catalog.put_product(msgspec.structs.replace(wanted, variants=(shared,)))
        except InvalidField:
            return False
        return True

    won = await asyncio.gather(*(put(number) for number in range(12)))

    assert sum(won) == 1
    assert await catalog.count() == 1


# --- removed variants ----------------------------------------------------------------------------


async def test_put_keeps_variants_that_are_no_longer_listed_as_removed(catalog: CatalogRepository) -> None:
    await catalog.put_product(tee("S", "M", "L"))

    stored, _ = await catalog.put_product(tee("M"))

    assert [variant.sku for variant in stored.variants] == ["tee-M"]
    assert [variant.sku for variant in stored.removed] == ["tee-S", "tee-L"]
    assert told(catalog.published([stored])) == {"tee-M": True, "tee-S": False, "tee-L": False}
    assert all(field.revision == stored.revision for field in catalog.published([stored]))
    found = await catalog.find_sku("tee-L")
    assert found == stored


async def test_put_lists_a_removed_variant_again(catalog: CatalogRepository) -> None:
    await catalog.put_product(tee("S", "M"))
    await catalog.put_product(tee("M"))

    stored, _ = await catalog.put_product(tee("S", "M"))

    assert stored.removed == ()
    assert told(catalog.published([stored])) == {"tee-S": True, "tee-M": True}


async def test_put_gives_a_removed_sku_to_a_product_that_lists_it(catalog: CatalogRepository) -> None:
    await catalog.put_product(tee("S", "M"))
    await catalog.put_product(tee("M"))
    heir = tee("X", id="heir")
    heir = msgspec.structs.replace(heir, variants=(msgspec.structs.replace(heir.variants[0], sku="tee-S"),))

    await catalog.put_product(heir)
    stored, changed = await catalog.put_product(tee("M"))

    assert changed is True
    assert stored.removed == ()
    found = await catalog.find_sku("tee-S")
    assert found is not None
    assert found.id == "heir"


async def test_put_products_lets_a_sku_move_within_one_call(catalog: CatalogRepository) -> None:
    await catalog.put_product(tee("S", "M"))
    heir = tee("X", id="heir")
    heir = msgspec.structs.replace(heir, variants=(msgspec.structs.replace(heir.variants[0], sku="tee-S"),))

    outcomes = await catalog.put_products([tee("M"), heir])

    assert [outcome[1] for outcome in outcomes if isinstance(outcome, tuple)] == [True, True]
    found = await catalog.find_sku("tee-S")
    assert found is not None
    assert found.id == "heir"


# --- many at once --------------------------------------------------------------------------------


async def test_put_products_stores_each_on_its_own(catalog: CatalogRepository) -> None:
    await catalog.put_product(tee("S", id="same"))
    given = [
        tee("S", id="new"),
        tee("S", id="same"),
        tee("S", id="bad", title=""),
        tee("S", id="new", title="Again"),
        msgspec.structs.replace(tee("S", id="new"), id="thief"),
    ]

    outcomes = await catalog.put_products(given)

    stored = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
    problems = [outcome for outcome in outcomes if not isinstance(outcome, tuple)]
    assert [(product.id, changed) for product, changed in stored] == [("new", True), ("same", False)]
    assert [problem.field for problem in problems] == ["title", "id", "variants[0].sku"]
    assert await catalog.count() == 2


async def test_put_products_does_nothing_for_none(catalog: CatalogRepository) -> None:
    assert await catalog.put_products([]) == []


async def test_put_products_remembers_the_first_quantity_of_new_skus_only(catalog: CatalogRepository) -> None:
    await catalog.put_product(tee("S"))
    await catalog.put_products([tee("S", "M", "L")], quantities={"tee-S": 1, "tee-M": 2, "tee-L": 0})

    await catalog.put_products([tee("S", "M", "L", title="New")], quantities={"tee-M": 7, "tee-L": 7})

    assert await catalog.stock_to_import(["tee-S", "tee-M", "tee-L", "tee-X"], "import") == {"tee-M": 2}


async def test_stock_to_import_leaves_out_what_the_ledger_has(
    catalog: CatalogRepository, archive: Archive
) -> None:
    await catalog.put_products([tee("S", "M", "L")], quantities={"tee-S": 1, "tee-M": 2, "tee-L": 3})
    story = Story()
    story.adjusted("tee-S", 1, 1, "import")
    story.adjusted("tee-M", 2, 2, "delivery")
    await archive.apply_events(story.events)

    assert await catalog.stock_to_import(["tee-S", "tee-M"], "import") == {"tee-M": 2}


# --- policy --------------------------------------------------------------------------------------


async def test_deleted_product_is_there_again_when_a_version_that_knows_no_deletion_stores_it(
    catalog: CatalogRepository, archive: Archive
) -> None:
    await catalog.put_product(tee("S"))
    await catalog.delete_product("tee")
    assert await catalog.get_product("tee") is None

    async with archive.database.transaction() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO product_revisions (product_id, doc)"
            " SELECT product_id, doc FROM product_revisions ORDER BY revision LIMIT 1"
        )
        await connection.exec_driver_sql(
            "UPDATE products SET revision = (SELECT max(revision) FROM product_revisions)"
        )

    again = await catalog.get_product("tee")
    assert again is not None
    assert [variant.sku for variant in again.variants] == ["tee-S"]


async def test_set_policy_makes_a_revision_with_that_policy(catalog: CatalogRepository) -> None:
    first, _ = await catalog.put_product(tee("S", "M"))

    stored = await catalog.set_policy("tee-M", "untracked")
    again = await catalog.set_policy("tee-M", "untracked")

    assert [variant.policy for variant in stored.variants] == ["deny", "untracked"]
    assert stored.revision > first.revision
    assert again == stored == await catalog.get_product("tee")


async def test_set_policy_refuses_a_sku_that_is_not_listed(catalog: CatalogRepository) -> None:
    await catalog.put_product(tee("S", "M"))
    await catalog.put_product(tee("M"))

    for sku in ("tee-S", "nothing"):
        with pytest.raises(ProductNotFound):
            await catalog.set_policy(sku, "deny")


# --- reading -------------------------------------------------------------------------------------


async def test_get_gives_nothing_for_what_is_not_there(catalog: CatalogRepository) -> None:
    assert await catalog.get_product("tee") is None
    assert await catalog.find_sku("tee-S") is None
    assert await catalog.by_revisions([]) == {}


async def test_list_pages_through_all_products_by_id(catalog: CatalogRepository) -> None:
    await catalog.put_products([tee("S", id=f"p{n}") for n in (3, 1, 5, 2, 4)])

    first, cursor = await catalog.list_products(limit=2)
    second, cursor = await catalog.list_products(limit=2, cursor=cursor)
    third, end = await catalog.list_products(limit=2, cursor=cursor)

    assert [product.id for product in first + second + third] == ["p1", "p2", "p3", "p4", "p5"]
    assert end is None
    assert (await catalog.list_products(limit=5))[1] is None


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("tee", ["a", "b"]),
        ("TEE blue", ["b"]),
        ("ee", ["a", "b"]),
        ("100%", ["c"]),
        ("%", ["c"]),
        ("_", []),
        ("'; DROP", []),
        ("größe", ["d"]),
        ("GRÖSSE", []),
        ("GRÖßE", ["d"]),
        ("", ["a", "b", "c", "d"]),
        ("  ", ["a", "b", "c", "d"]),
        ("a\0", []),
        ("\ud800", []),
    ],
)
async def test_list_finds_titles_with_every_word(
    catalog: CatalogRepository, q: str, found: list[str]
) -> None:
    titles = {"a": "Red Tee", "b": "Blue tee", "c": "100% wool", "d": "Größe L"}
    await catalog.put_products([tee("S", id=id_, title=title) for id_, title in titles.items()])

    page, _ = await catalog.list_products(q=q)

    assert [product.id for product in page] == found


async def test_list_filters_by_seller(catalog: CatalogRepository) -> None:
    await catalog.put_products(
        [tee("S", id="a"), tee("S", id="b", seller="skerry"), tee("S", id="c", seller=None)]
    )

    assert [product.id for product in (await catalog.list_products(seller="tern"))[0]] == ["a"]
    assert await catalog.list_products(seller="a\0") == ([], None)
    assert await catalog.list_products(cursor="a\0") == ([], None)


async def test_published_says_what_scripts_need(catalog: CatalogRepository) -> None:
    given = tee(
        "S",
        seller=None,
        variants=(
            Variant(
                sku="tee-S",
                options={"Size": "S"},
                price_minor=1_500,
                policy="backorder",
                hold_policy="on_checkout",
                hold_ttl_seconds=60,
                min_quantity=2,
                max_quantity=8,
                multiple_of=2,
            ),
        ),
    )
    stored, _ = await catalog.put_product(given)

    assert catalog.published([stored]) == [
        SkuFields(
            sku="tee-S",
            product_id="tee",
            seller="",
            revision=stored.revision,
            price_minor=1_500,
            currency="EUR",
            is_active=True,
            policy="backorder",
            hold_policy="on_checkout",
            hold_ttl_ms=60_000,
            min_quantity=2,
            max_quantity=8,
            multiple_of=2,
            terms_revision=stored.revision,
        )
    ]


async def test_published_has_zero_for_no_limit_and_inactive_for_an_inactive_product(
    catalog: CatalogRepository,
) -> None:
    stored, _ = await catalog.put_product(tee("S", active=False))

    (fields,) = catalog.published([stored])
    assert (fields.is_active, fields.hold_ttl_ms, fields.max_quantity) == (False, 0, 0)


async def test_all_sku_fields_gives_every_sku_once(
    catalog: CatalogRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cartstore.catalog.repository.PRODUCTS_PER_CHUNK", 2)
    await catalog.put_products([tee("S", "M", id=f"p{n}") for n in range(5)])
    await catalog.put_product(tee("M", id="p0"))

    chunks = [chunk async for chunk in catalog.all_sku_fields()]

    fields = [field for chunk in chunks for field in chunk]
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    assert len({field.sku for field in fields}) == 10
    assert [field.sku for field in fields if not field.is_active] == ["p0-S"]


async def test_all_sku_fields_gives_nothing_for_an_empty_catalog(catalog: CatalogRepository) -> None:
    assert [chunk async for chunk in catalog.all_sku_fields()] == []
