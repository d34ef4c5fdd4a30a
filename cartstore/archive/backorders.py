"""Which paid orders wait for units that were sold beyond stock. Owns the table of them, and who is served
first.

The engine says how many units of a SKU go to backorders, and not to whom. The record decides that in the
transaction that applies the engine's event: whoever paid first is served first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from sqlalchemy import select, text, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from cartstore.archive.arrays import columns_of, insert_rows, rows_of
from cartstore.archive.tables import backorders
from cartstore.errors import EventRefused
from cartstore.model import Partition

_ADD_MISSING: Final = text(
    """
    INSERT INTO backorders (order_id, sku, epoch, seq, line, quantity, owed, created_at_ms)
    SELECT sale.order_id, sale.sku, sale.epoch, sale.seq, sale.line, bought.quantity + sale.delta,
        bought.quantity + sale.delta, sale.at_ms
    FROM stock_ledger sale
    JOIN (
        SELECT order_id, sku, sum(quantity)::bigint AS quantity FROM order_lines
        WHERE mode <> 'untracked' GROUP BY order_id, sku
    ) bought USING (order_id, sku)
    WHERE sale.kind = 'sale' AND bought.quantity + sale.delta > 0
    ON CONFLICT (order_id, sku) DO NOTHING
    """
)
"""None of them has got units yet: only a process that knows the table gives any."""

_KEY = ("order_id", "sku")
_NEEDED = ("sku", "owed")
_LEFT = (*_KEY, "owed")


class Backorder(msgspec.Struct):
    """Units of one SKU that one paid order waits for. `epoch`, `seq` and `line` are those of its sale in the
    ledger, by which the oldest comes first."""

    order_id: str
    sku: str
    epoch: int
    seq: int
    line: int
    quantity: int
    """Units that were not there when it was paid."""
    owed: int
    """Units of them that are not there yet."""
    created_at_ms: int


class Assignment(msgspec.Struct, frozen=True):
    """Units that one order got, and how many it still waits for."""

    order_id: str
    units: int
    owed: int


class Waiting:
    """The backorders that a batch of events makes and serves. `known`: of each SKU those that wait, oldest
    first, as far as the batch can serve them."""

    def __init__(self, known: Mapping[str, Sequence[Backorder]]) -> None:
        self._by_sku = {sku: list(its) for sku, its in known.items()}
        self._next: dict[str, int] = {}
        """Of each SKU the place of the first that still waits."""
        self.made: list[Backorder] = []
        self._served: dict[tuple[str, str], Backorder] = {}

    @property
    def changed(self) -> list[Backorder]:
        """Those that were there before the batch, and were served in it."""
        made = {(its.order_id, its.sku) for its in self.made}
        return [its for key, its in self._served.items() if key not in made]

    def add(self, backorder: Backorder) -> None:
        """An order was paid whose units were not all there."""
        self._by_sku.setdefault(backorder.sku, []).append(backorder)
        self.made.append(backorder)

    def assign(self, sku: str, units: int) -> list[Assignment]:
        """Give units to the oldest backorders. Raises EventRefused when fewer are owed."""
        waiting = self._by_sku.get(sku, [])
        place, left = self._next.get(sku, 0), units
        assigned: list[Assignment] = []
        while left:
            if place == len(waiting):
                raise EventRefused(f"{units} units of {sku} go to backorders, and {units - left} are owed.")
            backorder = waiting[place]
            part = min(left, backorder.owed)
            backorder.owed -= part
            left -= part
            if part:
                self._served[backorder.order_id, sku] = backorder
                assigned.append(Assignment(backorder.order_id, part, backorder.owed))
            if not backorder.owed:
                place += 1
        self._next[sku] = place
        return assigned


async def read_waiting(
    connection: AsyncConnection, partition: Partition, units: Mapping[str, int]
) -> dict[str, list[Backorder]]:
    """The oldest backorders of these SKUs, as many as so many units can serve."""
    if not units:
        return {}
    needed = rows_of(backorders, _NEEDED)
    # Each waits for one unit at least.
    oldest = (
        select(backorders)
        .where(
            backorders.c.partition == partition.index,
            backorders.c.sku == needed.c.sku,
            backorders.c.owed > 0,
        )
        .order_by(backorders.c.epoch, backorders.c.seq, backorders.c.line)
        .limit(needed.c.owed)
        .lateral("oldest")
    )
    query = (
        select(oldest)
        .select_from(needed.join(oldest, true()))
        .order_by(oldest.c.epoch, oldest.c.seq, oldest.c.line)
    )
    found: dict[str, list[Backorder]] = {}
    for row in await connection.execute(query, columns_of(_NEEDED, list(units.items()))):
        its = Backorder(**{name: getattr(row, name) for name in Backorder.__struct_fields__})
        found.setdefault(its.sku, []).append(its)
    return found


async def add_missing(connection: AsyncConnection) -> None:
    """Add those that the ledger knows and the table does not: a process of the version before, which did not
    know the table, may have recorded sales after migration 0010."""
    await connection.execute(_ADD_MISSING)


async def write(connection: AsyncConnection, partition: Partition, waiting: Waiting) -> None:
    """Write what a batch made of them."""
    names = Backorder.__struct_fields__
    rows = [(*row, partition.index) for row in _rows(waiting.made, names)]
    await insert_rows(connection, backorders, (*names, "partition"), rows)
    changed = waiting.changed
    if not changed:
        return
    source = rows_of(backorders, _LEFT)
    await connection.execute(
        update(backorders)
        .where(*(backorders.c[name] == source.c[name] for name in _KEY))
        .values(owed=source.c.owed),
        columns_of(_LEFT, _rows(changed, _LEFT)),
    )


def _rows(its: Iterable[Backorder], names: Sequence[str]) -> list[tuple[object, ...]]:
    return [tuple(getattr(backorder, name) for name in names) for backorder in its]
