"""Goal: migrations change the tables of a shop that has rows in them, up and down, and lose none of them.

Method: the rows of the text fixtures, which the code of revision 0006 has written, go up and down again.
"""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from cartstore.archive import migrate

from .old_shop import load_record

TABLES = (
    *("meta", "outbox_cursor", "retention", "events", "rejected_events", "frozen_skus", "stock"),
    *("stock_ledger", "payments", "orders", "order_lines", "cart_snapshots"),
    *("products", "product_revisions", "variants"),
)
PARTITIONED = (
    *("events", "rejected_events", "stock_ledger", "stock", "outbox_cursor", "payments", "orders"),
    *("cart_snapshots", "frozen_skus", "retention"),
)


async def rows_of(connection: Any) -> dict[str, list[str]]:
    """Each row as text, columns by name."""
    return {
        table: [
            row[0] for row in await connection.fetch(f"SELECT to_jsonb(t)::text FROM {table} t ORDER BY 1")
        ]
        for table in TABLES
    }


@pytest.fixture
async def url(database_url: str) -> str:
    await migrate(database_url, revision="0006")
    await load_record(database_url)
    return database_url


async def test_rows_are_the_same_when_the_tables_went_up_and_down(url: str) -> None:
    connection = await asyncpg.connect(url)
    before = await rows_of(connection)

    await migrate(url)
    partitions = {
        table: {row[0] for row in await connection.fetch(f"SELECT partition FROM {table}")}
        for table in PARTITIONED
    }
    await migrate(url, revision="0006")
    after = await rows_of(connection)
    await migrate(url)
    await connection.close()

    assert partitions == {table: {0} for table in PARTITIONED}
    assert all(before[table] for table in TABLES)
    assert after == before


async def test_record_is_of_the_layout_before_again_when_its_tables_went_down(url: str) -> None:
    connection = await asyncpg.connect(url)
    await migrate(url)
    await connection.execute("UPDATE meta SET key_layout = 5")

    await migrate(url, revision="0006")
    layout = await connection.fetchval("SELECT key_layout FROM meta")
    await connection.execute("UPDATE outbox_cursor SET seq = seq + 1")
    await connection.close()

    assert layout == 4


async def test_rows_of_the_version_before_are_taken_when_it_goes_on_after_the_migration(url: str) -> None:
    """Its INSERTs name no partition, and find a row of stock by its SKU alone."""
    await migrate(url)
    connection = await asyncpg.connect(url)

    for _ in range(2):
        await connection.execute(
            "INSERT INTO stock (sku, on_hand, sold, backordered) VALUES ('a', 7, 0, 0)"
            " ON CONFLICT (sku) DO UPDATE SET on_hand = excluded.on_hand"
        )
    await connection.execute(
        "INSERT INTO events (epoch, seq, nonce, type, at_ms, body) VALUES (1, 99, '', 'odd', 0, '{}')"
    )
    stock = await connection.fetch("SELECT on_hand, partition FROM stock WHERE sku = 'a'")
    event = await connection.fetchval("SELECT partition FROM events WHERE seq = 99")
    await connection.close()

    assert [tuple(row) for row in stock] == [(7, 0)]
    assert event == 0
