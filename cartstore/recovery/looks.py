"""Looks at engine, catalog and record, and tells the drift that it sees. Owns how the two sides of one
comparison come to be of the same moment.

A disagreement between two stores is read at two moments, so a healthy system shows some: a product that was
stored and is being published, an event that is being drained. The ledger is therefore compared as of the
position that was read with the engine's counters, and what the ledger has not yet is waited for, then left
to the next run. Catalog and payments are read on that side of the audit from which a change in between is
seen. What one look sees is a suspicion nevertheless (reconcile.py looks a second time).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import msgspec

from cartstore.archive.events import BackorderFilled, PaymentSettled, StockAdjusted, decode
from cartstore.errors import ContractError
from cartstore.model import PaymentStatus, Position, SkuFields
from cartstore.recovery.audits import AuditedEngine, SkuAbsence, SkuAudit
from cartstore.recovery.drift import (
    Drift,
    LedgerCount,
    drift_of_lost_events,
    drift_of_lost_payment,
    drift_of_stray_due,
    drift_of_stray_order,
    drift_of_unreadable,
    drifts_of_absence,
    drifts_of_cart,
    drifts_of_freezing,
    drifts_of_payment,
    drifts_of_sku,
    drifts_with_catalog,
    drifts_with_ledger,
    drifts_with_record,
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

    what: Literal["sku", "cart", "payment", "order"]
    name: str
    fields: SkuFields | None = None
    """What the catalog wanted published of this SKU when the walk came by; None: it did not name it."""


class Looks:
    """The looks of one run."""

    def __init__(self, engine: AuditedEngine, store: CartStore) -> None:
        self._engine = engine
        self._store = store
        self.skipped = 0
        """SKUs that were not compared whole, once for each look."""
        self.not_compared: set[str] = set()
        """SKUs whose counters were not compared with the ledger in their last look: it was behind."""
        self.not_whole: set[str] = set()
        """SKUs with too many holds for one look."""
        self.put_right: set[str] = set()
        """Payments whose entry in `due` was repaired: where there is no payment, no audit tells that."""

    async def drifts_of(self, subjects: Sequence[Subject]) -> dict[Subject, list[Drift]]:
        """What is wrong with these subjects, of those where anything is."""
        found: dict[Subject, list[Drift]] = {}
        for page in slices([subject for subject in subjects if subject.what == "sku"]):
            found.update(await self._drifts_of_skus(page))
        for page in slices([subject for subject in subjects if subject.what == "payment"]):
            found.update(await self._drifts_of_payments(page))
        # Before the carts: their totals count what orders hold.
        for page in slices([subject for subject in subjects if subject.what == "order"]):
            stray = set(await self._engine.stray_orders([subject.name for subject in page]))
            found.update({its: [drift_of_stray_order(its.name)] for its in page if its.name in stray})
        for page in slices([subject for subject in subjects if subject.what == "cart"], LOOKS_AT_ONCE):
            looks = await asyncio.gather(*map(self._drifts_of_cart, page))
            found.update({subject: drifts for subject, drifts in zip(page, looks, strict=True) if drifts})
        return found

    async def fields_of(self, sku: str) -> SkuFields | None:
        """What the catalog wants published of a SKU now; None: it does not name it any more."""
        product = await self._store.catalog.find_sku(sku)
        published = self._store.catalog.published([product] if product is not None else [])
        return next((fields for fields in published if fields.sku == sku), None)

    async def _drifts_of_cart(self, subject: Subject) -> list[Drift]:
        try:
            cart = await self._engine.audit_cart(subject.name)
        except ContractError as error:
            return [drift_of_unreadable(subject.name, error.message)]
        return drifts_of_cart(cart) if cart is not None else []

    async def _drifts_of_payments(self, subjects: Sequence[Subject]) -> dict[Subject, list[Drift]]:
        cursor, _ = await self._store.archive.cursor()
        recorded = await self._store.archive.find_payments([subject.name for subject in subjects])
        statuses = {payment.payment_id: payment.status for payment, _ in recorded}
        found: dict[Subject, list[Drift]] = {}
        for page in slices(subjects, LOOKS_AT_ONCE):
            looks = (self._drifts_of_payment(its.name, statuses.get(its.name), cursor) for its in page)
            for subject, drifts in zip(page, await asyncio.gather(*looks), strict=True):
                if drifts:
                    found[subject] = drifts
        return found

    async def _drifts_of_payment(
        self, payment_id: str, recorded: PaymentStatus | None, cursor: Position
    ) -> list[Drift]:
        try:
            payment = await self._engine.audit_payment(payment_id)
        except ContractError as error:
            return [drift_of_unreadable(payment_id, error.message)]
        if payment is not None:
            # Who is right about the payment decides what belongs into its indexes: no more is told of it.
            return drifts_with_record(payment, recorded, cursor) or drifts_of_payment(payment)
        if recorded == "pending":
            return [drift_of_lost_payment(payment_id)]
        return [] if payment_id in self.put_right else [drift_of_stray_due(payment_id)]

    async def audit_sku(self, sku: str) -> SkuAudit | SkuAbsence | Drift:
        """One SKU; as drift, if it cannot be read."""
        try:
            return await self._engine.audit_sku(sku)
        except ContractError as error:
            return drift_of_unreadable(sku, error.message)

    async def _fields_beside(self, subject: Subject, audit: SkuAudit | SkuAbsence) -> SkuFields | None:
        """What the catalog says of a SKU, not older than its audit unless both are of one revision."""
        if isinstance(audit, SkuAudit) and (
            subject.fields is None or subject.fields.revision == audit.revision
        ):
            return subject.fields
        return await self.fields_of(subject.name)

    async def _drifts_of_skus(self, subjects: Sequence[Subject]) -> dict[Subject, list[Drift]]:
        before, _ = await self._store.archive.cursor()
        found: dict[Subject, list[Drift]] = {}
        audits: dict[Subject, SkuAudit | SkuAbsence] = {}
        for page in slices(subjects, LOOKS_AT_ONCE):
            looks = await asyncio.gather(*(self.audit_sku(subject.name) for subject in page))
            for subject, look in zip(page, looks, strict=True):
                if isinstance(look, Drift):
                    found[subject] = [look]
                else:
                    audits[subject] = look
        ledger = await self._ledger_as_of(list(audits.values()))
        frozen = set(await self._store.archive.quarantine.frozen())
        for subject, audit in audits.items():
            fields = await self._fields_beside(subject, audit)
            count = ledger.get(audit.sku)
            drifts = drifts_of_freezing(audit, audit.sku in frozen)
            (self.not_compared.add if count is None else self.not_compared.discard)(audit.sku)
            if isinstance(audit, SkuAudit):
                drifts += drifts_with_catalog(fields, audit)
                drifts += drifts_of_sku(audit)
                if audit.position < before:
                    drifts.append(drift_of_lost_events(self._store.partition.tag, audit.position, before))
                elif count is not None:
                    drifts += drifts_with_ledger(audit, count)
                if not audit.is_whole:
                    self.not_whole.add(audit.sku)
                self.skipped += not audit.is_whole or count is None
            elif count is not None:
                drifts += drifts_of_absence(fields, audit, count)
            else:
                self.skipped += 1
            if drifts:
                found[subject] = drifts
        return found

    async def _ledger_as_of(self, audits: Sequence[SkuAudit | SkuAbsence]) -> dict[str, LedgerCount]:
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
            if isinstance(body, StockAdjusted | BackorderFilled):
                if event.position > positions.get(body.sku, event.position):
                    delta = body.delta if isinstance(body, StockAdjusted) else 0
                    counts[body.sku].on_hand -= delta - body.filled
                    counts[body.sku].backordered += body.filled
            elif isinstance(body, PaymentSettled):
                for sale in body.sold:
                    if event.position > positions.get(sale.sku, event.position):
                        counts[sale.sku].on_hand += sale.taken
                        counts[sale.sku].sold -= sale.quantity
                        counts[sale.sku].backordered -= sale.backordered
        return counts


def slices(items: Sequence[T], size: int = PAGE_SUBJECTS) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
