"""What the hashes of carts and SKUs keep packed (docs/keys.md), read without the code under test."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

_CART_VALUES = 16
_LINE_VALUES = 11
_PERIOD_VALUES = 3


def _header(count: int) -> bytes:
    """How MessagePack begins a list of so many values; what is kept are the values alone."""
    return bytes([0x90 + count]) if count < 16 else b"\xdc" + count.to_bytes(2)


def _values(packed: bytes, count: int) -> list[Any]:
    return list(msgspec.msgpack.decode(_header(count) + packed))


def _pack(values: list[Any]) -> bytes:
    return msgspec.msgpack.encode(values)[len(_header(len(values))) :]


def cart_values(packed: bytes) -> list[Any]:
    """version, lines, units, subtotal, held, waiting, ..."""
    return _values(packed, _CART_VALUES)


def pack_cart(values: list[Any]) -> bytes:
    return _pack(values)


def line_held(packed: bytes | None) -> int:
    """Units that a line holds; 0 of one that is not there."""
    return int(_values(packed, _LINE_VALUES)[1]) if packed else 0


def period_ordered(packed: bytes) -> int:
    """Units in pending orders, of the hold period of a SKU."""
    return int(_values(packed, _PERIOD_VALUES)[2])


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
