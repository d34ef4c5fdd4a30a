"""Reconcile: proves, a bounded piece at a time, that engine, catalog and ledger tell the same story.

Owns the round, the second look and which drift may be repaired. Refuses to know how an audit is done
(audits.py) or what counts as drift (drift.py, looks.py); every repair is one script of the engine that checks
again, in the same step, what it repairs.

What a look sees may be two moments of a healthy system, so every suspicion is looked at a second time, a
moment later.

A counter that is not what its index says is only a suspicion too: a hold may be missing from the index. What
carts and orders claim is then added up in a visit to all of them (counters.py), spread over runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

from cartstore import progress
from cartstore.errors import ContractError, PartlyApplied, StoreUnavailable
from cartstore.failpoints import reach
from cartstore.model import payment_id_of_order
from cartstore.recovery.audits import AuditedEngine, SkuAbsence, SkuAudit
from cartstore.recovery.counters import KEYS_PER_PIECE, ClaimVisit, CounterAudit
from cartstore.recovery.drift import (
    COUNTERS,
    DRIFT_KINDS,
    HIDING,
    LEDGER,
    Drift,
    DriftKind,
    drift_of_counter,
    drift_of_purchases,
)
from cartstore.recovery.looks import LOOKS_AT_ONCE, PAGE_SUBJECTS, Looks, Subject, slices
from cartstore.recovery.purchases import PurchaseCheck
from cartstore.recovery.report import ReconcileReport
from cartstore.recovery.used import RUN_PAYMENTS_MAX, NotingEngine, note_used
from cartstore.redis.purchases import PurchaseCounts
from cartstore.redis.store import RedisEngine

if TYPE_CHECKING:
    from cartstore.store import CartStore

_log = logging.getLogger("cartstore.recovery")

COUNTED_SKUS_MAX: Final = 1_000
"""SKUs that one visit to all claims adds up."""

PURCHASES_PER_RUN: Final = 2_000
"""Orders of SKUs with a purchase limit that one bounded run compares."""

CONFIRM_SECONDS: Final = 1.0
"""Between a suspicion and the second look. Longer than a healthy publication or drain takes."""


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
        self._counts = PurchaseCounts(cast(RedisEngine, store.engine))
        self._checks: dict[str, PurchaseCheck] = {}
        """SKUs with a purchase limit whose orders are being compared, or are to be."""

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
                progress.made()
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
                await note_used(
                    cast(NotingEngine, self._engine),
                    self._store.archive,
                    payments_max=RUN_PAYMENTS_MAX if limit else None,
                )
                reach("reconcile.used_noted")
                await self._load_purchases()
                reach("reconcile.purchases_loaded")
            await self._compare_purchases(run, orders_max=PURCHASES_PER_RUN if limit else None, repair=repair)
            reach("reconcile.purchases_compared")
        except BaseException:
            # The walk may have been cut in its middle, and could not tell that from its end.
            self._pages = None
            self._visit = None
            raise
        for subject in run.looked:
            self._open[subject.what, subject.name] = (self._round, run.left_of(subject))
        return ReconcileReport(
            checked=run.checked, repaired=run.repaired, drift=[*run.left(), *run.found], skipped=run.skipped
        )

    async def look_at(self, subjects: Sequence[Subject]) -> list[Drift]:
        """Look at these subjects now, outside of the walk, repair what is safe and give what is left. Visits
        all claims if a counter is in doubt. Raises StoreUnavailable, StoreRecovering."""
        run = _Run(self._engine, self._store)
        await run.look(subjects)
        if run.suspects:
            await asyncio.sleep(self._confirm_seconds)
            await run.confirm()
            await run.repair()
            # What a repair gave back or undid is seen in the counters only now.
            await run.look([subject for subject in subjects if subject.what == "sku"])
        await self._count_claims(run, is_whole=True)
        return run.left()

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
        is_over = await self._go_on(self._visit, None if is_whole else KEYS_PER_PIECE)
        reach("reconcile.claims_visited")
        if not is_over:
            return
        visit, self._visit = self._visit, None
        wrong = [sku for sku, audit in visit.audits.items() if visit.counted(sku) != audit.counter]
        for sku in await run.agreeing_with_the_ledger(wrong):
            audit, counted = visit.audits[sku], visit.counted(sku)
            if await visit.repair(sku):
                reach("reconcile.counter_set")
                run.repaired.append(drift_of_counter(sku, found=audit.counter, expected=counted))
                run.forget_counter(sku)
                round_number, drifts = self._open.get(("sku", sku), (self._round, []))
                self._open["sku", sku] = (round_number, [its for its in drifts if its.kind not in COUNTERS])
        # A hold that its counter had no room for has it now.
        await run.repair()
        reach("reconcile.repaired_again")

    async def _load_purchases(self) -> None:
        try:
            await self._store.load_purchases()
        except StoreUnavailable as error:
            # The record does not get level with the engine; what else this run does needs no such thing.
            _log.warning("purchases are not loaded: %s", error.message)

    async def _compare_purchases(self, run: _Run, *, orders_max: int | None, repair: bool) -> None:
        """Go on comparing purchases with the record, of the SKUs that were looked at."""
        limited = [its.fields for its in run.looked if its.fields is not None and its.fields.limit_units]
        if limited and any(its.sku not in self._checks for its in limited):
            now_ms = (await self._counts.unloaded()).now_ms
            for fields in limited:
                self._checks.setdefault(
                    fields.sku, PurchaseCheck(fields.sku, now_ms - fields.limit_window_ms)
                )
        orders = 0
        while self._checks and (orders_max is None or orders < orders_max):
            sku, check = next(iter(self._checks.items()))
            passed, differing, is_more = await check.go_on(
                self._counts, self._store.archive.purchases, repair=repair
            )
            # A SKU without orders costs a question as well.
            orders += max(1, passed)
            if differing and repair:
                run.repaired.append(drift_of_purchases(sku, differing))
            elif differing:
                check.left.append(drift_of_purchases(sku, differing))
            if not is_more:
                del self._checks[sku]
                run.found += check.left
                self._open["purchases", sku] = (self._round, check.left)

    async def _go_on(self, visit: ClaimVisit, keys_max: int | None) -> bool:
        """Whether the visit is over and proves something."""
        try:
            return await visit.go_on(keys_max)
        except ContractError as error:
            # A cart or order that is there claims units that nobody can read: no sum is whole.
            _log.error("no counter can be proved wrong: %s", error.message)
            self._visit = None
            return False

    def _forget_before(self, round_number: int) -> None:
        """Drop what is there no more: a round that ended has looked at everything that is."""
        self._open = {key: entry for key, entry in self._open.items() if entry[0] >= round_number}

    async def _walk(self) -> AsyncIterator[Sequence[Subject]]:
        """Both directions: what the catalog and the record know, then what the engine has beyond it."""
        seen: set[str] = set()
        async for fields in self._store.catalog.all_sku_fields():
            seen.update(its.sku for its in fields)
            for page in slices([Subject("sku", its.sku, its) for its in fields]):
                yield page
        pending = [payment.payment_id for payment, _ in await self._store.archive.pending_payments()]
        for page in slices([Subject("payment", payment_id) for payment_id in pending]):
            yield page
        async for names in _scanned(self._engine.scan_skus):
            yield [Subject("sku", sku) for sku in names if sku not in seen]
        # Holds of a SKU that the engine lost are in no other scan.
        async for names in _scanned(self._engine.scan_holding):
            yield [Subject("sku", sku) for sku in names if sku not in seen]
        seen = set(pending)
        for scan in (self._engine.scan_due, self._engine.scan_pending):
            async for names in _scanned(scan):
                yield [Subject("payment", payment_id) for payment_id in names if payment_id not in seen]
        async for names in _scanned(self._engine.scan_orders):
            # Most belong to a payment that was looked at.
            yield [Subject("order", order_id) for order_id in await self._engine.stray_orders(names)]
        async for names in _scanned(self._engine.scan_carts):
            yield [Subject("cart", cart_id) for cart_id in names]


class _Run:
    """One run: the looks, the second looks and the repairs."""

    def __init__(self, engine: AuditedEngine, store: CartStore) -> None:
        self._engine = engine
        self._store = store
        self._looks = Looks(engine, store)
        self.looked: list[Subject] = []
        self.suspects: dict[Subject, list[Drift]] = {}
        self.repaired: list[Drift] = []
        self.found: list[Drift] = []
        """Drift that a run which repairs nothing leaves, beside that of its subjects."""
        self._indexed: set[str] = set()
        """SKUs of holds that were indexed again."""
        self._no_room: set[str] = set()
        """SKUs whose counters had no room for a hold that is claimed and not indexed."""

    @property
    def checked(self) -> int:
        return len(self.looked)

    @property
    def skipped(self) -> int:
        return self._looks.skipped

    def left(self) -> list[Drift]:
        return [drift for drifts in self.suspects.values() for drift in drifts]

    def left_of(self, subject: Subject) -> list[Drift]:
        return self.suspects.get(subject, [])

    def skus_to_count(self) -> set[str]:
        """SKUs whose counters only all claims together can prove right or wrong."""
        return (
            {drift.subject for drift in self.left() if drift.kind in COUNTERS}
            | self._looks.not_whole
            | self._no_room
        )

    async def counters_of(self, skus: Iterable[str]) -> list[CounterAudit]:
        """The counters of these SKUs, of those that the engine has."""
        found: list[SkuAudit | SkuAbsence | Drift] = []
        for some in slices(list(skus), LOOKS_AT_ONCE):
            found += await asyncio.gather(*map(self._looks.audit_sku, some))
        return [
            CounterAudit(sku=audit.sku, epoch=audit.epoch, rev=audit.rev, counter=audit.counter)
            for audit in found
            if isinstance(audit, SkuAudit)
        ]

    async def agreeing_with_the_ledger(self, skus: Sequence[str]) -> list[str]:
        """Those of these SKUs that engine and ledger count alike. Where a sale was cut off, units may be on
        hand still and held by nobody: lowering `held` would sell them twice."""
        found = await self._looks.drifts_of([Subject("sku", sku) for sku in skus])
        differing = {its.subject for drifts in found.values() for its in drifts if its.kind in LEDGER}
        return [sku for sku in skus if sku not in differing and sku not in self._looks.not_compared]

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
        self.suspects.update(await self._looks.drifts_of(page))

    async def confirm(self) -> None:
        """A second look at what was suspected: only what shows in both is drift."""
        again = await self._looks.drifts_of(list(self.suspects))
        self.suspects = _in_both(self.suspects, again)

    async def repair(self) -> None:
        """Put right what is safe to put right, and look whether it is."""
        tried = [subject for subject, drifts in self.suspects.items() if await self._try(subject, drifts)]
        # A payment may have been all that its orders lacked.
        finished = {payment_id_of_order(its.name) for its in tried if its.what == "order"}
        tried += [
            its
            for its in self.suspects
            if its.what == "payment" and its.name in finished and its not in tried
        ]
        # A hold that is indexed again may be all that a counter seemed to have too much.
        tried += [
            subject
            for subject in self.suspects
            if subject.what == "sku" and subject.name in self._indexed and subject not in tried
        ]
        if not tried:
            return
        after = await self._looks.drifts_of(tried)
        for subject in tried:
            kinds = {(drift.kind, drift.subject) for drift in after.get(subject, [])}
            before = self.suspects.pop(subject)
            if not any(kind in HIDING for kind, _ in kinds):
                self.repaired += [drift for drift in before if (drift.kind, drift.subject) not in kinds]
            if subject in after:
                self.suspects[subject] = after[subject]

    async def _try(self, subject: Subject, drifts: Iterable[Drift]) -> bool:
        try:
            return await self._repair(subject, drifts)
        except (ContractError, PartlyApplied):
            # Unreadable since the look, or cut off: the next look tells what there is.
            return True

    async def _repair(self, subject: Subject, drifts: Iterable[Drift]) -> bool:
        """Whether anything was tried. Each is one script that checks again what it repairs.

        Not here: counters, which take a visit to all claims. Nor a difference of engine and ledger, which
        decides nothing about who is right.
        """
        kinds = {drift.kind for drift in drifts}
        tried = False
        if "not_frozen" in kinds:
            # Before it is published: a SKU that is missing would be for sale until the next run.
            await self._engine.freeze_skus([subject.name], frozen=True)
            tried = True
        if kinds & {"catalog_behind", "sku_missing"}:
            # As the catalog has it now, which may have changed since the look. A revision older than the
            # published one is ignored, so that a late repair changes nothing.
            fields = await self._looks.fields_of(subject.name)
            await self._store.engine.publish_skus([fields] if fields is not None else [])
            tried = True
        if subject.what == "sku" and kinds & {"orphan_index_entry", "not_in_holding"}:
            await self._engine.repair_index(subject.name)
            tried = True
        if "backorder_unserved" in kinds and not kinds & (COUNTERS | LEDGER):
            # Where a counter is in doubt, the units may be somebody's.
            await self._engine.serve_backorders(subject.name)
            tried = True
        if subject.what == "payment" and kinds & {"payment_not_due", "due_without_payment"}:
            await self._engine.repair_due(subject.name)
            self._looks.put_right.add(subject.name)
            tried = True
        if "unindexed_hold" in kinds:
            tried = await self._index_claims(subject) or tried
        if "cart_totals" in kinds:
            ttl_ms = self._store.cart_ttl_ms(subject.name)
            await self._engine.repair_totals(subject.name, cart_ttl_ms=ttl_ms)
            tried = True
        if "order_without_payment" in kinds:
            tried = await self._finish_checkout(subject.name) or tried
        return tried

    async def _finish_checkout(self, order_id: str) -> bool:
        """A checkout was cut off: what follows its event is done, or what came before it undone. Which of
        them, the record says once it has every event that the engine has issued."""
        await self._store.drain_outbox()
        payment_id = payment_id_of_order(order_id)
        cursor, _ = await self._store.archive.cursor()
        recorded = await self._store.archive.find_payment(payment_id)
        if recorded is None:
            ttl_ms = self._store.cart_ttl_ms("")
            return await self._engine.void_orders(payment_id, cart_ttl_ms=ttl_ms, unknown_at=cursor)
        payment, _ = recorded
        if payment.status != "pending":
            return False
        ttl_ms = self._store.cart_ttl_ms(payment.cart_id)
        return await self._engine.reattach_payment(payment, cart_ttl_ms=ttl_ms)

    async def _index_claims(self, subject: Subject) -> bool:
        look = self._engine.audit_cart if subject.what == "cart" else self._engine.audit_payment
        audit = await look(subject.name)
        claims = audit.unindexed if audit is not None else ()
        done = [await self._engine.repair_claim(claim) for claim in claims]
        for claim, was_done in zip(claims, done, strict=True):
            (self._indexed if was_done else self._no_room).add(claim.sku)
        return any(done)


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
