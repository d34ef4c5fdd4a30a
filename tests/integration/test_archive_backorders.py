"""Backorders in the record: who waits, who is served first, and what ledger and feed tell of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from archive_shop import Story, line, order_id, sale
from sqlalchemy import text

from cartstore.archive import Archive, migrate
from cartstore.archive.repository import StockTotals
from cartstore.errors import EventRefused
from cartstore.layout import LAYOUT
from cartstore.model import FeedPosition, Partition, Position

BEFORE = "0008"
"""The migration before the one that made the table."""

WAITING = "SELECT order_id, quantity, owed FROM backorders WHERE sku = 'kit' ORDER BY epoch, seq, line"


@pytest.fixture
async def archive(database_url: str) -> AsyncIterator[Archive]:
    archive = await Archive.open(database_url, Partition("main"))
    yield archive
    await archive.close()


async def rows(archive: Archive, query: str) -> list[tuple[Any, ...]]:
    async with archive.database.reading() as connection:
        return [tuple(row) for row in (await connection.execute(text(query))).all()]


def three_wait() -> Story:
    """Three orders are paid; the checkout of the second began first. 2, 4 and 1 units are not there: of six,
    carts hold five."""
    story = Story()
    story.adjusted("kit", 6, 6)
    for number, quantity in ((2, 4), (1, 3), (3, 1)):
        story.begun(number, line("kit", quantity, "backorder"))
    story.paid(1, sale(1, "kit", 1, 2))
    story.paid(2, sale(2, "kit", 0, 4))
    story.paid(3, sale(3, "kit", 0, 1))
    return story


@pytest.mark.parametrize("batch", [1, 2, 100])
async def test_units_go_to_the_orders_that_were_paid_first(archive: Archive, batch: int) -> None:
    story = three_wait()
    story.adjusted("kit", 3, 5, "truck", filled=3)
    story.filled("kit", 3, 2)
    story.adjusted("kit", 10, 11, filled=1)

    for start in range(0, len(story.events), batch):
        await archive.apply_events(story.events[start : start + batch])

    assert await rows(archive, WAITING) == [(order_id(1), 2, 0), (order_id(2), 4, 0), (order_id(3), 1, 0)]
    assert (await archive.stock_totals())[1] == {"kit": StockTotals(on_hand=11, sold=8, backordered=0)}
    ledger, _ = await archive.ledger("kit")
    assert [(row.seq, row.delta, row.on_hand, row.reason, row.order_id) for row in ledger[:-4]] == [
        (10, -1, 11, "backorder", order_id(3)),
        (10, 10, 12, "received", None),
        (9, -3, 2, "backorder", order_id(2)),
        (8, -1, 5, "backorder", order_id(2)),
        (8, -2, 6, "backorder", order_id(1)),
        (8, 3, 8, "received", None),
    ]


async def test_feed_tells_of_each_order_that_got_units(archive: Archive) -> None:
    story = three_wait()
    story.adjusted("kit", 3, 5, "truck", filled=3)
    story.filled("kit", 1, 4)
    await archive.apply_events(story.events)

    found = await archive.feed.read(FeedPosition(Position(1, 7)), 100)
    pages = []
    after = FeedPosition(Position(1, 7))
    while page := await archive.feed.read(after, 1):
        pages += page
        after = page[-1].position

    assert [(str(event.position), event.type) for event in found] == [
        ("1-8", "stock_adjusted"),
        ("1-8.1", "backorder_assigned"),
        ("1-8.2", "backorder_assigned"),
        ("1-9", "backorder_filled"),
        ("1-9.1", "backorder_assigned"),
    ]
    assert [msgspec.json.decode(event.body_json) for event in found if event.position.line] == [
        {"order_id": order_id(1), "sku": "kit", "quantity": "2", "owed": "0"},
        {"order_id": order_id(2), "sku": "kit", "quantity": "1", "owed": "3"},
        {"order_id": order_id(2), "sku": "kit", "quantity": "1", "owed": "2"},
    ]
    assert [event.position for event in pages] == [event.position for event in found]
    # Whoever compares with the engine gets the engine's own.
    assert await archive.events_after(Position(0, 0), 100) == story.events


async def test_adjustment_is_answered_with_what_was_left_when_it_is_repeated(archive: Archive) -> None:
    story = three_wait()
    story.adjusted("kit", 10, 8, "truck", filled=7)
    await archive.apply_events(story.events)

    found = await archive.find_stock_adjustment("kit", "truck")

    assert found is not None
    _, result = found
    assert (result.delta, result.level.on_hand) == (10, 8)


async def test_apply_refuses_when_more_is_given_than_orders_wait_for(archive: Archive) -> None:
    story = three_wait()
    await archive.apply_events(story.events)

    with pytest.raises(EventRefused, match="8 units of kit go to backorders, and 7 are owed"):
        await archive.apply_events([story.adjusted("kit", 8, 5, filled=8)])

    assert [owed for *_, owed in await rows(archive, WAITING)] == [2, 4, 1]


async def test_migration_finds_who_waits_in_the_ledger(archive: Archive, database_url: str) -> None:
    """Down and up again, as if the version before had written what was sold and never what came."""
    story = three_wait()
    story.begun(4, line("kit", 2), line("kit", 3, "untracked"))
    story.paid(4, sale(4, "kit", 2))
    await archive.apply_events(story.events[:7])
    waiting = await rows(archive, "SELECT * FROM backorders ORDER BY seq")

    await migrate(database_url, revision=BEFORE)
    await migrate(database_url)

    assert len(waiting) == 3
    assert await rows(archive, "SELECT * FROM backorders ORDER BY seq") == waiting


async def test_claim_finds_who_waits_when_a_process_of_the_layout_before_recorded_the_sale(
    archive: Archive,
) -> None:
    """It works on after the migration, until the record moves to this layout."""
    await archive.claim(namespace="main", partitions=1, key_layout=LAYOUT)
    story = three_wait()
    story.adjusted("kit", 3, 5, "truck", filled=3)
    await archive.apply_events(story.events)
    waiting = await rows(archive, "SELECT * FROM backorders ORDER BY seq")
    async with archive.database.transaction() as connection:
        await connection.execute(text("DELETE FROM backorders WHERE seq = 7"))
        await connection.execute(text("UPDATE meta SET key_layout = 4"))

    await archive.claim(namespace="main", partitions=1, key_layout=LAYOUT)

    assert await rows(archive, "SELECT * FROM backorders ORDER BY seq") == waiting


async def test_migration_keeps_what_was_served_when_it_goes_down_and_up(
    archive: Archive, database_url: str
) -> None:
    story = three_wait()
    story.adjusted("kit", 3, 5, "truck", filled=3)
    story.begun(4, line("kit", 2, "untracked"))
    await archive.apply_events(story.events)
    kept = [
        await rows(archive, query)
        for query in (
            "SELECT * FROM backorders ORDER BY seq",
            "SELECT * FROM stock_ledger ORDER BY seq, line",
        )
    ]
    totals = await archive.stock_totals()

    await migrate(database_url, revision=BEFORE)
    between = await rows(archive, "SELECT kind, delta FROM stock_ledger WHERE seq = 8 ORDER BY line")
    await migrate(database_url)

    assert between == [("adjust", 3), ("sale", -2), ("sale", -1)]
    assert [
        await rows(archive, query)
        for query in (
            "SELECT * FROM backorders ORDER BY seq",
            "SELECT * FROM stock_ledger ORDER BY seq, line",
        )
    ] == kept
    assert await archive.stock_totals() == totals
    assert [owed for *_, owed in await rows(archive, WAITING)] == [0, 3, 1]
