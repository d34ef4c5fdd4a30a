"""Puts a partition back from PostgreSQL into an engine that lost it. Owns the order of the steps.

Every step is a script that passes the gate only with this rebuild's token, so a rebuilder that slept while
another took over changes nothing when it wakes. The order: the last applied event, with which the new outbox
begins, catalog and counters, pending orders with their holds, purchases, carts without holds, then the carts'
holds that had not lapsed, taken again by the ordinary hold function, oldest first. `held` is never copied: it
is the sum of what was really held again.

Nothing costs a round trip of its own: the record is read in pages, and a script puts back as many things as
keep the engine busy for some milliseconds. While it does, the next page is read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cartstore import limits, progress
from cartstore.archive.repository import Archive, Recorded, StockTotals
from cartstore.catalog.repository import CatalogRepository
from cartstore.errors import StoreError, StoreRecovering, StoreUnavailable
from cartstore.failpoints import reach
from cartstore.model import CartSnapshot, CartTerms, Partition, Position, SkuFields, SnapshotLine, sku_of
from cartstore.recovery.purchases import load_sku
from cartstore.redis.caller import ScriptCaller, translate
from cartstore.redis.keys import Keys
from cartstore.redis.purchases import PurchaseCounts
from cartstore.redis.replies import order_fields, payment_fields
from cartstore.redis.scripts import script
from cartstore.redis.store import RedisEngine, packed_sku, packed_terms
from cartstore.tasks import end

BEAT_SECONDS: Final = 0.5
LOG_SECONDS: Final = 2.0
PAGE_CARTS: Final = 2_000

# What one script call puts back or removes.
CALL_CARTS: Final = 200
CALL_HOLDS: Final = 500
CALL_KEYS: Final = 1_000
CALL_PAYMENTS: Final = 50
CALL_SKUS: Final = 500
TOMBSTONES_MAX: Final = 20_000
"""Terminal payments of the last day that are put back, latest first."""

T = TypeVar("T")

Progress = Callable[[str, int, int | None], None]
"""(what is being put back, how many so far, how many in all if known)."""

_log = logging.getLogger("cartstore.recovery")
_encode = msgspec.json.Encoder().encode


def no_progress(_what: str, _done: int, _total: int | None) -> None:
    """Tells nobody."""


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


def progress_text(what: str, done: int, total: int | None) -> str:
    """How far it is, for people: `carts: 42,000 of 100,000`."""
    return f"{what}: {done:,}" + (f" of {total:,}" if total is not None else "")


class Rebuild:
    """One rebuild under one token. `caller` gives the token in place of an identity. `now_ms` overrides the
    clock, for tests."""

    def __init__(
        self,
        *,
        client: Redis,
        caller: ScriptCaller,
        partition: Partition,
        archive: Archive,
        catalog: CatalogRepository,
        terms_of: Callable[[str], CartTerms],
        lifetime_ms: int,
        on_progress: Progress = no_progress,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self._client = client
        self._keys = Keys(partition)
        self._engine = RedisEngine(caller, partition, now_ms=now_ms)
        self._now_ms = now_ms or wall_clock_ms
        self._archive = archive
        self._catalog = catalog
        self._terms_of = terms_of
        self._lifetime_ms = lifetime_ms
        self._on_progress = on_progress
        self._far = "has begun"
        self._hold_ttl_ms: dict[str, int] = {}
        """Of SKUs whose holds last as long as they say themselves."""
        self._owing: list[str] = []
        """SKUs of which paid orders wait for units."""
        self._limit_window_ms: dict[str, int] = {}
        """Of SKUs with a purchase limit."""
        self._logged_at = time.monotonic()

    async def run(self, cursor: Position, nonce: str, *, silent_since_ms: int) -> None:
        """Clear the partition and put everything back. `silent_since_ms`: since when the engine gave no sign
        of life, 0 for never; payment windows are extended by the time since then. Raises StoreRecovering when
        another rebuild took over."""
        beating = asyncio.create_task(self._beat())
        try:
            await self._put_back(cursor, nonce, silent_since_ms)
        finally:
            await end(beating)

    async def _beat(self) -> None:
        """Show others that this rebuild is alive. When the beat stops, so that it looks dead, it only means
        that another takes over; this one then ends at its next call."""
        while True:
            try:
                await self._call("rebuild_beat", (), self._far)
            except StoreRecovering:
                return
            except StoreError:
                # One beat is missed. Whether the engine is back, the steps find out.
                _log.debug("no sign of life reached the engine", exc_info=True)
            await asyncio.sleep(BEAT_SECONDS)

    async def _put_back(self, cursor: Position, nonce: str, silent_since_ms: int) -> None:
        await self._clear()
        reach("rebuild.cleared")
        if cursor.seq > 0:
            # Before anything that may append an event: orders whose window is over are released on the way.
            await self._call("rebuild_anchor", (self._keys.outbox,), str(cursor), nonce)
            reach("rebuild.anchored")
        await self._put_skus_back()
        reach("rebuild.stock_put_back")
        await self._put_payments_back(silent_since_ms)
        reach("rebuild.payments_put_back")
        await self._put_tombstones_back()
        reach("rebuild.tombstones_put_back")
        await self._put_purchases_back()
        reach("rebuild.purchases_put_back")
        held = await self._put_carts_back(silent_since_ms)
        reach("rebuild.carts_put_back")
        await self._hold_again(held)
        reach("rebuild.held_again")
        await self._serve_backorders()
        reach("rebuild.backorders_served")

    async def _call(self, name: str, keys: Iterable[str], *args: str | int) -> list[str]:
        reply: list[str] = await self._engine.call(script(name), (self._keys.gate, *keys), *args)
        return reply

    def _tell(self, what: str, done: int, total: int | None) -> None:
        self._far = progress_text(what, done, total)
        progress.made()
        self._on_progress(what, done, total)
        if time.monotonic() - self._logged_at >= LOG_SECONDS:
            self._logged_at = time.monotonic()
            _log.info("rebuilding, %s", self._far)

    async def _clear(self) -> None:
        removed = 0
        batch: list[str] = []
        async for key in self._old_keys():
            batch.append(key)
            if len(batch) == CALL_KEYS:
                await self._call("rebuild_clear", batch)
                removed += len(batch)
                batch = []
                self._tell("old keys cleared", removed, None)
        if batch:
            await self._call("rebuild_clear", batch)

    async def _old_keys(self) -> AsyncIterator[str]:
        try:
            async for key in self._client.scan_iter(match=f"{self._keys.prefix}*", count=1_000):
                # Processes live on while a partition is rebuilt, the rebuilder among them.
                if key not in (self._keys.gate, self._keys.beats):
                    yield key
        except (RedisError, OSError, TimeoutError) as error:
            raise translate(error, sent=False) from error

    async def _put_skus_back(self) -> None:
        done = 0
        waiting: list[SkuFields] = []
        async for page in self._catalog.all_sku_fields():
            waiting += page
            while len(waiting) >= CALL_SKUS:
                await self._put_some_skus_back(waiting[:CALL_SKUS])
                del waiting[:CALL_SKUS]
                done += CALL_SKUS
                self._tell("SKUs", done, None)
        if waiting:
            await self._put_some_skus_back(waiting)
            self._tell("SKUs", done + len(waiting), None)
        await self._engine.freeze_skus(await self._archive.quarantine.frozen(), frozen=True)

    async def _put_some_skus_back(self, skus: Sequence[SkuFields]) -> None:
        _, totals = await self._archive.stock_totals([its.sku for its in skus])
        self._hold_ttl_ms.update((its.sku, its.hold_ttl_ms) for its in skus if its.hold_ttl_ms)
        self._owing += [its.sku for its in skus if its.sku in totals and totals[its.sku].backordered]
        self._limit_window_ms.update((its.sku, its.limit_window_ms) for its in skus if its.limit_units)
        await self._call(
            "rebuild_skus",
            [self._keys.sku(its.sku) for its in skus],
            *(_encode(_sku_parts(its, totals.get(its.sku))).decode() for its in skus),
        )

    async def _put_payments_back(self, silent_since_ms: int) -> None:
        pending = await self._archive.pending_payments()
        for start, some in _slices(pending, CALL_PAYMENTS):
            await self._call(
                "rebuild_payments",
                [self._keys.payment(payment.payment_id) for payment, _ in some],
                *(_encode(self._payment_parts(recorded, silent_since_ms)).decode() for recorded in some),
            )
            self._tell("pending payments", start + len(some), len(pending))

    async def _put_tombstones_back(self) -> None:
        since_ms = int(time.time() * 1_000) - limits.TOMBSTONE_MS
        found = await self._archive.terminal_payment_ids(since_ms, TOMBSTONES_MAX)
        for start, payment_ids in _slices(found, CALL_PAYMENTS):
            some = await self._archive.find_payments(payment_ids)
            await self._call(
                "rebuild_tombstones",
                [self._keys.payment(payment.payment_id) for payment, _ in some],
                limits.TOMBSTONE_MS,
                *(_encode(self._payment_parts(recorded, 0)).decode() for recorded in some),
            )
            self._tell("payments of the last day", start + len(some), len(found))

    async def _put_purchases_back(self) -> None:
        """What customers have bought of SKUs with a purchase limit: no limit is new when the gate opens."""
        if not self._limit_window_ms:
            return
        counts = PurchaseCounts(self._engine)
        now_ms = (await counts.unloaded()).now_ms
        for done, (sku, window_ms) in enumerate(self._limit_window_ms.items(), 1):
            await load_sku(
                counts, self._archive.purchases, sku, since_ms=now_ms - window_ms, recorded_ms=now_ms
            )
            self._tell("purchases of limited SKUs", done, len(self._limit_window_ms))

    def _payment_parts(self, recorded: Recorded, silent_since_ms: int) -> list[list[str]]:
        payment, orders = recorded
        lost_ms = 0
        if 0 < silent_since_ms < payment.expires_at_ms:
            # The engine was alive when the payment began, whatever other sign is missing. The time that this
            # rebuild takes is lost to the buyer as well.
            alive_ms = max(silent_since_ms, payment.created_at_ms)
            lost_ms = max(0, self._now_ms() - alive_ms)
        extended = msgspec.structs.replace(payment, expires_at_ms=payment.expires_at_ms + lost_ms)
        cart_ttl_ms = self._terms_of(payment.cart_id).cart_ttl_ms
        return [payment_fields(extended, cart_ttl_ms), *(order_fields(order) for order in orders)]

    async def _put_carts_back(self, silent_since_ms: int) -> list[tuple[int, str, str]]:
        """(first hold, cart, line) of every line whose hold was not due when the engine fell silent: over, or
        later than any hold may last, because the clock was set back since."""
        lost_at_ms = silent_since_ms or self._now_ms()
        held: list[tuple[int, str, str]] = []
        total = None
        with suppress(StoreUnavailable):
            # Only for who watches: a count that takes too long must not end the rebuild.
            total = await self._archive.snapshots.count_live()
        done = 0

        async def put(page: list[CartSnapshot]) -> None:
            nonlocal done
            for _, some in _slices(page, CALL_CARTS):
                await self._call(
                    "rebuild_carts",
                    [self._keys.cart(its.cart_id) for its in some],
                    *(_encode(self._cart_parts(its, lost_at_ms)).decode() for its in some),
                )
            held.extend(
                (line.first_held_at_ms, its.cart_id, line.line_id)
                for its in page
                for line in its.lines
                if line.held and 0 < self._held_until_ms(its, line) - lost_at_ms <= self._lifetime_ms
            )
            done += len(page)
            self._tell("carts", done, total)

        await _overlapped(self._pages_of_carts(), put)
        return held

    def _cart_parts(self, snapshot: CartSnapshot, lost_at_ms: int) -> tuple[object, ...]:
        """A cart as rebuild_carts reads it. Since `lost_at_ms` nobody could hold or release units: caps and
        rests go on where they were then."""
        silent_ms = max(0, self._now_ms() - lost_at_ms)
        rest_ms = self._terms_of(snapshot.cart_id).hold_rest_ms
        lines = []
        for line in sorted(snapshot.lines, key=lambda line: line.ordinal):
            first_ms = ended_ms = 0
            until_ms = self._held_until_ms(snapshot, line) if line.held else line.held_until_ms
            if line.first_held_at_ms and lost_at_ms < until_ms + rest_ms:
                first_ms, ended_ms = line.first_held_at_ms + silent_ms, until_ms + silent_ms
            lines.append(_line_parts(line, first_ms, ended_ms))
        return (
            *(snapshot.currency, snapshot.created_at_ms, snapshot.updated_at_ms, snapshot.lifetime_ms),
            *(snapshot.watched_until_ms, snapshot.merged_into),
            lines,
        )

    def _held_until_ms(self, cart: CartSnapshot, line: SnapshotLine) -> int:
        """When a hold ends. A hold that lapses is no mutation, so the snapshot still has it: taken again, it
        would keep units from buyers for one who left."""
        if line.held_until_ms:
            return line.held_until_ms
        terms = self._terms_of(cart.cart_id)
        ttl_ms = self._hold_ttl_ms.get(sku_of(line.line_id), terms.hold_ttl_ms)
        # One that a rebuild took again began after the cart's last mutation.
        extended_ms = max(cart.updated_at_ms, line.first_held_at_ms)
        return min(extended_ms + ttl_ms, line.first_held_at_ms + terms.hold_cap_ms)

    async def _pages_of_carts(self) -> AsyncIterator[list[CartSnapshot]]:
        after = ""
        while page := await self._archive.snapshots.live(after, PAGE_CARTS):
            yield page
            after = page[-1].cart_id

    async def _hold_again(self, held: list[tuple[int, str, str]]) -> None:
        """One call after the other: whoever was first is first again."""
        held.sort()
        terms = [packed_terms(self._terms_of(cart_id)) for cart_id in ("u.", "g.")]
        done = 0
        while done < len(held):
            some = held[done : done + CALL_HOLDS]
            parts = [part for _, cart_id, line_id in some for part in (cart_id, line_id)]
            # Fewer than asked for when holds of a SKU fall due in between: they are released first.
            reply = await self._call("rebuild_holds", (), *terms, *parts)
            done += int(reply[1])
            self._tell("holds", done, len(held))

    async def _serve_backorders(self) -> None:
        """Units of holds that were not taken again are free, and paid orders wait for them."""
        for sku in self._owing:
            await self._call("backorder_serve", [self._keys.sku(sku)])


def _sku_parts(fields: SkuFields, totals: StockTotals | None) -> tuple[str, ...]:
    counted = totals or StockTotals(on_hand=0, sold=0, backordered=0)
    return (
        *("revision", str(fields.revision), "fields", packed_sku(fields)),
        *("seller", fields.seller, "product", fields.product_id),
        *("on_hand", str(counted.on_hand), "sold", str(counted.sold)),
        *("backordered", str(counted.backordered)),
    )


def _line_parts(line: SnapshotLine, first_held_at_ms: int, ended_ms: int) -> tuple[str | int, ...]:
    return (
        *(line.line_id, line.quantity, line.unit_price_minor, line.revision),
        *(line.added_at_ms, line.updated_at_ms, line.properties_json or ""),
        *(first_held_at_ms, ended_ms),
    )


def _slices(items: Sequence[T], size: int) -> Iterable[tuple[int, Sequence[T]]]:
    return ((start, items[start : start + size]) for start in range(0, len(items), size))


async def _overlapped(pages: AsyncIterator[T], put: Callable[[T], Awaitable[None]]) -> None:
    """Put each page while the next one is read."""
    putting: asyncio.Future[None] | None = None
    try:
        async for page in pages:
            if putting is not None:
                await putting
            putting = asyncio.ensure_future(put(page))
        if putting is not None:
            await putting
    finally:
        if putting is not None and not putting.done():
            putting.cancel()
            await asyncio.gather(putting, return_exceptions=True)
