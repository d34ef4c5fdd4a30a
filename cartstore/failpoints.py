"""Named points at which a test lets a process die. Owns their names; unarmed, one costs a comparison.

One stands after each step of checkout, settle, drain, quarantine, snapshot, recovery, rebuild, take-over,
reconcile and loading purchases. tests/chaos and tests/upgrade kill a process at every one of them, and
tests/tidy finds a step that has none.
"""

from __future__ import annotations

import os
import signal
from typing import Final

from cartstore.errors import ConfigurationError

FAILPOINTS: Final = frozenset(
    {
        "checkout.looked_up",
        "checkout.begun",
        "checkout.acknowledged",
        "settle.read",
        "settle.settled",
        "settle.acknowledged",
        "drain.proved",
        "drain.read",
        "drain.read_ahead",
        "drain.locked",
        "drain.written",
        "drain.applied",
        "drain.announced",
        "drain.trimmed",
        "drain.fenced",
        "quarantine.rejected",
        "quarantine.frozen",
        "quarantine.halved",
        "snapshot.began",
        "snapshot.dumped",
        "snapshot.drained",
        "snapshot.expired",
        "snapshot.forgotten",
        "snapshot.saved",
        "snapshot.aged",
        "snapshot.looked_back",
        "snapshot.swept",
        "recovery.proved",
        "recovery.drained",
        "recovery.measured",
        "recovery.versions_measured",
        "recovery.silence_measured",
        "recovery.windows_extended",
        "recovery.epoch_raised",
        "recovery.opened",
        "recovery.frozen_again",
        "rebuild.epoch_raised",
        "rebuild.measured",
        "rebuild.shut",
        "rebuild.events_kept",
        "rebuild.cleared",
        "rebuild.stock_put_back",
        "rebuild.payments_put_back",
        "rebuild.tombstones_put_back",
        "rebuild.purchases_put_back",
        "rebuild.carts_put_back",
        "rebuild.held_again",
        "rebuild.backorders_served",
        "rebuild.anchored",
        "rebuild.done",
        "rebuild.opened",
        "take_over.shut",
        "take_over.looked",
        "take_over.drained",
        "take_over.measured",
        "take_over.dumped",
        "take_over.expired",
        "take_over.saved",
        "take_over.all_saved",
        "reconcile.looked",
        "reconcile.confirmed",
        "reconcile.repaired",
        "reconcile.counters_read",
        "reconcile.claims_visited",
        "reconcile.counter_set",
        "reconcile.repaired_again",
        "reconcile.counted",
        "reconcile.used_noted",
        "reconcile.purchases_loaded",
        "reconcile.purchases_compared",
        "purchases.listed",
        "purchases.loaded",
    }
)

_armed: str | None = None
_passes_left = 0


def arm(spec: str) -> None:
    """`name` or `name:n`: die when the n-th call reaches it. '' disarms. Raises ConfigurationError."""
    global _armed, _passes_left
    name, _, count = spec.partition(":")
    if name and (name not in FAILPOINTS or not (count or "1").isdigit()):
        raise ConfigurationError(f"There is no failpoint {spec!r}.")
    _armed = name or None
    _passes_left = int(count or 1)


def reach(name: str) -> None:
    """Die here, as if the machine had, when a test wants it so."""
    global _passes_left
    if _armed is None or _armed != name:
        return
    _passes_left -= 1
    if _passes_left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
