"""What the last import said of each product and SKU, in PostgreSQL. Owns the rows of `import_state`.

A product's rows carry its id, a variant's rows its SKU only: a SKU keeps what was said of it when another
product takes it over. Values are JSON texts, so that two of them are equal when the file says the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import delete, select, tuple_
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from cartstore.archive.arrays import array_of, columns_of, rows_of
from cartstore.archive.tables import import_state

Said = Mapping[str, Any]
"""Values by field, as builtins."""

NOTHING_SAID: Final[Said] = {}

_COLUMNS: Final = ("product_id", "sku", "field", "value")


class LastImport(msgspec.Struct, frozen=True):
    """What was said when these products and SKUs were imported last; absent: nothing is kept of them."""

    products: Mapping[str, Said] = {}
    variants: Mapping[str, Said] = {}

    def of_product(self, product_id: str) -> Said:
        return self.products.get(product_id, NOTHING_SAID)

    def of_variant(self, sku: str) -> Said:
        return self.variants.get(sku, NOTHING_SAID)


async def load_last_import(
    connection: AsyncConnection, product_ids: Iterable[str], skus: Iterable[str]
) -> LastImport:
    """What is kept of these products and SKUs."""
    products: dict[str, dict[str, Any]] = {}
    variants: dict[str, dict[str, Any]] = {}
    own = (import_state.c.sku == "") & import_state.c.product_id.in_(
        array_of(import_state.c.product_id, sorted(set(product_ids)))
    )
    by_sku = (import_state.c.product_id == "") & import_state.c.sku.in_(
        array_of(import_state.c.sku, sorted(set(skus)))
    )
    # Two statements: with one OR of them the server reads the whole table.
    for condition in (own, by_sku):
        for row in await connection.execute(select(import_state).where(condition)):
            said = variants.setdefault(row.sku, {}) if row.sku else products.setdefault(row.product_id, {})
            said[row.field] = msgspec.json.decode(row.value)
    return LastImport(products, variants)


async def save_last_import(connection: AsyncConnection, before: LastImport, after: LastImport) -> None:
    """Write what differs between the two; `before` is what the record has of all that `after` names."""
    changed: list[tuple[str, str, str, str]] = []
    gone: list[tuple[str, str, str]] = []
    for product_id, said in after.products.items():
        changed += _rows(product_id, "", before.of_product(product_id), said)
        gone += [(product_id, "", field) for field in before.of_product(product_id) if field not in said]
    for sku, said in after.variants.items():
        changed += _rows("", sku, before.of_variant(sku), said)
    if gone:
        key = tuple_(import_state.c.product_id, import_state.c.sku, import_state.c.field)
        await connection.execute(delete(import_state).where(key.in_(gone)))
    if changed:
        statement = pg_insert(import_state).from_select(_COLUMNS, select(*rows_of(import_state, _COLUMNS).c))
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=_COLUMNS[:3], set_={"value": statement.excluded.value}
            ),
            columns_of(_COLUMNS, changed),
        )


def _rows(product_id: str, sku: str, before: Said, after: Said) -> Iterator[tuple[str, str, str, str]]:
    for field, value in after.items():
        if field not in before or before[field] != value:
            yield product_id, sku, field, msgspec.json.encode(value).decode()
