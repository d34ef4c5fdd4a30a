"""Many rows in one statement: one array parameter per column, whose text does not depend on their number.

A statement that is always the same is prepared once by the server and compiled once by SQLAlchemy. Rows that
are many are copied instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ARRAY, Column, Row, Select, Table, Text, bindparam, func, insert, select
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.selectable import TableValuedAlias

_PARAMETER: Final = "every_"
"""Before a column's name: SQLAlchemy keeps the bare names of an UPDATE's columns for itself."""

ROWS_COPIED_MIN: Final = 100
"""From so many rows on COPY is faster than arrays, on both sides; it costs a round trip more."""


def array_of(column: Column[Any], values: Sequence[Any]) -> Select[Any]:
    """`SELECT unnest(<array>)`, for IN: values to compare a column with."""
    return select(func.unnest(bindparam(None, list(values), type_=ARRAY(column.type))))


def rows_of(table: Table, names: Sequence[str]) -> TableValuedAlias:
    """Rows with these columns of the table, as a source to select from; `columns_of` gives the values.

    jsonb travels as text, which needs no codec for arrays of it.
    """
    arrays = [
        bindparam(_PARAMETER + name, type_=ARRAY(Text() if _is_json(table, name) else table.c[name].type))
        for name in names
    ]
    return func.unnest(*arrays).table_valued(*names).render_derived(name="source")


def columns_of(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """The parameters that `rows_of` names. There is at least one row."""
    return {
        _PARAMETER + name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }


async def insert_rows(
    connection: AsyncConnection,
    table: Table,
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    returning: Sequence[Column[Any]] = (),
) -> Sequence[Row[Any]]:
    """Insert rows with one statement; what it returns. No rows, no statement."""
    if not rows:
        return []
    if len(rows) >= ROWS_COPIED_MIN and not returning:
        await _copy(connection, table, names, rows)
        return []
    source = rows_of(table, names)
    chosen = select(*(sql_cast(source.c[name], table.c[name].type) for name in names))
    statement = insert(table).from_select(names, chosen)
    if not returning:
        await connection.execute(statement, columns_of(names, rows))
        return []
    return (await connection.execute(statement.returning(*returning), columns_of(names, rows))).all()


async def _copy(
    connection: AsyncConnection, table: Table, names: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Keys, checks and references hold as for an INSERT, and what breaks one is refused in the same way."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    await driver.copy_records_to_table(table.name, records=rows, columns=names)


def _is_json(table: Table, name: str) -> bool:
    return isinstance(table.c[name].type, JSONB)
