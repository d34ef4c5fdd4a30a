"""What one run of reconcile tells, and how a terminal shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec

from cartstore.recovery.drift import Drift, DriftKind

REMEDIES: Final[Mapping[DriftKind, str]] = {
    "counter_above_holds": "set it to what carts and orders claim, unless the SKU moves meanwhile",
    "counter_below_holds": "set it to what carts and orders claim, unless the SKU moves meanwhile",
    "orphan_index_entry": "take the entry out",
    "unindexed_hold": "index it, if the counter has it",
    "not_in_holding": "put the SKU there",
    "backorder_unserved": "give the units to the orders that were paid first",
    "payment_not_due": "put it there",
    "due_without_payment": "take the entry out",
    "cart_totals": "add them up anew",
    "order_without_payment": "put its payment back if the record has it, else undo the checkout",
    "catalog_behind": "publish the SKU",
    "sku_missing": "publish the SKU",
    "not_frozen": "freeze the SKU",
    "purchases_differ": "count the record's orders, and no released ones",
}
"""What a repair would do about each kind that it may touch, if it proves safe. The others are left."""


class ReconcileReport(msgspec.Struct, frozen=True, kw_only=True):
    checked: int
    """SKUs, carts and payments that were looked at, each once per walk that came by."""
    repaired: list[Drift]
    drift: list[Drift]
    """What could not be repaired."""
    skipped: int = 0
    """SKUs that were not compared whole: the record was behind, or they have too many holds for one look."""


def table(report: ReconcileReport) -> str:
    """The report for a terminal: a row for each drift, counts, and what a repair would do about each kind."""
    rows = [("state", "kind", "subject", "expected", "found")]
    for state, drifts in (("repaired", report.repaired), ("drift", report.drift)):
        rows += [(state, its.kind, its.subject, its.expected, its.found) for its in drifts]
    summary = [f"{report.checked} checked, {len(report.repaired)} repaired, {len(report.drift)} left"]
    if report.skipped:
        summary.append(f"{report.skipped} looks were not whole: the record was behind, or too many holds")
    counts = Counter(drift.kind for drift in report.drift)
    for kind, count in sorted(counts.items()):
        remedy = REMEDIES.get(kind, "leave it: who is right, a person decides")
        summary.append(f"{count} {kind}: a repair would {remedy}")
    if len(rows) == 1:
        return "\n".join(summary)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, *summary])
