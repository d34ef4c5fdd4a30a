"""Carries events from a partition's outbox into the record. Owns the order of the steps, which makes
reading at least once and applying exactly once out of steps that may each be the last before a crash.

While PostgreSQL applies a batch the engine is asked for the next one, and trims the one before. Neither moves
anything that counts: only the transaction moves the cursor, and what was read ahead is applied only after the
stream has proved both the cursor and that it still holds those events.

Refuses to know how either side is kept. It may run twice at once, late, or not at all for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Final, Protocol

from cartstore import progress
from cartstore.archive.repository import Archive
from cartstore.errors import EventRefused, OutboxBroken, StoreRecovering
from cartstore.failpoints import reach
from cartstore.limits import OUTBOX_BATCH_EVENTS
from cartstore.model import Event, Position
from cartstore.tasks import end

DRAIN_ROUNDS_MAX: Final = 2_000
"""Batches of one run: at the default batch, as many events as the outbox can hold."""

_log = logging.getLogger("cartstore.archive")


class Outbox(Protocol):
    """The engine's side: the stream of one partition's events."""

    async def read(self, after: Position, count: int) -> list[Event]:
        """Up to `count` events strictly after a position, oldest first."""
        ...

    async def find(self, position: Position) -> Event | None:
        """Exactly this entry, if the stream has it."""
        ...

    async def trim(self, through: Position) -> None:
        """Forget what is before a position; the entry at it stays, as proof of the history."""
        ...

    async def announce(self, position: Position) -> None:
        """Wake who waits for the record to have an event."""
        ...

    async def freeze(self, skus: Sequence[str]) -> None:
        """Stop the sale of these SKUs."""
        ...

    async def fence(self, reason: str) -> None:
        """Stop the partition's writes until it is recovered."""
        ...


async def drain(
    archive: Archive, outbox: Outbox, *, batch: int = OUTBOX_BATCH_EVENTS, trims: bool = True
) -> int:
    """Apply everything that the outbox holds; the number of events that the cursor moved past.

    Without `trims` the engine stays as it is: a fenced partition takes no writes.

    An event that the record refuses is put into rejected_events, its SKUs are frozen, and it is logged as an
    error. Raises StoreRecovering when the stream is not the one that the record was written from, or has a
    gap or a fork (the partition is fenced then; without `trims` the latter is OutboxBroken),
    StoreUnavailable, OutcomeUnknown (the next run finds out by the cursor), ContractError.
    """
    moved = 0
    untrimmed: Position | None = None
    ahead: list[Event] = []
    async with _Beside() as beside:
        for _ in range(DRAIN_ROUNDS_MAX):
            cursor, nonce = await _proven_cursor(archive, outbox)
            reach("drain.proved")
            events = await _events_after(cursor, nonce, outbox, batch, ahead)
            reach("drain.read")
            if not events:
                # Or a run that died between its commit and its trim left applied events behind.
                if cursor.seq > 0 and trims:
                    await outbox.trim(cursor)
                    reach("drain.trimmed")
                break
            is_full = len(events) >= batch
            beside.begin(_meanwhile(outbox, untrimmed, events[-1].position if is_full else None, batch))
            try:
                position = await _apply(archive, events, outbox if trims else None)
                reach("drain.applied")
            except OutboxBroken as broken:
                if not trims:
                    raise
                # What is sold behind a break never reaches the record, so nothing more may be sold.
                await outbox.fence(broken.message)
                reach("drain.fenced")
                raise StoreRecovering(f"{broken.message} The partition is fenced.") from broken
            await outbox.announce(position)
            reach("drain.announced")
            progress.made()
            ahead = await beside.result()
            if trims and is_full:
                untrimmed = position
            elif trims:
                await outbox.trim(position)
                reach("drain.trimmed")
            moved += max(0, position.seq - cursor.seq)
    return moved


class _Beside:
    """What runs beside a transaction; it ends with the drain, whatever that ends with."""

    def __init__(self) -> None:
        self._task: asyncio.Task[list[Event]] | None = None

    async def __aenter__(self) -> _Beside:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await end(self._task)
            if not self._task.cancelled():
                # Looked at, so that asyncio does not complain of it: an earlier error ended the drain.
                self._task.exception()

    def begin(self, work: Coroutine[None, None, list[Event]]) -> None:
        """After the `result` of the work before."""
        self._task = asyncio.create_task(work)

    async def result(self) -> list[Event]:
        assert self._task is not None
        return await self._task


async def _meanwhile(
    outbox: Outbox, untrimmed: Position | None, last: Position | None, batch: int
) -> list[Event]:
    """What the engine does during a transaction: give the events after the `last` of its batch, and trim
    what the transaction before has committed."""
    ahead: list[Event] = []
    if last is not None:
        ahead = await outbox.read(last, batch)
        reach("drain.read_ahead")
    if untrimmed is not None:
        await outbox.trim(untrimmed)
        reach("drain.trimmed")
    return ahead


async def _events_after(
    cursor: Position, nonce: str, outbox: Outbox, batch: int, ahead: Sequence[Event]
) -> Sequence[Event]:
    """The next batch: what was read ahead of the cursor, or else what the stream has now.

    Since it was read, the engine may have been lost and the stream written anew. The last event stands there
    with its nonce only if all of them do: a stream loses its end, and never its middle."""
    if ahead and ahead[0].follows(cursor, nonce):
        last = await outbox.find(ahead[-1].position)
        if last is not None and last.nonce == ahead[-1].nonce:
            return ahead
    return await outbox.read(cursor, batch)


async def _proven_cursor(archive: Archive, outbox: Outbox) -> tuple[Position, str]:
    """The cursor and its nonce, after the stream has proved that it holds that event."""
    cursor, nonce = await archive.cursor()
    while cursor.seq > 0:
        entry = await outbox.find(cursor)
        if entry is not None and entry.nonce == nonce:
            break
        # Between the two reads another drainer may have moved the cursor and trimmed this very entry; only
        # a cursor that still stands here makes its absence a proof.
        again, nonce = await archive.cursor()
        if again == cursor:
            found = "is missing" if entry is None else "is another one"
            reason = f"Event {cursor}, the last that PostgreSQL applied, {found} in the outbox."
            await outbox.fence(reason)
            raise StoreRecovering(f"{reason} The partition is fenced until it is recovered.")
        cursor = again
    return cursor, nonce


async def _apply(archive: Archive, events: Sequence[Event], freezing: Outbox | None) -> Position:
    """Apply events; halve a refused batch until the event that PostgreSQL refuses stands alone.

    Then its SKUs are frozen in the engine too, if that takes writes; whoever opens a fenced one does it, and
    reconcile does what a death between record and engine left undone."""
    try:
        return await archive.apply_events(events)
    except EventRefused as refusal:
        if len(events) == 1:
            _log.error("event %s (%s) was rejected: %s", events[0].position, events[0].type, refusal)
            position = await archive.reject_event(events[0], refusal.message)
            reach("quarantine.rejected")
            if freezing is not None:
                await freezing.freeze(await archive.quarantine.frozen())
                reach("quarantine.frozen")
            return position
    middle = len(events) // 2
    await _apply(archive, events[:middle], freezing)
    reach("quarantine.halved")
    return await _apply(archive, events[middle:], freezing)
