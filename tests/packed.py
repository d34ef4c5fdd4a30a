"""What a cart's hash keeps packed (docs/keys.md), read without the code under test."""

from __future__ import annotations

from typing import Any

import msgspec

_CART_VALUES = 13
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
