"""What counts as drift: the kinds, and the rules that find them in what was read.

Every rule is a function of what is given to it. Refuses to read anything (looks.py), to believe what it saw
once, and to repair (reconcile.py).
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from cartstore.model import PaymentStatus, Position, SkuFields
from cartstore.recovery.audits import CartAudit, CartTotals, HoldClaim, PaymentAudit, SkuAbsence, SkuAudit
from cartstore.recovery.counters import Counted

DriftKind = Literal[
    "counter_above_holds",
    "counter_below_holds",
    "orphan_index_entry",
    "unindexed_hold",
    "not_in_holding",
    "backorder_unserved",
    "cart_totals",
    "payment_not_due",
    "due_without_payment",
    "payment_missing",
    "payment_differs",
    "order_without_payment",
    "catalog_behind",
    "catalog_ahead",
    "sku_missing",
    "sku_lost",
    "ledger_ahead",
    "engine_ahead",
    "not_frozen",
    "frozen_alone",
    "purchases_differ",
    "unreadable",
]

DRIFT_KINDS: Final[tuple[DriftKind, ...]] = get_args(DriftKind)

COUNTERS: Final = frozenset({"counter_above_holds", "counter_below_holds"})
LEDGER: Final = frozenset({"ledger_ahead", "engine_ahead"})
REASON_LENGTH_MAX: Final = 200
HIDING: Final = frozenset({"payment_differs", "sku_lost", "unreadable"})
"""A subject with one of these is looked at no further: what else is wrong with it, nobody knows."""


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One disagreement. `expected` is what the other side, or the sum of the parts, says."""

    kind: DriftKind
    subject: str
    """SKU, cart id, payment id, or the partition's tag."""
    detail: str
    expected: str
    found: str


class LedgerCount(msgspec.Struct, order=True):
    on_hand: int
    sold: int
    backordered: int


def drifts_of_sku(audit: SkuAudit) -> list[Drift]:
    """What one SKU's own parts say against each other."""
    drifts = []
    recorded = Counted(held=audit.recorded_held, guest_held=audit.recorded_guest_held)
    if audit.is_whole and audit.counter != recorded:
        drifts.append(drift_of_counter(audit.sku, found=audit.counter, expected=recorded))
    if audit.orphans:
        drifts.append(
            Drift(
                kind="orphan_index_entry",
                subject=audit.sku,
                detail="The index of holds has entries that no cart and no order claims.",
                expected="no entry",
                found=f"{len(audit.orphans)}, {' '.join(audit.orphans[0].split(chr(31)))} first",
            )
        )
    if audit.earliest_ms and not 0 < audit.holding_ms <= audit.earliest_ms:
        drifts.append(
            Drift(
                kind="not_in_holding",
                subject=audit.sku,
                detail="The sweeper's index does not have the SKU, or has it too late.",
                expected=f"{audit.earliest_ms} or before",
                found=str(audit.holding_ms) if audit.holding_ms else "nothing",
            )
        )
    if audit.backordered > 0 and audit.on_hand > audit.held:
        drifts.append(
            Drift(
                kind="backorder_unserved",
                subject=audit.sku,
                detail="Units are free while paid orders wait for some.",
                expected="no free unit, or none owed",
                found=f"{audit.on_hand - audit.held} free, {audit.backordered} owed",
            )
        )
    return drifts


def drift_of_counter(sku: str, *, found: Counted, expected: Counted) -> Drift:
    """Also when only the guests' part is wrong, which limits what guests may hold."""
    is_above = (found.held, found.guest_held) > (expected.held, expected.guest_held)
    return Drift(
        kind="counter_above_holds" if is_above else "counter_below_holds",
        subject=sku,
        detail=f"held is {'above' if is_above else 'below'} the sum of the holds.",
        expected=str(expected),
        found=str(found),
    )


def drifts_with_catalog(fields: SkuFields | None, audit: SkuAudit) -> list[Drift]:
    """What the catalog says against the engine. `fields` were read after the audit, so that a revision which
    the engine had by then and the catalog has not is one that the catalog lost."""
    if fields is None or audit.revision == fields.revision:
        return []
    is_behind = audit.revision < fields.revision
    return [
        Drift(
            kind="catalog_behind" if is_behind else "catalog_ahead",
            subject=audit.sku,
            detail="The engine has an older revision than the catalog."
            if is_behind
            else "The engine has a revision that the catalog does not know.",
            expected=f"revision {fields.revision}",
            found=f"revision {audit.revision}",
        )
    ]


def drifts_of_absence(fields: SkuFields | None, absence: SkuAbsence, ledger: LedgerCount) -> list[Drift]:
    """What catalog, record and index say of a SKU that the engine does not have.

    Publishing gives it counters of zero. That is the truth of a SKU which nobody ever counted or held, and a
    false "sold out" of one whose counters were lost.
    """
    if absence.holds or ledger != LedgerCount(0, 0, 0):
        return [
            Drift(
                kind="sku_lost",
                subject=absence.sku,
                detail="The engine does not have this SKU, whose units the record counts or somebody holds.",
                expected=f"{_ledger_text(ledger)}, {absence.holds} holds",
                found="nothing",
            )
        ]
    if fields is None:
        return []
    return [
        Drift(
            kind="sku_missing",
            subject=absence.sku,
            detail="The catalog lists this SKU, the engine does not have it.",
            expected=f"revision {fields.revision}",
            found="nothing",
        )
    ]


def drifts_of_freezing(audit: SkuAudit | SkuAbsence, should_be: bool) -> list[Drift]:
    """Whether the SKU's sale is stopped in the engine as the record says."""
    if audit.is_frozen == should_be:
        return []
    return [
        Drift(
            kind="not_frozen" if should_be else "frozen_alone",
            subject=audit.sku,
            detail="The record has this SKU as frozen, the engine sells it."
            if should_be
            else "The engine does not sell this SKU, the record does not have it as frozen.",
            expected="frozen" if should_be else "for sale",
            found="for sale" if should_be else "frozen",
        )
    ]


def drifts_with_ledger(audit: SkuAudit, ledger: LedgerCount) -> list[Drift]:
    """What the ledger says against the engine, both at the same position."""
    # What is sold without counting is no business of the ledger's.
    if audit.policy == "untracked":
        return []
    found = LedgerCount(audit.on_hand, audit.sold, audit.backordered)
    if ledger == found:
        return []
    return [
        Drift(
            kind="ledger_ahead" if ledger > found else "engine_ahead",
            subject=audit.sku,
            detail=f"Ledger and engine count differently at position {audit.position}.",
            expected=_ledger_text(ledger),
            found=_ledger_text(found),
        )
    ]


def drifts_of_cart(audit: CartAudit) -> list[Drift]:
    """What one cart's parts say against each other and against the index."""
    drifts = [_unindexed(audit.cart_id, claim) for claim in audit.unindexed]
    if audit.running != audit.counted:
        drifts.append(
            Drift(
                kind="cart_totals",
                subject=audit.cart_id,
                detail="The running totals are not what the lines add up to.",
                expected=_totals_text(audit.counted),
                found=_totals_text(audit.running),
            )
        )
    return drifts


def drifts_of_payment(audit: PaymentAudit) -> list[Drift]:
    """What a payment says against the indexes."""
    drifts = [_unindexed(audit.payment_id, claim) for claim in audit.unindexed]
    if audit.status == "pending" and audit.due_ms != audit.expires_at_ms:
        drifts.append(
            Drift(
                kind="payment_not_due",
                subject=audit.payment_id,
                detail="The index of payment windows has a pending payment not at all, or at another time.",
                expected=str(audit.expires_at_ms),
                found=str(audit.due_ms) if audit.due_ms else "nothing",
            )
        )
    if audit.status != "pending" and audit.due_ms:
        drifts.append(
            Drift(
                kind="due_without_payment",
                subject=audit.payment_id,
                detail=f"The index of payment windows has a payment that is {audit.status}.",
                expected="no entry",
                found=str(audit.due_ms),
            )
        )
    return drifts


def drifts_with_record(audit: PaymentAudit, recorded: PaymentStatus | None, cursor: Position) -> list[Drift]:
    """What the record says against the engine. `cursor` was read first, then the record, then the audit: had
    the payment changed in between, its position would be beyond the cursor."""
    if audit.position > cursor or audit.status == recorded:
        return []
    return [
        Drift(
            kind="payment_differs",
            subject=audit.payment_id,
            detail="Record and engine tell different ends of this payment, with the same events.",
            expected=recorded or "nothing",
            found=audit.status,
        )
    ]


def drift_of_unreadable(subject: str, why: str) -> Drift:
    """Something is there, and what it says cannot be read."""
    return Drift(
        kind="unreadable",
        subject=subject,
        detail="What is there is not what scripts write; nothing about it is repaired.",
        expected="what scripts write",
        found=" ".join(why.split())[:REASON_LENGTH_MAX],
    )


def drift_of_lost_payment(payment_id: str) -> Drift:
    """A payment that is pending in the record and not in the engine."""
    return Drift(
        kind="payment_missing",
        subject=payment_id,
        detail="The record has this payment as pending, the engine does not have it.",
        expected="pending",
        found="nothing",
    )


def drift_of_stray_order(order_id: str) -> Drift:
    """An order that is pending, and whose payment the engine does not have: a checkout was cut off."""
    return Drift(
        kind="order_without_payment",
        subject=order_id,
        detail="The engine has this pending order, and not its payment.",
        expected="a payment",
        found="nothing",
    )


def drift_of_purchases(sku: str, differing: int) -> Drift:
    """The engine does not count all orders against a purchase limit, or counts released ones."""
    return Drift(
        kind="purchases_differ",
        subject=sku,
        detail="What customers have bought of this SKU is not counted as the record has it.",
        expected="no difference",
        found=f"{differing} entries",
    )


def drift_of_stray_due(payment_id: str) -> Drift:
    """An entry in `due` of a payment that neither engine nor record have."""
    return Drift(
        kind="due_without_payment",
        subject=payment_id,
        detail="The index of payment windows has an entry without a payment.",
        expected="no entry",
        found="an entry",
    )


def drift_of_lost_events(tag: str, position: Position, cursor: Position) -> Drift:
    """The engine's last event is before the last one that the record applied."""
    return Drift(
        kind="ledger_ahead",
        subject=tag,
        detail="The record has applied events that the engine has not issued.",
        expected=f"at least {cursor}",
        found=str(position),
    )


def _unindexed(subject: str, claim: HoldClaim) -> Drift:
    return Drift(
        kind="unindexed_hold",
        subject=subject,
        detail=f"Line {claim.line_id} holds {claim.units} of {claim.sku}, without an index entry.",
        expected="an entry",
        found="nothing",
    )


def _ledger_text(count: LedgerCount) -> str:
    return f"on_hand {count.on_hand}, sold {count.sold}, backordered {count.backordered}"


def _totals_text(totals: CartTotals) -> str:
    return (
        f"{totals.lines} lines, {totals.items} items, {totals.subtotal_minor} minor, {totals.held} held, "
        f"{totals.waiting} in orders"
        + (
            f", {totals.miscounted_periods} SKUs' units in orders miscounted"
            if totals.miscounted_periods
            else ""
        )
    )
