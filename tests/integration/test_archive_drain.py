"""The drain against the real record and an outbox in memory that can lose, fork, race and die."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from archive_shop import Story, sale, with_body

from cartstore.archive import Archive
from cartstore.archive.arrays import ROWS_COPIED_MIN
from cartstore.archive.drain import drain
from cartstore.archive.repository import StockTotals
from cartstore.errors import ContractError, OutcomeUnknown, StoreRecovering
from cartstore.model import Event, Position


@pytest.fixture
async def archive(database_url: str) -> AsyncIterator[Archive]:
    archive = await Archive.open(database_url)
    yield archive
    await archive.close()


class MemoryOutbox:
    """A stream that notes what is done to it."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = list(events)
        self.announced: list[Position] = []
        self.fenced: list[str] = []
        self.frozen: list[str] = []

    async def read(self, after: Position, count: int) -> list[Event]:
        await asyncio.sleep(0)
        return [event for event in self.events if event.position > after][:count]

    async def find(self, position: Position) -> Event | None:
        await asyncio.sleep(0)
        return next((event for event in self.events if event.position == position), None)

    async def trim(self, through: Position) -> None:
        self.events = [event for event in self.events if event.position >= through]

    async def announce(self, position: Position) -> None:
        self.announced.append(position)

    async def fence(self, reason: str) -> None:
        self.fenced.append(reason)

    async def freeze(self, skus: Sequence[str]) -> None:
        self.frozen = list(skus)


def busy_story(count: int = 20) -> Story:
    story = Story()
    story.adjusted("mug", 100, 100)
    for number in range(1, count + 1):
        story.begun(number)
        story.paid(number, sale(number, "mug", 1))
    return story


def seqs(events: Sequence[Event]) -> list[int]:
    return [event.position.seq for event in events]


async def test_drain_applies_all_and_keeps_the_last_event(archive: Archive) -> None:
    story = busy_story()
    outbox = MemoryOutbox(story.events)

    moved = await drain(archive, outbox, batch=7)

    assert moved == 41
    assert await archive.events_after(Position(0, 0), 100) == story.events
    assert seqs(outbox.events) == [41]
    assert outbox.announced == [Position(1, seq) for seq in (7, 14, 21, 28, 35, 41)]


async def test_drain_does_nothing_when_the_outbox_is_empty(archive: Archive) -> None:
    outbox = MemoryOutbox([])

    assert await drain(archive, outbox) == 0
    assert (outbox.announced, outbox.fenced) == ([], [])


async def test_drain_goes_on_when_the_epoch_grew_in_the_stream(archive: Archive) -> None:
    story = busy_story(2)
    story.epoch = 2
    story.begun(3)
    outbox = MemoryOutbox(story.events)

    await drain(archive, outbox, batch=4)

    assert (await archive.cursor())[0] == Position(2, 6)
    assert seqs(outbox.events) == [6]


async def test_drain_trims_what_a_run_left_that_died_after_its_commit(archive: Archive) -> None:
    story = busy_story(2)
    outbox = MemoryOutbox(story.events)
    await archive.apply_events(story.events)

    moved = await drain(archive, outbox)

    assert moved == 0
    assert seqs(outbox.events) == [5]


async def test_drain_finishes_when_the_outcome_of_a_commit_was_unknown(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = busy_story(2)
    outbox = MemoryOutbox(story.events)
    apply = archive.apply_events

    async def apply_and_lose_the_answer(batch: Sequence[Event]) -> Position:
        await apply(batch)
        raise OutcomeUnknown

    monkeypatch.setattr(archive, "apply_events", apply_and_lose_the_answer)
    with pytest.raises(OutcomeUnknown):
        await drain(archive, outbox)
    monkeypatch.undo()
    await drain(archive, outbox)

    assert (await archive.stock_totals())[1] == {"mug": StockTotals(on_hand=98, sold=2, backordered=0)}
    assert seqs(outbox.events) == [5]


async def test_drain_applies_once_when_four_run_at_once(archive: Archive) -> None:
    """Goal: a drainer that finds its cursor trimmed away by another one must not fence. Method: four on one
    outbox with small batches, so that they overtake each other all the time."""
    story = busy_story(60)
    outbox = MemoryOutbox(story.events)

    await asyncio.gather(*(drain(archive, outbox, batch=batch) for batch in (1, 2, 3, 5)))

    assert outbox.fenced == []
    assert (await archive.stock_totals())[1] == {"mug": StockTotals(on_hand=40, sold=60, backordered=0)}
    assert await archive.events_after(Position(0, 0), 1_000) == story.events


async def test_drain_does_not_fence_when_another_run_trimmed_its_cursor(archive: Archive) -> None:
    """The same race, made to happen: between cursor and find the other run does all its work."""
    story = busy_story(2)
    await archive.apply_events(story.events[:2])
    other_ran = False

    class OvertakenOutbox(MemoryOutbox):
        async def find(self, position: Position) -> Event | None:
            nonlocal other_ran
            if not other_ran:
                other_ran = True
                await archive.apply_events(self.events)
                await self.trim(Position(1, 5))
            return await super().find(position)

    outbox = OvertakenOutbox(story.events)
    moved = await drain(archive, outbox)

    assert (moved, outbox.fenced) == (0, [])


async def test_drain_fences_when_the_last_applied_event_is_missing(archive: Archive) -> None:
    story = busy_story(2)
    await archive.apply_events(story.events[:3])
    outbox = MemoryOutbox(story.events[3:])

    with pytest.raises(StoreRecovering, match="1-3"):
        await drain(archive, outbox)

    assert len(outbox.fenced) == 1
    assert (await archive.cursor())[0] == Position(1, 3)


async def test_drain_fences_when_the_last_applied_event_is_another_one(archive: Archive) -> None:
    """An engine that lost its tail has issued the same number again, for something else."""
    story = busy_story(2)
    await archive.apply_events(story.events[:3])
    fork = msgspec.structs.replace(story.events[2], nonce="another")
    outbox = MemoryOutbox([*story.events[:2], fork, *story.events[3:]])

    with pytest.raises(StoreRecovering, match="another one"):
        await drain(archive, outbox)

    assert len(outbox.fenced) == 1
    assert (await archive.cursor())[0] == Position(1, 3)


async def test_drain_stops_when_the_outbox_has_a_gap(archive: Archive) -> None:
    story = busy_story(2)
    outbox = MemoryOutbox([story.events[0], *story.events[2:]])

    with pytest.raises(ContractError, match="gap"):
        await drain(archive, outbox)

    assert (await archive.cursor())[0] == Position(0, 0)


@pytest.mark.parametrize("place", [0, 7, 20])
async def test_drain_puts_a_refused_event_aside_and_applies_the_others(
    archive: Archive, caplog: pytest.LogCaptureFixture, place: int
) -> None:
    story = Story()
    for number in range(place):
        story.adjusted("mug", 1, number + 1)
    bad = story.adjusted("cup", -1, 0)
    for number in range(place, 20):
        story.adjusted("mug", 1, number + 1)
    outbox = MemoryOutbox(story.events)

    with caplog.at_level(logging.ERROR):
        moved = await drain(archive, outbox)

    applied = await archive.events_after(Position(0, 0), 100)
    assert moved == 21
    assert seqs(applied) == [seq for seq in range(1, 22) if seq != bad.position.seq]
    assert (await archive.stock_totals())[1] == {"mug": StockTotals(on_hand=20, sold=0, backordered=0)}
    assert [
        record.getMessage() for record in caplog.records if f"1-{bad.position.seq} " in record.getMessage()
    ]
    assert (await archive.cursor()) == (Position(1, 21), "nonce-1-21")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"currency": "euro"}, id="a check"),
        pytest.param({"checkout_id": f"c0-{1:032x}"}, id="a key"),
        pytest.param({"details_json": "\x00"}, id="a text"),
    ],
)
async def test_drain_puts_a_refused_event_aside_when_the_batch_is_large(
    archive: Archive, changes: dict[str, str]
) -> None:
    """Rows that are many are copied: what PostgreSQL refuses then is refused as it is for a few."""
    story = Story()
    for number in range(1, 3 * ROWS_COPIED_MIN):
        story.begun(number)
    bad = with_body(story.events[-20], **changes)
    story.events[-20] = bad

    await drain(archive, MemoryOutbox(story.events))

    assert await archive.events_after(Position(0, 0), 1_000) == [it for it in story.events if it is not bad]
    assert (await archive.quarantine.counts()).rejected_events == 1


async def test_drain_puts_aside_what_builds_on_a_refused_event(archive: Archive, database_url: str) -> None:
    story = Story()
    story.adjusted("mug", 5, 5)
    story.events[-1] = with_body(story.begun(1), currency="euro")
    story.paid(1, sale(1, "mug", 1))
    story.adjusted("mug", 1, 6)
    outbox = MemoryOutbox(story.events)

    await drain(archive, outbox)

    assert seqs(await archive.events_after(Position(0, 0), 100)) == [1, 4]
    assert await archive.stock_totals(["mug"]) == (
        Position(1, 4),
        {"mug": StockTotals(on_hand=6, sold=0, backordered=0)},
    )
