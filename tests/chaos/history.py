"""What buyers called and what they were told: the record that the checker proves things from.

Owns the form of a call and nothing else. A call is one HTTP request. Calls that share a buyer and a key are
one operation, repeated until its outcome is known:

* `ok`: the answer says that it was done.
* `failed`: the answer says that nothing was applied (4xx, 503), or the request never left.
* `unknown`: sent, and no such answer: it may have been applied, and may even be applied later.

Times are seconds of the machine's wall clock, which is the engine's too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

import msgspec

Verb = Literal[
    "add", "set", "remove", "read", "stock", "checkout", "settle", "callback", "fail", "cancel", "restock"
]
Verdict = Literal["ok", "failed", "unknown"]

CART_WRITES = frozenset({"add", "set", "remove"})
MONEY = frozenset({"settle", "callback"})
"""What may make a payment paid."""

REPEATABLE = frozenset({"IDEMPOTENCY_IN_PROGRESS"})
"""Refusals that say nothing about the operation, only about this call."""


class Line(msgspec.Struct, frozen=True):
    """Units of one SKU, as an answer tells of them."""

    sku: str
    quantity: int
    held: int = 0
    held_until: float = 0.0


class Shortfall(msgspec.Struct, frozen=True):
    """`available` units of a SKU were there, says a refusal, and `requested` were wanted."""

    sku: str
    available: int
    requested: int


class Call(msgspec.Struct, kw_only=True):
    """One request. What only some verbs have is empty for the others."""

    buyer: str
    verb: Verb
    key: str
    began: float
    ended: float
    verdict: Verdict
    status: int = 200
    """0: no answer."""
    code: str = ""
    """Of a problem."""
    is_guest: bool = False
    """Whose holds have another lifetime than members'."""
    sku: str = ""
    quantity: int = 0
    payment_id: str = ""
    reference: str = ""
    """Of a delivery."""
    version: int | None = None
    is_replay: bool = False
    lines: tuple[Line, ...] = ()
    """Of a cart write its line, of a read all lines, of a checkout what was bought."""
    shortfalls: tuple[Shortfall, ...] = ()
    told: str = ""
    """Status of the payment or order."""
    expires_at: float = 0.0
    """End of the payment's window."""
    stock: tuple[int, int, int] = (0, 0, 0)
    """on_hand, held, sold."""

    def __repr__(self) -> str:
        given = {
            name: value
            for name in self.__struct_fields__
            if (value := getattr(self, name)) not in ("", (), None, 0, (0, 0, 0))
        }
        return f"<{' '.join(f'{name}={value}' for name, value in given.items())}>"


class Operation(msgspec.Struct):
    """All calls of one buyer under one key, oldest first."""

    calls: list[Call]

    @property
    def first(self) -> Call:
        return self.calls[0]

    @property
    def began(self) -> float:
        return self.calls[0].began

    @property
    def ended(self) -> float:
        return max(call.ended for call in self.calls)

    @property
    def done(self) -> Call | None:
        """The call that was told that it is done."""
        return next((call for call in self.calls if call.verdict == "ok"), None)

    @property
    def may_have_happened(self) -> bool:
        return any(call.verdict != "failed" for call in self.calls)

    @property
    def is_open(self) -> bool:
        """Nobody knows what came of it, and it may still happen. A refusal that follows an unknown call does
        not help: the earlier request may be waiting somewhere and arrive after the later one."""
        return self.done is None and any(call.verdict == "unknown" for call in self.calls)


class History(list[Call]):
    """Calls in the order in which they ended."""

    def operations(self) -> list[Operation]:
        """In the order of their beginning."""
        found: dict[tuple[str, str], list[Call]] = defaultdict(list)
        for call in self:
            found[call.buyer, call.key].append(call)
        for calls in found.values():
            calls.sort(key=lambda call: call.began)
        return sorted(map(Operation, found.values()), key=lambda its: its.began)


def by_buyer(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = defaultdict(list)
    for its in operations:
        found[its.first.buyer].append(its)
    return found
