"""What each cart must have in it, worked out from its owner's calls: no change doubled, none lost, and
versions that only grow.

An owner does one thing at a time, so after each operation there is a small set of quantities that a line can
have. What the owner is told must be one of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from .bounds import Upset
from .history import CART_WRITES, Call, Line, Operation, by_buyer

Complaint = tuple[str, str]
"""Kind of the violation, and what is wrong."""

_ANY = None


def check_carts(operations: Sequence[Operation], upsets: Sequence[Upset] = ()) -> Iterator[Complaint]:
    """Quantities of all carts. After an upset a cart is believed once, whatever it says."""
    bought = {
        its.done.payment_id: its.done
        for its in operations
        if its.first.verb == "checkout" and its.done is not None
    }
    for its in by_buyer(operations).values():
        yield from _Cart(upsets, bought).follow(its)


def check_versions(operations: Sequence[Operation], upsets: Sequence[Upset] = ()) -> Iterator[Complaint]:
    """A change gives its cart a higher version than any that its owner was ever told, and one that no other
    change of any cart has; a reading never tells an older one than before. A cart whose latest changes an
    engine lost may be read as it was, under the version that it had then."""
    told_to: dict[int, Call] = {}
    for its in by_buyer(operations).values():
        highest, read_since, last = 0, 0, None
        coming = list(upsets)
        for call in (call for operation in its for call in operation.calls):
            if call.verdict != "ok" or call.version is None or call.is_replay:
                continue
            while coming and coming[0].ended < call.began:
                coming.pop(0)
                read_since = 0
            is_shaken = bool(coming) and coming[0].began < call.ended
            is_change = call.verb in CART_WRITES
            is_absent = not is_change and call.version == 0 and not call.lines
            if (is_change and call.version <= highest) or (
                not is_change and not is_shaken and not is_absent and call.version < read_since
            ):
                yield "version", f"version {call.version} after {highest}: {last} then {call}"
            if is_change:
                other = told_to.setdefault(call.version, call)
                if other is not call and (other.buyer, other.key) != (call.buyer, call.key):
                    yield "version", f"one version for two changes: {other} and {call}"
            highest = max(highest, call.version)
            if not is_shaken:
                read_since = max(read_since, call.version)
            last = call


class _Cart:
    def __init__(self, upsets: Sequence[Upset], bought: dict[str, Call]) -> None:
        self._upsets = list(upsets)
        self._bought = bought
        self._units: dict[str, set[int] | None] = defaultdict(lambda: {0})
        self._shaken_until = 0.0

    def follow(self, operations: Sequence[Operation]) -> Iterator[Complaint]:
        for its in operations:
            if self._is_upset(its):
                continue
            if its.is_open or (its.done is not None and its.done.ended > self._window_of(its)):
                # Its owner left; or its order may have expired and given its lines back.
                return
            yield from self._check(its)

    def _is_upset(self, its: Operation) -> bool:
        """Whether an upset touches the operation: then what it did, its key too, may have been forgotten
        again. One that lies before it has made the cart another than it was."""
        while self._upsets and self._upsets[0].began < its.ended:
            self._shaken_until = max(self._shaken_until, self._upsets.pop(0).ended)
            self._units = defaultdict(lambda: _ANY)
        return its.began < self._shaken_until

    def _window_of(self, its: Operation) -> float:
        if (
            its.first.verb in ("cancel", "fail", "settle", "callback")
            and its.first.payment_id in self._bought
        ):
            return self._bought[its.first.payment_id].expires_at
        return float("inf")

    def _check(self, its: Operation) -> Iterator[Complaint]:
        call, done = its.first, its.done
        if done is None:
            if its.calls[-1].code == "ITEM_NOT_FOUND" and not self._can_be(call.sku, {0}):
                yield "lost", f"a line is gone: {self._units[call.sku]} were there, {its.calls[-1]}"
            return
        if call.verb == "read":
            told = {line.sku: line.quantity for line in done.lines}
            for sku in {*told, *self._units}:
                yield from self._compare(sku, self._units[sku], told.get(sku, 0), done)
        elif call.verb == "add":
            before = self._units[call.sku]
            expected = before and {units + call.quantity for units in before}
            yield from self._compare(call.sku, expected, _quantity(done.lines), done)
        elif call.verb == "set":
            yield from self._compare(call.sku, {call.quantity}, _quantity(done.lines), done)
        elif call.verb == "remove":
            yield from self._compare(call.sku, {0}, _quantity(done.lines), done)
        elif call.verb == "checkout":
            for line in done.lines:
                yield from self._compare(line.sku, self._units[line.sku], line.quantity, done)
                self._units[line.sku] = {0}
        elif call.verb == "cancel" and call.payment_id in self._bought:
            for line in self._bought[call.payment_id].lines:
                before = self._units[line.sku]
                self._units[line.sku] = before and {units + line.quantity for units in before}

    def _can_be(self, sku: str, units: set[int]) -> bool:
        known = self._units[sku]
        return known is _ANY or bool(known & units)

    def _compare(self, sku: str, expected: set[int] | None, told: int, call: Call) -> Iterator[Complaint]:
        if expected is not _ANY and told not in expected:
            kind = "duplicated" if told > max(expected) else "lost"
            yield kind, f"{told} units of {sku} in a cart that has {sorted(expected)}: {call}"
        self._units[sku] = {told}


def _quantity(lines: Sequence[Line]) -> int:
    return lines[0].quantity if lines else 0
