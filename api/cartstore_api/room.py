"""How much more a cart can take, and what has to go to make room. Plain arithmetic over a cart that was read.
Knows the cart's limits, and no stock but what it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from cartstore import limits, model
from cartstore.settings import Settings
from cartstore_api.quantities import Rules

Entry = tuple[str, int]
"""A line id and the quantity that it is to have; 0 takes it out."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A line that is to have more, or to be added."""

    line_id: str
    rules: Rules
    available: int | None = None
    """Units that there are of it, its own included; None: as many as anybody wants."""
    is_held: bool = False
    """Whether its units count among those that are held for the owner."""

    def at_most(self) -> int:
        return limits.QUANTITY_MAX if self.available is None else self.available


class Room:
    """A cart with what is planned for it."""

    def __init__(self, cart: model.Cart, settings: Settings, *, in_orders: int = 0) -> None:
        """`in_orders`: units that the owner's pending orders hold."""
        self._lines = {line.line_id: line for line in cart.lines}
        self._quantities = {line.line_id: line.quantity for line in cart.lines}
        self._lines_max = settings.max_lines_per_cart
        self._items_max = settings.max_items_per_cart
        self._held_max = settings.max_held_per_owner
        self._in_orders = in_orders

    def quantity(self, line_id: str) -> int:
        """As planned; 0 for a line that is not there."""
        return self._quantities.get(line_id, 0)

    def put(self, line_id: str, quantity: int) -> None:
        """Plan this quantity for a line."""
        if quantity:
            self._quantities[line_id] = quantity
        else:
            self._quantities.pop(line_id, None)

    def ceiling(self, wanted: Wanted) -> int:
        """The largest quantity of a line that the cart's limits and its stock leave, beside all others."""
        if not self.quantity(wanted.line_id) and len(self._quantities) >= self._lines_max:
            return 0
        ceiling = min(wanted.at_most(), self._items_max - self._units_beside(wanted.line_id))
        if wanted.is_held:
            ceiling = min(ceiling, self._held_max - self._held_beside(wanted.line_id))
        return max(0, ceiling)

    def make(self, wanted: Wanted, quantity: int, rules_of: Callable[[str], Rules]) -> list[Entry] | None:
        """Plan to lower or take out other lines, as few as will do, so that a line can have `quantity` or as
        much of it as there is; what is to be set, in order. `rules_of`: a line's. None: other lines are not
        what is in its way.

        What cannot be bought goes first, then what was added last.
        """
        least = wanted.rules.nearest(self.quantity(wanted.line_id) + 1, wanted.at_most())
        if least <= self.quantity(wanted.line_id):
            return None
        entries: list[Entry] = []
        others = [line for line in self._lines.values() if line.line_id != wanted.line_id]
        for line in sorted(others, key=lambda line: (line.is_available, -line.ordinal)):
            missing = self._missing(wanted, least)
            if not missing:
                break
            counts_for_it = self._lines_missing(wanted) or self._items_missing(wanted, least) or line.held
            if not counts_for_it:
                continue
            keep = 0
            if not self._lines_missing(wanted):
                rules = rules_of(line.line_id)
                keep = rules.nearest(line.quantity - missing, line.quantity - missing)
            entries.append((line.line_id, keep))
            self.put(line.line_id, keep)
        if self._missing(wanted, least):
            return None
        target = wanted.rules.nearest(quantity, self.ceiling(wanted))
        self.put(wanted.line_id, target)
        return [*entries, (wanted.line_id, target)]

    def _missing(self, wanted: Wanted, quantity: int) -> int:
        """Units, or a place for a line, that are missing for this quantity."""
        return max(
            self._lines_missing(wanted),
            self._items_missing(wanted, quantity),
            self._held_missing(wanted, quantity),
        )

    def _lines_missing(self, wanted: Wanted) -> int:
        is_new = not self.quantity(wanted.line_id)
        return max(0, len(self._quantities) + 1 - self._lines_max) if is_new else 0

    def _items_missing(self, wanted: Wanted, quantity: int) -> int:
        return max(0, self._units_beside(wanted.line_id) + quantity - self._items_max)

    def _held_missing(self, wanted: Wanted, quantity: int) -> int:
        if not wanted.is_held:
            return 0
        return max(0, self._held_beside(wanted.line_id) + quantity - self._held_max)

    def units_of_sku_beside(self, line_id: str) -> int:
        """Units, as planned, of the other lines of the same SKU."""
        sku = model.sku_of(line_id)
        return sum(
            quantity
            for other, quantity in self._quantities.items()
            if other != line_id and model.sku_of(other) == sku
        )

    def _units_beside(self, line_id: str) -> int:
        return sum(self._beside(line_id))

    def _held_beside(self, line_id: str) -> int:
        held = (
            min(self._lines[other].held, quantity)
            for other, quantity in self._quantities.items()
            if other != line_id and other in self._lines
        )
        return self._in_orders + sum(held)

    def _beside(self, line_id: str) -> Iterable[int]:
        return (quantity for other, quantity in self._quantities.items() if other != line_id)
