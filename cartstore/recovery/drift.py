"""What counts as drift: the kinds, and the rules that find them in what was read.

Every rule is a function of what is given to it. Refuses to read anything (looks.py), to believe what it saw
once, and to repair (reconcile.py).
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from cartstore.model import Position, SkuFields
from cartstore.recovery.audits import CartAudit, CartTotals, HoldClaim, PaymentAudit, SkuAudit
from cartstore.recovery.counters import Counted

DriftKind = Literal[
    "counter_above_holds",
    "counter_below_holds",
    "orphan_index_entry",
    "unindexed_hold",
    "not_in_holding",
    "cart_totals",
    "payment_not_due",
    "due_without_payment",
    "payment_missing",
    "catalog_behind",
    "sku_missing",
    "ledger_ahead",
    "engine_ahead",
    "not_frozen",
    "frozen_alone",
]

DRIFT_KINDS: Final[tuple[DriftKind, ...]] = get_args(DriftKind)

COUNTERS: Final = frozenset({"counter_above_holds", "counter_below_holds"})


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One disagreement. `expected` is what the other side, or the sum of the parts, says."""

    kind: DriftKind
    subject: str
    """SKU, cart id, payment id, or the partition's tag."""
    detail: str
    expected: str
    found: str


class LedgerCount(msgspec.Struct):
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


def drifts_with_catalog(fields: SkuFields | None, audit: SkuAudit | None) -> list[Drift]:
    """What the catalog says against the engine."""
    if fields is None or (audit is not None and audit.revision >= fields.revision):
        return []
    return [
        Drift(
            kind="catalog_behind" if audit is not None else "sku_missing",
            subject=fields.sku,
            detail="The engine has an older revision than the catalog."
            if audit is not None
            else "The catalog lists this SKU, the engine does not have it.",
            expected=f"revision {fields.revision}",
            found=f"revision {audit.revision}" if audit is not None else "nothing",
        )
    ]


def drifts_of_freezing(audit: SkuAudit, should_be: bool) -> list[Drift]:
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
    expected = (ledger.on_hand, ledger.sold, ledger.backordered)
    found = (audit.on_hand, audit.sold, audit.backordered)
    if expected == found:
        return []
    return [
        Drift(
            kind="ledger_ahead" if expected > found else "engine_ahead",
            subject=audit.sku,
            detail=f"Ledger and engine count differently at position {audit.position}.",
            expected="on_hand {}, sold {}, backordered {}".format(*expected),
            found="on_hand {}, sold {}, backordered {}".format(*found),
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


def drift_of_lost_payment(payment_id: str) -> Drift:
    """A payment that is pending in the record and not in the engine."""
    return Drift(
        kind="payment_missing",
        subject=payment_id,
        detail="The record has this payment as pending, the engine does not have it.",
        expected="pending",
        found="nothing",
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


def _totals_text(totals: CartTotals) -> str:
    return f"{totals.lines} lines, {totals.items} items, {totals.subtotal_minor} minor"
