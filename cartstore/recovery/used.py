"""Tells an engine that was rebuilt, or filled by a version that noted none, which payments there ever were.
Owns the walk through the record; its place is kept by the engine, so whoever comes next goes on.

Until it is through, the engine cannot tell alone whether a checkout's key is new. That matters only while the
record is away, so writes do not wait for it.
"""

from __future__ import annotations

from typing import Final, Protocol

from cartstore.archive.repository import Archive
from cartstore.errors import StoreFull

PAGE_PAYMENTS: Final = 2_000
RUN_PAYMENTS_MAX: Final = 100_000
WHOLE: Final = "whole"


class NotingEngine(Protocol):
    async def noted_to(self) -> tuple[int, str]:
        """The epoch, and how far payments are noted: the last id, empty before the first, or WHOLE."""
        ...

    async def note_used(self, payment_ids: str, *, after: str, epoch: int) -> bool:
        """Note a page of ids, separated by spaces, that follows a place; an empty one ends the walk.

        False: the place is another by now. Raises StoreRecovering, StoreUnavailable, OutcomeUnknown.
        """
        ...


async def note_used(
    engine: NotingEngine, archive: Archive, *, payments_max: int | None = RUN_PAYMENTS_MAX
) -> int:
    """Go on noting, for about `payments_max` payments; how many were noted. Costs one question once all are.

    Raises StoreUnavailable, OutcomeUnknown. May run twice, late and beside itself.
    """
    epoch, place = await engine.noted_to()
    noted = 0
    while place != WHOLE and (payments_max is None or noted < payments_max):
        page = await archive.payment_ids(place, PAGE_PAYMENTS)
        try:
            if not await engine.note_used(page, after=place, epoch=epoch):
                break
        except StoreFull:
            # What the walk comes after has done its work; it goes on when there is room.
            break
        noted += page.count(" ") + 1 if page else 0
        place = page.rpartition(" ")[2] or WHOLE
    return noted
