"""Importing into the real catalog: what is stored, published and stocked, and what a second import leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from archive_shop import Story

from cartstore.archive import Archive
from cartstore.catalog.importing import IMPORT_REFERENCE, ImportReport, import_catalog
from cartstore.catalog.repository import CatalogRepository
from cartstore.errors import InvalidField, LimitExceeded, StoreUnavailable
from cartstore.model import Partition, Product, SkuFields, Variant

SHARED = Path(__file__).parents[2].parent / "shared/data"
DEMO = Path(__file__).parents[2] / "cartstore/demo/catalog.csv"

COLUMNS = (
    "Handle,Title,Vendor,Option1 Name,Option1 Value,Variant SKU,Variant Inventory Qty,"
    "Variant Inventory Policy,Variant Price\n"
)
SHOP = COLUMNS + (
    "mug,Mug,Tern,Title,Default Title,MUG,5,deny,15.00\n"
    "tee,Tee,Tern,Size,S,TEE-S,3,deny,20.00\n"
    "tee,,,,M,TEE-M,0,deny,20.00\n"
    "tee,,,,L,TEE-L,2,continue,20.00\n"
    "bad,Bad,Tern,Title,Default Title,BAD,1,deny,free\n"
)
WOO_COLUMNS = "ID,Type,SKU,Name,Published,In stock?,Stock,Regular price\n"


class Engine:
    """What the import tells the engine, and what it gives to the ledger."""

    def __init__(self) -> None:
        self.published: dict[str, SkuFields] = {}
        self.stock: dict[str, int] = {}
        self.steps: list[str] = []
        self.down = False

    async def publish(self, skus: Sequence[SkuFields]) -> None:
        self.steps.append("publish")
        if self.down:
            raise StoreUnavailable
        self.published |= {fields.sku: fields for fields in skus}

    async def adjust(self, sku: str, quantity: int) -> None:
        self.steps.append(f"adjust {sku}")
        if self.down:
            raise StoreUnavailable
        # As the store does it: the reference makes a repetition harmless.
        self.stock.setdefault(sku, quantity)


@pytest.fixture
async def archive(database_url: str) -> AsyncIterator[Archive]:
    archive = await Archive.open(database_url, Partition("main"))
    yield archive
    await archive.close()


@pytest.fixture
def catalog(archive: Archive) -> CatalogRepository:
    return CatalogRepository(archive.database)


@pytest.fixture
def engine() -> Engine:
    return Engine()


def _bytes_of(source: str | Path) -> bytes | Path:
    return source if isinstance(source, Path) else source.encode()


async def run(
    catalog: CatalogRepository, engine: Engine, source: str | Path, currency: str = "EUR"
) -> ImportReport:
    return await import_catalog(
        _bytes_of(source),
        catalog=catalog,
        currency=currency,
        publish=engine.publish,
        adjust=engine.adjust,
    )


async def product_of(catalog: CatalogRepository, product_id: str) -> Product:
    product = await catalog.get_product(product_id)
    assert product is not None
    return product


async def test_import_stores_publishes_and_stocks(catalog: CatalogRepository, engine: Engine) -> None:
    report = await run(catalog, engine, SHOP)

    assert (report.products, report.changed_products, report.imported_variants) == (2, 2, 4)
    assert report.stocked == 3
    assert [(rejection.line, rejection.name) for rejection in report.rejected] == [(6, "BAD")]
    assert (await product_of(catalog, "tee")).seller == "Tern"
    assert {sku: fields.policy for sku, fields in engine.published.items()} == {
        "MUG": "deny",
        "TEE-S": "deny",
        "TEE-M": "deny",
        "TEE-L": "backorder",
    }
    assert engine.stock == {"MUG": 5, "TEE-S": 3, "TEE-L": 2}
    assert engine.steps[0] == "publish"
    assert engine.steps.count("publish") == 1


async def test_import_again_changes_prices_and_texts_and_never_stock(
    catalog: CatalogRepository, engine: Engine
) -> None:
    await run(catalog, engine, SHOP)
    before = await product_of(catalog, "mug")
    changed = SHOP.replace("mug,Mug", "mug,Big Mug").replace("MUG,5,deny,15.00", "MUG,99,deny,16.00")

    report = await run(catalog, engine, changed.replace("TEE-M,0", "TEE-M,7"))

    after = await product_of(catalog, "mug")
    assert (report.products, report.changed_products) == (2, 1)
    assert (after.title, after.variants[0].price_minor) == ("Big Mug", 1_600)
    assert after.revision > before.revision
    assert engine.published["MUG"].price_minor == 1_600
    assert engine.stock == {"MUG": 5, "TEE-S": 3, "TEE-L": 2}


async def test_import_again_leaves_stock_that_the_ledger_has(
    catalog: CatalogRepository, engine: Engine, archive: Archive
) -> None:
    await run(catalog, engine, SHOP)
    story = Story()
    for sku, quantity in engine.stock.items():
        story.adjusted(sku, quantity, quantity, IMPORT_REFERENCE)
    await archive.apply_events(story.events)
    engine.steps.clear()

    report = await run(catalog, engine, SHOP)

    assert engine.steps == ["publish"]
    assert (report.stocked, report.changed_products) == (0, 0)


async def test_import_again_keeps_what_was_set_for_a_variant_since(
    catalog: CatalogRepository, engine: Engine
) -> None:
    """A variant that is counted by now must not be made untracked again: it would sell without end."""
    woo = WOO_COLUMNS + "7,simple,cup,Cup,1,1,,15\n"
    await run(catalog, engine, woo)
    await catalog.set_policy("cup", "deny")
    stored = await product_of(catalog, "cup")
    (cup,) = stored.variants
    cup = msgspec.structs.replace(cup, prices_minor={"USD": 1_700}, max_quantity=4)
    await catalog.put_product(msgspec.structs.replace(stored, variants=(cup,)))

    await run(catalog, engine, woo.replace(",15", ",16"))

    (after,) = (await product_of(catalog, "cup")).variants
    assert after == msgspec.structs.replace(cup, price_minor=1_600)
    assert engine.stock == {}


async def test_import_gives_no_stock_to_a_sku_that_the_catalog_knew(
    catalog: CatalogRepository, engine: Engine
) -> None:
    await catalog.put_product(
        Product(
            id="mug", title="Mug", currency="EUR", variants=(Variant(sku="MUG", options={}, price_minor=1),)
        )
    )

    await run(catalog, engine, SHOP)

    assert "MUG" not in engine.stock


async def test_import_finishes_what_an_import_left_that_could_not_publish(
    catalog: CatalogRepository, engine: Engine
) -> None:
    engine.down = True
    with pytest.raises(StoreUnavailable):
        await run(catalog, engine, SHOP)
    assert await catalog.count() == 2

    engine.down = False
    report = await run(catalog, engine, SHOP.replace("MUG,5", "MUG,6"))

    assert (report.changed_products, report.stocked) == (0, 3)
    assert engine.stock == {"MUG": 5, "TEE-S": 3, "TEE-L": 2}
    assert set(engine.published) == {"MUG", "TEE-S", "TEE-M", "TEE-L"}


async def test_import_removes_variants_that_the_file_lists_no_longer(
    catalog: CatalogRepository, engine: Engine
) -> None:
    await run(catalog, engine, SHOP)

    await run(catalog, engine, SHOP.replace("tee,,,,M,TEE-M,0,deny,20.00\n", ""))

    assert [variant.sku for variant in (await product_of(catalog, "tee")).variants] == ["TEE-S", "TEE-L"]
    assert engine.published["TEE-M"].is_active is False


async def test_import_keeps_a_variant_whose_row_is_wrong_this_time(
    catalog: CatalogRepository, engine: Engine
) -> None:
    await run(catalog, engine, SHOP)

    report = await run(catalog, engine, SHOP.replace("TEE-M,0,deny,20.00", "TEE-M,0,deny,20,00"))

    tee = await product_of(catalog, "tee")
    assert [variant.sku for variant in tee.variants] == ["TEE-S", "TEE-L", "TEE-M"]
    assert [rejection.line for rejection in report.rejected] == [4, 6]
    assert engine.published["TEE-M"].is_active is True


async def test_import_names_a_product_whose_sku_another_product_lists(
    catalog: CatalogRepository, engine: Engine
) -> None:
    await catalog.put_product(
        Product(id="other", title="Other", currency="EUR", variants=(Variant(sku="TEE-S", price_minor=1),))
    )

    report = await run(catalog, engine, SHOP)

    assert [(rejection.line, rejection.name) for rejection in report.rejected] == [(3, "tee"), (6, "BAD")]
    assert "belongs to product other" in report.rejected[0].reason
    assert report.products == 1
    assert await catalog.get_product("tee") is None


async def test_import_names_a_variant_whose_stock_is_refused(
    catalog: CatalogRepository, engine: Engine
) -> None:
    async def adjust(sku: str, quantity: int) -> None:
        if sku == "TEE-S":
            raise LimitExceeded("The stock would be too high.")
        await engine.adjust(sku, quantity)

    report = await import_catalog(
        SHOP.encode(), catalog=catalog, currency="EUR", publish=engine.publish, adjust=adjust
    )

    assert report.stocked == 2
    assert [(rejection.line, rejection.name) for rejection in report.rejected] == [(3, "TEE-S"), (6, "BAD")]
    assert "would be too high" in report.rejected[0].reason


@pytest.mark.parametrize(
    "source",
    ["", "hello world", "a,b\n1,2\n", SHOP + '"never closed\n', SHOP.replace("Variant Price", "Price")],
)
async def test_import_changes_nothing_when_the_file_is_no_export(
    catalog: CatalogRepository, engine: Engine, source: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        await run(catalog, engine, source)

    assert caught.value.field == "file"
    assert await catalog.count() == 0
    assert engine.steps == []


@pytest.mark.parametrize("bound", ["BATCH_PRODUCTS", "BATCH_VARIANTS"])
async def test_import_tells_its_progress(
    catalog: CatalogRepository, engine: Engine, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(f"cartstore.catalog.importing.{bound}", 1)
    told: list[tuple[int, int | None]] = []

    await import_catalog(
        SHOP.encode(),
        catalog=catalog,
        currency="EUR",
        publish=engine.publish,
        adjust=engine.adjust,
        on_progress=lambda done, total: told.append((done, total)),
    )

    assert [total for _, total in told] == [5] * len(told)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert (told[0], told[-1]) == ((0, 5), (5, 5))
    assert len(told) >= 4


async def test_import_takes_the_shared_exports_and_the_demo(
    catalog: CatalogRepository, engine: Engine
) -> None:
    """Every row is a variant's, a parent's that became a product, or named."""
    for path in (*sorted(SHARED.glob("*.csv")), DEMO):
        report = await run(catalog, engine, path, "USD")
        expected = 2 if path.name.startswith("woo") else 0
        assert len(report.rejected) == expected, path.name
        assert report.products == report.changed_products > 0

        again = await run(catalog, engine, path, "USD")
        assert again.changed_products == 0
        assert again.products == report.products
