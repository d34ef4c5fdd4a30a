"""Cart snapshots in the record: what a lost engine gets its carts back from. Owns their table.

Two writers keep them. The snapshot job stores whole carts as the engine has them. The drain moves bought and
returned lines in the very transaction that records their order, so that after a rebuild no line stands beside
its own order, and none that came back is missing. Which of the two has seen more is told by the version.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Select, Text, case, func, select, update
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from cartstore.archive.applying import Decoded
from cartstore.archive.arrays import array_of, columns_of, rows_of
from cartstore.archive.database import Database
from cartstore.archive.events import CheckoutBegun, PaymentReleased, PaymentSettled
from cartstore.archive.tables import cart_snapshots, order_lines, orders, outbox_cursor, payments
from cartstore.errors import StoreRecovering
from cartstore.layout import LAYOUT
from cartstore.model import CartSnapshot, Partition, Position, SnapshotLine
from cartstore.stored_json import note_unreadable

_COLUMNS: Final = (
    *("cart_id", "version", "status", "currency", "lines", "lines_count", "total_items", "subtotal_minor"),
    *("created_at_ms", "updated_at_ms", "lifetime_ms", "watched_until_ms", "merged_into"),
)

_NO_EVENT: Final = Position(0, 0)

_encode_lines = msgspec.json.Encoder().encode
_decode_lines = msgspec.json.Decoder(tuple[SnapshotLine, ...]).decode

_STORED: Final = (*_COLUMNS, "partition")

_READ: Final = tuple(
    sql_cast(cart_snapshots.c.lines, Text).label("lines") if name == "lines" else cart_snapshots.c[name]
    for name in _COLUMNS
)
"""The columns, lines as text: decoded once, into what they are."""


class SnapshotState(msgspec.Struct, frozen=True, kw_only=True):
    """How far the snapshots are: the change number of the last cart stored, and when that was."""

    change: int
    at_ms: int


class CartSnapshots:
    """The snapshots of one partition's carts. Any method may raise StoreUnavailable, writers OutcomeUnknown.

    `epoch`: in which the engine was open that the news are of. Once a later one was raised they are refused
    with StoreRecovering: that engine may have been lost, and its successor have got its carts from here.
    """

    def __init__(self, database: Database, partition: Partition) -> None:
        self._database = database
        self._partition = partition

    async def state(self) -> SnapshotState:
        async with self._database.reading() as connection:
            row = (await connection.execute(_cursor_of(self._partition))).one()
        return SnapshotState(change=row.snapshot_change, at_ms=row.snapshot_at_ms)

    async def save(
        self, snapshots: Sequence[CartSnapshot], state: SnapshotState, *, epoch: int, position: Position
    ) -> bool:
        """Store carts as the engine has them, unless the record has seen a later version, and how far
        they go. Saving twice or late changes nothing more.

        `position`: of the last event when the carts were read. False, with nothing stored: the record does
        not have it yet. A cart that a checkout emptied must not be there before its order: were the engine
        lost in between, both would be gone.
        """
        async with self._database.transaction() as connection:
            # The cursor's lock first, as the drain takes it: the two never wait for each other crosswise.
            if not await _locked_for(connection, self._partition, epoch, position):
                return False
            await _upsert(connection, self._partition, snapshots)
            await connection.execute(
                update(outbox_cursor)
                .where(
                    outbox_cursor.c.partition == self._partition.index,
                    outbox_cursor.c.snapshot_change <= state.change,
                )
                .values(snapshot_change=state.change, snapshot_at_ms=state.at_ms, written_in_layout=LAYOUT)
            )
        return True

    async def expire(self, cart_ids: Sequence[str], *, epoch: int) -> None:
        """These carts are gone from the engine. What was merged or converted stays that."""
        if not cart_ids:
            return
        async with self._database.transaction() as connection:
            await _locked_for(connection, self._partition, epoch, _NO_EVENT)
            await connection.execute(
                update(cart_snapshots)
                .where(
                    cart_snapshots.c.cart_id.in_(array_of(cart_snapshots.c.cart_id, cart_ids)),
                    cart_snapshots.c.status.in_(("active", "abandoned")),
                )
                .values(status="expired")
            )

    async def age(self, now_ms: int, abandoned_after_ms: int) -> None:
        """Mark carts that nobody touched for long as abandoned, and for longer as expired."""
        snapshots = cart_snapshots.c
        async with self._database.transaction() as connection:
            for status, limit in (("expired", snapshots.lifetime_ms), ("abandoned", abandoned_after_ms)):
                await connection.execute(
                    update(cart_snapshots)
                    .where(
                        snapshots.partition == self._partition.index,
                        snapshots.status.in_(("active", "abandoned") if status == "expired" else ("active",)),
                        snapshots.updated_at_ms + limit <= now_ms,
                    )
                    .values(status=status)
                )

    async def has_reached(self, position: Position) -> bool:
        """Whether the record has every event up to this one."""
        async with self._database.reading() as connection:
            row = (await connection.execute(_cursor_of(self._partition))).one()
        return Position(row.epoch, row.seq) >= position

    async def find(self, cart_id: str) -> CartSnapshot | None:
        query = select(*_READ).where(cart_snapshots.c.cart_id == cart_id)
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        return _read(row) if row is not None else None

    async def live(self, after: str, limit: int) -> list[CartSnapshot]:
        """Carts that have lines and are not over, by id, strictly after one; without those that cannot be
        read, so that one of them does not keep all others from coming back. Empty only at the end."""
        while rows := await self._live(after, limit):
            found = [snapshot for row in rows if (snapshot := _read(row)) is not None]
            if found:
                return found
            after = rows[-1].cart_id
        return []

    async def _live(self, after: str, limit: int) -> Sequence[Row[Any]]:
        query = (
            select(*_READ)
            .where(
                cart_snapshots.c.partition == self._partition.index,
                cart_snapshots.c.cart_id > after,
                cart_snapshots.c.lines_count > 0,
                cart_snapshots.c.status.in_(("active", "abandoned")),
            )
            .order_by(cart_snapshots.c.cart_id)
            .limit(limit)
        )
        async with self._database.reading(is_long=True) as connection:
            return (await connection.execute(query)).all()

    async def count_live(self) -> int:
        """How many carts `live` would give in all."""
        query = select(func.count()).where(
            cart_snapshots.c.partition == self._partition.index,
            cart_snapshots.c.lines_count > 0,
            cart_snapshots.c.status.in_(("active", "abandoned")),
        )
        async with self._database.reading(is_long=True) as connection:
            return int((await connection.execute(query)).scalar_one())


def _cursor_of(partition: Partition) -> Select[Any]:
    return select(outbox_cursor).where(outbox_cursor.c.partition == partition.index)


async def _locked_for(
    connection: AsyncConnection, partition: Partition, epoch: int, position: Position
) -> bool:
    """Lock the cursor, unless an epoch after this one was raised; whether it has reached this position.
    Raises StoreRecovering."""
    row = (await connection.execute(_cursor_of(partition).with_for_update())).one()
    if epoch < row.fence_epoch:
        raise StoreRecovering(f"Carts of epoch {epoch} come after epoch {row.fence_epoch} was raised.")
    return Position(row.epoch, row.seq) >= position


async def _upsert(
    connection: AsyncConnection, partition: Partition, snapshots: Iterable[CartSnapshot]
) -> None:
    rows = [
        (
            *(its.cart_id, its.version, its.status, its.currency, _encode_lines(its.lines).decode()),
            *(len(its.lines), its.total_items, its.subtotal_minor),
            *(its.created_at_ms, its.updated_at_ms, its.lifetime_ms, its.watched_until_ms, its.merged_into),
            partition.index,
        )
        for its in sorted(snapshots, key=lambda its: its.cart_id)
    ]
    if not rows:
        return
    source = rows_of(cart_snapshots, _STORED)
    statement = pg_insert(cart_snapshots).from_select(
        _STORED, select(*(source.c[name].cast(cart_snapshots.c[name].type) for name in _STORED))
    )
    excluded = statement.excluded
    changed: dict[str, Any] = {name: excluded[name] for name in _COLUMNS[1:]}
    # A cart that a checkout emptied is converted, and stays so until something is put into it.
    changed["status"] = case(
        ((excluded.lines_count == 0) & (cart_snapshots.c.status == "converted"), "converted"),
        else_=excluded.status,
    )
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["cart_id"], set_=changed, where=cart_snapshots.c.version <= excluded.version
        ),
        columns_of(_STORED, rows),
    )


class _Move(msgspec.Struct):
    """Lines that left a cart or came back to it, and the cart's version with that."""

    cart_id: str
    version: int
    currency: str
    lines: list[SnapshotLine]
    is_return: bool
    is_whole: bool
    """Whether it left no line in the cart."""
    at_ms: int


async def shift(connection: AsyncConnection, partition: Partition, batch: Sequence[Decoded]) -> None:
    """Move the lines that a batch of events bought or returned, in the transaction that records them."""
    moving = [entry for entry in batch if entry.event.cart_version > 0]
    if not moving:
        return
    moves = await _moves_of(connection, batch, moving)
    query = (
        select(*_READ)
        .where(
            cart_snapshots.c.cart_id.in_(
                array_of(cart_snapshots.c.cart_id, sorted({its.cart_id for its in moves}))
            )
        )
        .order_by(cart_snapshots.c.cart_id)
        .with_for_update()
    )
    # A snapshot that cannot be read is as none: what the engine has is stored over it.
    known = {row.cart_id: _read(row) for row in await connection.execute(query)}
    shifted: dict[str, CartSnapshot] = {}
    for move in moves:
        snapshot = _shifted(shifted.get(move.cart_id) or known.get(move.cart_id), move)
        if snapshot is not None:
            shifted[move.cart_id] = snapshot
    await _upsert(connection, partition, shifted.values())


def _shifted(snapshot: CartSnapshot | None, move: _Move) -> CartSnapshot | None:
    """The cart after a move; None when it has nothing to say of it."""
    if snapshot is None:
        if not move.is_return and not move.is_whole:
            return None
        snapshot = CartSnapshot(
            cart_id=move.cart_id,
            version=0,
            currency=move.currency,
            created_at_ms=move.at_ms,
            updated_at_ms=move.at_ms,
            lifetime_ms=7 * 86_400_000,
        )
    if snapshot.version > move.version:
        return None
    if snapshot.version == move.version:
        # The snapshot job was faster. Only it cannot know what emptied the cart.
        is_converted = not move.is_return and not snapshot.lines
        return msgspec.structs.replace(snapshot, status="converted") if is_converted else None
    lines = {line.line_id: line for line in snapshot.lines}
    for line in move.lines:
        there = lines.get(line.line_id)
        if move.is_return:
            quantity = line.quantity + (there.quantity if there else 0)
            lines[line.line_id] = msgspec.structs.replace(there or line, quantity=quantity)
        elif there is not None and there.quantity > line.quantity:
            lines[line.line_id] = msgspec.structs.replace(there, quantity=there.quantity - line.quantity)
        else:
            lines.pop(line.line_id, None)
    return msgspec.structs.replace(
        snapshot,
        version=move.version,
        currency=snapshot.currency or move.currency,
        lines=tuple(lines.values()),
        status="active" if lines else "converted",
        updated_at_ms=max(snapshot.updated_at_ms, move.at_ms),
    )


async def _moves_of(
    connection: AsyncConnection, batch: Sequence[Decoded], moving: Sequence[Decoded]
) -> list[_Move]:
    begun = {entry.body.payment_id: entry.body for entry in batch if isinstance(entry.body, CheckoutBegun)}
    named = {
        entry.body.payment_id for entry in moving if isinstance(entry.body, PaymentReleased | PaymentSettled)
    }
    recorded = await _recorded_lines(connection, sorted(named - begun.keys()))
    moves: list[_Move] = []
    for entry in moving:
        body = entry.body
        if not isinstance(body, CheckoutBegun | PaymentReleased | PaymentSettled):
            continue
        if body.payment_id in begun:
            its = begun[body.payment_id]
            cart_id, currency, lines = its.cart_id, its.currency, _bought_lines(its, entry.event.at_ms)
        else:
            cart_id, currency, lines = recorded[body.payment_id]
        moves.append(
            _Move(
                cart_id=cart_id,
                version=entry.event.cart_version,
                currency=currency,
                lines=lines,
                is_return=isinstance(body, PaymentReleased),
                is_whole=isinstance(body, CheckoutBegun) and body.checkout_type == "full_cart",
                at_ms=entry.event.at_ms,
            )
        )
    return moves


def _bought_lines(begun: CheckoutBegun, at_ms: int) -> list[SnapshotLine]:
    return [
        SnapshotLine(
            line_id=line.line_id,
            quantity=line.quantity,
            held=0,
            first_held_at_ms=0,
            unit_price_minor=line.unit_price_minor,
            revision=line.revision,
            ordinal=0,
            added_at_ms=at_ms,
            updated_at_ms=at_ms,
            properties_json=line.properties_json,
        )
        for order in begun.orders
        for line in order.lines
    ]


async def _recorded_lines(
    connection: AsyncConnection, payment_ids: Sequence[str]
) -> dict[str, tuple[str, str, list[SnapshotLine]]]:
    """(cart_id, currency, lines) of payments that an earlier batch began."""
    if not payment_ids:
        return {}
    query = (
        select(payments.c.payment_id, payments.c.cart_id, payments.c.currency, order_lines)
        .join(orders, orders.c.payment_id == payments.c.payment_id)
        .join(order_lines, order_lines.c.order_id == orders.c.order_id)
        .where(payments.c.payment_id.in_(array_of(payments.c.payment_id, payment_ids)))
        .order_by(orders.c.n, order_lines.c.n)
    )
    found: dict[str, tuple[str, str, list[SnapshotLine]]] = {}
    for row in await connection.execute(query):
        _, _, lines = found.setdefault(row.payment_id, (row.cart_id, row.currency, []))
        lines.append(
            SnapshotLine(
                line_id=row.line_id,
                quantity=row.quantity,
                held=0,
                first_held_at_ms=0,
                unit_price_minor=row.unit_price_minor,
                revision=row.revision,
                ordinal=0,
                added_at_ms=0,
                updated_at_ms=0,
                properties_json=row.properties_json,
            )
        )
    return found


def _read(row: Row[Any]) -> CartSnapshot | None:
    try:
        return _snapshot_of(row)
    except (msgspec.DecodeError, RecursionError) as error:
        note_unreadable("cart snapshot", row.cart_id, "lines", error)
        return None


def _snapshot_of(row: Row[Any]) -> CartSnapshot:
    return CartSnapshot(
        cart_id=row.cart_id,
        version=row.version,
        status=row.status,
        currency=row.currency,
        lines=_decode_lines(row.lines),
        created_at_ms=row.created_at_ms,
        updated_at_ms=row.updated_at_ms,
        lifetime_ms=row.lifetime_ms,
        watched_until_ms=row.watched_until_ms,
        merged_into=row.merged_into,
    )
