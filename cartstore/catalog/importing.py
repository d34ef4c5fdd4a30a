"""Import of a shop's export into catalog, engine and stock. Owns the order of the three, and what importing
again leaves alone. Refuses to know any format (one module each) and how the engine is told.

Each batch is committed to the database, then published, then stocked: a SKU that can be bought is
recorded, and a crash in between is finished by importing again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from cartstore.catalog.csv_source import CsvSource
from cartstore.catalog.money import exponent_of
from cartstore.catalog.parsed import Parsed, ParsedProduct, Rejection
from cartstore.catalog.repository import CatalogRepository
from cartstore.catalog.shopify import is_shopify, parse_shopify
from cartstore.catalog.woocommerce import is_woocommerce, parse_woocommerce
from cartstore.errors import CartError, Invalid, InvalidField
from cartstore.model import Product, SkuFields, Variant

IMPORT_REFERENCE: Final = "import"
"""The stock reference of a variant's initial stock."""

BATCH_PRODUCTS: Final = 200
STOCK_CALLS_AT_ONCE: Final = 64

Publish = Callable[[Sequence[SkuFields]], Awaitable[None]]
Adjust = Callable[[str, int], Awaitable[object]]
Progress = Callable[[int, int | None], None]


class ImportReport(msgspec.Struct, kw_only=True):
    """What an import did."""

    products: int = 0
    """Products of the file that are in the catalog now."""
    imported_variants: int = 0
    """Variants that these products list."""
    changed_products: int = 0
    """Those of the products that are new or differ from before."""
    stocked: int = 0
    """Variants that were given their initial stock."""
    rejected: list[Rejection] = []


class CatalogFile:
    """A shop's export, recognised by its header: an iterator of products and rejections.

    Raises InvalidField (file) when it is made, for a file that is none of the known kinds.
    """

    def __init__(self, source: Path | bytes, *, currency: str, today: date | None = None) -> None:
        exponent_of(currency)
        self._source = CsvSource(source)
        columns = self._source.columns
        if is_shopify(columns):
            self._parsed = parse_shopify(self._source, currency=currency)
        elif is_woocommerce(columns):
            today = today or datetime.now(UTC).date()
            self._parsed = parse_woocommerce(self._source, currency=currency, today=today)
        else:
            raise InvalidField(
                "This is no product export: the first line must name Shopify's columns (Handle, Title,"
                " Variant Price, ...) or WooCommerce's (ID, Type, SKU, Name, ...), separated by commas.",
                field="file",
            )

    def __iter__(self) -> Iterator[Parsed]:
        return self._parsed

    @property
    def rows_done(self) -> int:
        return self._source.rows_done

    @property
    def rows_total(self) -> int:
        return self._source.rows_total


def parse_catalog(source: Path | bytes, *, currency: str, today: date | None = None) -> CatalogFile:
    """Products and rejections of an export of Shopify or WooCommerce, told apart by the header.

    Raises InvalidField (field `file`) when it is no such file, InvalidField (currency).
    """
    return CatalogFile(source, currency=currency, today=today)


async def import_catalog(
    source: Path | bytes,
    *,
    catalog: CatalogRepository,
    currency: str,
    publish: Publish,
    adjust: Adjust,
    on_progress: Progress | None = None,
) -> ImportReport:
    """Import an export; what was done, and each row that was not taken, with its reason.

    `adjust(sku, quantity)` gives a variant its initial stock. It is called for SKUs that the catalog saw
    first in an import with that quantity, until the ledger has an adjustment of theirs under
    IMPORT_REFERENCE; the caller makes a repetition harmless. Importing again changes prices and texts, never
    stock, nor what else was set for a variant since.

    Raises InvalidField (file) when the source is no export: nothing was changed then. StoreUnavailable and
    OutcomeUnknown in the middle leave whole batches imported; import again.
    """
    # Reading blocks, and a file may be large: a thread does it while the loop serves others.
    file = await asyncio.to_thread(parse_catalog, source, currency=currency)
    entries = iter(file)
    report = ImportReport(rejected=[])
    while batch := await asyncio.to_thread(lambda: list(islice(entries, BATCH_PRODUCTS))):
        report.rejected += [entry for entry in batch if isinstance(entry, Rejection)]
        parsed = [entry for entry in batch if isinstance(entry, ParsedProduct)]
        if parsed:
            stored = await _store(parsed, catalog, report)
            await publish(catalog.published(stored))
            await _stock(stored, parsed, catalog, adjust, report)
        if on_progress is not None:
            on_progress(file.rows_done, file.rows_total)
    report.rejected.sort(key=lambda rejection: rejection.line)
    return report


async def _store(
    parsed: Sequence[ParsedProduct], catalog: CatalogRepository, report: ImportReport
) -> list[Product]:
    whole = {entry.product.id for entry in parsed if entry.is_whole}
    outcomes = await catalog.put_products(
        [entry.product for entry in parsed],
        merge=lambda stored, given: _merged(stored, given, given.id in whole),
        quantities={sku: quantity for entry in parsed for sku, quantity in entry.quantities.items()},
    )
    stored: list[Product] = []
    for entry, outcome in zip(parsed, outcomes, strict=True):
        if isinstance(outcome, Invalid):
            report.rejected.append(Rejection(line=entry.line, name=entry.name, reason=outcome.message))
            continue
        product, is_changed = outcome
        # Also what did not change is published: an earlier import may have died before it was.
        stored.append(product)
        report.products += 1
        report.imported_variants += len(entry.product.variants)
        report.changed_products += is_changed
    return stored


def _merged(stored: Product, given: Product, is_whole: bool) -> Product:
    """The imported product over the one that is stored.

    Prices and texts come from the file. What decides about stock and quantities stays: turning a `deny`
    variant back to `untracked`, because the export does not count it, would let it sell without end.
    """
    known = {variant.sku: variant for variant in (*stored.removed, *stored.variants)}
    listed = [_merged_variant(known.get(variant.sku), variant) for variant in given.variants]
    if not is_whole and stored.options == given.options:
        # A rejected row may be the one of a variant that is on sale; a mistake in a file removes nothing.
        skus = {variant.sku for variant in listed}
        combinations = {tuple(sorted(variant.options.items())) for variant in listed}
        listed += [
            variant
            for variant in stored.variants
            if variant.sku not in skus and tuple(sorted(variant.options.items())) not in combinations
        ]
    return msgspec.structs.replace(given, variants=tuple(listed))


def _merged_variant(known: Variant | None, given: Variant) -> Variant:
    if known is None:
        return given
    return msgspec.structs.replace(known, options=given.options, price_minor=given.price_minor)


async def _stock(
    stored: Sequence[Product],
    parsed: Sequence[ParsedProduct],
    catalog: CatalogRepository,
    adjust: Adjust,
    report: ImportReport,
) -> None:
    lines = {entry.product.id: entry.line for entry in parsed}
    tracked = {
        variant.sku: lines[product.id]
        for product in stored
        for variant in product.variants
        if variant.policy != "untracked"
    }
    wanted = list((await catalog.stock_to_import(sorted(tracked), IMPORT_REFERENCE)).items())
    for start in range(0, len(wanted), STOCK_CALLS_AT_ONCE):
        part = wanted[start : start + STOCK_CALLS_AT_ONCE]
        results = await asyncio.gather(
            *(adjust(sku, quantity) for sku, quantity in part), return_exceptions=True
        )
        for (sku, _), result in zip(part, results, strict=True):
            if isinstance(result, CartError):
                reason = f"The stock was not set: {result.message}"
                report.rejected.append(Rejection(line=tracked[sku], name=sku, reason=reason))
            elif isinstance(result, BaseException):
                raise result
            else:
                report.stocked += 1
