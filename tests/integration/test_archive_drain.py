"""The drain against the real record and an outbox in memory that can lose, fork, race and die."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from archive_shop import Story, sale, with_body

from cartstore.archive import Archive
from cartstore.archive.arrays import ROWS_COPIED_MIN
from cartstore.archive.drain import drain
from cartstore.archive.repository import StockTotals
from cartstore.errors import OutboxBroken, OutcomeUnknown, StoreRecovering, StoreUnavailable
from cartstore.model import Event, Partition, Position


@pytest.fixture
async def archive(database_url: str) -> AsyncIterator[Archive]:
    archive = await Archive.open(database_url, Partition("main"))
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


class BusyOutbox(MemoryOutbox):
    """One that tells what it was asked for, so that a test can wait for it."""

    def __init__(self, events: Sequence[Event]) -> None:
        super().__init__(events)
        self.has_given: dict[Position, asyncio.Event] = defaultdict(asyncio.Event)
        self.has_trimmed: dict[Position, asyncio.Event] = defaultdict(asyncio.Event)

    async def read(self, after: Position, count: int) -> list[Event]:
        found = await super().read(after, count)
        self.has_given[after].set()
        return found

    async def trim(self, through: Position) -> None:
        await super().trim(through)
        self.has_trimmed[through].set()


async def test_drain_reads_and_trims_while_the_record_works(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: neither the next batch nor the trim of the last one waits for a transaction. Method: a record
    that waits for both of them before it begins."""
    story = busy_story(3)
    outbox = BusyOutbox(story.events)
    apply = archive.apply_events

    async def apply_late(batch: Sequence[Event]) -> Position:
        first, last = batch[0].position, batch[-1].position
        async with asyncio.timeout(5):
            if len(batch) == 3:
                await outbox.has_given[last].wait()
            if first.seq > 1:
                await outbox.has_trimmed[Position(1, first.seq - 1)].wait()
        return await apply(batch)

    monkeypatch.setattr(archive, "apply_events", apply_late)
    moved = await drain(archive, outbox, batch=3)

    assert moved == 7
    assert await archive.events_after(Position(0, 0), 100) == story.events
    assert seqs(outbox.events) == [7]


async def test_drain_drops_what_it_read_ahead_when_the_engine_has_lost_it(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: an engine that loses its tail during a transaction and issues the same numbers again is drained
    as it is now. Method: the stream is written anew when the next batch has been read ahead."""
    story = busy_story(2)
    outbox = BusyOutbox(story.events)
    story.events = story.events[:3]
    story.seq = 3
    story.adjusted("cup", 4, 4)
    story.events[3] = msgspec.structs.replace(story.events[3], nonce="issued again")
    apply = archive.apply_events

    async def apply_and_lose(batch: Sequence[Event]) -> Position:
        async with asyncio.timeout(5):
            await outbox.has_given[Position(1, 3)].wait()
        outbox.events = list(story.events)
        return await apply(batch)

    monkeypatch.setattr(archive, "apply_events", apply_and_lose)
    moved = await drain(archive, outbox, batch=3)

    assert moved == 4
    assert await archive.events_after(Position(0, 0), 100) == story.events
    assert await archive.cursor() == (Position(1, 4), "issued again")


async def test_drain_drops_what_it_read_ahead_when_another_run_was_faster(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = busy_story(6)
    outbox = BusyOutbox(story.events)
    apply = archive.apply_events
    begun_at: list[int] = []

    async def apply_behind_another(batch: Sequence[Event]) -> Position:
        begun_at.append(batch[0].position.seq)
        if len(batch) == 3:
            async with asyncio.timeout(5):
                await outbox.has_given[batch[-1].position].wait()
        await apply(story.events[:8])
        return await apply(batch)

    monkeypatch.setattr(archive, "apply_events", apply_behind_another)
    moved = await drain(archive, outbox, batch=3)

    assert (moved, begun_at) == (13, [1, 9, 12])
    assert await archive.events_after(Position(0, 0), 100) == story.events
    assert outbox.fenced == []


async def test_drain_leaves_nothing_running_when_the_record_is_away(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = busy_story(2)
    is_reading = asyncio.Event()
    was_ended = False

    class SlowOutbox(MemoryOutbox):
        async def read(self, after: Position, count: int) -> list[Event]:
            nonlocal was_ended
            if after.seq == 0:
                return await super().read(after, count)
            is_reading.set()
            try:
                await asyncio.Event().wait()
            finally:
                was_ended = True
            raise AssertionError

    async def be_away(_: Sequence[Event]) -> Position:
        await is_reading.wait()
        raise StoreUnavailable

    monkeypatch.setattr(archive, "apply_events", be_away)
    async with asyncio.timeout(5):
        with pytest.raises(StoreUnavailable):
            await drain(archive, SlowOutbox(story.events), batch=3)

    assert was_ended


async def test_drain_announces_what_it_applied_when_the_engine_fails_meanwhile(archive: Archive) -> None:
    story = busy_story(2)

    class FailingOutbox(MemoryOutbox):
        async def read(self, after: Position, count: int) -> list[Event]:
            if after.seq > 0:
                raise StoreUnavailable
            return await super().read(after, count)

    outbox = FailingOutbox(story.events)
    with pytest.raises(StoreUnavailable):
        await drain(archive, outbox, batch=3)

    assert outbox.announced == [Position(1, 3)]
    assert (await archive.cursor())[0] == Position(1, 3)


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


async def test_drain_applies_what_is_before_a_gap_and_fences_when_it_meets_it(archive: Archive) -> None:
    story = busy_story(2)
    outbox = MemoryOutbox([*story.events[:2], *story.events[3:]])

    with pytest.raises(StoreRecovering, match="gap"):
        await drain(archive, outbox)

    assert (await archive.cursor())[0] == Position(1, 2)
    assert len(outbox.fenced) == 1
    assert "1-4 cannot follow 1-2" in outbox.fenced[0]


async def test_drain_leaves_the_gate_to_recovery_when_it_drains_for_it(archive: Archive) -> None:
    outbox = MemoryOutbox(busy_story(2).events[1:])

    with pytest.raises(OutboxBroken, match="gap"):
        await drain(archive, outbox, trims=False)

    assert outbox.fenced == []


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
