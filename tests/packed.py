"""What the hashes of carts and SKUs keep packed (docs/keys.md), read without the code under test."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

_CART_VALUES = 15
_LINE_VALUES = 11
_ARRAY = 0x90
"""How MessagePack begins a list; what is kept are the values alone."""


def cart_values(packed: bytes) -> list[Any]:
    """version, lines, units, subtotal, held, waiting, ..."""
    return list(msgspec.msgpack.decode(bytes([_ARRAY + _CART_VALUES]) + packed))


def pack_cart(values: list[Any]) -> bytes:
    return msgspec.msgpack.encode(values)[1:]


def line_held(packed: bytes | None) -> int:
    """Units that a line holds; 0 of one that is not there."""
    return int(msgspec.msgpack.decode(bytes([_ARRAY + _LINE_VALUES]) + packed)[1]) if packed else 0


class HoldState(NamedTuple):
    """What a SKU's hash keeps of its holds beside `held`; bounds of 0 are none."""

    guest_held: int
    rev: int
    earliest: int
    latest: int


_HOLD_STATE_BYTES = (6, 7, 6, 6)


def read_hold_state(packed: bytes) -> HoldState:
    ends = [sum(_HOLD_STATE_BYTES[:count]) for count in range(1, len(_HOLD_STATE_BYTES) + 1)]
    assert len(packed) == ends[-1]
    starts = [0, *ends[:-1]]
    return HoldState(
        *(int.from_bytes(packed[start:end], signed=True) for start, end in zip(starts, ends, strict=True))
    )


def pack_hold_state(state: HoldState) -> bytes:
    return b"".join(
        value.to_bytes(size, signed=True) for value, size in zip(state, _HOLD_STATE_BYTES, strict=True)
    )
