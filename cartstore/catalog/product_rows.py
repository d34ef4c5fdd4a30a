"""Rows of products, their revisions and their variants. Owns the SQL of the catalog, and the lock under which
all of it is written; refuses to decide what is stored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Select, Text, func, select, update
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from cartstore.archive.arrays import array_of, columns_of, insert_rows, rows_of
from cartstore.archive.tables import product_revisions, products, variants
from cartstore.catalog.import_state import load_last_import
from cartstore.catalog.moves import Facts, SkuOwner, StoredProduct
from cartstore.catalog.terms import resolved
from cartstore.model import Product
from cartstore.stored_json import note_unreadable

_LOCK: Final = 0x63617274_63617400
"""The advisory lock of catalog writers: `cartcat` in ASCII."""


DOC = sql_cast(product_revisions.c.doc, Text).label("doc")

CURRENT = select(
    products.c.revision,
    DOC,
    products.c.product_id,
    products.c.title,
    products.c.seller,
    (products.c.deleted_revision == products.c.revision).label("is_deleted"),
).join(product_revisions, products.c.revision == product_revisions.c.revision)
"""Also deleted products, whose SKUs are to be known as not on sale."""

IS_KEPT = products.c.deleted_revision.is_distinct_from(products.c.revision)

KEPT = CURRENT.where(IS_KEPT)

_PRODUCT_COLUMNS = ("product_id", "revision", "title", "seller", "active", "deleted_revision")
_VARIANT_COLUMNS = ("sku", "product_id", "position", "current", "initial_quantity")


def decode_product(revision: int, doc: str) -> Product:
    return resolved(msgspec.structs.replace(msgspec.json.decode(doc, type=Product), revision=revision))


def product_of(row: Row[Any]) -> Product:
    """A product as it is now. One that cannot be read has no currency, which no other product lacks, and is
    not on sale: it can be seen, and stored anew."""
    try:
        return decode_product(row.revision, row.doc)
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


async def read_one(connection: AsyncConnection, query: Select[Any]) -> Product | None:
    row = (await connection.execute(query)).one_or_none()
    return product_of(row) if row is not None else None


async def read_page(
    connection: AsyncConnection, query: Select[Any], limit: int
) -> tuple[list[Product], str | None]:
    """The first products of a query by id, and the cursor of those after them."""
    rows = (await connection.execute(query.order_by(products.c.product_id).limit(limit + 1))).all()
    page = [product_of(row) for row in rows[:limit]]
    return page, page[-1].id if len(rows) > limit else None


async def find_product_of_sku(connection: AsyncConnection, sku: str) -> Product | None:
    return await read_one(
        connection,
        CURRENT.join(variants, variants.c.product_id == products.c.product_id).where(variants.c.sku == sku),
    )


async def lock_catalog(connection: AsyncConnection) -> None:
    """One catalog writer at a time: between reading which product lists a SKU and writing it, another
    writer may list the same SKU, so the two must not overlap."""
    await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


async def read_facts(connection: AsyncConnection, given: Sequence[Product]) -> Facts:
    """What the record says of these products, of the owners of their SKUs, and of all SKUs of both."""
    listed = {variant.sku for product in given for variant in product.variants}
    owners = await read_owners(connection, listed)
    ids = {product.id for product in given}
    stored = await read_stored(connection, ids | {owner.product_id for owner in owners.values()})
    beside = {
        variant.sku
        for its in stored.values()
        for variant in (*its.product.variants, *its.product.removed)
        if variant.sku not in listed
    }
    owners |= await read_owners(connection, beside)
    last = await load_last_import(connection, ids | stored.keys(), listed)
    return Facts(stored=stored, owners=owners, last=last)


async def read_stored(connection: AsyncConnection, product_ids: Iterable[str]) -> dict[str, StoredProduct]:
    ids = array_of(products.c.product_id, sorted(product_ids))
    rows = await connection.execute(CURRENT.where(products.c.product_id.in_(ids)))
    return {row.product_id: StoredProduct(product_of(row), bool(row.is_deleted)) for row in rows}


async def read_owners(connection: AsyncConnection, skus: Iterable[str]) -> dict[str, SkuOwner]:
    query = select(variants.c.sku, variants.c.product_id, variants.c.current).where(
        variants.c.sku.in_(array_of(variants.c.sku, sorted(skus)))
    )
    return {row.sku: SkuOwner(row.product_id, row.current) for row in await connection.execute(query)}


async def write_products(
    connection: AsyncConnection,
    changed: Mapping[str, Product],
    quantities: Mapping[str, int],
    *,
    deleted: Collection[str] = (),
) -> dict[str, int]:
    """Write changed products; their new revisions by product id."""
    if not changed:
        return {}
    revisions = await _insert_revisions(connection, changed)
    await _upsert_products(connection, changed, revisions, deleted)
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
    connection: AsyncConnection,
    changed: Mapping[str, Product],
    revisions: Mapping[str, int],
    deleted: Collection[str],
) -> None:
    rows = [
        (
            product.id,
            revisions[product.id],
            product.title,
            product.seller,
            product.active,
            revisions[product.id] if product.id in deleted else None,
        )
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
        (variant.sku, product.id, position, is_listed, quantities.get(variant.sku, 0))
        for product in changed.values()
        for is_listed, part in ((True, product.variants), (False, product.removed))
        for position, variant in enumerate(part)
    ]
    if not rows:
        return
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
