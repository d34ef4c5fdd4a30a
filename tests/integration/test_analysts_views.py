"""The views for analysts: their values, their comments, and the role that may read nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from archive_shop import NOW_MS, Story, line, order_id, payment_id, sale
from asyncpg.exceptions import InsufficientPrivilegeError
from sqlalchemy import text

from cartstore.archive import Archive
from cartstore.archive.connecting import connector
from cartstore.catalog.money import EXPONENTS, to_text
from cartstore.model import Partition

VIEWS = ("v_carts", "v_order_lines", "v_orders", "v_stock")


@pytest.fixture
async def archive(database_url: str) -> AsyncIterator[Archive]:
    archive = await Archive.open(database_url, Partition("main"))
    yield archive
    await archive.close()


async def _rows(archive: Archive, sql: str, **values: Any) -> list[Any]:
    async with archive.database.reading() as connection:
        return list((await connection.execute(text(sql), values)).mappings())


async def test_views_tell_orders_in_decimals_and_timestamps(archive: Archive) -> None:
    story = Story()
    story.adjusted("mug", 10, 10)
    story.begun(1, line("mug", 2, unit_price_minor="1250"))
    settled = story.paid(1, sale(1, "mug", 2))
    story.begun(2)
    await archive.apply_events(story.events)
    await archive.fulfilments.put(order_id(1), "shipped", carrier="DHL", tracking=None)

    paid, pending = await _rows(archive, "SELECT * FROM v_orders ORDER BY payment_id")
    lines = await _rows(archive, "SELECT * FROM v_order_lines WHERE order_id = :id", id=order_id(1))

    assert (paid["order_id"], paid["payment_id"]) == (order_id(1), payment_id(1))
    assert paid["paid_at"] == datetime.fromtimestamp(settled.at_ms / 1_000, UTC)
    assert (pending["paid_at"], pending["fulfilment"]) == (None, "unfulfilled")
    assert (paid["fulfilment"], paid["carrier"], paid["units"]) == ("shipped", "DHL", 2)
    assert isinstance(paid["total"], Decimal)
    assert isinstance(paid["created_at"], datetime)
    assert [(row["sku"], row["quantity"]) for row in lines] == [("mug", 2)]
    assert [str(row["line_total"]) for row in lines] == ["25.00"]
    assert abs(paid["created_at"].timestamp() * 1_000 - NOW_MS) < 1_000_000


async def test_views_know_the_decimals_of_every_currency(archive: Archive) -> None:
    for currency in EXPONENTS:
        (row,) = await _rows(
            archive, "SELECT decimal_of(1234567, CAST(:currency AS text)) AS found", currency=currency
        )

        assert str(row["found"]) == to_text(1234567, currency), currency


async def test_views_are_described(archive: Archive) -> None:
    described = await _rows(
        archive,
        "SELECT relname, obj_description(oid) AS said FROM pg_class"
        " WHERE relkind = 'v' AND relname ~ '^v_' ORDER BY relname",
    )

    assert [row["relname"] for row in described] == [*VIEWS]
    assert all(row["said"] for row in described)


REFUSED = ("SELECT * FROM payments", "SELECT * FROM events", "DELETE FROM orders")


@pytest.mark.parametrize("refused", REFUSED)
async def test_reader_reads_the_views_and_nothing_else(database_url: str, refused: str) -> None:
    connection = await connector(database_url, command_timeout_seconds=10)()
    await connection.execute("SET ROLE cartstore_reader")

    for view in VIEWS:
        await connection.fetch(f"SELECT * FROM {view}")
    with pytest.raises(InsufficientPrivilegeError):
        await connection.execute(refused)

    await connection.close()
