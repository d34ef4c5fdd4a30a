"""Reconcile: proves, a bounded piece at a time, that engine, catalog and ledger tell the same story.

Owns what counts as drift and which drift may be repaired. Refuses to know how an audit is done: the
engine's half is the Protocol below, and every repair is one script of the engine that checks again, in the
same step, what it repairs.

A disagreement between two stores is read at two moments, so a healthy system shows some: a product that was
stored and is being published, an event that is being drained. Three rules keep them out of the reports:
the ledger is compared as of the position that was read with the engine's counters; what the ledger has not
yet is waited for, then left to the next run; and every suspicion is looked at a second time, a moment later.

A counter that is not what its index says is only a suspicion too: a hold may be missing from the index. What
carts and orders claim is then added up in a visit to all of them (counters.py), spread over runs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar, cast, get_args

import msgspec

from cartstore.archive.events import PaymentSettled, StockAdjusted, decode
from cartstore.failpoints import reach
from cartstore.model import PaymentStatus, Position, SkuFields, StockPolicy
from cartstore.recovery.counters import (
    KEYS_PER_PIECE,
    ClaimingEngine,
    ClaimVisit,
    Counted,
    CounterAudit,
)

if TYPE_CHECKING:
    from cartstore.store import CartStore

T = TypeVar("T")

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


class CartTotals(msgspec.Struct, frozen=True, kw_only=True):
    lines: int
    items: int
    """Units over all lines."""
    subtotal_minor: int


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
    unindexed: tuple[HoldClaim, ...] = ()
    """Lines of its pending orders that hold units for which the SKU's index has no entry."""


class AuditedEngine(ClaimingEngine, Protocol):
    """What reconcile asks of the real engine. All methods raise StoreRecovering while the gate is not open,
    because an engine that lost its memory would otherwise look like drift everywhere.

    The scans are Redis cursors: start with 0, done when 0 comes back; a name may come twice, and one that
    was there from start to end comes at least once.
    """

    async def scan_skus(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """SKUs that the engine keeps."""
        ...

    async def scan_due(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """Payment ids in `due`."""
        ...

    async def audit_sku(self, sku: str) -> SkuAudit | None:
        """None: the engine has no such SKU."""
        ...

    async def audit_cart(self, cart_id: str) -> CartAudit | None:
        """None: the engine has no such cart."""
        ...

    async def audit_payment(self, payment_id: str) -> PaymentAudit | None:
        """None: the engine has no such payment (its id may be in `due` nevertheless)."""
        ...

    async def repair_index(self, sku: str) -> int:
        """In one script: remove the SKU's index entries that nobody claims, and put the SKU into `holding`
        with its earliest expiry (out of it, when the index is empty). Touches no counter. The number of
        entries of both kinds that it changed."""
        ...

    async def freeze_skus(self, skus: Sequence[str], *, frozen: bool) -> None:
        """Stop the sale of these SKUs, or let it go on."""
        ...

    async def repair_due(self, payment_id: str) -> bool:
        """In one script: put a pending payment into `due` with the end of its window; take one that is
        terminal or not there out of `due`. Whether that changed anything."""
        ...

    async def repair_claim(self, claim: HoldClaim) -> bool:
        """In one script: index a hold that is still claimed and not indexed, if the SKU's counters have room
        for it beside all that is indexed. Whether it did."""
        ...


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

REMEDIES: Final[Mapping[DriftKind, str]] = {
    "counter_above_holds": "set it to what carts and orders claim, unless the SKU moves meanwhile",
    "counter_below_holds": "set it to what carts and orders claim, unless the SKU moves meanwhile",
    "orphan_index_entry": "take the entry out",
    "unindexed_hold": "index it, if the counter has it",
    "not_in_holding": "put the SKU there",
    "payment_not_due": "put it there",
    "due_without_payment": "take the entry out",
    "catalog_behind": "publish the SKU",
    "sku_missing": "publish the SKU",
    "not_frozen": "freeze the SKU",
}
"""What a repair would do about each kind that it may touch, if it proves safe. The others are left."""

COUNTERS: Final = frozenset({"counter_above_holds", "counter_below_holds"})
COUNTED_SKUS_MAX: Final = 1_000
"""SKUs that one visit to all claims adds up."""

PAGE_SUBJECTS: Final = 100
LOOKS_AT_ONCE: Final = 20
"""Audits under way together, so that buyers' calls get between them."""

CONFIRM_SECONDS: Final = 1.0
"""Between a suspicion and the second look. Longer than a healthy publication or drain takes."""

LAG_SECONDS: Final = 2.0
"""How long one page waits for the record to reach the position of an audit."""

LAG_POLL_SECONDS: Final = 0.05
EVENTS_UNDONE_MAX: Final = 2_000
"""Events after an audit that are worked out of the ledger's counters; with more, the next run is quicker."""


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One disagreement. `expected` is what the other side, or the sum of the parts, says."""

    kind: DriftKind
    subject: str
    """SKU, cart id, payment id, or the partition's tag."""
    detail: str
    expected: str
    found: str


class ReconcileReport(msgspec.Struct, frozen=True, kw_only=True):
    checked: int
    """SKUs, carts and payments that were looked at, each once per walk that came by."""
    repaired: list[Drift]
    drift: list[Drift]
    """What could not be repaired."""
    skipped: int = 0
    """SKUs that were not compared whole: the record was behind, or they have too many holds for one look."""


class Subject(msgspec.Struct, frozen=True):
    """What one look is about."""

    what: Literal["sku", "cart", "payment"]
    name: str
    fields: SkuFields | None = None
    """What the catalog wants published of this SKU; None: not a SKU of the catalog, or not looked up."""


class Reconciler:
    """Goes round engine, catalog and record, a piece with every run; keeps its place between runs.

    Its place and what it found are in memory: a worker that starts anew begins a new round.
    """

    def __init__(self, store: CartStore, *, confirm_seconds: float = CONFIRM_SECONDS) -> None:
        self._store = store
        self._engine = cast(AuditedEngine, store.engine)
        self._confirm_seconds = confirm_seconds
        self._pages: AsyncIterator[Sequence[Subject]] | None = None
        self._round = 0
        self._open: dict[tuple[str, str], tuple[int, list[Drift]]] = {}
        self._visit: ClaimVisit | None = None
        self._to_count: set[str] = set()

    async def run(self, limit: int | None = None, *, repair: bool = True) -> ReconcileReport:
        """Look at about `limit` further subjects, at most one round; None: one whole round from its start.

        With `repair`, what is provably safe is put right. Raises StoreUnavailable, StoreRecovering; the
        next run then begins a new round.
        """
        if limit is None:
            self._pages = None
        run = _Run(self._engine, self._store)
        try:
            while limit is None or run.checked < limit:
                if self._pages is None:
                    self._round += 1
                    self._pages = self._walk()
                page = await anext(self._pages, None)
                if page is None:
                    self._pages = None
                    self._forget_before(self._round)
                    break
                await run.look(page)
                reach("reconcile.looked")
            if run.suspects:
                await asyncio.sleep(self._confirm_seconds)
                await run.confirm()
                reach("reconcile.confirmed")
            if repair:
                await run.repair()
                reach("reconcile.repaired")
                await self._count_claims(run, is_whole=limit is None)
                reach("reconcile.counted")
        except BaseException:
            # The walk may have been cut in its middle, and could not tell that from its end.
            self._pages = None
            self._visit = None
            raise
        for subject in run.looked:
            self._open[subject.what, subject.name] = (self._round, run.left_of(subject))
        return ReconcileReport(
            checked=run.checked, repaired=run.repaired, drift=run.left(), skipped=run.skipped
        )

    def open_by_kind(self) -> dict[DriftKind, int]:
        """How much unrepaired drift of each kind the latest look at every subject found."""
        counts = Counter(drift.kind for _, drifts in self._open.values() for drift in drifts)
        return {kind: counts[kind] for kind in DRIFT_KINDS}

    async def _count_claims(self, run: _Run, *, is_whole: bool) -> None:
        """Go on with the visit to all claims, or begin one if a counter is in doubt; at its end set the
        counters that it proves wrong."""
        self._to_count |= run.skus_to_count()
        if self._visit is None:
            if not self._to_count:
                return
            skus = sorted(self._to_count)[:COUNTED_SKUS_MAX]
            self._visit = ClaimVisit(self._engine, await run.counters_of(skus))
            reach("reconcile.counters_read")
            self._to_count.difference_update(skus)
        is_over = await self._visit.go_on(None if is_whole else KEYS_PER_PIECE)
        reach("reconcile.claims_visited")
        if not is_over:
            return
        visit, self._visit = self._visit, None
        for sku, audit in visit.audits.items():
            counted = visit.counted(sku)
            if counted != audit.counter and await visit.repair(sku):
                reach("reconcile.counter_set")
                run.repaired.append(_counter_drift(sku, found=audit.counter, expected=counted))
                run.forget_counter(sku)
                round_number, drifts = self._open.get(("sku", sku), (self._round, []))
                self._open["sku", sku] = (round_number, [its for its in drifts if its.kind not in COUNTERS])
        # A hold that its counter had no room for has it now.
        await run.repair()
        reach("reconcile.repaired_again")

    def _forget_before(self, round_number: int) -> None:
        """Drop what is there no more: a round that ended has looked at everything that is."""
        self._open = {key: entry for key, entry in self._open.items() if entry[0] >= round_number}

    async def _walk(self) -> AsyncIterator[Sequence[Subject]]:
        """Both directions: what the catalog and the record know, then what the engine has beyond it."""
        seen: set[str] = set()
        async for fields in self._store.catalog.all_sku_fields():
            seen.update(its.sku for its in fields)
            for page in _slices([Subject("sku", its.sku, its) for its in fields]):
                yield page
        pending = [payment.payment_id for payment, _ in await self._store.archive.pending_payments()]
        for page in _slices([Subject("payment", payment_id) for payment_id in pending]):
            yield page
        async for names in _scanned(self._engine.scan_skus):
            yield [Subject("sku", sku) for sku in names if sku not in seen]
        seen = set(pending)
        async for names in _scanned(self._engine.scan_due):
            yield [Subject("payment", payment_id) for payment_id in names if payment_id not in seen]
        async for names in _scanned(self._engine.scan_carts):
            yield [Subject("cart", cart_id) for cart_id in names]


class _Run:
    """One run: the looks, the second looks and the repairs."""

    def __init__(self, engine: AuditedEngine, store: CartStore) -> None:
        self._engine = engine
        self._store = store
        self.looked: list[Subject] = []
        self.suspects: dict[Subject, list[Drift]] = {}
        self.repaired: list[Drift] = []
        self.skipped = 0
        self._not_whole: set[str] = set()
        self._indexed: set[str] = set()
        """SKUs of holds that were indexed again."""
        self._no_room: set[str] = set()
        """SKUs whose counters had no room for a hold that is claimed and not indexed."""
        self._put_right: set[str] = set()
        """Payments whose entry in `due` was repaired: where there is no payment, no audit tells that."""

    @property
    def checked(self) -> int:
        return len(self.looked)

    def left(self) -> list[Drift]:
        return [drift for drifts in self.suspects.values() for drift in drifts]

    def left_of(self, subject: Subject) -> list[Drift]:
        return self.suspects.get(subject, [])

    def skus_to_count(self) -> set[str]:
        """SKUs whose counters only all claims together can prove right or wrong."""
        return (
            {drift.subject for drift in self.left() if drift.kind in COUNTERS}
            | self._not_whole
            | self._no_room
        )

    async def counters_of(self, skus: Iterable[str]) -> list[CounterAudit]:
        """The counters of these SKUs, of those that the engine has."""
        found: list[SkuAudit | None] = []
        for some in _slices(list(skus), LOOKS_AT_ONCE):
            found += await asyncio.gather(*map(self._engine.audit_sku, some))
        return [
            CounterAudit(sku=audit.sku, epoch=audit.epoch, rev=audit.rev, counter=_counter(audit))
            for audit in found
            if audit is not None
        ]

    def forget_counter(self, sku: str) -> None:
        """A SKU's counters were put right."""
        for subject, drifts in list(self.suspects.items()):
            left = [drift for drift in drifts if drift.kind not in COUNTERS or drift.subject != sku]
            if left:
                self.suspects[subject] = left
            else:
                del self.suspects[subject]

    async def look(self, page: Sequence[Subject]) -> None:
        """A first look at these subjects."""
        self.looked += page
        self.suspects.update(await self._drifts_of(page))

    async def confirm(self) -> None:
        """A second look at what was suspected: only what shows in both is drift."""
        again = await self._drifts_of(list(self.suspects))
        self.suspects = _in_both(self.suspects, again)

    async def repair(self) -> None:
        """Put right what is safe to put right, and look whether it is."""
        tried = [subject for subject, drifts in self.suspects.items() if await self._repair(subject, drifts)]
        # A hold that is indexed again may be all that a counter seemed to have too much.
        tried += [
            subject
            for subject in self.suspects
            if subject.what == "sku" and subject.name in self._indexed and subject not in tried
        ]
        if not tried:
            return
        after = await self._drifts_of(tried)
        for subject in tried:
            kinds = {(drift.kind, drift.subject) for drift in after.get(subject, [])}
            before = self.suspects.pop(subject)
            self.repaired += [drift for drift in before if (drift.kind, drift.subject) not in kinds]
            if subject in after:
                self.suspects[subject] = after[subject]

    async def _repair(self, subject: Subject, drifts: Iterable[Drift]) -> bool:
        """Whether anything was tried. Each is one script that checks again what it repairs.

        Not here: counters, which take a visit to all claims. Nor a difference of engine and ledger, which
        decides nothing about who is right.
        """
        kinds = {drift.kind for drift in drifts}
        tried = False
        if subject.fields is not None and kinds & {"catalog_behind", "sku_missing"}:
            # A revision older than the published one is ignored, so that a late repair changes nothing.
            await self._store.engine.publish_skus([subject.fields])
            tried = True
        if "not_frozen" in kinds:
            await self._engine.freeze_skus([subject.name], frozen=True)
            tried = True
        if subject.what == "sku" and kinds & {"orphan_index_entry", "not_in_holding"}:
            await self._engine.repair_index(subject.name)
            tried = True
        if subject.what == "payment" and kinds & {"payment_not_due", "due_without_payment"}:
            await self._engine.repair_due(subject.name)
            self._put_right.add(subject.name)
            tried = True
        if "unindexed_hold" in kinds:
            tried = await self._index_claims(subject) or tried
        return tried

    async def _index_claims(self, subject: Subject) -> bool:
        look = self._engine.audit_cart if subject.what == "cart" else self._engine.audit_payment
        audit = await look(subject.name)
        claims = audit.unindexed if audit is not None else ()
        done = [await self._engine.repair_claim(claim) for claim in claims]
        for claim, was_done in zip(claims, done, strict=True):
            (self._indexed if was_done else self._no_room).add(claim.sku)
        return any(done)

    async def _drifts_of(self, subjects: Sequence[Subject]) -> dict[Subject, list[Drift]]:
        found: dict[Subject, list[Drift]] = {}
        for page in _slices([subject for subject in subjects if subject.what == "sku"]):
            found.update(await self._drifts_of_skus(page))
        others = [subject for subject in subjects if subject.what != "sku"]
        for slice_ in _slices(others, LOOKS_AT_ONCE):
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
            return [
                Drift(
                    kind="payment_missing",
                    subject=subject.name,
                    detail="The record has this payment as pending, the engine does not have it.",
                    expected="pending",
                    found="nothing",
                )
            ]
        if subject.name in self._put_right:
            return []
        return [
            Drift(
                kind="due_without_payment",
                subject=subject.name,
                detail="The index of payment windows has an entry without a payment.",
                expected="no entry",
                found="an entry",
            )
        ]

    async def _drifts_of_skus(self, subjects: Sequence[Subject]) -> dict[Subject, list[Drift]]:
        before, _ = await self._store.archive.cursor()
        audits: dict[Subject, SkuAudit | None] = {}
        for slice_ in _slices(subjects, LOOKS_AT_ONCE):
            looks = await asyncio.gather(*(self._engine.audit_sku(subject.name) for subject in slice_))
            audits.update(zip(slice_, looks, strict=True))
        whole = [audit for audit in audits.values() if audit is not None]
        ledger = await self._ledger_as_of(whole)
        frozen = set(await self._store.archive.quarantine.frozen())
        found: dict[Subject, list[Drift]] = {}
        for subject, audit in audits.items():
            drifts = drifts_with_catalog(subject, audit)
            if audit is not None:
                drifts += drifts_of_sku(audit) + drifts_of_freezing(audit, audit.sku in frozen)
                if audit.position < before:
                    drifts.append(self._lost_events(audit, before))
                elif audit.sku in ledger:
                    drifts += drifts_with_ledger(audit, ledger[audit.sku])
                self.skipped += not audit.is_whole or audit.sku not in ledger
                if not audit.is_whole:
                    self._not_whole.add(audit.sku)
            if drifts:
                found[subject] = drifts
        return found

    def _lost_events(self, audit: SkuAudit, cursor: Position) -> Drift:
        return Drift(
            kind="ledger_ahead",
            subject=self._store.partition.tag,
            detail="The record has applied events that the engine has not issued.",
            expected=f"at least {cursor}",
            found=str(audit.position),
        )

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


class LedgerCount(msgspec.Struct):
    on_hand: int
    sold: int
    backordered: int


def drifts_of_sku(audit: SkuAudit) -> list[Drift]:
    """What one SKU's own parts say against each other."""
    drifts = []
    recorded = Counted(held=audit.recorded_held, guest_held=audit.recorded_guest_held)
    if audit.is_whole and _counter(audit) != recorded:
        drifts.append(_counter_drift(audit.sku, found=_counter(audit), expected=recorded))
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


def _counter(audit: SkuAudit) -> Counted:
    return Counted(held=audit.held, guest_held=audit.guest_held)


def _counter_drift(sku: str, *, found: Counted, expected: Counted) -> Drift:
    """Also when only the guests' part is wrong, which limits what guests may hold."""
    is_above = (found.held, found.guest_held) > (expected.held, expected.guest_held)
    return Drift(
        kind="counter_above_holds" if is_above else "counter_below_holds",
        subject=sku,
        detail=f"held is {'above' if is_above else 'below'} the sum of the holds.",
        expected=str(expected),
        found=str(found),
    )


def drifts_with_catalog(subject: Subject, audit: SkuAudit | None) -> list[Drift]:
    """What the catalog says against the engine."""
    if subject.fields is None or (audit is not None and audit.revision >= subject.fields.revision):
        return []
    return [
        Drift(
            kind="catalog_behind" if audit is not None else "sku_missing",
            subject=subject.name,
            detail="The engine has an older revision than the catalog."
            if audit is not None
            else "The catalog lists this SKU, the engine does not have it.",
            expected=f"revision {subject.fields.revision}",
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


def _in_both(
    first: Mapping[Subject, Sequence[Drift]], second: Mapping[Subject, Sequence[Drift]]
) -> dict[Subject, list[Drift]]:
    """What the second look still found of the first, as the second saw it."""
    both: dict[Subject, list[Drift]] = {}
    for subject, drifts in second.items():
        before = {(drift.kind, drift.subject) for drift in first.get(subject, [])}
        stayed = [drift for drift in drifts if (drift.kind, drift.subject) in before]
        if stayed:
            both[subject] = stayed
    return both


def _slices(items: Sequence[T], size: int = PAGE_SUBJECTS) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


async def _scanned(
    scan: Callable[[int, int], Awaitable[tuple[int, list[str]]]],
) -> AsyncIterator[list[str]]:
    """The pages of one Redis cursor, each without the names that it has twice."""
    cursor = 0
    while True:
        cursor, names = await scan(cursor, PAGE_SUBJECTS)
        yield list(dict.fromkeys(names))
        if cursor == 0:
            return
