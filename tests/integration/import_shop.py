"""A catalog that files are imported into, and an engine that notes what it is told: for tests of imports."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec
import pytest
from _pytest.mark.structures import ParameterSet

from cartstore.archive import Archive
from cartstore.catalog.importing import ImportReport, import_catalog
from cartstore.catalog.repository import CatalogRepository
from cartstore.errors import StoreUnavailable
from cartstore.model import Product, SkuFields, Variant

HEADER = (
    "Handle,Title,Option1 Name,Option1 Value,Variant SKU,Variant Inventory Qty,Variant Inventory Policy,"
    "Variant Price\n"
)


def product(handle: str, *rows: str, title: str | None = None, option: str = "Size") -> str:
    """The rows of one product: each `SKU=value` of its option, or a bare SKU for one without options; a
    price may follow (`SKU=value@12.00`)."""
    lines: list[str] = []
    for row in rows:
        variant, _, price = row.partition("@")
        sku, _, value = variant.partition("=")
        name, value = (option, value) if value else ("Title", "Default Title")
        head = title or handle.title() if not lines else ""
        lines.append(f"{handle},{head},{name if not lines else ''},{value},{sku},5,deny,{price or '10.00'}\n")
    return "".join(lines)


def file(*products: str) -> str:
    return HEADER + "".join(products)


def orders(*products: str) -> list[ParameterSet]:
    """The file with its products in every order, as parameters of a test."""
    return [
        pytest.param(file(*some), id="-".join(rows.partition(",")[0] for rows in some))
        for some in itertools.permutations(products)
    ]


class ImportShop:
    def __init__(self, archive: Archive) -> None:
        self.catalog = CatalogRepository(archive.database)
        self.told: dict[str, SkuFields] = {}
        """What the engine knows of each SKU: as there, an older revision changes nothing."""
        self.last_told: list[str] = []
        """SKUs of the last import, as often as they were published."""
        self.stock: dict[str, int] = {}
        self.down = False

    async def publish(self, skus: Sequence[SkuFields]) -> None:
        if self.down:
            raise StoreUnavailable
        for fields in skus:
            self.last_told.append(fields.sku)
            known = self.told.get(fields.sku)
            if known is None or known.revision < fields.revision:
                self.told[fields.sku] = fields

    async def adjust(self, sku: str, quantity: int) -> None:
        self.stock.setdefault(sku, quantity)

    async def run(self, text: str, currency: str = "USD") -> ImportReport:
        """Import a file."""
        self.last_told.clear()
        return await import_catalog(
            text.encode(), catalog=self.catalog, currency=currency, publish=self.publish, adjust=self.adjust
        )

    async def get(self, product_id: str) -> Product:
        found = await self.catalog.get_product(product_id)
        assert found is not None, product_id
        return found

    async def skus(self, product_id: str) -> list[str]:
        """The SKUs that a product lists."""
        return [variant.sku for variant in (await self.get(product_id)).variants]

    async def put(self, product: Product) -> Product:
        """What an admin does."""
        stored, _ = await self.catalog.put_product(product)
        await self.publish(self.catalog.published([stored]))
        return stored

    async def change(self, product_id: str, **changes: object) -> Product:
        """An admin changes fields of a product."""
        return await self.put(msgspec.structs.replace(await self.get(product_id), **changes))

    async def change_variant(self, product_id: str, sku: str, **changes: object) -> Product:
        """An admin changes fields of a variant."""
        found = await self.get(product_id)
        variants = tuple(
            msgspec.structs.replace(its, **changes) if its.sku == sku else its for its in found.variants
        )
        return await self.put(msgspec.structs.replace(found, variants=variants))

    async def remove(self, product_id: str, sku: str) -> Product:
        """An admin removes a variant."""
        found = await self.get(product_id)
        return await self.put(
            msgspec.structs.replace(found, variants=tuple(its for its in found.variants if its.sku != sku))
        )

    async def delete(self, product_id: str) -> None:
        """An admin deletes a product."""
        await self.publish(self.catalog.published([await self.catalog.delete_product(product_id)]))

    async def check(self) -> dict[str, tuple[str, bool]]:
        """Owner and whether it is on sale, of every SKU, as the engine knows it; what the catalog would
        publish is the same."""
        wanted: list[SkuFields] = []
        async for page in self.catalog.all_sku_fields():
            wanted += page
        assert len({its.sku for its in wanted}) == len(wanted)
        assert {its.sku: its for its in wanted} == self.told
        return {its.sku: (its.product_id, its.is_active) for its in wanted}


def variant(sku: str, **fields: object) -> Variant:
    return msgspec.structs.replace(Variant(sku=sku, price_minor=1_000), **fields)
