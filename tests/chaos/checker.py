"""Proves from a history and the two stores that nothing was sold twice, lost, doubled or refused for nothing.

Owns what counts as a violation. Each check says what it looks at; what is provable of holds is worked out in
`bounds.py`, what is provable of carts in `carts.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from .books import Books, PaymentBooks
from .bounds import Absence, Bounds, Terms, Upset, bounds_of, upsets_of
from .carts import Complaint, check_carts, check_versions
from .history import MONEY, Call, History, Operation

KINDS = (
    "oversold",
    "lost",
    "duplicated",
    "false sold out",
    "version",
    "early release",
    "drift",
    "defect",
)


class Violation(msgspec.Struct, frozen=True):
    kind: str
    what: str


class Damage(msgspec.Struct):
    """Events whose bytes were destroyed while they waited for the record. Each may be lost, and nothing
    else: the record must have it, or name it in `rejected_events`."""

    events: set[str] = msgspec.field(default_factory=set)
    """Positions."""
    payments: set[str] = msgspec.field(default_factory=set)
    """What they were about."""


NO_DAMAGE = Damage()


def check(
    history: History,
    books: Books,
    *,
    delivered: Mapping[str, int],
    terms: Terms,
    absences: Sequence[Absence] = (),
    damage: Damage = NO_DAMAGE,
) -> list[Violation]:
    """All violations. `delivered`: units per SKU before the history began; the books must be read when
    everything is quiet and archived. `absences`: of the engine, in their order. An upset that took the record
    back to a backup must be the last one."""
    operations = history.operations()
    upsets = upsets_of(absences)
    paid = frozenset(its.payment_id for its in books.payments.values() if its.status == "paid")
    bounds = bounds_of(operations, dict(delivered), terms, absences, paid, frozenset(damage.payments))
    complaints: list[Complaint] = [
        *_check_answers(history),
        *_check_stock(books, delivered, operations, upsets),
        *_check_readings(history, bounds),
        *_check_bounds(history, bounds, upsets),
        *_check_damage(books, damage),
        *_check_checkouts(operations, books, upsets, damage),
        *_check_payments(operations, books, upsets, damage),
        *check_carts(operations, upsets),
        *check_versions(operations, upsets),
    ]
    return [Violation(kind, what) for kind, what in complaints]


def _check_answers(history: History) -> Iterator[Complaint]:
    """No answer is a defect, and no refusal is one that these callers cannot have earned."""
    earned = {
        "INSUFFICIENT_STOCK",
        "CHECKOUT_VALIDATION_FAILED",
        "ITEM_NOT_FOUND",
        "CART_EMPTY",
        "IDEMPOTENCY_IN_PROGRESS",
        "ORDER_STATE",
        "PAYMENT_STATE",
        "PAYMENT_EXPIRED",
        "ORDER_NOT_FOUND",
        "PAYMENT_NOT_FOUND",
    }
    for call in history:
        if call.status >= 500 and call.status not in (503, 504):
            yield "defect", f"a defect: {call}"
        elif 400 <= call.status < 500 and call.code not in earned:
            yield "defect", f"nobody asked for this refusal: {call}"


# --- stock -------------------------------------------------------------------------------------------------


def _check_stock(
    books: Books, delivered: Mapping[str, int], operations: Sequence[Operation], upsets: Sequence[Upset]
) -> Iterator[Complaint]:
    """Both stores and the ledger tell one story, in which every delivered unit is on hand or sold once."""
    if books.rejected:
        yield "lost", f"the record refused {books.rejected} events"
    if books.put_aside and not upsets:
        yield (
            "lost",
            f"{books.put_aside} events were put aside, and no engine and no record had lost anything",
        )
    for what in books.drift:
        yield "drift", what
    restocked = [its for its in operations if its.first.verb == "restock"]
    for its in restocked:
        units = books.deliveries.get(its.first.reference)
        if units is None and its.done is not None and not _is_forgotten(its.done, upsets):
            yield "lost", f"a delivery that was acknowledged: {its.done}"
        if units is not None and not its.may_have_happened:
            yield "duplicated", f"a delivery that was refused: {its.calls[-1]}"
    paid_units: Counter[str] = Counter()
    for payment in books.payments.values():
        if payment.status == "paid":
            paid_units.update(payment.units)
    for sku, units in delivered.items():
        yield from _check_sku(sku, units, books, restocked, paid_units[sku])


def _check_sku(
    sku: str, delivered: int, books: Books, restocked: Sequence[Operation], paid_units: int
) -> Iterator[Complaint]:
    its = books.skus[sku]
    received = delivered + sum(
        books.deliveries.get(each.first.reference, 0) for each in restocked if each.first.sku == sku
    )
    if its.ledger_delivered != received:
        yield "duplicated", f"{sku}: {its.ledger_delivered} in the ledger, {received} were delivered"
    total = its.on_hand + its.sold
    if total != received:
        yield "oversold" if total > received else "lost", f"{sku}: {total} units of {received}: {its}"
    if not 0 <= its.held <= its.on_hand:
        yield "oversold", f"{sku}: more held than there is: {its}"
    if its.held != its.held_by_holders:
        yield "oversold" if its.held < its.held_by_holders else "lost", f"{sku}: holds do not add up: {its}"
    if (its.recorded_on_hand, its.recorded_sold) != (its.on_hand, its.sold):
        yield "lost", f"{sku}: the record has other counters: {its}"
    if its.ledger_sum != its.recorded_on_hand or its.ledger_sold != its.recorded_sold:
        yield "lost", f"{sku}: the ledger does not add up: {its}"
    if its.sold != paid_units:
        kind = "oversold" if its.sold < paid_units else "lost"
        yield kind, f"{sku}: {its.sold} sold, {paid_units} in paid orders"


def _check_readings(history: History, bounds: Mapping[str, Bounds]) -> Iterator[Complaint]:
    """Also while everything shakes, what is on hand and what is sold add up to what was delivered."""
    for call in history:
        if call.verb != "stock" or call.verdict != "ok" or call.sku not in bounds:
            continue
        its = bounds[call.sku]
        on_hand, held, sold = call.stock
        fewest, most = its.delivered_at_least.at(call.began), its.delivered_at_most.at(call.ended)
        if not fewest <= on_hand + sold <= most:
            kind = "oversold" if on_hand + sold > most else "lost"
            yield kind, f"{fewest} to {most} units were delivered: {call}"
        if not 0 <= held <= on_hand:
            yield "oversold", f"more held than there is: {call}"


def _check_bounds(
    history: History, bounds: Mapping[str, Bounds], upsets: Sequence[Upset]
) -> Iterator[Complaint]:
    """What buyers certainly have is never more than there is; "sold out" is never said for nothing.

    After the record itself was taken back, what is free depends on what it forgot: not looked at.
    """
    for sku, its in bounds.items():
        if (found := its.oversold()) is not None:
            at, units, there = found
            yield "oversold", f"{sku}: buyers had {units} units of {there} at {at:.3f}"
    end = min((upset.began for upset in upsets if upset.backup_at <= upset.began), default=float("inf"))
    for call in history:
        for shortfall in call.shortfalls:
            if shortfall.sku not in bounds or call.ended > end:
                continue
            if shortfall.available >= shortfall.requested:
                yield "false sold out", f"enough was there, by its own words: {call}"
            free = bounds[shortfall.sku].free_at_least(call.began - 0.02, call.ended + 0.02)
            if free > shortfall.available:
                yield "false sold out", f"at least {free} of {shortfall.sku} were free all the time: {call}"


# --- orders ------------------------------------------------------------------------------------------------


def _is_forgotten(told: Call, upsets: Sequence[Upset]) -> bool:
    """Whether it was told after the backup that the record was taken back to, and before that happened.
    Nothing can keep what was only on a disk that is gone; it is counted apart."""
    return any(upset.has_forgotten(told.ended) for upset in upsets)


def forgotten(history: History, upsets: Sequence[Upset]) -> int:
    """Acknowledged checkouts that a restored backup may have taken with it."""
    return sum(
        its.first.verb == "checkout" and its.done is not None and _is_forgotten(its.done, upsets)
        for its in history.operations()
    )


def _check_damage(books: Books, damage: Damage) -> Iterator[Complaint]:
    """Each destroyed event is named, unless the record had it; no other event is said to be unreadable."""
    for position in sorted(damage.events - books.unreadable - books.archived):
        yield "lost", f"the destroyed event {position} is not named"
    for position in sorted(books.unreadable - damage.events):
        yield "lost", f"event {position} is said to be unreadable, and nobody touched it"


def _check_checkouts(
    operations: Sequence[Operation], books: Books, upsets: Sequence[Upset], damage: Damage
) -> Iterator[Complaint]:
    """Every acknowledged checkout is in the record once, as it was told; none is there that nobody began."""
    begun = {its.first.key: its for its in operations if its.first.verb == "checkout"}
    owner_of: dict[str, str] = {}
    for key, its in begun.items():
        told = {call.payment_id for call in its.calls if call.verdict == "ok"}
        if len(told) > 1 and not any(upset.backup_at < its.ended for upset in upsets):
            yield "duplicated", f"one key, several checkouts: {its.calls}"
        for payment_id in told:
            other = owner_of.setdefault(payment_id, key)
            if other != key:
                yield "duplicated", f"one checkout for two keys, {other} and {key}"
        if its.done is None:
            continue
        recorded = books.payments.get(its.done.payment_id)
        if recorded is None:
            if its.done.payment_id not in damage.payments and not _is_forgotten(its.done, upsets):
                yield "lost", f"an order that was acknowledged: {its.done}"
            continue
        units: Counter[str] = Counter()
        for line in its.done.lines:
            units[line.sku] += line.quantity
        if recorded.units != dict(units) or its.done.told not in recorded.orders:
            yield "lost", f"an order is not what was acknowledged: {recorded} {its.done}"
    by_key = Counter(recorded.key for recorded in books.payments.values())
    for recorded in books.payments.values():
        its_calls = begun.get(recorded.key)
        if its_calls is None or not its_calls.may_have_happened:
            yield "duplicated", f"an order that nobody placed, or that was refused: {recorded}"
        if by_key[recorded.key] > 1:
            yield "duplicated", f"one key, several orders: {recorded}"


def _check_payments(
    operations: Sequence[Operation], books: Books, upsets: Sequence[Upset], damage: Damage
) -> Iterator[Complaint]:
    """Each payment ended once at most, as everybody was told, and only as somebody asked for."""
    money: dict[str, list[Operation]] = {}
    cancels: dict[str, list[Operation]] = {}
    for its in operations:
        if its.may_have_happened and its.first.verb in MONEY:
            money.setdefault(its.first.payment_id, []).append(its)
        elif its.may_have_happened and its.first.verb == "cancel":
            cancels.setdefault(its.first.payment_id, []).append(its)
    for recorded in books.payments.values():
        paying = money.get(recorded.payment_id, [])
        cancelling = cancels.get(recorded.payment_id, [])
        yield from _check_events(recorded)
        if recorded.status in ("paid", "refund_due") and not paying:
            yield "duplicated", f"paid, and nobody paid: {recorded}"
        if recorded.status == "cancelled" and not cancelling:
            yield "lost", f"cancelled, and nobody cancelled: {recorded}"
        for its in [*paying, *cancelling]:
            is_known = its.done is not None and not _is_forgotten(its.done, upsets)
            if is_known and recorded.payment_id not in damage.payments:
                yield from _check_end(recorded, its.done, bool(paying))


def _check_events(recorded: PaymentBooks) -> Iterator[Complaint]:
    if recorded.begun != 1 or recorded.settled > 1 or recorded.released > 1:
        yield "duplicated", f"a step was archived twice or not at all: {recorded}"
    if recorded.settled != (recorded.status in ("paid", "refund_due", "refunded")):
        yield "lost", f"the payment's events do not lead to its status: {recorded}"
    sales = len(recorded.units) if recorded.status == "paid" else 0
    if recorded.sales != sales:
        yield "duplicated" if recorded.sales > sales else "lost", f"sold {recorded.sales} times: {recorded}"
    if any(status != _ORDER_STATUS[recorded.status] for status in recorded.orders.values()):
        yield "lost", f"orders and payment do not agree: {recorded}"
    if recorded.status == "expired" and recorded.expired_at < recorded.expires_at:
        yield "early release", f"the window was not over: {recorded}"


_ORDER_STATUS = {
    "pending": "pending",
    "paid": "paid",
    "expired": "released",
    "cancelled": "released",
    "refund_due": "refund_due",
    "refunded": "refunded",
}


def _check_end(recorded: PaymentBooks, told: Call, was_paid_for: bool) -> Iterator[Complaint]:
    """What one caller was told of a payment's end is how it ended."""
    if told.verb == "cancel":
        ends = {"cancelled", "expired"} | ({"paid", "refund_due"} if was_paid_for else set())
    elif told.verb == "settle":
        ends = {told.told}
    else:
        ends = {"paid", "refund_due"}
    if recorded.status not in ends:
        kind = "lost" if recorded.status != "paid" else "oversold"
        yield kind, f"told {told}, and it is {recorded}"
