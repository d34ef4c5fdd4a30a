"""Looks at engine, catalog and record, and tells the drift that it sees. Owns how the two sides of one
comparison come to be of the same moment.

A disagreement between two stores is read at two moments, so a healthy system shows some: a product that was
stored and is being published, an event that is being drained. The ledger is therefore compared as of the
position that was read with the engine's counters, and what the ledger has not yet is waited for, then left
to the next run. What one look sees is a suspicion nevertheless (reconcile.py looks a second time).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import msgspec

from cartstore.archive.events import PaymentSettled, StockAdjusted, decode
from cartstore.model import SkuFields
from cartstore.recovery.audits import AuditedEngine, SkuAudit
from cartstore.recovery.drift import (
    Drift,
    LedgerCount,
    drift_of_lost_events,
    drift_of_lost_payment,
    drift_of_stray_due,
    drifts_of_cart,
    drifts_of_freezing,
    drifts_of_payment,
    drifts_of_sku,
    drifts_with_catalog,
    drifts_with_ledger,
)

if TYPE_CHECKING:
    from cartstore.store import CartStore

T = TypeVar("T")

PAGE_SUBJECTS: Final = 100
LOOKS_AT_ONCE: Final = 20
"""Audits under way together, so that buyers' calls get between them."""

LAG_SECONDS: Final = 2.0
"""How long one page waits for the record to reach the position of an audit."""

LAG_POLL_SECONDS: Final = 0.05
EVENTS_UNDONE_MAX: Final = 2_000
"""Events after an audit that are worked out of the ledger's counters; with more, the next run is quicker."""


class Subject(msgspec.Struct, frozen=True):
    """What one look is about."""

    what: Literal["sku", "cart", "payment"]
    name: str
    fields: SkuFields | None = None
    """What the catalog wants published of this SKU; None: not a SKU of the catalog, or not looked up."""


class Looks:
    """The looks of one run."""

    def __init__(self, engine: AuditedEngine, store: CartStore) -> None:
        self._engine = engine
        self._store = store
        self.skipped = 0
        """SKUs that were not compared whole, once for each look."""
        self.not_whole: set[str] = set()
        """SKUs with too many holds for one look."""
        self.put_right: set[str] = set()
        """Payments whose entry in `due` was repaired: where there is no payment, no audit tells that."""

    async def drifts_of(self, subjects: Sequence[Subject]) -> dict[Subject, list[Drift]]:
        """What is wrong with these subjects, of those where anything is."""
        found: dict[Subject, list[Drift]] = {}
        for page in slices([subject for subject in subjects if subject.what == "sku"]):
            found.update(await self._drifts_of_skus(page))
        others = [subject for subject in subjects if subject.what != "sku"]
        for slice_ in slices(others, LOOKS_AT_ONCE):
            for subject, drifts in zip(
                slice_, await asyncio.gather(*map(self._drifts_of_other, slice_)), strict=True
            ):
                if drifts:
                    found[subject] = drifts
        return found

    async def _drifts_of_other(self, subject: Subject) -> list[Drift]:
        if subject.what == "cart":
            cart = await self._engine.audit_cart(subject.name)
            return drifts_of_cart(cart) if cart is not None else []
        payment = await self._engine.audit_payment(subject.name)
        if payment is not None:
            return drifts_of_payment(payment)
        recorded = await self._store.archive.find_payment(subject.name)
        if recorded is not None and recorded[0].status == "pending":
            return [drift_of_lost_payment(subject.name)]
        if subject.name in self.put_right:
            return []
        return [drift_of_stray_due(subject.name)]

    async def _drifts_of_skus(self, subjects: Sequence[Subject]) -> dict[Subject, list[Drift]]:
        before, _ = await self._store.archive.cursor()
        audits: dict[Subject, SkuAudit | None] = {}
        for slice_ in slices(subjects, LOOKS_AT_ONCE):
            looks = await asyncio.gather(*(self._engine.audit_sku(subject.name) for subject in slice_))
            audits.update(zip(slice_, looks, strict=True))
        whole = [audit for audit in audits.values() if audit is not None]
        ledger = await self._ledger_as_of(whole)
        frozen = set(await self._store.archive.quarantine.frozen())
        found: dict[Subject, list[Drift]] = {}
        for subject, audit in audits.items():
            drifts = drifts_with_catalog(subject.fields, audit)
            if audit is not None:
                drifts += drifts_of_sku(audit) + drifts_of_freezing(audit, audit.sku in frozen)
                if audit.position < before:
                    drifts.append(drift_of_lost_events(self._store.partition.tag, audit.position, before))
                elif audit.sku in ledger:
                    drifts += drifts_with_ledger(audit, ledger[audit.sku])
                self.skipped += not audit.is_whole or audit.sku not in ledger
                if not audit.is_whole:
                    self.not_whole.add(audit.sku)
            if drifts:
                found[subject] = drifts
        return found

    async def _ledger_as_of(self, audits: Sequence[SkuAudit]) -> dict[str, LedgerCount]:
        """The ledger's counters of these SKUs at their audits' positions; without those it has not reached.

        What the record applied after an audit is worked out of its counters again, so that a busy shop,
        whose record is never still, can be compared too.
        """
        if not audits:
            return {}
        deadline = asyncio.get_running_loop().time() + LAG_SECONDS
        wanted = max(audit.position for audit in audits)
        while True:
            cursor, totals = await self._store.archive.stock_totals([audit.sku for audit in audits])
            if cursor >= wanted or asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(LAG_POLL_SECONDS)
        counts = {
            audit.sku: LedgerCount(*((its.on_hand, its.sold, its.backordered) if its else (0, 0, 0)))
            for audit in audits
            if audit.position <= cursor
            for its in [totals.get(audit.sku)]
        }
        positions = {audit.sku: audit.position for audit in audits if audit.sku in counts}
        oldest = min(positions.values(), default=cursor)
        if oldest == cursor:
            return counts
        later = await self._store.archive.events_after(oldest, EVENTS_UNDONE_MAX + 1)
        if len(later) > EVENTS_UNDONE_MAX:
            return {sku: count for sku, count in counts.items() if positions[sku] == cursor}
        for event in later:
            if event.position > cursor:
                break
            body = decode(event)
            if isinstance(body, StockAdjusted):
                if event.position > positions.get(body.sku, event.position):
                    counts[body.sku].on_hand -= body.delta
            elif isinstance(body, PaymentSettled):
                for sale in body.sold:
                    if event.position > positions.get(sale.sku, event.position):
                        counts[sale.sku].on_hand += sale.taken
                        counts[sale.sku].sold -= sale.quantity
                        counts[sale.sku].backordered -= sale.backordered
        return counts


def slices(items: Sequence[T], size: int = PAGE_SUBJECTS) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
