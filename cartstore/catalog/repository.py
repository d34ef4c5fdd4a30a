"""Products and their revisions in PostgreSQL. Owns when a change makes a new revision and which product a
SKU belongs to. Refuses to know the engine: `published` only says what the engine has to be told.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec
from sqlalchemy import and_, exists, func, not_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from cartstore.archive.arrays import array_of
from cartstore.archive.database import Database
from cartstore.archive.tables import product_revisions, products, stock_ledger, variants
from cartstore.catalog.import_state import LastImport, save_last_import
from cartstore.catalog.merging import EMPTIED
from cartstore.catalog.moves import FileIndex, SkuOwner, StoredProduct, resolve
from cartstore.catalog.parsed import Note, ParsedProduct, Rejection
from cartstore.catalog.product_rows import (
    CURRENT,
    DOC,
    IS_KEPT,
    KEPT,
    decode_product,
    find_product_of_sku,
    lock_catalog,
    read_facts,
    read_one,
    read_owners,
    read_page,
    read_stored,
    write_products,
)
from cartstore.catalog.rules import ANY_REACH, Reach, check_product, sale_start_ms
from cartstore.catalog.sales import engine_sale
from cartstore.catalog.terms import carried, resolved
from cartstore.errors import Invalid, InvalidField, ProductNotFound, VersionConflict
from cartstore.limits import PAGE_SIZE_DEFAULT, VARIANTS_MAX
from cartstore.model import Product, SkuFields, StockPolicy, Variant
from cartstore.stored_json import note_unreadable
from cartstore.texts import has_control

PRODUCTS_PER_CHUNK: Final = 200
"""Of the products that are read at once when all of them are."""

SEARCH_WORDS_MAX: Final = 8

IfMatch = Sequence[int] | Literal["*"]
"""Revisions of which a product must have one; `*`: it must exist."""


class Imported(msgspec.Struct, kw_only=True):
    """What became of a batch of an import."""

    outcomes: list[tuple[Product, bool] | Invalid | None]
    """In the order given: the product and whether that is a new revision, the problem, or None for a deleted
    product that stays so."""
    published: list[Product]
    """All products that the engine is to be told of."""
    rejections: list[Rejection]
    notes: list[Note]
    moved: int
    """SKUs that came from another product."""


class CatalogRepository:
    """The catalog of one deployment, on the record's database. Every method may raise StoreUnavailable;
    those that write also OutcomeUnknown."""

    def __init__(self, database: Database, *, reach: Reach = ANY_REACH) -> None:
        self._database = database
        self._reach = reach

    # --- writing -------------------------------------------------------------------------------

    async def put_product(self, product: Product, *, if_match: IfMatch | None = None) -> tuple[Product, bool]:
        """Store a product; what is stored now, and whether that is a new revision.

        `revision`, `removed` and `first_id` of the argument are ignored. Nothing changes, and the revision
        stays, when the product is as it is stored already. Raises VersionConflict, InvalidField, also for a
        SKU that another product lists.
        """
        async with self._database.transaction() as connection:
            await lock_catalog(connection)
            await _check_match(connection, product.id, if_match)
            (outcome,) = await _store(connection, [product], {}, self._reach)
        if isinstance(outcome, Invalid):
            raise outcome
        return outcome

    async def put_products(
        self, given: Sequence[Product], *, quantities: Mapping[str, int] | None = None
    ) -> list[tuple[Product, bool] | Invalid]:
        """Store products in one transaction, each on its own: its outcome, in the order given.

        `quantities` are written down as the initial stock of SKUs that the catalog has never seen, and
        ignored for all others.
        """
        async with self._database.transaction() as connection:
            await lock_catalog(connection)
            return await _store(connection, given, quantities or {}, self._reach)

    async def import_products(self, given: Sequence[ParsedProduct], file: FileIndex) -> Imported:
        """Store products of a file in one transaction, each on its own, with the SKUs that move to them and
        what the file said."""
        async with self._database.transaction() as connection:
            await lock_catalog(connection)
            facts = await read_facts(connection, [parsed.product for parsed in given])
            done = resolve(given, facts, file, self._reach)
            wanted = {id: carried(product, facts.product_of_sku) for id, product in done.products.items()}
            changed = {
                product_id: product
                for product_id, product in wanted.items()
                if not _is_stored(product, facts.stored.get(product_id), product_id in done.deleted)
            }
            quantities = {sku: units for parsed in given for sku, units in parsed.quantities.items()}
            revisions = await write_products(connection, changed, quantities, deleted=done.deleted)
            revisions = {id: its.product.revision for id, its in facts.stored.items()} | revisions
            said = {
                product_id: {**said, EMPTIED: revisions[product_id]} if product_id in done.emptied else said
                for product_id, said in done.said_products.items()
            }
            await save_last_import(connection, facts.last, LastImport(said, done.said_variants))

        def stored(product: Product) -> Product:
            return resolved(msgspec.structs.replace(wanted[product.id], revision=revisions[product.id]))

        outcomes = [
            (stored(outcome), outcome.id in changed) if isinstance(outcome, Product) else outcome
            for outcome in done.outcomes
        ]
        # Also what did not change is published: an earlier import may have died before it was.
        return Imported(
            outcomes=outcomes,
            published=[stored(product) for product in done.products.values()],
            rejections=done.rejections,
            notes=done.notes,
            moved=done.moved,
        )

    async def owners(self, skus: Sequence[str]) -> dict[str, SkuOwner]:
        """Which product each of these SKUs belongs to; SKUs that no product ever listed are absent."""
        async with self._database.reading() as connection:
            return await read_owners(connection, skus)

    async def delete_product(self, product_id: str, *, if_match: IfMatch | None = None) -> Product:
        """Take a product out of the catalog for good; what the engine is to be told of it: its SKUs are not
        on sale, and free for other products. Repeated: the same. Raises ProductNotFound, VersionConflict."""
        async with self._database.transaction() as connection:
            await lock_catalog(connection)
            stored = (await read_stored(connection, [product_id])).get(product_id)
            if stored is None:
                raise ProductNotFound()
            if stored.is_deleted:
                return stored.product
            await _check_match(connection, product_id, if_match)
            product = stored.product
            gone = msgspec.structs.replace(
                product,
                revision=0,
                active=False,
                variants=(),
                removed=(*product.variants, *product.removed)[:VARIANTS_MAX],
            )
            revisions = await write_products(connection, {product_id: gone}, {}, deleted={product_id})
            return msgspec.structs.replace(gone, revision=revisions[product_id])

    async def set_policy(self, sku: str, policy: StockPolicy) -> Product:
        """Give one variant a stock policy, as a new revision of its product. Raises ProductNotFound."""
        async with self._database.transaction() as connection:
            await lock_catalog(connection)
            product = await find_product_of_sku(connection, sku)
            if product is None or product.variant(sku) is None:
                raise ProductNotFound(sku=sku)
            changed = tuple(
                msgspec.structs.replace(variant, policy=policy) if variant.sku == sku else variant
                for variant in product.variants
            )
            wanted = msgspec.structs.replace(product, variants=changed)
            (outcome,) = await _store(connection, [wanted], {}, self._reach)
            if isinstance(outcome, Invalid):
                raise outcome
            return outcome[0]

    # --- reading -------------------------------------------------------------------------------

    async def get_product(self, product_id: str) -> Product | None:
        """A product as it is now; None also for a deleted one."""
        async with self._database.reading() as connection:
            return await read_one(connection, KEPT.where(products.c.product_id == product_id))

    async def find_sku(self, sku: str) -> Product | None:
        """The product that lists a SKU, or that listed it last, which may be deleted since."""
        async with self._database.reading() as connection:
            return await find_product_of_sku(connection, sku)

    async def by_revisions(self, revisions: Iterable[int]) -> dict[int, Product]:
        """What the catalog said in these revisions. Revisions never change, so this may be kept."""
        query = select(product_revisions.c.revision, DOC).where(
            product_revisions.c.revision.in_(array_of(product_revisions.c.revision, sorted(set(revisions))))
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        found: dict[int, Product] = {}
        for row in rows:
            try:
                found[row.revision] = decode_product(row.revision, row.doc)
            except (msgspec.DecodeError, RecursionError) as error:
                # Whoever asks has another word for what is absent.
                note_unreadable("product revision", str(row.revision), "doc", error)
        return found

    async def list_products(
        self,
        *,
        q: str | None = None,
        seller: str | None = None,
        limit: int = PAGE_SIZE_DEFAULT,
        cursor: str | None = None,
    ) -> tuple[list[Product], str | None]:
        """A page of products by id, and the cursor of the next page: those whose title has every word of
        `q`, whatever the case, and whose seller is exactly `seller`."""
        if any(text and has_control(text) for text in (q, seller, cursor)):
            # No stored text has one, and PostgreSQL takes no NUL even to compare with.
            return [], None
        query = KEPT
        for word in (q or "").split()[:SEARCH_WORDS_MAX]:
            query = query.where(products.c.title.icontains(word, autoescape=True))
        if seller is not None:
            query = query.where(products.c.seller == seller)
        if cursor is not None:
            query = query.where(products.c.product_id > cursor)
        async with self._database.reading() as connection:
            return await read_page(connection, query, limit)

    async def count(self) -> int:
        """The number of products."""
        async with self._database.reading() as connection:
            query = select(func.count()).select_from(products).where(IS_KEPT)
            return (await connection.execute(query)).scalar_one()

    async def stock_to_import(self, skus: Sequence[str], reference: str) -> dict[str, int]:
        """Initial quantities of those SKUs whose adjustment under `reference` is not in the ledger yet.

        Zero quantities are absent. What the engine has and the record has not yet is named as well: the
        reference makes its repetition harmless.
        """
        recorded = exists().where(
            and_(
                stock_ledger.c.sku == variants.c.sku,
                stock_ledger.c.kind == "adjust",
                stock_ledger.c.reference == reference,
            )
        )
        query = select(variants.c.sku, variants.c.initial_quantity).where(
            variants.c.sku.in_(array_of(variants.c.sku, skus)),
            variants.c.initial_quantity > 0,
            not_(recorded),
        )
        async with self._database.reading() as connection:
            return {row.sku: row.initial_quantity for row in await connection.execute(query)}

    # --- for the engine ------------------------------------------------------------------------

    @staticmethod
    def published(changed: Iterable[Product]) -> list[SkuFields]:
        """What the engine is told of these products: their variants, and those removed as not on sale. Of
        several products that name a SKU, the newest one counts."""
        found: dict[str, SkuFields] = {}
        for product in changed:
            for is_listed, part in ((True, product.variants), (False, product.removed)):
                for variant in part:
                    fields = _sku_fields(product, variant, is_listed)
                    known = found.get(variant.sku)
                    if known is None or known.revision < fields.revision:
                        found[variant.sku] = fields
        return list(found.values())

    async def all_sku_fields(self) -> AsyncIterator[list[SkuFields]]:
        """The fields of every SKU, some products at a time, for publishing the whole catalog again. Each SKU
        comes once, as its owner has it."""
        cursor: str | None = ""
        while cursor is not None:
            async with self._database.reading() as connection:
                query = CURRENT.where(products.c.product_id > cursor)
                page, cursor = await read_page(connection, query, PRODUCTS_PER_CHUNK)
                fields = self.published(page)
                owners = await read_owners(connection, [its.sku for its in fields])
            own = [its for its in fields if owners[its.sku].product_id == its.product_id]
            if own:
                yield own


def _sku_fields(product: Product, variant: Variant, is_listed: bool) -> SkuFields:
    limit = variant.max_per_customer
    sale = engine_sale(variant)
    return SkuFields(
        sku=variant.sku,
        product_id=product.id,
        seller=product.seller or "",
        revision=product.revision,
        price_minor=sale.price_minor,
        currency=product.currency,
        is_active=is_listed and product.active,
        policy=variant.policy,
        hold_policy=variant.hold_policy,
        hold_ttl_ms=(variant.hold_ttl_seconds or 0) * 1_000,
        min_quantity=variant.min_quantity,
        max_quantity=variant.max_quantity or 0,
        multiple_of=variant.multiple_of,
        terms_revision=variant.terms_revision,
        starts_at_ms=sale_start_ms(variant.available_on) if variant.available_on else 0,
        limit_units=limit.quantity if limit else 0,
        limit_window_ms=limit.window_seconds * 1_000 if limit else 0,
        sale_price_minor=sale.sale_price_minor,
        sale_from_ms=sale.from_ms,
        sale_to_ms=sale.to_ms,
    )


async def _check_match(connection: AsyncConnection, product_id: str, wanted: IfMatch | None) -> None:
    """Raise VersionConflict unless the product has one of the wanted revisions."""
    if wanted is None:
        return
    stored = (await read_stored(connection, [product_id])).get(product_id)
    revision = stored.product.revision if stored is not None and not stored.is_deleted else 0
    if not revision or (wanted != "*" and revision not in wanted):
        raise VersionConflict(revision)


async def _store(
    connection: AsyncConnection, given: Sequence[Product], quantities: Mapping[str, int], reach: Reach
) -> list[tuple[Product, bool] | Invalid]:
    facts = await read_facts(connection, given)
    stored, owners = facts.stored, dict(facts.owners)
    outcomes: list[Product | Invalid] = []
    wanted: dict[str, Product] = {}
    for product in given:
        its = stored.get(product.id)
        before = its.product if its is not None else None
        try:
            if product.id in wanted:
                raise InvalidField("This product is given twice.", field="id")
            check_product(product, before, reach)
            _check_owners(product, owners)
        except Invalid as problem:
            outcomes.append(problem)
            continue
        wanted[product.id] = msgspec.structs.replace(
            product,
            revision=0,
            removed=_removed(before, product, owners),
            first_id=before.first_id if before is not None else "",
        )
        owners.update({variant.sku: SkuOwner(product.id, False) for variant in wanted[product.id].removed})
        owners.update({variant.sku: SkuOwner(product.id, True) for variant in product.variants})
        outcomes.append(product)
    # What one product removed another one may have listed since.
    wanted = {
        product_id: msgspec.structs.replace(
            product,
            removed=tuple(its for its in product.removed if owners[its.sku].product_id == product_id),
        )
        for product_id, product in wanted.items()
    }
    wanted = {id: carried(product, facts.product_of_sku) for id, product in wanted.items()}
    changed = {id: product for id, product in wanted.items() if not _is_stored(product, stored.get(id))}
    revisions = await write_products(connection, changed, quantities)
    return [
        outcome
        if isinstance(outcome, Invalid)
        else (
            resolved(msgspec.structs.replace(changed[outcome.id], revision=revisions[outcome.id]))
            if outcome.id in changed
            else stored[outcome.id].product,
            outcome.id in changed,
        )
        for outcome in outcomes
    ]


def _is_stored(product: Product, stored: StoredProduct | None, is_deleted: bool = False) -> bool:
    """Whether the product is in the catalog just so."""
    if stored is None or stored.is_deleted != is_deleted:
        return False
    return msgspec.structs.replace(stored.product, revision=0) == product


def _check_owners(product: Product, owners: Mapping[str, SkuOwner]) -> None:
    """A SKU that its product lists no longer may move to another one; its stock goes with it."""
    for number, variant in enumerate(product.variants):
        owner = owners.get(variant.sku)
        if owner is not None and owner.is_listed and owner.product_id != product.id:
            raise InvalidField(
                f"SKU {variant.sku} belongs to product {owner.product_id}.",
                field=f"variants[{number}].sku",
                sku=variant.sku,
            )


def _removed(before: Product | None, wanted: Product, owners: Mapping[str, SkuOwner]) -> tuple[Variant, ...]:
    """The variants that were listed once and are not any more, newest first."""
    if before is None:
        return ()
    listed = {variant.sku for variant in wanted.variants}
    gone = [
        variant
        for variant in (*before.variants, *before.removed)
        if variant.sku not in listed and owners[variant.sku].product_id == wanted.id
    ]
    return tuple(gone[:VARIANTS_MAX])
