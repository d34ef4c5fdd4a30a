"""What each job does with the store. Owns how much one job does; refuses to know RQ, threads and signals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cartstore import limits, progress
from cartstore.archive.retention import RETENTION_KINDS, RetentionKind
from cartstore.errors import CartStoreError
from cartstore.recovery.reconcile import Reconciler
from cartstore.tasks import end
from cartstore_workers import metrics

if TYPE_CHECKING:
    from cartstore.store import CartStore
    from cartstore_workers.queues import JobName

ROUNDS_MAX: Final = 50
"""Batches of one job. More work than that waits for the next ring, so that every job gets its turn."""

RELEASES_PER_ROUND: Final = 500
PAYMENTS_PER_ROUND: Final = 200
RECONCILE_SUBJECTS: Final = 500
"""SKUs, carts and payments that one reconcile job looks at."""

DRAIN_BESIDE_SECONDS: Final = 0.05
"""How long events wait at most while another job takes its time."""

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Duties:
    """The jobs of one open store, by name."""

    def __init__(self, store: CartStore) -> None:
        self._store = store
        self._reconciler = Reconciler(store)
        self._stopping = asyncio.Event()
        self.drift: dict[str, int] = {}
        """What the latest looks of reconcile left, by kind; kinds without any are not named."""
        self.by_name: dict[JobName, Callable[[], Awaitable[None]]] = {
            "drain_outbox": self.drain_outbox,
            "release_due": self.release_due,
            "expire_payments": self.expire_payments,
            "snapshot_carts": self.snapshot_carts,
            "reconcile": self.reconcile,
            "recover": self.recover,
            "apply_retention": self.apply_retention,
        }
        for removed in RETENTION_KINDS:
            # An alert on its rate needs the series before the first removal.
            metrics.RETENTION_REMOVED.labels(removed)

    def stop_early(self) -> None:
        """Let a job that runs end with its present batch."""
        self._stopping.set()

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    async def drain_outbox(self) -> None:
        async def drain() -> int:
            moved = await self._store.drain_outbox()
            metrics.EVENTS_DRAINED.inc(moved)
            return moved

        await self._in_rounds(drain, limits.OUTBOX_BATCH_EVENTS)

    async def release_due(self) -> None:
        async def release() -> int:
            released = await self._store.release_due(RELEASES_PER_ROUND)
            metrics.HOLDS_RELEASED.inc(released)
            return released

        await self._in_rounds(release, RELEASES_PER_ROUND)

    async def expire_payments(self) -> None:
        async def expire() -> int:
            expired = await self._store.expire_payments(PAYMENTS_PER_ROUND)
            metrics.PAYMENTS_EXPIRED.inc(expired)
            return expired

        await self._in_rounds(expire, PAYMENTS_PER_ROUND)

    async def snapshot_carts(self) -> None:
        metrics.CARTS_SNAPSHOT.inc(await self._beside_the_drain(self._store.snapshot_carts()))

    async def reconcile(self) -> None:
        report = await self._beside_the_drain(self._reconciler.run(RECONCILE_SUBJECTS))
        metrics.RECONCILE_CHECKED.inc(report.checked)
        for drift in report.repaired:
            metrics.DRIFT_REPAIRED.labels(drift.kind).inc()
            _logger.warning(
                "drift repaired", extra={"fields": {"kind": drift.kind, "subject": drift.subject}}
            )
        for drift in report.drift:
            _logger.error(
                "drift: %s",
                drift.detail,
                extra={
                    "fields": {
                        "kind": drift.kind,
                        "subject": drift.subject,
                        "expected": drift.expected,
                        "found": drift.found,
                    }
                },
            )
        self.drift = {kind: count for kind, count in self._reconciler.open_by_kind().items() if count}

    async def apply_retention(self) -> None:
        await self._beside_the_drain(self._remove_outdated())

    async def _remove_outdated(self) -> None:
        """One kind that fails does not keep the others from being removed. Raises the first failure."""
        failures: list[CartStoreError] = []
        for kind in RETENTION_KINDS:
            try:
                await self._remove_kind(kind)
            except CartStoreError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    async def _remove_kind(self, kind: RetentionKind) -> None:
        for _ in range(ROUNDS_MAX):
            batch = await self._store.apply_retention(kind)
            metrics.RETENTION_REMOVED.labels(kind).inc(batch.removed)
            progress.made()
            if not batch.is_more or self._stopping.is_set():
                return

    async def recover(self) -> None:
        if await self._store.recover():
            _logger.warning("the gate was opened after a restart of the engine")

    async def _beside_the_drain(self, work: Coroutine[Any, Any, T]) -> T:
        """Long work, with the drain going on meanwhile: checkouts in mode `archived` wait for it alone."""
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait({task}, timeout=DRAIN_BESIDE_SECONDS))[0]:
                await self.drain_outbox()
            return task.result()
        finally:
            await end(task)

    async def _in_rounds(self, work: Callable[[], Awaitable[int]], batch: int) -> None:
        """Repeat until a batch was not full, the bound is reached or the worker stops."""
        for _ in range(ROUNDS_MAX):
            done = await work()
            progress.made()
            if done < batch or self._stopping.is_set():
                return
