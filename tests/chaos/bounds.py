"""How many units buyers certainly held at an instant, and how many they may have held at most.

Both follow from the calls alone, whatever the shop's own counters say. They are what two promises are held
to: certain units never exceed what was delivered (else a unit was promised twice), and a "sold out" is
justified only if at some instant during its call no more was free than it said, even if every buyer held all
that they may have held (else it was false).

What is provable: a hold that was granted is certain from the answer until its expiry, or until its owner
begins anything that may lower it. It may exist from the moment its request was sent, and no longer than its
lifetime after the cart's last change came to an end, because a lapsed hold counts for nothing in the same
instant. An operation nobody knows the outcome of may still happen up to LATE_SECONDS later. Where the
engine lost its memory (an upset) no hold of a cart is certain any more, and each cart may have come back as
it was at any time shortly before, with holds that begin anew. Whenever the engine was away, pending payments
were given back the time in which nobody could pay, and their orders keep their units for so much longer.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from .history import MONEY, Call, Operation, by_buyer

CLOCK_SECONDS = 0.02
"""Between a moment here and the same one in the engine, which rounds to milliseconds and reads the clock once
per script."""

LATE_SECONDS = 30.0
"""How long a request may still be under way after its caller gave up: in the buffers of a process that stands
still, for no longer than faults last and connections are kept without an answer."""

SNAPSHOT_SECONDS = 40.0
"""No snapshot is older when the engine goes away: a database that is down for half a minute takes none."""

FOREVER = float("inf")


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The shop's settings that bounds depend on, in seconds."""

    guest_seconds: float
    member_seconds: float
    """Lifetimes of a cart's holds."""
    window_seconds: float

    def hold_seconds(self, call: Call) -> float:
        return self.guest_seconds if call.is_guest else self.member_seconds


class Absence(msgspec.Struct, frozen=True):
    """From `began` until `ended` the engine was away, or some other was in its place; then its gate was
    opened anew."""

    began: float
    ended: float


class Upset(Absence, frozen=True):
    """An absence in which the engine lost part of its memory and was put back from the record."""

    backup_at: float = FOREVER
    """The record itself is as of then: what came later is gone with its disk."""

    def has_forgotten(self, at: float) -> bool:
        return self.backup_at < at < self.ended


class Steps:
    """A number that changes at instants, as sum of the intervals it is made of."""

    def __init__(self, intervals: Iterable[tuple[float, float, int]]) -> None:
        changes: dict[float, int] = defaultdict(int)
        for began, ended, units in intervals:
            if ended > began and units:
                changes[began] += units
                changes[ended] -= units
        self.times = sorted(changes)
        self.values = []
        total = 0
        for at in self.times:
            total += changes[at]
            self.values.append(total)

    def at(self, instant: float) -> int:
        place = bisect_right(self.times, instant) - 1
        return self.values[place] if place >= 0 else 0

    def instants(self, began: float, ended: float) -> list[float]:
        """The beginning, and each change after it up to the end."""
        first, last = bisect_right(self.times, began), bisect_right(self.times, ended)
        return [began, *self.times[first:last]]


class Bounds:
    """Of one SKU."""

    def __init__(
        self,
        certain: Iterable[tuple[float, float, int]],
        possible: Iterable[tuple[float, float, int]],
        delivered_at_least: Iterable[tuple[float, float, int]],
        delivered_at_most: Iterable[tuple[float, float, int]],
    ) -> None:
        self.certain = Steps(certain)
        self.possible = Steps(possible)
        self.delivered_at_least = Steps(delivered_at_least)
        self.delivered_at_most = Steps(delivered_at_most)

    def oversold(self) -> tuple[float, int, int] | None:
        """The first instant at which more was certainly held or sold than was delivered, and both numbers."""
        for at, units in zip(self.certain.times, self.certain.values, strict=True):
            delivered = self.delivered_at_most.at(at)
            if units > delivered:
                return at, units, delivered
        return None

    def free_at_least(self, began: float, ended: float) -> int:
        """The fewest units that were certainly free, over all instants of an interval."""
        instants = {*self.possible.instants(began, ended), *self.delivered_at_least.instants(began, ended)}
        return min(self.delivered_at_least.at(at) - self.possible.at(at) for at in instants)


def bounds_of(
    operations: Sequence[Operation],
    delivered: dict[str, int],
    terms: Terms,
    absences: Sequence[Absence] = (),
    paid: frozenset[str] = frozenset(),
    damaged: frozenset[str] = frozenset(),
) -> dict[str, Bounds]:
    """Of every SKU in `delivered` (units before the history began). `paid`: payments that the record knows
    as paid. `damaged`: those of which an acknowledged step may be lost; their orders hold nothing for
    certain, and may hold their units for ever."""
    upsets = upsets_of(absences)
    windows = Windows(operations, absences)
    orders = _orders_of(operations)
    certain: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    possible: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for its in by_buyer(operations).values():
        _add_certain_holds(its, upsets, certain)
        _Cart(terms, terms.hold_seconds(its[0].first), windows, upsets, possible).follow(its, orders)
    for order in orders.values():
        is_damaged = order.done.payment_id in damaged
        if not is_damaged:
            _add_certain_order(order, upsets, paid, certain)
        _add_possible_order(order, windows, upsets, possible, is_damaged=is_damaged)
    return {
        sku: Bounds(certain[sku], possible[sku], *_deliveries(operations, sku, units))
        for sku, units in delivered.items()
    }


def _deliveries(
    operations: Iterable[Operation], sku: str, units: int
) -> tuple[list[tuple[float, float, int]], list[tuple[float, float, int]]]:
    at_least, at_most = [(0.0, FOREVER, units)], [(0.0, FOREVER, units)]
    for its in operations:
        if its.first.verb == "restock" and its.first.sku == sku and its.may_have_happened:
            at_most.append((its.began, FOREVER, its.first.quantity))
            if its.done is not None:
                at_least.append((its.done.ended, FOREVER, its.first.quantity))
    return at_least, at_most


def upsets_of(absences: Iterable[Absence]) -> list[Upset]:
    return [its for its in absences if isinstance(its, Upset)]


# --- orders --------------------------------------------------------------------------------------------


class Windows:
    """When windows of payments are over, with what recoveries may have given back: to a window that was not
    over at the engine's last sign of life that they knew of, the time from then until they were done."""

    def __init__(self, operations: Iterable[Operation], absences: Iterable[Absence]) -> None:
        events = sorted(
            (its.done.ended, its.done.began)
            for its in operations
            if its.first.verb == "checkout" and its.done is not None and not its.done.is_replay
        )
        self._silences: list[tuple[float, float]] = []
        forgotten_until = 0.0
        for absence in sorted(absences, key=lambda its: its.ended):
            sign = absence.began - SNAPSHOT_SECONDS
            if isinstance(absence, Upset):
                forgotten_until = absence.ended
            else:
                # An engine that lost nothing still has its last event.
                place = bisect_left(events, (absence.began, 0.0)) - 1
                if place >= 0 and events[place][0] > forgotten_until:
                    sign = max(sign, events[place][1])
            self._silences.append((sign, absence.ended))

    def end(self, began: float, expires: float) -> float:
        """The latest end of a window that began then and would have been over at `expires`."""
        for sign, ended in self._silences:
            if began < ended and expires + CLOCK_SECONDS > sign:
                expires += ended - max(sign, began)
        return expires


class _Order:
    """One checkout that was told, and everything that was asked of its payment."""

    def __init__(self, begun: Operation) -> None:
        done = begun.done
        assert done is not None
        self.done: Call = done
        self.began = begun.began
        self.ended = begun.ended
        self.cancels: list[Operation] = []
        self.money: list[Operation] = []


def _orders_of(operations: Iterable[Operation]) -> dict[str, _Order]:
    orders = {
        its.done.payment_id: _Order(its)
        for its in operations
        if its.first.verb == "checkout" and its.done is not None
    }
    for its in operations:
        order = orders.get(its.first.payment_id)
        if order is not None and its.may_have_happened:
            if its.first.verb == "cancel":
                order.cancels.append(its)
            elif its.first.verb in MONEY:
                order.money.append(its)
    return orders


def _add_certain_order(
    order: _Order,
    upsets: Sequence[Upset],
    paid: frozenset[str],
    certain: dict[str, list[tuple[float, float, int]]],
) -> None:
    """Held for the window or until somebody cancels, and sold from the moment that "paid" was told."""
    done = order.done
    ended = min([done.expires_at - CLOCK_SECONDS, *(its.began for its in order.cancels)])
    sold_at = min(
        (
            its.done.ended
            for its in order.money
            if its.done is not None and (its.done.told == "paid" or done.payment_id in paid)
        ),
        default=FOREVER,
    )
    pieces = [(done.ended, min(ended, sold_at)), (sold_at, FOREVER)]
    for began, until in pieces:
        for upset in upsets:
            if upset.has_forgotten(began):
                until = min(until, upset.began)
        for line in done.lines:
            certain[line.sku].append((began, until, line.quantity))


def _add_possible_order(
    order: _Order,
    windows: Windows,
    upsets: Sequence[Upset],
    possible: dict[str, list[tuple[float, float, int]]],
    *,
    is_damaged: bool,
) -> None:
    """From the end of the checkout, before which its units were the cart's, until the last moment at which
    the order may have let them go."""
    done = order.done
    if order.money or is_damaged:
        until = FOREVER
    else:
        told = [its.ended for its in order.cancels if its.done is not None]
        until = min([windows.end(order.began, done.expires_at) + CLOCK_SECONDS, *told])
        if any(upset.backup_at < until for upset in upsets):
            until = FOREVER
    for line in done.lines:
        possible[line.sku].append((order.ended, until, line.quantity))


# --- carts ---------------------------------------------------------------------------------------------


def _add_certain_holds(
    operations: Sequence[Operation],
    upsets: Sequence[Upset],
    certain: dict[str, list[tuple[float, float, int]]],
) -> None:
    for place, its in enumerate(operations):
        done = its.done
        if done is None or its.first.verb not in ("add", "set") or done.is_replay or not done.lines:
            continue
        (line,) = done.lines
        until = line.held_until - CLOCK_SECONDS
        for later in operations[place + 1 :]:
            if later.began > until:
                break
            verb = later.first.verb
            if verb == "add" and later.first.sku == line.sku and later.done is not None:
                # From then on that answer says how many, unless it is a replay, which says it as of before.
                until = min(until, later.done.ended)
                break
            if verb == "checkout" or (verb in ("set", "remove") and later.first.sku == line.sku):
                until = min(until, later.began)
                break
        for upset in upsets:
            if upset.ended > done.began:
                until = min(until, upset.began)
        certain[line.sku].append((done.ended, until, line.held))


class _Cart:
    """Units that one cart may hold at most, followed through its operations."""

    def __init__(
        self,
        terms: Terms,
        hold_seconds: float,
        windows: Windows,
        upsets: Sequence[Upset],
        possible: dict[str, list[tuple[float, float, int]]],
    ) -> None:
        self._terms = terms
        self._hold_seconds = hold_seconds
        self._windows = windows
        self._upsets = list(upsets)
        self._possible = possible
        self._units: dict[str, int] = {}
        self._past: list[tuple[float, dict[str, int]]] = []
        self._shaken_until = 0.0

    def follow(self, operations: Sequence[Operation], orders: dict[str, _Order]) -> None:
        changing = [its for its in operations if its.first.verb not in ("read", "stock", "restock")]
        for its, following in pairwise([*changing, None]):
            assert its is not None
            before = dict(self._units)
            self._apply(its, orders)
            if its.began < self._shaken_until:
                # It may have been done before the memory was lost, and forgotten with it.
                for sku, units in before.items():
                    self._units[sku] = max(units, self._units.get(sku, 0))
            self._past.append((its.ended, dict(self._units)))
            for sku in before.keys() | self._units.keys():
                most = max(before.get(sku, 0), self._units.get(sku, 0))
                self._possible[sku].append((its.began, its.ended, most))
            until = its.ended + self._lapse_seconds(its) + CLOCK_SECONDS
            self._rest(its.ended, min(until, following.began) if following else until)
            self._suffer(its.ended, following.began if following else FOREVER)

    def _rest(self, began: float, ended: float) -> None:
        for sku, units in self._units.items():
            self._possible[sku].append((began, ended, units))

    def _lapse_seconds(self, its: Operation) -> float:
        if not its.is_open:
            return self._hold_seconds
        lapses = its.ended + LATE_SECONDS + self._hold_seconds
        if its.first.verb == "checkout":
            expires = its.ended + LATE_SECONDS + self._terms.window_seconds
            lapses = max(lapses, self._windows.end(its.began, expires))
        return lapses - its.ended

    def _apply(self, its: Operation, orders: dict[str, _Order]) -> None:
        call, done = its.first, its.done
        if not its.may_have_happened:
            return
        if call.verb in ("add", "set"):
            before = self._units.get(call.sku, 0)
            if done is not None:
                told = done.lines[0].quantity if done.lines else 0
                # A replay may tell of the line as it was when the call was first carried out.
                self._units[call.sku] = max(told, before) if done.is_replay else told
            else:
                more = before + call.quantity if call.verb == "add" else call.quantity
                self._units[call.sku] = max(before, more)
        elif call.verb == "remove" and done is not None:
            self._units[call.sku] = 0
        elif call.verb == "checkout" and done is not None:
            for line in done.lines:
                self._units[line.sku] = 0
        elif call.verb == "cancel" and (order := orders.get(call.payment_id)) is not None:
            for line in order.done.lines:
                self._units[line.sku] = self._units.get(line.sku, 0) + line.quantity

    def _suffer(self, began: float, until: float) -> None:
        """Upsets that began before the next operation: the cart may be as it was at any time before them."""
        while self._upsets and self._upsets[0].began < until:
            upset = self._upsets.pop(0)
            self._shaken_until = max(self._shaken_until, upset.ended)
            for at, units in self._past:
                if at > upset.began - SNAPSHOT_SECONDS:
                    for sku, quantity in units.items():
                        self._units[sku] = max(quantity, self._units.get(sku, 0))
            ends = upset.ended + self._hold_seconds + CLOCK_SECONDS
            # What the resting cart was counted with ends earlier or is a part of this; both count, which
            # only makes the bound wider.
            self._rest(max(began, upset.began), min(ends, max(until, upset.ended)))
