"""Puts a partition back from PostgreSQL into an engine that lost it. Owns the order of the steps.

Every step is a script that passes the gate only with this rebuild's token, so a rebuilder that slept while
another took over changes nothing when it wakes. The order: catalog and counters, pending orders with their
holds, carts without holds, the anchor of the outbox, then the carts' holds taken again by the ordinary hold
function, oldest first.
`held` is never copied: it is the sum of what was really held again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cartstore.archive.repository import Archive, Recorded, StockTotals
from cartstore.catalog.repository import CatalogRepository
from cartstore.failpoints import reach
from cartstore.model import CartSnapshot, CartTerms, Order, Partition, Payment, Position, SnapshotLine
from cartstore.redis.caller import ScriptCaller, translate
from cartstore.redis.keys import Keys
from cartstore.redis.replies import order_fields, payment_fields
from cartstore.redis.scripts import script
from cartstore.redis.store import RedisEngine
from cartstore.tasks import end

AT_ONCE: Final = 64
"""Script calls under way together."""

BEAT_SECONDS: Final = 0.5
PAGE_CARTS: Final = 1_000
CLEARED_AT_ONCE: Final = 500

T = TypeVar("T")

Progress = Callable[[str, int, int | None], None]
"""(what is being put back, how many so far, how many in all if known)."""


def no_progress(_what: str, _done: int, _total: int | None) -> None:
    """Tells nobody."""


class Rebuild:
    """One rebuild under one token. `caller` gives the token in place of an identity."""

    def __init__(
        self,
        *,
        client: Redis,
        caller: ScriptCaller,
        partition: Partition,
        archive: Archive,
        catalog: CatalogRepository,
        terms_of: Callable[[str], CartTerms],
        on_progress: Progress = no_progress,
    ) -> None:
        self._client = client
        self._keys = Keys(partition)
        self._engine = RedisEngine(caller, partition)
        self._archive = archive
        self._catalog = catalog
        self._terms_of = terms_of
        self._on_progress = on_progress

    async def run(self, cursor: Position, nonce: str, *, fenced_ms: int) -> None:
        """Clear the partition and put everything back. `fenced_ms`: how long the engine has been silent;
        payment windows are extended by it. Raises StoreRecovering when another rebuild took over."""
        beating = asyncio.create_task(self._beat())
        try:
            await self._put_back(cursor, nonce, fenced_ms)
        finally:
            await end(beating)

    async def _beat(self) -> None:
        """Show others that this rebuild is alive. When the beat stops, so that it looks dead, it only means
        that another takes over; this one then ends at its next call."""
        while True:
            await self._call("rebuild_beat", ())
            await asyncio.sleep(BEAT_SECONDS)

    async def _put_back(self, cursor: Position, nonce: str, fenced_ms: int) -> None:
        await self._clear()
        reach("rebuild.cleared")
        await self._put_stock_back()
        reach("rebuild.stock_put_back")
        await self._put_payments_back(fenced_ms)
        reach("rebuild.payments_put_back")
        held = await self._put_carts_back()
        reach("rebuild.carts_put_back")
        if cursor.seq > 0:
            # Before anything is held: that releases what is due, such as an order whose window ended while
            # the engine was away, and the event of it comes after the anchor or the stream refuses both.
            await self._call("rebuild_anchor", (self._keys.outbox,), str(cursor), nonce)
            reach("rebuild.anchored")
        await self._hold_again(held)
        reach("rebuild.held_again")

    async def _call(self, name: str, keys: Iterable[str], *args: str | int) -> None:
        await self._engine.call(script(name), (self._keys.gate, *keys), *args)

    async def _clear(self) -> None:
        removed = 0
        batch: list[str] = []
        async for key in self._old_keys():
            batch.append(key)
            if len(batch) == CLEARED_AT_ONCE:
                await self._call("rebuild_clear", batch)
                removed += len(batch)
                batch = []
                self._on_progress("old keys cleared", removed, None)
        if batch:
            await self._call("rebuild_clear", batch)

    async def _old_keys(self) -> AsyncIterator[str]:
        try:
            async for key in self._client.scan_iter(match=f"{self._keys.prefix}*", count=1_000):
                if key != self._keys.gate:
                    yield key
        except (RedisError, OSError, TimeoutError) as error:
            raise translate(error, sent=False) from error

    async def _put_stock_back(self) -> None:
        done = 0
        async for fields in self._catalog.all_sku_fields():
            await self._engine.publish_skus(fields)
            _, totals = await self._archive.stock_totals([its.sku for its in fields])
            await _for_each(self._put_counters_back, totals.items())
            done += len(fields)
            self._on_progress("SKUs", done, None)

    async def _put_counters_back(self, of_sku: tuple[str, StockTotals]) -> None:
        sku, its = of_sku
        await self._call("rebuild_stock", (self._keys.sku(sku),), its.on_hand, its.sold, its.backordered)

    async def _put_payments_back(self, fenced_ms: int) -> None:
        pending = await self._archive.pending_payments()

        async def put_back(recorded: Recorded) -> None:
            await self._put_payment_back(*recorded, fenced_ms)

        await _for_each(put_back, pending)
        self._on_progress("pending payments", len(pending), len(pending))

    async def _put_payment_back(self, payment: Payment, orders: Sequence[Order], fenced_ms: int) -> None:
        terms = self._terms_of(payment.cart_id)
        extended = msgspec.structs.replace(payment, expires_at_ms=payment.expires_at_ms + fenced_ms)
        await self._call(
            "rebuild_payment",
            (self._keys.payment(payment.payment_id),),
            msgspec.json.encode(payment_fields(extended, terms.cart_ttl_ms)).decode(),
            *(msgspec.json.encode(order_fields(order)).decode() for order in orders),
        )

    async def _put_carts_back(self) -> list[tuple[int, str, str]]:
        """(first hold, cart, line) of every line that was held."""
        held: list[tuple[int, str, str]] = []
        total = await self._archive.snapshots.count_live()
        done, after = 0, ""
        while True:
            page = await self._archive.snapshots.live(after, PAGE_CARTS)
            if not page:
                return held
            await _for_each(self._put_cart_back, page)
            held += [
                (line.first_held_at_ms, its.cart_id, line.line_id)
                for its in page
                for line in its.lines
                if line.held
            ]
            after = page[-1].cart_id
            done += len(page)
            self._on_progress("carts", done, total)

    async def _put_cart_back(self, snapshot: CartSnapshot) -> None:
        lines = sorted(snapshot.lines, key=lambda line: line.ordinal)
        await self._call(
            "rebuild_cart",
            (self._keys.cart(snapshot.cart_id),),
            snapshot.currency,
            snapshot.created_at_ms,
            snapshot.updated_at_ms,
            snapshot.lifetime_ms,
            *(part for line in lines for part in _line_parts(line)),
        )

    async def _hold_again(self, held: list[tuple[int, str, str]]) -> None:
        held.sort()
        for start in range(0, len(held), PAGE_CARTS):
            # Started oldest first; over one pool of connections they arrive so too, but for neighbours.
            await _for_each(self._hold, held[start : start + PAGE_CARTS])
            self._on_progress("holds", min(start + PAGE_CARTS, len(held)), len(held))

    async def _hold(self, line: tuple[int, str, str]) -> None:
        _, cart_id, line_id = line
        await self._engine.hold_again(cart_id, line_id, self._terms_of(cart_id))


def _line_parts(line: SnapshotLine) -> tuple[str | int, ...]:
    return (
        *(line.line_id, line.quantity, line.unit_price_minor, line.revision),
        *(line.added_at_ms, line.updated_at_ms, line.properties_json or ""),
    )


async def _for_each(call: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
    """Call for every item, AT_ONCE of them at any time, started in their order."""
    following = iter(items)

    async def work() -> None:
        for item in following:
            await call(item)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
