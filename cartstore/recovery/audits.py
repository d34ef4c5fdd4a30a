"""What reconcile is told of one SKU, cart or payment, each as it stood at one instant, and whom it asks.

Owns the engine's half as a Protocol, and nothing that decides: what counts as drift is drift.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from cartstore.model import Payment, PaymentStatus, Position, StockPolicy
from cartstore.recovery.counters import ClaimingEngine, Counted

AUDITED_HOLDS_MAX = 5_000
"""Index entries of one SKU that one audit script looks at; a SKU with more is not `is_whole`."""


class HoldClaim(msgspec.Struct, frozen=True, kw_only=True):
    """Units that a cart line or an order line says it holds."""

    holder: str
    """Cart or order id."""
    sku: str
    line_id: str
    units: int
    expires_at_ms: int


class SkuAudit(msgspec.Struct, frozen=True, kw_only=True):
    """One SKU as it stood at one instant: a single script that writes nothing and releases nothing."""

    sku: str
    policy: StockPolicy
    on_hand: int
    held: int
    sold: int
    backordered: int
    rev: int
    revision: int
    """Catalog revision."""
    position: Position
    """Of the partition's last outbox event at that instant, whatever SKU it was about."""
    recorded_held: int
    """Sum over the index entries of what their cart line or order line says it holds of this SKU.

    An entry counts once, whatever else is wrong with it; one without a claim counts 0."""
    guest_held: int = 0
    recorded_guest_held: int = 0
    """Of `recorded_held`, what guests' entries claim."""
    epoch: int = 0
    """Of the gate: how often it was opened."""
    is_frozen: bool = False
    """Not sold until an operator decides."""
    orphans: tuple[str, ...] = ()
    """Index entries, as they are spelled, whose cart line or order line is gone or holds nothing of it."""
    earliest_ms: int = 0
    """Lowest expiry in the SKU's index; 0 when that is empty."""
    holding_ms: int = 0
    """The SKU's expiry in `holding`; 0 when it is not there."""
    is_whole: bool = True
    """False: the index has more than AUDITED_HOLDS_MAX entries; then `recorded_held` and `orphans` are of
    the first of them only."""

    @property
    def counter(self) -> Counted:
        return Counted(held=self.held, guest_held=self.guest_held)


class SkuAbsence(msgspec.Struct, frozen=True, kw_only=True):
    """The engine has nothing of a SKU but, perhaps, an index of holds that were taken of it."""

    sku: str
    position: Position
    """Of the partition's last outbox event at that instant."""
    holds: int
    """Index entries."""
    is_frozen: bool
    """Will not be sold when it is published."""


class CartTotals(msgspec.Struct, frozen=True, kw_only=True):
    lines: int
    items: int
    """Units over all lines."""
    subtotal_minor: int
    held: int
    """Units that the lines hold."""
    waiting: int
    """Units that pending orders of the cart's owner hold."""
    miscounted_periods: int = 0
    """SKUs of which the cart records other units in its owner's pending orders than there are."""


class CartAudit(msgspec.Struct, frozen=True, kw_only=True):
    """One cart as it stood at one instant."""

    cart_id: str
    running: CartTotals
    """What the cart's hash says."""
    counted: CartTotals
    """What its lines add up to."""
    unindexed: tuple[HoldClaim, ...] = ()
    """Lines that say they hold units for which the SKU's index has no entry."""


class PaymentAudit(msgspec.Struct, frozen=True, kw_only=True):
    """One payment with its orders as it stood at one instant."""

    payment_id: str
    status: PaymentStatus
    expires_at_ms: int
    due_ms: int
    """Its score in `due`; 0 when it is not there."""
    position: Position
    """Of the last event about it; 0-0 when it was put back from the record and had none since."""
    unindexed: tuple[HoldClaim, ...] = ()
    """Lines of its pending orders that hold units for which the SKU's index has no entry."""


class AuditedEngine(ClaimingEngine, Protocol):
    """What reconcile asks of the real engine. All methods raise StoreRecovering while the gate is not open,
    because an engine that lost its memory would otherwise look like drift everywhere. What is about one
    subject raises ContractError when that is there and cannot be read, and has then changed nothing.

    The scans are Redis cursors: start with 0, done when 0 comes back; a name may come twice, and one that
    was there from start to end comes at least once.
    """

    async def scan_skus(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """SKUs that the engine keeps."""
        ...

    async def scan_due(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """Payment ids in `due`."""
        ...

    async def scan_pending(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """Payments that the engine keeps and that are not known to be at their end."""
        ...

    async def scan_holding(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """SKUs in `holding`."""
        ...

    async def audit_sku(self, sku: str) -> SkuAudit | SkuAbsence: ...

    async def audit_cart(self, cart_id: str) -> CartAudit | None:
        """None: the engine has no such cart."""
        ...

    async def audit_payment(self, payment_id: str) -> PaymentAudit | None:
        """None: the engine has no such payment (its id may be in `due` nevertheless)."""
        ...

    async def repair_index(self, sku: str) -> int:
        """In one script: remove the SKU's index entries that nobody claims, and put the SKU into `holding`
        with its earliest expiry (out of it, when the index is empty). Touches no counter, and nothing of a
        SKU that the engine does not have. The number of entries of both kinds that it changed."""
        ...

    async def freeze_skus(self, skus: Sequence[str], *, frozen: bool) -> None:
        """Stop the sale of these SKUs, or let it go on."""
        ...

    async def repair_due(self, payment_id: str) -> bool:
        """In one script: put a pending payment into `due` with the end of its window; take one that is
        terminal or not there out of `due`. Whether that changed anything."""
        ...

    async def repair_totals(self, cart_id: str, *, cart_ttl_ms: int) -> bool:
        """In one script: set a cart's running totals to what its lines and its owner's pending orders add up
        to. `cart_ttl_ms`: lifetime of a cart that lost its own. Whether any was wrong."""
        ...

    async def scan_orders(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """Orders that the engine keeps."""
        ...

    async def stray_orders(self, order_ids: Sequence[str]) -> list[str]:
        """Those of these orders that say they are pending, and whose payment the engine does not have."""
        ...

    async def void_orders(self, payment_id: str, *, cart_ttl_ms: int, unknown_at: Position) -> bool:
        """In one script: undo a checkout without payment, whose lines return to the cart, unless an event
        about it was written after `unknown_at`, where the record did not know it. Whether it did."""
        ...

    async def reattach_payment(self, payment: Payment, *, cart_ttl_ms: int) -> bool:
        """In one script: give pending orders their pending payment back. Whether it did."""
        ...

    async def serve_backorders(self, sku: str) -> int:
        """In one script, with an event: free units of a SKU go to its paid backorders. How many."""
        ...

    async def repair_claim(self, claim: HoldClaim) -> bool:
        """In one script: index a hold that is still claimed and not indexed, if the SKU's counters have room
        for it beside all that is indexed. Whether it did."""
        ...
