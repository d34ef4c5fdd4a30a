"""Fulfilment in the record: its event has a place in the feed whatever the cursor stands at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from archive_shop import Story, order_id, sale

from cartstore.archive import Archive
from cartstore.errors import OrderNotFound, OrderState
from cartstore.model import Partition


@pytest.fixture
async def archive(database_url: str) -> AsyncIterator[Archive]:
    archive = await Archive.open(database_url, Partition("main"))
    yield archive
    await archive.close()


async def _paid(archive: Archive) -> Story:
    story = Story()
    story.adjusted("mug", 10, 10)
    story.begun(1)
    story.paid(1, sale(1, "mug", 1))
    story.begun(2)
    await archive.apply_events(story.events)
    return story


async def _feed(archive: Archive) -> list[str]:
    return [str(event.position) for event in await archive.feed.read(None, 100)]


async def test_event_is_behind_a_rejected_one_and_does_not_pass_for_it(archive: Archive) -> None:
    story = await _paid(archive)
    bad = story.adjusted("mug", -1, 9)
    await archive.reject_event(bad, "tried")

    await archive.fulfilments.put(order_id(1), "shipped", carrier=None, tracking=None)
    story.adjusted("mug", 1, 10)
    await archive.apply_events(story.events)

    assert not await archive.has_event(bad.position)
    assert await _feed(archive) == ["1-1", "1-2", "1-3", "1-4", "1-5.1", "1-6"]


async def test_changes_beside_each_other_have_an_event_each_and_a_repeated_one_none(
    archive: Archive,
) -> None:
    await _paid(archive)
    puts = [
        archive.fulfilments.put(order_id(1), "shipped", carrier="DHL", tracking=str(number))
        for number in range(4)
    ]
    await asyncio.gather(*puts)

    found = (await archive.fulfilments.of_orders([order_id(1)]))[order_id(1)]
    again = await archive.fulfilments.put(order_id(1), "shipped", carrier="DHL", tracking=found.tracking)

    assert again == found
    assert await _feed(archive) == ["1-1", "1-2", "1-3", "1-4", "1-4.1", "1-4.2", "1-4.3", "1-4.4"]


async def test_only_paid_orders_of_the_record_are_fulfilled(archive: Archive) -> None:
    await _paid(archive)

    with pytest.raises(OrderState):
        await archive.fulfilments.put(order_id(2), "shipped", carrier=None, tracking=None)
    with pytest.raises(OrderNotFound):
        await archive.fulfilments.put(order_id(3), "shipped", carrier=None, tracking=None)

    assert await _feed(archive) == ["1-1", "1-2", "1-3", "1-4"]
