"""When a checkout, a settlement or an adjustment may be called done. Owns the waiting for the record.

`engine`: as durable as the engine's own persistence, nothing to wait for. `archived`: after the PostgreSQL
commit of the event. The drain announces its cursor; polling stands behind, because an announcement can be
lost. Without an answer in time the outcome is unknown, never "failed": the event is in the outbox and will
be applied.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal, Protocol

from cartstore.archive.repository import Archive
from cartstore.errors import HOW_TO_REPEAT, OutcomeUnknown, Repeat, StoreError
from cartstore.heartbeat import silence_text
from cartstore.model import Position
from cartstore.tasks import end

POLL_SECONDS: Final = 0.05

SILENCE_ANSWER_SECONDS: Final = 1.0
"""What somebody who waited in vain still waits for the reason."""

AckMode = Literal["engine", "archived"]


class Announcements(Protocol):
    """Cursors as the drain announces them."""

    def positions(self) -> AsyncIterator[Position]: ...


class Acknowledgement:
    """Waits for events of one partition; one per process."""

    def __init__(
        self,
        mode: AckMode,
        archive: Archive,
        *,
        timeout_ms: int,
        ring: Callable[[], None],
        announcements: Announcements | None = None,
    ) -> None:
        self.mode = mode
        self._archive = archive
        self._timeout_seconds = timeout_ms / 1_000
        self.ring = ring
        self._announcements = announcements
        self._cursor = Position(0, 0)
        self._moved = asyncio.Event()
        self._waiting = 0
        self.silence: Callable[[], Awaitable[float | None]] | None = None
        """For how long no worker has given a sign of life; gives None when one is alive or nobody knows."""

    async def wait(self, position: Position | None, *, repeat: Repeat = "Idempotency-Key") -> None:
        """Ring for the drain, and return once the event at `position` may be acknowledged. `repeat`: what is
        right to repeat when no answer comes.

        Raises OutcomeUnknown in mode `archived` when the record does not have it in time.
        """
        if position is None or position.seq == 0:
            # Events count from 1: at 0 stands what was put back from the record, which therefore has it.
            return
        self.ring()
        if self.mode == "engine":
            return
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout_seconds):
                while not await self._has(position):
                    moved = self._moved
                    with suppress(TimeoutError):
                        async with asyncio.timeout(POLL_SECONDS):
                            await moved.wait()
                    if not moved.is_set():
                        await self._poll()
        except TimeoutError:
            raise OutcomeUnknown(
                f"The change was made, but PostgreSQL has not confirmed it in time{await self._why()}. "
                f"{HOW_TO_REPEAT[repeat]}",
                repeat=repeat,
            ) from None
        finally:
            self._waiting -= 1

    async def _why(self) -> str:
        """That nobody archives, if that is so."""
        if self.silence is None:
            return ""
        seconds = None
        with suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_ANSWER_SECONDS):
                seconds = await self.silence()
        return "" if seconds is None else f": {silence_text(seconds)}"

    async def _has(self, position: Position) -> bool:
        """Whether the record has the event. A cursor of a later epoch proves nothing: the engine that issued
        this event may have been lost and rebuilt without it, so the event itself is looked for."""
        if self._cursor.epoch == position.epoch:
            return self._cursor >= position
        if self._cursor.epoch < position.epoch:
            return False
        with suppress(StoreError):
            return await self._archive.has_event(position)
        return False

    def note(self, position: Position) -> None:
        """The record has everything up to here."""
        if position > self._cursor:
            self._cursor = position
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()

    async def _poll(self) -> None:
        with suppress(StoreError):
            self.note((await self._archive.cursor())[0])

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Take announcements for the life of the context."""
        if self._announcements is None or self.mode == "engine":
            yield
            return
        task = asyncio.create_task(self._listen(self._announcements))
        try:
            yield
        finally:
            await end(task)

    async def _listen(self, announcements: Announcements) -> None:
        async for position in announcements.positions():
            self.note(position)
