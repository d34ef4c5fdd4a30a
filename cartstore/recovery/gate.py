"""Decides when a partition's gate may be opened. Owns the proof that the engine's history is the one that
the record was written from, and what follows when it is not: a rebuild.

Any number of recoverers may try. Each that goes on draws an epoch from PostgreSQL, which no other has; the
gate opens only for the one that saw it as it still is, or whose rebuild nobody took over. Dying at any point
leaves the gate shut for the next.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable
from typing import Final

from redis.asyncio import Redis

from cartstore import progress
from cartstore.archive.drain import drain
from cartstore.archive.raised_epoch import RaisedEpoch
from cartstore.archive.repository import Archive
from cartstore.catalog.repository import CatalogRepository
from cartstore.embedded.salvage import DAMAGED
from cartstore.errors import ContractError, OutboxBroken, StoreRecovering, StoreUnavailable
from cartstore.failpoints import reach
from cartstore.layout import engine_of
from cartstore.limits import OUTBOX_BATCH_EVENTS
from cartstore.model import CartTerms, Partition, Position
from cartstore.recovery.rebuild import Progress, Rebuild, no_progress
from cartstore.recovery.take_over import save_carts
from cartstore.redis.caller import ClientCaller, ScriptCaller
from cartstore.redis.gate import Gate, begin_rebuild, extend_windows, open_gate, read_gate
from cartstore.redis.layout_before import shut_gate
from cartstore.redis.outbox import RedisOutbox
from cartstore.redis.replication import LAG_SECONDS_MAX, read_replication
from cartstore.redis.store import RedisEngine

CHANGE_MARGIN: Final = 1_000_000
"""More cart mutations than an engine carries out between two snapshots."""

REBUILD_SILENCE_SECONDS: Final = 5.0
"""A rebuild that gave no sign of life for so long has died; another may take over."""

PROMOTION_MARGIN_SECONDS: Final = 1.0
"""Beyond the lag that the engine allows its replicas: it looks at that once a second."""

_log = logging.getLogger("cartstore.recovery")


class Recovery:
    """Opens the gate of one partition, at first start and after the engine was restarted or replaced."""

    def __init__(
        self,
        *,
        client: Redis,
        caller: ScriptCaller,
        engine: RedisEngine,
        outbox: RedisOutbox,
        archive: Archive,
        catalog: CatalogRepository,
        partition: Partition,
        lifetime_ms: int,
        terms_of: Callable[[str], CartTerms],
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        """`now_ms` overrides the clock, for tests."""
        self._client = client
        self._caller = caller
        self._engine = engine
        self._outbox = outbox
        self._archive = archive
        self._catalog = catalog
        self._partition = partition
        self._lifetime_ms = lifetime_ms
        self._terms_of = terms_of
        self._now_ms = now_ms
        self._watched: tuple[Gate, float] | None = None
        self._promoted: dict[str, float] = {}
        """When each replica that took over was met first, on the monotonic clock."""

    async def gate(self) -> tuple[Gate, bool]:
        """The gate, and whether it admits calls to the engine as it runs now. Raises StoreUnavailable."""
        # The identity is asked for last. An engine that restarts between the two questions has its old gate
        # in its files: beside the identity of before the restart that gate would pass for open.
        gate = await read_gate(self._client, self._engine.keys)
        return gate, gate.admits(await self._caller.identity())

    async def recover(self, on_progress: Progress = no_progress, *, rebuilds: bool = False) -> bool:
        """Open the gate if it is shut; whether this call opened it. Safe at any time, and beside itself. One
        that is open on an engine in whose place another was opened is shut first.

        `rebuilds`: shut an open gate too and rebuild the engine from the record, whatever the engine proves.

        Raises StoreRecovering when another recoverer is at work or took over, StoreUnavailable, and
        ConfigurationError for an engine whose keys are laid out in another way.
        """
        seen, is_open = await self.gate()
        seen.check_layout()
        if seen.is_of_layout_before:
            return await self._take_over(seen, on_progress)
        if is_open and (rebuilds or await self._was_replaced(seen)):
            why = "A rebuild was asked for." if rebuilds else "Another engine was opened after this one."
            await self._outbox.fence(why, epoch=seen.epoch)
            seen, is_open = await self.gate()
        if is_open:
            return False
        if seen.state == "rebuilding" and self._is_moving(seen):
            raise StoreRecovering("Another process is rebuilding the partition from PostgreSQL.")
        # Counters, holds and carts of a log with a hole prove nothing, whatever the stream proves.
        rebuilds = rebuilds or seen.identity == DAMAGED
        await self._wait_for_the_old_primary(seen)
        if seen.state != "rebuilding" and await self._continues_the_record(seen):
            if not rebuilds and await self._has_all_carts(seen):
                reach("recovery.proved")
                try:
                    return await self._reopen(seen)
                except OutboxBroken as broken:
                    _log.error("partition %s: %s", self._partition.tag, broken.message)
            else:
                await self._drain_before_rebuild()
        return await self._rebuild(seen, on_progress)

    async def _take_over(self, seen: Gate, on_progress: Progress) -> bool:
        """Bring all of an engine of the key layout before into the record, and rebuild the engine from it."""
        if seen.state == "rebuilding" and self._is_moving(seen):
            raise StoreRecovering("A process of the version before is rebuilding the partition.")
        await self._wait_for_the_old_primary(seen)
        if not await shut_gate(self._caller, self._engine.keys, epoch=seen.epoch, now_ms=self._override()):
            raise StoreRecovering("Another process opened the gate.")
        reach("take_over.shut")
        # Carts changed until it was shut. From here on nobody changes the engine but who takes it over.
        shut, _ = await self.gate()
        reach("take_over.looked")
        if (shut.epoch, shut.layout) != (seen.epoch, seen.layout):
            raise StoreRecovering("Another process is taking the engine over.")
        _log.warning("partition %s is taken over from key layout %d", self._partition.tag, seen.layout)
        # The stream and the carts of half a rebuild are those of the record already.
        if seen.state != "rebuilding" and await self._continues_the_record(shut):
            await self._drain_before_rebuild()
            reach("take_over.drained")
            # The carts of a log with a hole prove nothing, whatever the stream proves.
            if seen.identity != DAMAGED and await self._has_all_carts(shut):
                saved = await save_carts(
                    self._caller,
                    self._engine.keys,
                    self._archive,
                    epoch=shut.epoch,
                    position=await self._outbox.last_position(),
                )
                reach("take_over.all_saved")
                _log.info("partition %s: %d carts were saved before", self._partition.tag, saved)
        return await self._rebuild(shut, on_progress)

    def _override(self) -> str | int:
        """What scripts take for the time."""
        return "" if self._now_ms is None else self._now_ms()

    async def _was_replaced(self, seen: Gate) -> bool:
        """Whether an open gate is that of an engine in whose place another was opened, and which is back: a
        primary that was never restarted, a machine that was put to sleep. It knows itself, so no call of its
        scripts finds anything wrong, while the record takes nothing of it any more. False when the record
        cannot be asked: an open gate does not wait for it."""
        try:
            return seen.epoch < await self._archive.fence_epoch()
        except StoreUnavailable:
            return False

    async def _wait_for_the_old_primary(self, seen: Gate) -> None:
        """Raise StoreRecovering while the primary whose place a replica took may still take writes: one that
        is cut off stops when its replicas have been silent for `min-replicas-max-lag`."""
        run_id, _, history = engine_of(seen.identity).partition(":")
        identity = engine_of(await self._caller.identity())
        if not history or identity.startswith(f"{run_id}:"):
            return
        facts = await read_replication(self._client)
        lag = LAG_SECONDS_MAX if facts.lag_seconds_max is None else facts.lag_seconds_max
        if facts.took_over != history or lag == 0:
            return
        met_at = self._promoted.setdefault(identity, time.monotonic())
        left = met_at + lag + PROMOTION_MARGIN_SECONDS - time.monotonic()
        if left > 0:
            raise StoreRecovering(
                f"A replica took over; its old primary may go on for up to {math.ceil(left)} seconds."
            )

    async def _continues_the_record(self, seen: Gate) -> bool:
        """Whether the stream holds the last event that the record applied, with its nonce, and nothing after
        it that the record refuses."""
        cursor, nonce = await self._archive.cursor()
        if not seen.exists:
            # Nothing was ever archived nor sold: an empty engine is as it should be.
            return cursor.seq == 0 and await self._catalog.count() == 0
        if not await self._holds(cursor, nonce):
            return False
        # A copy of an engine that was replaced since: what the record does not have of it comes too late.
        following = await self._outbox.read(cursor, 1)
        return not following or following[0].position.epoch >= await self._archive.fence_epoch()

    async def _holds(self, cursor: Position, nonce: str) -> bool:
        """Whether the stream holds the last event that the record applied."""
        if cursor.seq == 0:
            return True
        event = await self._outbox.find(cursor)
        return event is not None and event.nonce == nonce

    async def _has_all_carts(self, seen: Gate) -> bool:
        """Whether the carts are no older than their snapshots. Mutations are no events: an engine that lost
        only some of them still has the last event."""
        return not seen.exists or seen.change >= (await self._archive.snapshots.state()).change

    async def _drain_before_rebuild(self) -> None:
        """The carts are lost with the engine's last second, the events before it are not: with the drain
        behind, they are what was acknowledged and is nowhere else. What cannot be read is lost either way."""
        try:
            await drain(self._archive, self._outbox, trims=False)
        except (ContractError, StoreRecovering):
            _log.exception("partition %s: not all events of the lost engine were saved", self._partition.tag)

    async def _reopen(self, seen: Gate) -> bool:
        """Drain to the end, close the old epoch in the record, open the gate in a new one. What was proved
        before is proved of the record as it is now: a worker may have had events and carts of the engine that
        was here before in its hands, and have written them meanwhile."""
        await drain(self._archive, self._outbox, trims=False)
        reach("recovery.drained")
        cursor, nonce = await self._archive.cursor()
        reach("recovery.measured")
        state = await self._archive.snapshots.state()
        reach("recovery.versions_measured")
        if not await self._holds(cursor, nonce) or (seen.exists and seen.change < state.change):
            raise StoreRecovering("The record was given more of an earlier engine than this one has.")
        since_ms = _silent_since(seen.fenced_at_ms, state.at_ms, await self._outbox.last_event_ms())
        reach("recovery.silence_measured")
        if seen.exists and since_ms and not await self._extend_windows(seen, since_ms):
            raise StoreRecovering("Another process opened the gate.")
        reach("recovery.windows_extended")
        async with self._archive.raising_epoch(seen.epoch + 1) as raised:
            reach("recovery.epoch_raised")
            if (raised.cursor, raised.nonce) != (cursor, nonce):
                raise StoreRecovering("Another process is draining the outbox.")
            if (await self._archive.snapshots.state()).change != state.change:
                raise StoreRecovering("Another process is saving carts.")
            # Within the transaction: were the epoch drawn and the gate not opened in it, the record would
            # refuse every event of the gate that another recoverer opened.
            if not await self._open(
                seen, raised.epoch, cursor, _change_above(seen.change, state.change, raised.epoch)
            ):
                raise StoreRecovering("Another process opened the gate.")
            reach("recovery.opened")
        # What the drain rejected a moment ago; a fenced engine could not be told. Reconcile would see it too.
        await self._outbox.freeze(await self._archive.quarantine.frozen())
        reach("recovery.frozen_again")
        _log.info("partition %s open in epoch %d", self._partition.tag, raised.epoch)
        return True

    async def _rebuild(self, seen: Gate, on_progress: Progress) -> bool:
        state = await self._archive.snapshots.state()
        reach("rebuild.measured")
        async with self._archive.raising_epoch(seen.epoch + 1) as raised:
            reach("rebuild.epoch_raised")
            # No identity of an engine begins so.
            token = f"rebuild:{raised.epoch}:{secrets.token_hex(8)}"
            caller = ClientCaller(self._client, identity=token)
            fenced_at_ms = await begin_rebuild(
                caller,
                self._engine.keys,
                seen=seen,
                epoch=raised.epoch,
                seq=raised.cursor.seq,
                change=_change_above(seen.change, state.change, raised.epoch),
                lifetime_ms=self._lifetime_ms,
            )
            reach("rebuild.shut")
            if fenced_at_ms is None:
                raise StoreRecovering("Another process is rebuilding the partition from PostgreSQL.")
            # From here on nobody but this rebuild appends to the stream, and it has not begun to.
            await self._keep_events(raised)
            reach("rebuild.events_kept")
        epoch, cursor, nonce = raised.epoch, raised.cursor, raised.nonce
        _log.warning("partition %s is rebuilt from PostgreSQL as of event %s", self._partition.tag, cursor)
        began = time.monotonic()
        rebuild = Rebuild(
            client=self._client,
            caller=caller,
            partition=self._partition,
            archive=self._archive,
            catalog=self._catalog,
            terms_of=self._terms_of,
            lifetime_ms=self._lifetime_ms,
            on_progress=on_progress,
            now_ms=self._now_ms,
        )
        await rebuild.run(cursor, nonce, silent_since_ms=_silent_since(fenced_at_ms, state.at_ms, 0))
        reach("rebuild.done")
        opened = await self._open(
            Gate(state="rebuilding", identity=token, epoch=epoch), epoch, cursor, state.change
        )
        reach("rebuild.opened")
        if not opened:
            raise StoreRecovering("Another process took the rebuild over.")
        took = time.monotonic() - began
        _log.warning("partition %s rebuilt in %.1f s, open in epoch %d", self._partition.tag, took, epoch)
        return True

    async def _keep_events(self, raised: RaisedEpoch) -> None:
        """Bring every event of the stream that the record does not have into PostgreSQL, before the stream is
        cleared: applied if it chains on from the last applied one, else put aside with the reason."""
        applied = aside = 0
        last = Position(0, 0)
        while page := await self._outbox.read(last, OUTBOX_BATCH_EVENTS):
            taken = await raised.take(page)
            applied, aside = applied + taken.applied, aside + taken.put_aside
            last = page[-1].position
            progress.made()
        if applied or aside:
            _log.error(
                "partition %s: before the rebuild %d waiting events were applied, and %d that cannot be"
                " applied were put into rejected_events",
                self._partition.tag,
                applied,
                aside,
            )

    async def _extend_windows(self, seen: Gate, since_ms: int) -> bool:
        return await extend_windows(
            self._caller, self._client, self._engine.keys, seen=seen, since_ms=since_ms
        )

    async def _open(self, seen: Gate, epoch: int, cursor: Position, change: int) -> bool:
        return await open_gate(
            self._caller,
            self._engine.keys,
            seen=seen,
            epoch=epoch,
            seq=cursor.seq,
            change=change,
            lifetime_ms=self._lifetime_ms,
        )

    def _is_moving(self, seen: Gate) -> bool:
        """Whether the rebuild that shut this gate is alive, as far as this recoverer has watched it."""
        now = time.monotonic()
        if self._watched is None or self._watched[0] != seen:
            self._watched = (seen, now)
            return True
        return now - self._watched[1] < REBUILD_SILENCE_SECONDS


def _change_above(seen: int, snapshotted: int, epoch: int) -> int:
    """Where `change` starts in an epoch, so that no cart version that was ever told is told again.

    `seen` is what the engine says, 0 if it lost it; `snapshotted` what the record knows as of the last
    snapshot. A margin above the higher of them is not enough: an engine that is lost before the next snapshot
    takes the versions since then with it, and whole epochs of them if it was restarted meanwhile. The epoch
    is drawn from the record and never again. Three margins for each epoch there ever was are more than the
    recoveries since that snapshot can have added: one for each, and one for the mutations in it.
    """
    return max(seen + CHANGE_MARGIN, snapshotted + 3 * CHANGE_MARGIN * epoch)


def _silent_since(fenced_at_ms: int, snapshot_ms: int, event_ms: int) -> int:
    """When the engine was last known to take writes; 0 when nothing tells.

    The fence is the first call that met another engine. How long there was none before it, an engine cannot
    say; its last snapshot, or event, was the last sign of life.
    """
    signs = max(snapshot_ms, event_ms)
    return min(signs, fenced_at_ms) if signs and fenced_at_ms else signs or fenced_at_ms
