"""Decides when a partition's gate may be opened. Owns the proof that the engine's history is the one that
the record was written from; refuses to open on anything less.

Every recoverer holds one lock in PostgreSQL, so that of two only one works; the other then finds the gate
open and is done. Dying at any point leaves the gate shut and the lock free.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from redis.asyncio import Redis

from cartstore.archive.repository import Archive
from cartstore.catalog.repository import CatalogRepository
from cartstore.errors import StoreRecovering
from cartstore.redis.caller import PooledCaller
from cartstore.redis.gate import Gate, open_gate, read_gate
from cartstore.redis.outbox import RedisOutbox
from cartstore.redis.store import RedisEngine

CHANGE_MARGIN = 1_000_000
"""How far above everything known `change` starts on an engine that was empty, so that no cart version that
was ever told is told again for another state."""

_log = logging.getLogger("cartstore.recovery")


class Recovery:
    """Opens the gate of one partition, at first start and after the engine was restarted."""

    def __init__(
        self,
        *,
        client: Redis,
        caller: PooledCaller,
        engine: RedisEngine,
        outbox: RedisOutbox,
        archive: Archive,
        catalog: CatalogRepository,
        lifetime_ms: int,
        lock: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._client = client
        self._caller = caller
        self._engine = engine
        self._outbox = outbox
        self._archive = archive
        self._catalog = catalog
        self._lifetime_ms = lifetime_ms
        self._lock = lock

    async def gate(self) -> tuple[Gate, bool]:
        """The gate, and whether it admits calls to the engine as it runs now. Raises StoreUnavailable."""
        identity = await self._caller.identity()
        gate = await read_gate(self._client, self._engine.keys)
        return gate, gate.admits(identity)

    async def recover(self) -> bool:
        """Open the gate if it is shut; whether this call opened it. Safe at any time, and beside itself.

        Raises StoreRecovering when the engine's history is not the record's, StoreUnavailable.
        """
        _, is_open = await self.gate()
        if is_open:
            return False
        async with self._lock():
            seen, is_open = await self.gate()
            if is_open:
                return False
            await self._prove(seen)
            opened = await open_gate(
                self._caller,
                self._engine.keys,
                seen=seen,
                epoch=seen.epoch + 1,
                seq=seen.seq,
                change=seen.change if seen.exists else CHANGE_MARGIN,
                lifetime_ms=self._lifetime_ms,
            )
        if opened and not seen.exists:
            await self._publish_catalog()
        if opened:
            _log.info("partition %s open in epoch %d", self._engine.partition.tag, seen.epoch + 1)
        return opened

    async def _prove(self, seen: Gate) -> None:
        """The last event that the record applied must be in the stream, with its nonce."""
        cursor, nonce = await self._archive.cursor()
        if cursor.seq == 0:
            return
        event = await self._outbox.find(cursor) if seen.exists else None
        if event is None or event.nonce != nonce:
            raise StoreRecovering(
                f"The engine does not have event {cursor} that PostgreSQL has applied: it is empty, or its "
                "history is another one. Restore the engine's data, or rebuild it from PostgreSQL."
            )

    async def _publish_catalog(self) -> None:
        """An engine that was empty knows no SKU yet; the catalog may have outlived it."""
        async for page in self._catalog.all_sku_fields():
            await self._engine.publish_skus(page)
