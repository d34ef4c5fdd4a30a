"""Migration 0011 with orders in place: what orders are searched by, and since when they are paid."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from archive_shop import Story, payment_id, sale
from sqlalchemy import text

from cartstore.archive import Archive
from cartstore.model import Partition

MIGRATION = import_module("cartstore.archive.migrations.versions.v0011_readers")

DETAILS = {
    1: '{"contact":{"email":" Ann@Example.org "}}',
    2: '{"contact":{"email":"nul\\u0000@example.org"}}',
    3: "no JSON",
}
"""Of what a buyer wrote jsonb takes only the first."""


@pytest.mark.parametrize("is_event_gone", [False, True])
async def test_migration_fills_in_what_the_record_knows(database_url: str, is_event_gone: bool) -> None:
    archive = await Archive.open(database_url, Partition("main"))
    story = Story()
    story.adjusted("mug", 10, 10)
    for number, details in DETAILS.items():
        story.begun(number, details_json=details)
    paid = story.paid(1, sale(1, "mug", 1))
    await archive.apply_events(story.events)
    if is_event_gone:
        await _execute(archive, "DELETE FROM events")
    before = await _found(archive)

    await _execute(archive, *MIGRATION._DOWN)
    await _execute(archive, *MIGRATION._TABLES, *MIGRATION._VIEWS)

    after = await _found(archive)
    await archive.close()
    assert before == after
    assert after == [
        (payment_id(1), "ann@example.org", paid.at_ms),
        (payment_id(2), None, None),
        (payment_id(3), None, None),
    ]


async def _execute(archive: Archive, *statements: str) -> None:
    async with archive.database.transaction() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def _found(archive: Archive) -> list[tuple[Any, ...]]:
    async with archive.database.reading() as connection:
        query = text("SELECT payment_id, email, paid_at_ms FROM payments ORDER BY payment_id")
        return [tuple(row) for row in await connection.execute(query)]
