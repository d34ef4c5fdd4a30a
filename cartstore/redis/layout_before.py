"""The engine of the key layout before this one: shuts its gate, and reads the carts that it left behind.

Everything here says what layout 4 was. It does not follow changes of the present layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from cartstore.layout import LAYOUT_BEFORE
from cartstore.model import CartSnapshot, SnapshotLine
from cartstore.redis.caller import ScriptCaller
from cartstore.redis.keys import Keys
from cartstore.redis.scripts import script

_CART_FIELDS: Final = 5
_LINE_FIELDS: Final = 11


class OldCarts(msgspec.Struct, frozen=True, kw_only=True):
    """Carts that changed after a change number."""

    carts: list[CartSnapshot]
    gone: list[str]
    """Carts that changed and are not kept any more."""
    unreadable: list[str]
    """Carts that no script can have written."""
    change: int
    """Of the last of them; the number asked for when there is none."""

    @property
    def count(self) -> int:
        return len(self.carts) + len(self.gone) + len(self.unreadable)


async def shut_gate(caller: ScriptCaller, keys: Keys, *, epoch: int, now_ms: str | int) -> bool:
    """Shut the gate for the processes of its own layout too. False: it is not the gate of that epoch any
    more. Doing it again changes nothing. Raises StoreUnavailable, OutcomeUnknown."""
    reply = await caller.call(script("gate_take_over"), (keys.gate,), (now_ms, "", epoch, LAYOUT_BEFORE))
    return bool(reply[0] == "OK")


async def dump_carts(
    caller: ScriptCaller, keys: Keys, *, epoch: int, after: int, limit: int
) -> OldCarts | None:
    """Carts of an engine whose gate is shut. None: it is not the gate of that epoch any more. Raises
    StoreUnavailable."""
    reply = await caller.call(script("cart_dump_layout_4"), (keys.gate, keys.activity), (epoch, after, limit))
    if reply[0] != "OK":
        return None
    carts: list[CartSnapshot] = []
    gone: list[str] = []
    unreadable: list[str] = []
    for place in range(1, len(reply), 3):
        cart_id, _, told = reply[place : place + 3]
        if told == ["unreadable"]:
            unreadable.append(cart_id)
        elif not told:
            gone.append(cart_id)
        elif told[0] != 0:
            # Version 0: a rebuild made it to count units of pending orders, and nobody put anything into it.
            carts.append(_cart_of(cart_id, told))
    change = int(reply[-2]) if len(reply) > 1 else after
    return OldCarts(carts=carts, gone=gone, unreadable=unreadable, change=change)


def _cart_of(cart_id: str, told: Sequence[Any]) -> CartSnapshot:
    version, currency, created, updated, lifetime = told[:_CART_FIELDS]
    return CartSnapshot(
        cart_id=cart_id,
        version=version,
        currency=currency,
        lines=tuple(
            _line_of(told[start : start + _LINE_FIELDS])
            for start in range(_CART_FIELDS, len(told), _LINE_FIELDS)
        ),
        created_at_ms=created,
        updated_at_ms=updated,
        lifetime_ms=lifetime,
    )


def _line_of(told: Sequence[Any]) -> SnapshotLine:
    line_id, properties, quantity, held, until, first, price, revision, ordinal, added, updated = told
    return SnapshotLine(
        line_id=line_id,
        quantity=quantity,
        held=held,
        first_held_at_ms=first,
        unit_price_minor=price,
        revision=revision,
        ordinal=ordinal,
        added_at_ms=added,
        updated_at_ms=updated,
        properties_json=properties or None,
        held_until_ms=until,
    )
