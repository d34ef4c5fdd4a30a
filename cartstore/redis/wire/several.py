"""Calls that leave as one command: which of those that wait, and the bytes of it (docs/decisions/0007)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from cartstore.redis.scripts import Script
from cartstore.redis.wire.calls import Call, pack

SEVERAL_MIN, SEVERAL_MAX = 2, 8
"""Calls in one command: with more of them the engine saves little more, and others wait for longer."""

_SHORT_ARRAY_MAX: Final = 15
_array_of: Final = msgspec.msgpack.Encoder().encode


def alike(first: Call, waiting: deque[Call], room: int) -> list[Call]:
    """A call and those behind it that may leave with it, taken from what waits: they share the first key, by
    which the script knows whose they are."""
    calls = [first]
    room = min(room, SEVERAL_MAX)
    while waiting and len(calls) < room:
        call = waiting[0]
        if call.script is not first.script or call.goes_alone or call.keys[:1] != first.keys[:1]:
            break
        waiting.popleft()
        if not call.future.done():
            calls.append(call)
    return calls


def packed_several(several: Script, calls: Sequence[Call], identity: str) -> bytes:
    """The bytes of the command that carries them. Raises TypeError, ValueError or OverflowError for what
    cannot be packed."""
    keys = [*calls[0].keys[:1], *(key for call in calls for key in call.keys[1:])]
    packed = [_values_of(call.args) for call in calls]
    return pack((*several.command, len(keys), *keys, identity, *packed))


def _values_of(args: Sequence[str | int]) -> bytes:
    """MessagePack values, one after the other, which scripts unpack without a table: an array without its
    head, which is one byte as long as it is a short one."""
    if len(args) > _SHORT_ARRAY_MAX:
        raise ValueError(f"{len(args)} arguments are too many to be carried")
    return _array_of(args)[1:]
