"""RaisedEpoch: what recovery does to the record while it closes the older epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from cartstore.archive.database import translated
from cartstore.archive.quarantine import EventsTaken, known_names, put_aside
from cartstore.archive.writing import apply, move_cursor
from cartstore.errors import EventRefused
from cartstore.model import Event, Partition, Position

PUT_ASIDE: Final = "Put aside by a recovery:"
"""How the reason of an event begins that a recovery found and could not apply."""


class RaisedEpoch:
    """A drawn epoch within the transaction that closes the older ones. `cursor` and `nonce` are of the last
    event that was applied. An engine whose gate was shut for this epoch gives its events here: none of them
    is lost when its stream is cleared."""

    def __init__(
        self,
        connection: AsyncConnection,
        partition: Partition,
        *,
        epoch: int,
        cursor: Position,
        nonce: str,
        closed_below: int,
    ) -> None:
        """`closed_below`: events of epochs before this one were refused before this epoch was drawn."""
        self.epoch = epoch
        self.cursor = cursor
        self.nonce = nonce
        self._connection = connection
        self._partition = partition
        self._closed_below = closed_below
        self._has_cursor = False
        """Whether the stream has shown the event at the cursor: then it is the record's own history."""
        self._is_broken = False
        """Whether the record's own history has a gap or a fork, behind which nothing is applied."""

    async def take(self, stream: Sequence[Event]) -> EventsTaken:
        """Take a page of a stream that takes no more events, in its order: apply what chains on from the
        cursor, put everything else aside that the record does not have. SKUs of events behind a break in the
        record's own history are frozen: their units were promised. Events that the record refuses are
        rejected as in a drain. Taking a page again changes nothing more."""
        known = await known_names(self._connection, self._partition, stream)
        applied = aside = 0
        place = 0
        while place < len(stream):
            run = [] if self._is_broken else self._chained(stream[place:])
            if run:
                self._has_cursor = True
                applied += len(run)
                await self._apply(run)
                place += len(run)
                continue
            event = stream[place]
            place += 1
            self._has_cursor = self._has_cursor or event.name == f"{self.cursor} {self.nonce}"
            if event.name in known:
                continue
            reason = self._reason_against(event)
            await put_aside(self._connection, self._partition, event, reason, freezes=self._is_broken)
            aside += 1
        return EventsTaken(applied=applied, put_aside=aside)

    def _chained(self, stream: Sequence[Event]) -> list[Event]:
        run: list[Event] = []
        last, nonce = self.cursor, self.nonce
        for event in stream:
            if event.position.epoch < self._closed_below or not event.follows(last, nonce):
                break
            run.append(event)
            last, nonce = event.position, event.nonce
        return run

    async def _apply(self, run: Sequence[Event]) -> None:
        """Halves a refused run until the event that the record refuses stands alone, as the drain does."""
        try:
            # A refused event undoes only its own half.
            with translated():
                async with self._connection.begin_nested():
                    await apply(self._connection, self._partition, run)
        except EventRefused as refusal:
            if len(run) == 1:
                await put_aside(self._connection, self._partition, run[0], refusal.message)
                await move_cursor(self._connection, self._partition, run[0])
            else:
                await self._apply(run[: len(run) // 2])
                await self._apply(run[len(run) // 2 :])
        self.cursor, self.nonce = run[-1].position, run[-1].nonce

    def _reason_against(self, event: Event) -> str:
        position = event.position
        if position.epoch < self._closed_below:
            why = f"its epoch was closed before, the record takes events from epoch {self._closed_below} on"
        elif position <= self.cursor:
            why = f"the record has another event, or none, at {position}: the outbox has a fork"
        elif not self._has_cursor and self.cursor.seq > 0:
            why = f"the outbox does not hold event {self.cursor}, the last that was applied: another history"
        else:
            self._is_broken = True
            why = f"it does not follow event {self.cursor}: the outbox has a gap or a fork"
        return f"{PUT_ASIDE} {why}."
