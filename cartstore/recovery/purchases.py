"""Counts the record's orders against purchase limits in the engine: after a rebuild, and for a limit that was
set, or whose window became longer, when there were orders already.

Until a SKU's purchases are loaded its limit knows only those since it was set. The engine lists such SKUs, so
that loading goes on wherever a process dies. Also compares: an order that the engine does not count, or
counts though it was released, is put right by a script that sees for itself which it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec

from cartstore.archive.purchases import Place, Purchase, Purchases
from cartstore.archive.repository import Archive
from cartstore.errors import StoreUnavailable
from cartstore.failpoints import reach
from cartstore.model import Position
from cartstore.recovery.drift import Drift

PAGE_ORDERS: Final = 200
"""Orders that one script counts, so that buyers' calls get between."""

Mode = Literal["load", "repair", "look"]


class Unloaded(msgspec.Struct, frozen=True, kw_only=True):
    """SKUs whose purchases are not all known, as of one instant."""

    now_ms: int
    """By the engine's clock."""
    position: Position
    """Of the last event."""
    window_ms_by_sku: Mapping[str, int]


class CountingEngine(Protocol):
    """What loading asks of the engine."""

    async def unloaded(self) -> Unloaded: ...

    async def load(
        self, sku: str, page: Sequence[Purchase], *, mode: Mode, since_ms: int, recorded_ms: int | None
    ) -> int:
        """Count these orders; how many entries differed. `look` changes nothing, and it and `repair` find
        nothing where purchases are not loaded yet. With `recorded_ms` the page is the last one of all orders
        since `since_ms`, and the record had every order that began until `recorded_ms`."""
        ...


async def load_unloaded(
    engine: CountingEngine, archive: Archive, drain: Callable[[], Awaitable[object]]
) -> int:
    """Load what is not loaded; the number of SKUs. May run twice, late and beside itself.

    Raises StoreUnavailable (also when the record does not get level with the engine), StoreRecovering,
    OutcomeUnknown. Costs one question when all is loaded.
    """
    unloaded = await engine.unloaded()
    if not unloaded.window_ms_by_sku:
        return 0
    reach("purchases.listed")
    # Orders that began before the limit was set may still be on their way into the record.
    cursor, _ = await archive.cursor()
    if cursor < unloaded.position:
        await drain()
        cursor, _ = await archive.cursor()
        if cursor < unloaded.position:
            raise StoreUnavailable("The record is behind; purchases are loaded once it is level.")
    for sku, window_ms in unloaded.window_ms_by_sku.items():
        await load_sku(
            engine, archive.purchases, sku, since_ms=unloaded.now_ms - window_ms, recorded_ms=unloaded.now_ms
        )
        reach("purchases.loaded")
    return len(unloaded.window_ms_by_sku)


async def load_sku(
    engine: CountingEngine, purchases: Purchases, sku: str, *, since_ms: int, recorded_ms: int
) -> None:
    """Count all orders of a SKU that began after `since_ms`."""
    place: Place = (since_ms, "~")
    while True:
        page = await purchases.page(sku, place, PAGE_ORDERS)
        is_last = len(page) < PAGE_ORDERS
        await engine.load(
            sku, page, mode="load", since_ms=since_ms, recorded_ms=recorded_ms if is_last else None
        )
        if is_last:
            return
        place = (page[-1].at_ms, page[-1].order_id)


class PurchaseCheck:
    """Compares one SKU, a page at a time. Nothing differs in a healthy store, at no instant: what the engine
    keeps of an order decides, and the record of those that it has forgotten, which change no more."""

    def __init__(self, sku: str, since_ms: int) -> None:
        self.sku = sku
        self.since_ms = since_ms
        self.left: list[Drift] = []
        """What was found and not repaired."""
        self._place: Place = (since_ms, "~")

    async def go_on(
        self, engine: CountingEngine, purchases: Purchases, *, repair: bool
    ) -> tuple[int, int, bool]:
        """(orders looked at, entries that differed, whether orders are left)."""
        page = await purchases.page(self.sku, self._place, PAGE_ORDERS)
        differing = 0
        if page:
            self._place = (page[-1].at_ms, page[-1].order_id)
            mode: Mode = "repair" if repair else "look"
            differing = await engine.load(self.sku, page, mode=mode, since_ms=self.since_ms, recorded_ms=None)
        return len(page), differing, len(page) == PAGE_ORDERS
