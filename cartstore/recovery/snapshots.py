"""The snapshot job: carries changed carts into the record every few seconds. Owns the walk over `activity`.

Bounded per run, continues from the record's own cursor, and may run twice, late or beside itself: a cart is
stored only over an older version of itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from cartstore.archive.snapshots import CartSnapshots, SnapshotState
from cartstore.failpoints import reach
from cartstore.model import CartSnapshot, Position

BATCH_CARTS: Final = 200
SWEPT_CARTS: Final = 500
"""Carts of `activity` that one run asks after, whether they are still kept."""

RUN_CARTS_MAX: Final = 20_000


class CartDump(msgspec.Struct, frozen=True, kw_only=True):
    """Carts that changed after a change number, as the engine has them."""

    at_ms: int
    epoch: int
    """In which the engine was open when it was asked."""
    position: Position
    """Of the last event in the outbox, when the carts were read."""
    carts: list[CartSnapshot]
    gone: list[str]
    """Carts that changed and are not kept any more."""
    change: int
    """Of the last of them; the number asked for when there is none."""


class GoneCarts(msgspec.Struct, frozen=True, kw_only=True):
    """What a slice of `activity` has of carts that are not kept any more."""

    looked_at: int
    """Entries of the slice."""
    epoch: int
    """In which the engine was open when it was asked."""
    cart_ids: list[str]


class DumpingEngine(Protocol):
    """What the snapshot job asks of the engine."""

    async def dump_carts(self, after: int, limit: int) -> CartDump: ...

    async def find_gone_carts(self, offset: int, count: int) -> GoneCarts: ...

    async def forget_carts(self, cart_ids: list[str]) -> list[str]: ...


async def take_snapshots(
    engine: DumpingEngine,
    snapshots: CartSnapshots,
    *,
    drain: Callable[[], Awaitable[object]],
    abandoned_after_ms: int,
    carts_max: int = RUN_CARTS_MAX,
) -> int:
    """Store the carts that changed since the last run; how many.

    A cart is stored only once the record has every event that the engine had issued when the cart was read:
    `drain` carries them there. What it raises ends the run, with nothing stored. Raises StoreUnavailable,
    OutcomeUnknown, StoreRecovering when another engine was opened meanwhile.
    """
    taken = 0
    after = (await snapshots.state()).change
    reach("snapshot.began")
    while taken < carts_max:
        dump = await engine.dump_carts(after, BATCH_CARTS)
        reach("snapshot.dumped")
        if not await snapshots.has_reached(dump.position):
            # What others issue meanwhile is not waited for: the carts are those of the dump.
            await drain()
            reach("snapshot.drained")
            if not await snapshots.has_reached(dump.position):
                # A drain has its bounds. The next run goes on from here.
                break
        # The engine's copy may only go once the record's says so, hence first expired, then forgotten.
        await snapshots.expire(dump.gone, epoch=dump.epoch)
        reach("snapshot.expired")
        if dump.gone:
            await engine.forget_carts(dump.gone)
            reach("snapshot.forgotten")
        # Stored also when nothing changed: `at_ms` tells a rebuild since when the engine has been silent.
        state = SnapshotState(change=dump.change, at_ms=dump.at_ms)
        if not await snapshots.save(dump.carts, state, epoch=dump.epoch, position=dump.position):
            break
        reach("snapshot.saved")
        found = len(dump.carts) + len(dump.gone)
        taken += found
        after = dump.change
        if found < BATCH_CARTS:
            await snapshots.age(dump.at_ms, abandoned_after_ms)
            reach("snapshot.aged")
            break
    return taken


async def sweep_activity(engine: DumpingEngine, snapshots: CartSnapshots, offset: int) -> int:
    """Mark carts as expired that died of their TTL long after their snapshot, and take them out of
    `activity`, a slice per run.

    Gives the offset to go on from, 0 after the end. Raises StoreUnavailable, OutcomeUnknown, StoreRecovering.
    """
    found = await engine.find_gone_carts(offset, SWEPT_CARTS)
    reach("snapshot.looked_back")
    await snapshots.expire(found.cart_ids, epoch=found.epoch)
    reach("snapshot.swept")
    if found.cart_ids:
        await engine.forget_carts(found.cart_ids)
        reach("snapshot.forgotten")
    return offset + found.looked_at - len(found.cart_ids) if found.looked_at == SWEPT_CARTS else 0
