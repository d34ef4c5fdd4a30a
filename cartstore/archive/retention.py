"""Removes from the record what is older than its retention, one bounded batch per call. Owns what may go.

Four kinds: archived events; snapshots of carts that have ended; address, contact and metadata of orders
that were released and never paid; product revisions that nothing refers to. Rows of payments, orders and the
ledger stay, so that an Idempotency-Key or a stock reference is good for ever.

Each batch is one transaction, may run twice, late or beside itself, and waits for no row that the drain or
the snapshot job has locked. Age counts on the engine's clock or the database's, whichever shows less: a clock
that jumps ahead removes nothing early. The engine's clock is that of its last snapshot, so nothing is removed
while no worker takes snapshots.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, get_args

import msgspec
from sqlalchemy import BigInteger, ColumnElement, delete, exists, extract, func, select, text, tuple_, update
from sqlalchemy import cast as sql_cast
from sqlalchemy.ext.asyncio import AsyncConnection

from cartstore.archive.arrays import array_of
from cartstore.archive.database import Database
from cartstore.archive.drain import Outbox
from cartstore.archive.rejected_details import FIRST, blank_rejected_details
from cartstore.archive.tables import (
    cart_snapshots,
    events,
    order_lines,
    outbox_cursor,
    payments,
    product_revisions,
    products,
    rejected_events,
    retention,
)
from cartstore.errors import ContractError
from cartstore.limits import TOMBSTONE_MS
from cartstore.model import Event, Partition, Position, payment_id_of_order
from cartstore.settings import Settings

RetentionKind = Literal["events", "snapshots", "order_details", "product_revisions"]
RETENTION_KINDS: Final[tuple[RetentionKind, ...]] = get_args(RetentionKind)

T = TypeVar("T")

DAY_MS: Final = 86_400_000

EVENTS_PER_BATCH: Final = 2_000
SNAPSHOTS_PER_BATCH: Final = 1_000
PAYMENTS_PER_BATCH: Final = 200
REVISIONS_PER_PAGE: Final = 2_000
REVISION_PAGES_PER_BATCH: Final = 25
CARTS_PER_PAGE: Final = 5_000

WAITING_EVENTS_MAX: Final = 5_000
"""With more events waiting for the record than this, what they refer to is not looked up, and nothing that
they might refer to is removed."""

REVISIONS_PAUSE_SECONDS: Final = 3_600.0
"""Between two walks through all revisions; a walk that finds candidates reads all snapshots once."""

_LOCK: Final = 0x72657461_696E6572
"""The number of the advisory lock of whoever removes: `retainer` in ASCII."""

ENDED: Final = ("expired", "converted", "merged")
UNPAID: Final = ("expired", "cancelled")


class RetentionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long each kind is kept, in milliseconds; 0: for ever."""

    events_ms: int
    snapshots_ms: int
    unpaid_ms: int
    cart_lifetime_ms: int
    """The longest lifetime of a cart: how long a superseded revision is kept at least."""


def policy_of(settings: Settings) -> RetentionPolicy:
    return RetentionPolicy(
        events_ms=settings.retention_events_days * DAY_MS,
        snapshots_ms=settings.retention_snapshots_days * DAY_MS,
        unpaid_ms=settings.retention_unpaid_days * DAY_MS,
        cart_lifetime_ms=max(settings.guest_cart_ttl_days, settings.member_cart_ttl_days) * DAY_MS,
    )


class RetentionBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What one batch did. `is_more`: another one may find more at once."""

    removed: int
    is_more: bool


NOTHING: Final = RetentionBatch(removed=0, is_more=False)


class _Now(msgspec.Struct, frozen=True):
    """One snapshot's view of the clock and the cursor."""

    now_ms: int
    cursor: Position
    nonce: str


class Retention:
    """The retention of one partition's record. Every method may raise StoreUnavailable and OutcomeUnknown;
    both leave the next batch to find what is left."""

    def __init__(
        self,
        database: Database,
        partition: Partition,
        outbox: Outbox,
        policy: RetentionPolicy,
        *,
        revisions_pause_seconds: float = REVISIONS_PAUSE_SECONDS,
    ) -> None:
        self._database = database
        self._partition = partition
        self._outbox = outbox
        self._policy = policy
        self._revisions_pause_seconds = revisions_pause_seconds
        self._revisions_after = 0
        self._revisions_due_at = float("-inf")
        self._rejected_after = FIRST

    async def run_batch(self, kind: RetentionKind) -> RetentionBatch:
        """Remove some of one kind. Raises ContractError for a waiting event that cannot be read."""
        match kind:
            case "events":
                return await self._remove_events()
            case "snapshots":
                return await self._remove_snapshots()
            case "order_details":
                return await self._redact_payments()
            case "product_revisions":
                return await self._remove_revisions()

    # --- events --------------------------------------------------------------------------------

    async def _remove_events(self) -> RetentionBatch:
        """The oldest events. The newest one stays whatever its age: it is the one that the cursor names, or
        the last before a rejected one."""
        if not self._policy.events_ms:
            return NOTHING
        async with self._database.transaction() as connection:
            now = await _claimed(connection, self._partition)
            if now is None:
                return NOTHING
            place = tuple_(events.c.epoch, events.c.seq)
            its_own = events.c.partition == self._partition.index
            newest = select(events.c.epoch, events.c.seq).where(its_own, events.c.line == 0)
            newest = newest.order_by(events.c.epoch.desc(), events.c.seq.desc()).limit(1)
            last = (await connection.execute(newest)).first()
            if last is None:
                return NOTHING
            oldest = select(events.c.epoch, events.c.seq, events.c.at_ms).where(
                its_own, place < (last.epoch, last.seq), events.c.line == 0
            )
            rows = (
                await connection.execute(
                    oldest.order_by(events.c.epoch, events.c.seq).limit(EVENTS_PER_BATCH)
                )
            ).all()
            before_ms = now.now_ms - self._policy.events_ms
            through = _last_removable(rows, before_ms=before_ms, now_ms=now.now_ms)
            if through is not None:
                through = await _before_young(
                    connection, its_own, rows, through, before_ms=before_ms, now_ms=now.now_ms
                )
            if through is None:
                return NOTHING
            end = (through.epoch, through.seq)
            # What the record told behind the last one stays: a reader who has read that goes on with it.
            told = (place < end) | ((place == end) & (events.c.line == 0))
            removed = await connection.execute(delete(events).where(its_own, told))
            await connection.execute(
                update(retention)
                .where(retention.c.partition == self._partition.index)
                .values(events_gone_epoch=through.epoch, events_gone_seq=through.seq)
            )
            return RetentionBatch(removed=removed.rowcount, is_more=removed.rowcount >= EVENTS_PER_BATCH)

    # --- snapshots -----------------------------------------------------------------------------

    async def _remove_snapshots(self) -> RetentionBatch:
        """Snapshots of ended carts. One with a pending payment stays: its lines may come back to it."""
        if not self._policy.snapshots_ms:
            return NOTHING
        async with self._database.transaction() as connection:
            now = await _claimed(connection, self._partition)
            if now is None:
                return NOTHING
            pending = exists().where(
                payments.c.cart_id == cart_snapshots.c.cart_id, payments.c.status == "pending"
            )
            ended = (
                select(cart_snapshots.c.cart_id)
                .where(
                    cart_snapshots.c.partition == self._partition.index,
                    cart_snapshots.c.status.in_(ENDED),
                    cart_snapshots.c.updated_at_ms < now.now_ms - self._policy.snapshots_ms,
                    ~pending,
                )
                .limit(SNAPSHOTS_PER_BATCH)
                .with_for_update(skip_locked=True)
            )
            cart_ids = list((await connection.execute(ended)).scalars())
            if cart_ids:
                chosen = array_of(cart_snapshots.c.cart_id, cart_ids)
                await connection.execute(delete(cart_snapshots).where(cart_snapshots.c.cart_id.in_(chosen)))
        return RetentionBatch(removed=len(cart_ids), is_more=len(cart_ids) == SNAPSHOTS_PER_BATCH)

    # --- address, contact and metadata ---------------------------------------------------------

    async def _redact_payments(self) -> RetentionBatch:
        """Details of payments that were released and never paid, in their rows, in their events, and in the
        bodies of rejected checkouts.

        `payment_settle` pays none of them any more from `unpaid_ms` after their checkout on. A payment that
        was settled before may still be on its way to the record, so none is touched that a waiting event
        names. A tombstone in the engine has a copy of the details; it is gone a day after the release.
        """
        if not self._policy.unpaid_ms:
            return NOTHING
        async with self._database.transaction() as connection:
            now = await _claimed(connection, self._partition)
            # Read before the candidates: what was applied since only makes fewer of them.
            waiting = await self._waiting(now) if now is not None else None
            if now is None or waiting is None:
                return NOTHING
            settling = {payment_id for event in waiting for payment_id in _payments_named(event.body)}
            # Locked in one order, and none that the drain has locked: the two never wait for each other
            # crosswise.
            released = (
                select(payments.c.payment_id)
                .where(
                    payments.c.partition == self._partition.index,
                    payments.c.redacted_at_ms.is_(None),
                    payments.c.status.in_(UNPAID),
                    payments.c.created_at_ms < now.now_ms - self._policy.unpaid_ms - TOMBSTONE_MS,
                    payments.c.payment_id.not_in(array_of(payments.c.payment_id, sorted(settling))),
                )
                .order_by(payments.c.created_at_ms, payments.c.payment_id)
                .limit(PAYMENTS_PER_BATCH)
                .with_for_update(skip_locked=True)
            )
            payment_ids = list((await connection.execute(released)).scalars())
            if payment_ids:
                await _redact(connection, payment_ids, now.now_ms)
            before_ms = now.now_ms - self._policy.unpaid_ms - TOMBSTONE_MS
            rejected = await blank_rejected_details(
                connection, self._rejected_after, before_ms=before_ms, settling=settling
            )
        self._rejected_after = rejected.after
        return RetentionBatch(
            removed=len(payment_ids) + rejected.blanked,
            is_more=len(payment_ids) == PAYMENTS_PER_BATCH or rejected.after != FIRST,
        )

    async def _waiting(self, now: _Now) -> Sequence[Event] | None:
        """Events that the record did not have as of this cursor; None when they are too many, or when the
        stream does not hold the last applied one: it is trimmed, or not the stream of this record."""
        waiting = await self._outbox.read(now.cursor, WAITING_EVENTS_MAX + 1)
        if now.cursor.seq > 0:
            # After the read: while this entry is there, no later one was trimmed.
            entry = await self._outbox.find(now.cursor)
            if entry is None or entry.nonce != now.nonce:
                return None
        return waiting if len(waiting) <= WAITING_EVENTS_MAX else None

    # --- product revisions ---------------------------------------------------------------------

    async def _remove_revisions(self) -> RetentionBatch:
        """Revisions that were superseded longer ago than any cart lives and that nothing names.

        All is read in one snapshot of the database. Nothing begins to name a superseded revision: a line that
        names it was added when it was current, and moves from one cart or order to another at most. So what
        the snapshot does not name is named by nothing later, except by an event on the way to the record;
        those are read from the stream after the snapshot was taken.
        """
        if time.monotonic() < self._revisions_due_at:
            return NOTHING
        async with self._database.transaction(is_repeatable=True) as connection:
            now = await _claimed(connection, self._partition)
            waiting = await self._waiting(now) if now is not None else None
            if now is None or waiting is None:
                return NOTHING
            before_ms = now.now_ms - self._policy.cart_lifetime_ms
            candidates, after = await _superseded(connection, self._revisions_after, before_ms)
            if candidates:
                candidates -= {revision for event in waiting for revision in _revisions_named(event.body)}
                candidates -= await _revisions_of_rejected(connection)
                candidates = await _without_those_in_carts(connection, candidates)
            if candidates:
                chosen = array_of(product_revisions.c.revision, sorted(candidates))
                await connection.execute(
                    delete(product_revisions).where(product_revisions.c.revision.in_(chosen))
                )
        self._revisions_after = after
        if not after:
            self._revisions_due_at = time.monotonic() + self._revisions_pause_seconds
        return RetentionBatch(removed=len(candidates), is_more=bool(after))


async def _claimed(connection: AsyncConnection, partition: Partition) -> _Now | None:
    """Make this transaction the only one that removes; None when another one does, or when the engine's time
    is not known."""
    # No row's lock: in a repeatable transaction PostgreSQL refuses that of a row that has changed meanwhile.
    lock = func.pg_try_advisory_xact_lock(_LOCK + partition.index)
    if not (await connection.execute(select(lock))).scalar():
        return None
    # Of the server, not of the transaction's begin; it decides only how old rows are.
    clock = sql_cast(extract("epoch", func.clock_timestamp()) * 1_000, BigInteger)
    query = select(outbox_cursor, clock.label("clock")).where(outbox_cursor.c.partition == partition.index)
    row = (await connection.execute(query)).one()
    if not row.snapshot_at_ms:
        return None
    now_ms = min(row.clock, row.snapshot_at_ms)
    return _Now(now_ms=now_ms, cursor=Position(row.epoch, row.seq), nonce=row.nonce)


def _last_removable(rows: Iterable[Any], *, before_ms: int, now_ms: int) -> Any:
    """The last of the oldest events, in their order, that is old enough and has none before it that is not.

    A time that is yet to come shows that the engine's clock was ahead then; such an event is as old as the
    next one whose time can be believed, and does not keep all later ones for years.
    """
    last = None
    for row in rows:
        if row.at_ms > now_ms:
            continue
        if row.at_ms >= before_ms:
            break
        last = row
    return last


async def _before_young(
    connection: AsyncConnection,
    its_own: ColumnElement[bool],
    rows: Iterable[Any],
    through: Any,
    *,
    before_ms: int,
    now_ms: int,
) -> Any:
    """The last of these rows that may go without an event of the record going that is too young for it."""
    place = tuple_(events.c.epoch, events.c.seq)
    young = (
        select(events.c.epoch, events.c.seq)
        .where(
            its_own,
            place < (through.epoch, through.seq),
            events.c.line > 0,
            events.c.at_ms.between(before_ms, now_ms),
        )
        .order_by(events.c.epoch, events.c.seq)
        .limit(1)
    )
    first = (await connection.execute(young)).first()
    if first is None:
        return through
    kept = (first.epoch, first.seq)
    return max((row for row in rows if (row.epoch, row.seq) <= kept), key=_place, default=None)


def _place(row: Any) -> tuple[int, int]:
    return row.epoch, row.seq


async def _redact(connection: AsyncConnection, payment_ids: Sequence[str], now_ms: int) -> None:
    await connection.execute(
        update(payments)
        .where(payments.c.payment_id.in_(array_of(payments.c.payment_id, payment_ids)))
        .values(details_json="{}", email=None, redacted_at_ms=now_ms)
    )
    # Spelled as the index has it, or it would not be used.
    await connection.execute(
        text(
            """
            UPDATE events SET body = jsonb_set(body, '{details_json}', '"{}"')
            WHERE type = 'checkout_begun' AND (body ->> 'payment_id') = ANY (:payment_ids)
            """
        ),
        {"payment_ids": list(payment_ids)},
    )


async def _superseded(connection: AsyncConnection, after: int, before_ms: int) -> tuple[set[int], int]:
    """Revisions after one that are superseded since before a time and that no order names, and where the
    walk goes on; 0 at its end."""
    found: set[int] = set()
    for _ in range(REVISION_PAGES_PER_BATCH):
        page = (
            select(product_revisions.c.revision, product_revisions.c.product_id)
            .where(product_revisions.c.revision > after)
            .order_by(product_revisions.c.revision)
            .limit(REVISIONS_PER_PAGE)
            .subquery()
        )
        following = product_revisions.alias("following")
        is_superseded = exists().where(
            following.c.product_id == page.c.product_id,
            following.c.revision > page.c.revision,
            following.c.created_at < func.to_timestamp(before_ms / 1_000),
        )
        is_current = exists().where(products.c.revision == page.c.revision)
        is_ordered = exists().where(order_lines.c.revision == page.c.revision)
        query = select(page.c.revision, (is_superseded & ~is_current & ~is_ordered).label("is_candidate"))
        rows = (await connection.execute(query)).all()
        found.update(row.revision for row in rows if row.is_candidate)
        after = max((row.revision for row in rows), default=0)
        if len(rows) < REVISIONS_PER_PAGE:
            return found, 0
    return found, after


_NAMED_BY_CARTS: Final = text(
    """
    WITH page AS (
        SELECT cart_id, lines FROM cart_snapshots WHERE cart_id > :after ORDER BY cart_id LIMIT :carts
    )
    SELECT (SELECT max(cart_id) FROM page) AS last, (SELECT count(*) FROM page) AS carts,
        ARRAY(SELECT DISTINCT (line ->> 'revision')::bigint FROM page, jsonb_array_elements(lines) AS line
              WHERE line ? 'revision') AS revisions
    """
)


async def _without_those_in_carts(connection: AsyncConnection, candidates: set[int]) -> set[int]:
    """The candidates that no cart's snapshot names. Reads all of them, in pages."""
    left = set(candidates)
    after = ""
    while left:
        page = (await connection.execute(_NAMED_BY_CARTS, {"after": after, "carts": CARTS_PER_PAGE})).one()
        left.difference_update(page.revisions)
        if page.carts < CARTS_PER_PAGE:
            break
        after = page.last
    return left


async def _revisions_of_rejected(connection: AsyncConnection) -> set[int]:
    """What events name that a person has yet to decide on. There are few."""
    named: set[int] = set()
    for body in (await connection.execute(select(rejected_events.c.body))).scalars():
        try:
            named.update(_revisions_named(msgspec.json.decode(body)))
        except (msgspec.DecodeError, ContractError):
            # It names nothing that anybody could read.
            continue
    return named


def _revisions_named(body: Any) -> Iterable[int]:
    return _members_of(body, "revision", int)


def _payments_named(body: Any) -> Iterable[str]:
    yield from _members_of(body, "payment_id", str)
    yield from map(payment_id_of_order, _members_of(body, "order_id", str))


def _members_of(body: Any, name: str, kind: Callable[[Any], T]) -> Iterable[T]:
    """The values of every member of this name in a JSON value; those that are no such value are left out."""
    if isinstance(body, Mapping):
        for key, value in body.items():
            if key == name and isinstance(value, str | int):
                try:
                    yield kind(value)
                except ValueError:
                    continue
            else:
                yield from _members_of(value, name, kind)
    elif isinstance(body, list):
        for part in body:
            yield from _members_of(part, name, kind)
