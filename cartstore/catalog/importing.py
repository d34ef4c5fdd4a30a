"""Import of a shop's export into catalog, engine and stock. Owns the order of the three, and what importing
again leaves alone. Refuses to know any format (one module each) and how the engine is told.

Each batch is committed to the database, then published, then stocked: a SKU that can be bought is
recorded, and a crash in between is finished by importing again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from cartstore.catalog.csv_source import CsvSource
from cartstore.catalog.headers import canonical, folded, is_shopify_column
from cartstore.catalog.money import exponent_of
from cartstore.catalog.moves import FileIndex, Groups, SkuOwner
from cartstore.catalog.ndjson import NdjsonSource, is_ndjson, parse_ndjson
from cartstore.catalog.parsed import Note, Parsed, ParsedProduct, Rejection
from cartstore.catalog.repository import CatalogRepository
from cartstore.catalog.shopify import BlankTracker, is_shopify, parse_shopify
from cartstore.catalog.woocommerce import is_woocommerce, parse_woocommerce
from cartstore.catalog.woocommerce_headers import is_woocommerce_column
from cartstore.errors import CartError, Invalid, InvalidField
from cartstore.model import Product, SkuFields

IMPORT_REFERENCE: Final = "import"
"""The stock reference of a variant's initial stock."""

BATCH_PRODUCTS: Final = 200
BATCH_VARIANTS: Final = 500
"""A batch ends at the first of the two; progress is told after each."""

STOCK_CALLS_AT_ONCE: Final = 64
OWNERS_PER_QUERY: Final = 20_000

Publish = Callable[[Sequence[SkuFields]], Awaitable[None]]
Adjust = Callable[[str, int], Awaitable[object]]
Progress = Callable[[int, int | None], None]


Columns = Mapping[str, str]
"""Names of columns that the readers know, by those that a file has in their place."""

_NO_COLUMNS: Final[Columns] = {}


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
    moved_skus: int = 0
    """SKUs that came from another product."""
    rejected: list[Rejection] = []
    notes: list[Note] = []
    """What was imported in another way than the file has it."""


class CatalogFile:
    """A shop's export, recognised by its first line: an iterator of products and rejections.

    Raises InvalidField (file) when it is made, for a file that is none of the known kinds.
    """

    def __init__(
        self,
        source: Path | bytes,
        *,
        currency: str,
        blank_tracker: BlankTracker = "untracked",
        columns: Columns = _NO_COLUMNS,
    ) -> None:
        exponent_of(currency)
        self._source: CsvSource | NdjsonSource
        if is_ndjson(source):
            self._source = lines = NdjsonSource(source)
            self._parsed = parse_ndjson(lines, currency=currency)
            return
        self._source = table = CsvSource(source)
        _rename(table, columns)
        if is_shopify(table.columns):
            self._parsed = parse_shopify(table, currency=currency, blank_tracker=blank_tracker)
        elif is_woocommerce(table.columns):
            self._parsed = parse_woocommerce(table, currency=currency)
        else:
            raise InvalidField(
                "This is no product export: the first line must name Shopify's columns (Handle, Title,"
                " Variant Price, ...) or WooCommerce's (ID, Type, SKU, Name, ...), separated by commas;"
                " or each line must be a product as JSON (NDJSON).",
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


def _rename(table: CsvSource, columns: Columns) -> None:
    """Raise InvalidField (columns) for a name that the file or the readers do not have."""
    theirs = {folded(name) for name in table.columns}
    for name, known in columns.items():
        if folded(name) not in theirs:
            raise InvalidField(f"The file has no column {name[:80]!r}.", field="columns")
        if not (is_shopify_column(known) or is_woocommerce_column(known)):
            raise InvalidField(f"{known[:80]!r} is no column of Shopify or WooCommerce.", field="columns")
    table.rename(canonical(table.columns, (), columns))


def parse_catalog(
    source: Path | bytes,
    *,
    currency: str,
    blank_tracker: BlankTracker = "untracked",
    columns: Columns = _NO_COLUMNS,
) -> CatalogFile:
    """Products, rejections and notes of an export of Shopify or WooCommerce, or of NDJSON, told apart by how
    the file begins.

    `columns`: names that the readers know, by those that the file has in their place. Raises InvalidField
    (field `file`) when it is no such file, InvalidField (columns, currency).
    """
    return CatalogFile(source, currency=currency, blank_tracker=blank_tracker, columns=columns)


async def import_catalog(
    source: Path | bytes,
    *,
    catalog: CatalogRepository,
    currency: str,
    publish: Publish,
    adjust: Adjust,
    blank_tracker: BlankTracker = "untracked",
    columns: Columns = _NO_COLUMNS,
    on_progress: Progress | None = None,
) -> ImportReport:
    """Import an export; what was done, and each row that was not taken, with its reason.

    The file is read twice: the first pass finds which products exchange SKUs and are stored together.
    `adjust(sku, quantity)` gives a variant its initial stock. It is called for SKUs that the catalog saw
    first in an import with that quantity, until the ledger has an adjustment of theirs under
    IMPORT_REFERENCE; the caller makes a repetition harmless. Importing again changes what the file says
    otherwise than at its last import, never stock.

    Raises InvalidField (file) when the source is no export: nothing was changed then. StoreUnavailable and
    OutcomeUnknown in the middle leave whole batches imported; import again.
    """
    parse = partial(
        parse_catalog,
        source,
        currency=currency,
        blank_tracker=blank_tracker,
        columns=columns,
    )
    # Reading blocks, and a file may be large: a thread does it while the loop serves others.
    file = await asyncio.to_thread(parse)
    if on_progress is not None:
        on_progress(0, file.rows_total)
    index = await asyncio.to_thread(FileIndex.of, file)
    groups = Groups(index, await _owners(catalog, sorted(index.product_of_sku)))
    file = await asyncio.to_thread(parse)
    batches = _batches(file, groups)
    report = ImportReport(rejected=[], notes=[])
    while batch := await asyncio.to_thread(next, batches, None):
        report.rejected += [entry for entry in batch if isinstance(entry, Rejection)]
        report.notes += [entry for entry in batch if isinstance(entry, Note)]
        parsed = [entry for entry in batch if isinstance(entry, ParsedProduct)]
        if parsed:
            await _take(parsed, index, catalog, publish, adjust, report)
        if on_progress is not None:
            on_progress(file.rows_done, file.rows_total)
    report.rejected.sort(key=lambda rejection: rejection.line)
    report.notes.sort(key=lambda note: note.line)
    return report


async def _owners(catalog: CatalogRepository, skus: Sequence[str]) -> dict[str, SkuOwner]:
    found: dict[str, SkuOwner] = {}
    for start in range(0, len(skus), OWNERS_PER_QUERY):
        found |= await catalog.owners(skus[start : start + OWNERS_PER_QUERY])
    return found


def _batches(entries: Iterable[Parsed], groups: Groups) -> Iterator[list[Parsed]]:
    """The entries of a file in batches. The products of a group are in one batch."""
    batch: list[Parsed] = []
    variants = 0
    waiting: dict[str, list[Parsed]] = {}
    for entry in entries:
        if isinstance(entry, ParsedProduct):
            group = groups.of(entry.product.id)
            variants += len(entry.product.variants)
        else:
            group = None
        if group is None:
            batch.append(entry)
        else:
            waiting.setdefault(group, []).append(entry)
            if len(waiting[group]) == groups.size(group):
                batch += waiting.pop(group)
        if batch and (len(batch) >= BATCH_PRODUCTS or variants >= BATCH_VARIANTS):
            yield batch
            batch, variants = [], 0
    # A group is incomplete when the file was changed between the two passes.
    batch += [entry for entries in waiting.values() for entry in entries]
    if batch:
        yield batch


async def _take(
    parsed: Sequence[ParsedProduct],
    index: FileIndex,
    catalog: CatalogRepository,
    publish: Publish,
    adjust: Adjust,
    report: ImportReport,
) -> None:
    """Record, publish and stock one batch."""
    imported = await catalog.import_products(parsed, index)
    report.rejected += imported.rejections
    report.notes += imported.notes
    report.moved_skus += imported.moved
    stored: list[Product] = []
    for entry, outcome in zip(parsed, imported.outcomes, strict=True):
        if isinstance(outcome, Invalid):
            report.rejected.append(Rejection(line=entry.line, name=entry.name, reason=outcome.message))
        elif outcome is None:
            text = "The product was deleted, and its rows are as they were then: it stays so."
            report.notes.append(Note(line=entry.line, name=entry.name, text=text))
        else:
            product, is_changed = outcome
            stored.append(product)
            report.products += 1
            report.imported_variants += len(entry.product.variants)
            report.changed_products += is_changed
    await publish(catalog.published(imported.published))
    await _stock(stored, parsed, catalog, adjust, report)


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
    skus = sorted(tracked)
    for start in range(0, len(skus), STOCK_CALLS_AT_ONCE):
        # Asked right before the calls: of an engine that is rebuilt in between, only the record knows which
        # references were used.
        chosen = skus[start : start + STOCK_CALLS_AT_ONCE]
        part = list((await catalog.stock_to_import(chosen, IMPORT_REFERENCE)).items())
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
