"""When an event may be acknowledged: of its own epoch only, and of later ones only if it is really there."""

from __future__ import annotations

from typing import Any

import pytest

from cartstore.archive.acknowledgement import Acknowledgement
from cartstore.errors import OutcomeUnknown, StoreUnavailable
from cartstore.model import Position


class Record:
    """An archive at a cursor, with these events."""

    def __init__(self, cursor: Position, *events: Position) -> None:
        self.at = cursor
        self.events = events
        self.is_away = False

    async def cursor(self) -> tuple[Position, str]:
        if self.is_away:
            raise StoreUnavailable
        return self.at, "nonce"

    async def has_event(self, position: Position) -> bool:
        return position in self.events


def acknowledgement(record: Any, mode: Any = "archived") -> Acknowledgement:
    return Acknowledgement(mode, record, timeout_ms=200, ring=lambda: None)


async def test_wait_returns_when_the_cursor_of_its_epoch_is_there() -> None:
    await acknowledgement(Record(Position(1, 5))).wait(Position(1, 5))


@pytest.mark.parametrize("cursor", [Position(1, 4), Position(0, 9)])
async def test_wait_is_unknown_when_the_cursor_is_behind(cursor: Position) -> None:
    with pytest.raises(OutcomeUnknown):
        await acknowledgement(Record(cursor)).wait(Position(1, 5))


async def test_wait_is_unknown_when_a_later_epoch_went_on_without_the_event() -> None:
    with pytest.raises(OutcomeUnknown):
        await acknowledgement(Record(Position(2, 9))).wait(Position(1, 5))


async def test_wait_returns_when_a_later_epoch_kept_the_event() -> None:
    await acknowledgement(Record(Position(2, 9), Position(1, 5))).wait(Position(1, 5))


async def test_wait_is_unknown_when_the_record_is_away() -> None:
    record = Record(Position(1, 5))
    record.is_away = True

    with pytest.raises(OutcomeUnknown):
        await acknowledgement(record).wait(Position(1, 5))


async def test_wait_asks_nothing_when_the_engine_acknowledges() -> None:
    record = Record(Position(0, 0))
    record.is_away = True

    await acknowledgement(record, "engine").wait(Position(1, 5))
    await acknowledgement(record).wait(None)


async def test_wait_returns_when_it_was_put_back_from_the_record() -> None:
    acknowledged = acknowledgement(Record(Position(2, 9)))
    acknowledged.note(Position(2, 9))

    await acknowledged.wait(Position(0, 0))
