"""Adds up what all carts and orders claim of some SKUs, to prove a counter wrong before it is set.

Owns one visit to every cart and every order, taken in pieces. Its proof: a SKU's `rev` moves with every unit
that is held, given back or handed from one holder to another. If it stands, in the script that repairs, where
it stood before the visit began, then the visit saw every claim exactly once, and the sum is the counter.
A visit that passed a cart before it took a hold finds `rev` moved, and repairs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import msgspec

KEYS_PER_PIECE: Final = 20_000
"""Keys of the engine that one piece of a visit goes over, so that a run stays short however many carts."""

SCAN_COUNT: Final = 1_000
HOLDERS_PER_CALL: Final = 50
"""Carts or orders that one script reads, so that buyers' calls get between."""


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """Units of a SKU that are held, and how many of them by guests."""

    held: int
    guest_held: int

    def __str__(self) -> str:
        return f"{self.held}, guests {self.guest_held}"


class CounterAudit(msgspec.Struct, frozen=True, kw_only=True):
    """A SKU's counters at one instant, with what tells whether they changed since."""

    sku: str
    epoch: int
    """Of the gate."""
    rev: int
    counter: Counted


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Units of a SKU that one line of a cart or of a pending order says it holds."""

    holder: str
    """Cart or order id."""
    sku: str
    units: int
    is_guest: bool


class ClaimingEngine(Protocol):
    """What a visit asks of the engine. All raise StoreRecovering while the gate is not open.

    The scans are Redis cursors: what is there from start to end comes at least once.
    """

    async def scan_carts(self, cursor: int, count: int) -> tuple[int, list[str]]: ...

    async def scan_orders(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """Ids of the orders that the engine keeps, terminal ones included."""
        ...

    async def cart_claims(self, cart_ids: Sequence[str]) -> list[Claim]:
        """All claims of these carts, each cart as of one instant."""
        ...

    async def order_claims(self, order_ids: Sequence[str]) -> list[Claim]:
        """All claims of those of these orders that are pending."""
        ...

    async def repair_held(self, audit: CounterAudit, counted: Counted) -> bool:
        """Set the counters, with an event, if epoch, `rev` and both counters still are as audited.
        Whether they were."""
        ...


class ClaimVisit:
    """One visit. `audits` were made before it begins; what is held of other SKUs is passed over."""

    def __init__(self, engine: ClaimingEngine, audits: Iterable[CounterAudit]) -> None:
        self._engine = engine
        self.audits = {audit.sku: audit for audit in audits}
        self._claims: dict[str, dict[str, Counted]] = {sku: {} for sku in self.audits}
        self._cursor = 0
        # Carts first: a hold that a checkout moves meanwhile would be counted twice, and not missed, even if
        # `rev` did not tell.
        self._walks = [
            (engine.scan_carts, engine.cart_claims),
            (engine.scan_orders, engine.order_claims),
        ]

    async def go_on(self, keys_max: int | None = KEYS_PER_PIECE) -> bool:
        """Visit a further piece (None: all that is left); whether nothing is left. Keeps its place when it
        raises StoreUnavailable or StoreRecovering."""
        passed = 0
        while self._walks and (keys_max is None or passed < keys_max):
            scan, claims = self._walks[0]
            following, holders = await scan(self._cursor, SCAN_COUNT)
            for start in range(0, len(holders), HOLDERS_PER_CALL):
                self._note(await claims(holders[start : start + HOLDERS_PER_CALL]))
            passed += SCAN_COUNT
            self._cursor = following
            if following == 0:
                self._walks.pop(0)
        return not self._walks

    def counted(self, sku: str) -> Counted:
        """What the holders visited so far claim of one of the SKUs."""
        claims = self._claims[sku].values()
        return Counted(
            held=sum(claim.held for claim in claims), guest_held=sum(claim.guest_held for claim in claims)
        )

    async def repair(self, sku: str) -> bool:
        """Set a SKU's counters to what was counted, if nothing moved since before the visit. Whether it did
        that, or would have had nothing to do."""
        audit, counted = self.audits[sku], self.counted(sku)
        return audit.counter == counted or await self._engine.repair_held(audit, counted)

    def _note(self, claims: Sequence[Claim]) -> None:
        of_holder: dict[tuple[str, str], Counted] = {}
        for claim in claims:
            if claim.sku in self._claims:
                before = of_holder.get((claim.sku, claim.holder), Counted(held=0, guest_held=0))
                of_holder[claim.sku, claim.holder] = Counted(
                    held=before.held + claim.units,
                    guest_held=before.guest_held + (claim.units if claim.is_guest else 0),
                )
        # By holder, because a scan may name one twice.
        for (sku, holder), counted in of_holder.items():
            self._claims[sku][holder] = counted
