"""Takes an engine of the key layout before over: brings what the record lacks of it into the record, from
which the engine is then rebuilt in the present layout (recovery/gate.py).

The record refuses processes of the layout before already, since a process of this one has opened it
(`Archive.claim`): none of them drains, saves carts or draws an epoch any more. A recoverer that dies leaves
the gate as one of the layout before, and the next one begins anew.
"""

from __future__ import annotations

import logging
from typing import Final

from cartstore import progress
from cartstore.archive.repository import Archive
from cartstore.archive.snapshots import SnapshotState
from cartstore.errors import StoreRecovering
from cartstore.failpoints import reach
from cartstore.model import Position
from cartstore.redis.caller import ScriptCaller
from cartstore.redis.keys import Keys
from cartstore.redis.layout_before import dump_carts

BATCH_CARTS: Final = 200

_log = logging.getLogger("cartstore.recovery")


async def save_carts(
    caller: ScriptCaller, keys: Keys, archive: Archive, *, epoch: int, position: Position
) -> int:
    """Save every cart that changed since the last snapshot; how many. The engine's gate is shut, and its
    outbox is drained up to `position`, its last event; none is saved if it could not be.

    A cart that cannot be read keeps the snapshot that it has. Raises StoreRecovering when another recoverer
    is at work, StoreUnavailable, OutcomeUnknown.
    """
    state = await archive.snapshots.state()
    reach("take_over.measured")
    change, saved = state.change, 0
    while True:
        found = await dump_carts(caller, keys, epoch=epoch, after=change, limit=BATCH_CARTS)
        reach("take_over.dumped")
        if found is None:
            raise StoreRecovering("Another process is taking the engine over.")
        for cart_id in found.unreadable:
            _log.error("cart %s cannot be read: it comes back as of its last snapshot", cart_id)
        await archive.snapshots.expire(found.gone, epoch=epoch)
        reach("take_over.expired")
        # The time stays that of the last snapshot: it tells how long the engine has been silent.
        saves = SnapshotState(change=found.change, at_ms=state.at_ms)
        if not await archive.snapshots.save(found.carts, saves, epoch=epoch, position=position):
            _log.error("not all events could be drained: carts come back as of their last snapshots")
            return saved
        reach("take_over.saved")
        progress.made()
        saved += len(found.carts)
        change = found.change
        if found.count < BATCH_CARTS:
            return saved
