"""Products and their revisions in PostgreSQL. Owns when a change makes a new revision and which product a
SKU belongs to. Refuses to know the engine: `published` only says what the engine has to be told.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Select, Text, and_, exists, func, not_, select, update
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from cartstore.archive.arrays import array_of, columns_of, insert_rows, rows_of
from cartstore.archive.database import Database
from cartstore.archive.tables import product_revisions, products, stock_ledger, variants
from cartstore.catalog.rules import check_product
from cartstore.errors import Invalid, InvalidField, ProductNotFound
from cartstore.limits import PAGE_SIZE_DEFAULT, VARIANTS_MAX
from cartstore.model import Product, SkuFields, StockPolicy, Variant
from cartstore.stored_json import note_unreadable
from cartstore.texts import has_control

PRODUCTS_PER_CHUNK: Final = 200
"""Of the products that are read at once when all of them are."""

SEARCH_WORDS_MAX: Final = 8

_LOCK: Final = 0x63617274_63617400
"""The advisory lock of catalog writers: `cartcat` in ASCII."""

Merge = Callable[[Product, Product], Product]
"""(stored, given) -> what to store."""


class CatalogRepository:
    """The catalog of one deployment, on the record's database. Every method may raise StoreUnavailable;
    those that write also OutcomeUnknown."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- writing -------------------------------------------------------------------------------

    async def put_product(self, product: Product) -> tuple[Product, bool]:
        """Store a product; what is stored now, and whether that is a new revision.

        `revision` and `removed` of the argument are ignored. Nothing changes, and the revision stays, when
        the product is as it is stored already. Raises InvalidField, also for a SKU that another product
        lists.
        """
        (outcome,) = await self.put_products([product])
        if isinstance(outcome, Invalid):
            raise outcome
        return outcome

    async def put_products(
        self,
        given: Sequence[Product],
        *,
        merge: Merge | None = None,
        quantities: Mapping[str, int] | None = None,
    ) -> list[tuple[Product, bool] | Invalid]:
        """Store products in one transaction, each on its own: its outcome, in the order given.

        `merge` decides what becomes of a product that is stored already. `quantities` are written down as
        the initial stock of SKUs that the catalog has never seen, and ignored for all others.
        """
        async with self._database.transaction() as connection:
            await _lock(connection)
            return await _store(connection, given, merge, quantities or {})

    async def set_policy(self, sku: str, policy: StockPolicy) -> Product:
        """Give one variant a stock policy, as a new revision of its product. Raises ProductNotFound."""
        async with self._database.transaction() as connection:
            await _lock(connection)
            product = await _product_of_sku(connection, sku)
            if product is None or product.variant(sku) is None:
                raise ProductNotFound(sku=sku)
            changed = tuple(
                msgspec.structs.replace(variant, policy=policy) if variant.sku == sku else variant
                for variant in product.variants
            )
            wanted = msgspec.structs.replace(product, variants=changed)
            (outcome,) = await _store(connection, [wanted], None, {})
            if isinstance(outcome, Invalid):
                raise outcome
            return outcome[0]

    # --- reading -------------------------------------------------------------------------------

    async def get_product(self, product_id: str) -> Product | None:
        """A product as it is now."""
        async with self._database.reading() as connection:
            return await _one(connection, _CURRENT.where(products.c.product_id == product_id))

    async def find_sku(self, sku: str) -> Product | None:
        """The product that lists a SKU, or that listed it last."""
        async with self._database.reading() as connection:
            return await _product_of_sku(connection, sku)

    async def by_revisions(self, revisions: Iterable[int]) -> dict[int, Product]:
        """What the catalog said in these revisions. Revisions never change, so this may be kept."""
        query = select(product_revisions.c.revision, _DOC).where(
            product_revisions.c.revision.in_(array_of(product_revisions.c.revision, sorted(set(revisions))))
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        found: dict[int, Product] = {}
        for row in rows:
            try:
                found[row.revision] = _decode(row.revision, row.doc)
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
        query = _CURRENT
        for word in (q or "").split()[:SEARCH_WORDS_MAX]:
            query = query.where(products.c.title.icontains(word, autoescape=True))
        if seller is not None:
            query = query.where(products.c.seller == seller)
        if cursor is not None:
            query = query.where(products.c.product_id > cursor)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query.order_by(products.c.product_id).limit(limit + 1))).all()
        page = [_current(row) for row in rows[:limit]]
        return page, page[-1].id if len(rows) > limit else None

    async def count(self) -> int:
        """The number of products."""
        async with self._database.reading() as connection:
            return (await connection.execute(select(func.count()).select_from(products))).scalar_one()

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
        """What the engine is told of these products: their variants, and those removed as not on sale."""
        return [
            _sku_fields(product, variant, is_listed)
            for product in changed
            for is_listed, part in ((True, product.variants), (False, product.removed))
            for variant in part
        ]

    async def all_sku_fields(self) -> AsyncIterator[list[SkuFields]]:
        """The fields of every SKU, some products at a time, for publishing the whole catalog again."""
        cursor: str | None = ""
        while cursor is not None:
            page, cursor = await self.list_products(limit=PRODUCTS_PER_CHUNK, cursor=cursor)
            if page:
                yield self.published(page)


_DOC = sql_cast(product_revisions.c.doc, Text).label("doc")

_CURRENT = select(products.c.revision, _DOC, products.c.product_id, products.c.title, products.c.seller).join(
    product_revisions, products.c.revision == product_revisions.c.revision
)

_PRODUCT_COLUMNS = ("product_id", "revision", "title", "seller", "active")
_VARIANT_COLUMNS = ("sku", "product_id", "position", "current", "initial_quantity")


def _decode(revision: int, doc: str) -> Product:
    return msgspec.structs.replace(msgspec.json.decode(doc, type=Product), revision=revision)


def _current(row: Row[Any]) -> Product:
    """A product as it is now. One that cannot be read has no variants, which no other product lacks, and is
    not on sale: it can be seen, and stored anew."""
    try:
        return _decode(row.revision, row.doc)
    except (msgspec.DecodeError, RecursionError) as error:
        note_unreadable("product", row.product_id, "doc", error)
    return Product(
        id=row.product_id,
        title=row.title,
        seller=row.seller,
        active=False,
        currency="",
        variants=(),
        revision=row.revision,
    )


async def _one(connection: AsyncConnection, query: Select[Any]) -> Product | None:
    row = (await connection.execute(query)).one_or_none()
    return _current(row) if row is not None else None


async def _product_of_sku(connection: AsyncConnection, sku: str) -> Product | None:
    return await _one(
        connection,
        _CURRENT.join(variants, variants.c.product_id == products.c.product_id).where(variants.c.sku == sku),
    )


def _sku_fields(product: Product, variant: Variant, is_listed: bool) -> SkuFields:
    return SkuFields(
        sku=variant.sku,
        product_id=product.id,
        seller=product.seller or "",
        revision=product.revision,
        price_minor=variant.price_minor,
        currency=product.currency,
        is_active=is_listed and product.active,
        policy=variant.policy,
        hold_policy=variant.hold_policy,
        hold_ttl_ms=(variant.hold_ttl_seconds or 0) * 1_000,
        min_quantity=variant.min_quantity,
        max_quantity=variant.max_quantity or 0,
        multiple_of=variant.multiple_of,
    )


async def _lock(connection: AsyncConnection) -> None:
    """One catalog writer at a time: between reading which product lists a SKU and writing it, another
    writer may list the same SKU, so the two must not overlap."""
    await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


class _Owner(msgspec.Struct):
    """Which product a SKU belongs to, and whether that product lists it."""

    product_id: str
    is_listed: bool


async def _store(
    connection: AsyncConnection, given: Sequence[Product], merge: Merge | None, quantities: Mapping[str, int]
) -> list[tuple[Product, bool] | Invalid]:
    stored = await _stored(connection, given)
    owners = await _owners(connection, given, stored)
    outcomes: list[Product | Invalid] = []
    changed: dict[str, Product] = {}
    for product in given:
        before = stored.get(product.id)
        try:
            if product.id in changed:
                raise InvalidField("This product is given twice.", field="id")
            wanted = merge(before, product) if merge is not None and before is not None else product
            check_product(wanted, before)
            _check_owners(wanted, owners)
        except Invalid as problem:
            outcomes.append(problem)
            continue
        wanted = msgspec.structs.replace(wanted, revision=0, removed=_removed(before, wanted, owners))
        if before is not None and wanted == msgspec.structs.replace(before, revision=0):
            outcomes.append(before)
            continue
        changed[product.id] = wanted
        owners.update({variant.sku: _Owner(product.id, False) for variant in wanted.removed})
        owners.update({variant.sku: _Owner(product.id, True) for variant in wanted.variants})
        outcomes.append(wanted)
    revisions = await _write(connection, changed, quantities)
    return [
        outcome
        if isinstance(outcome, Invalid)
        else (
            msgspec.structs.replace(outcome, revision=revisions.get(outcome.id, outcome.revision)),
            outcome.id in revisions,
        )
        for outcome in outcomes
    ]


async def _stored(connection: AsyncConnection, given: Sequence[Product]) -> dict[str, Product]:
    ids = sorted({product.id for product in given})
    query = _CURRENT.where(products.c.product_id.in_(array_of(products.c.product_id, ids)))
    found = [_current(row) for row in await connection.execute(query)]
    return {product.id: product for product in found}


async def _owners(
    connection: AsyncConnection, given: Sequence[Product], stored: Mapping[str, Product]
) -> dict[str, _Owner]:
    """Owners of every SKU that the products have, had, or are to have."""
    skus = {
        variant.sku
        for product in (*given, *stored.values())
        for variant in (*product.variants, *product.removed)
    }
    query = select(variants.c.sku, variants.c.product_id, variants.c.current).where(
        variants.c.sku.in_(array_of(variants.c.sku, sorted(skus)))
    )
    return {row.sku: _Owner(row.product_id, row.current) for row in await connection.execute(query)}


def _check_owners(product: Product, owners: Mapping[str, _Owner]) -> None:
    """A SKU that its product lists no longer may move to another one; its stock goes with it."""
    for number, variant in enumerate(product.variants):
        owner = owners.get(variant.sku)
        if owner is not None and owner.is_listed and owner.product_id != product.id:
            raise InvalidField(
                f"SKU {variant.sku} belongs to product {owner.product_id}.",
                field=f"variants[{number}].sku",
                sku=variant.sku,
            )


def _removed(before: Product | None, wanted: Product, owners: Mapping[str, _Owner]) -> tuple[Variant, ...]:
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


async def _write(
    connection: AsyncConnection, changed: Mapping[str, Product], quantities: Mapping[str, int]
) -> dict[str, int]:
    """Write changed products; their new revisions by product id."""
    if not changed:
        return {}
    revisions = await _insert_revisions(connection, changed)
    await _upsert_products(connection, changed, revisions)
    await _upsert_variants(connection, changed, quantities)
    return revisions


async def _insert_revisions(connection: AsyncConnection, changed: Mapping[str, Product]) -> dict[str, int]:
    rows = [(product.id, msgspec.json.encode(product).decode()) for product in changed.values()]
    result = await insert_rows(
        connection,
        product_revisions,
        ("product_id", "doc"),
        rows,
        returning=(product_revisions.c.product_id, product_revisions.c.revision),
    )
    return {row.product_id: row.revision for row in result}


async def _upsert_products(
    connection: AsyncConnection, changed: Mapping[str, Product], revisions: Mapping[str, int]
) -> None:
    rows = [
        (product.id, revisions[product.id], product.title, product.seller, product.active)
        for product in changed.values()
    ]
    statement = pg_insert(products).from_select(
        _PRODUCT_COLUMNS, select(*rows_of(products, _PRODUCT_COLUMNS).c)
    )
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["product_id"],
            set_={name: statement.excluded[name] for name in _PRODUCT_COLUMNS[1:]},
        ),
        columns_of(_PRODUCT_COLUMNS, rows),
    )


async def _upsert_variants(
    connection: AsyncConnection, changed: Mapping[str, Product], quantities: Mapping[str, int]
) -> None:
    ids = array_of(products.c.product_id, list(changed))
    await connection.execute(
        update(variants).where(variants.c.product_id.in_(ids), variants.c.current).values(current=False)
    )
    rows = [
        (variant.sku, product.id, position, True, quantities.get(variant.sku, 0))
        for product in changed.values()
        for position, variant in enumerate(product.variants)
    ]
    statement = pg_insert(variants).from_select(
        _VARIANT_COLUMNS, select(*rows_of(variants, _VARIANT_COLUMNS).c)
    )
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["sku"],
            # The initial quantity stays what it was when the catalog first saw the SKU.
            set_={name: statement.excluded[name] for name in ("product_id", "position", "current")},
        ),
        columns_of(_VARIANT_COLUMNS, rows),
    )
