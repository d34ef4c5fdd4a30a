"""How deep JSON is nested, found without decoding it.

Decoders recurse, so how deep they can go depends on how deep the caller's own stack is already, and what one
process takes another may be unable to read. So depth is bounded before anything is decoded.
"""

from __future__ import annotations

import re
from itertools import accumulate, islice
from typing import Final

import msgspec

_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A string, closed or not: a pattern that fails at an unclosed one would try again at each of its quotes."""

_TOKEN: Final = re.compile(_STRING.pattern + rb"|[][{},:]", re.DOTALL)
_TOKENS_MAX: Final = 2_000
"""Tokens that a look for the place reads; bounds what a refusal costs."""

_STEPS: Final = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")
_OTHERS: Final = bytes(set(range(256)) - set(b"{}[]"))


def is_deeper(json: bytes, limit: int) -> bool:
    """Whether arrays and objects are nested more than `limit` deep; `{}` alone is 1 deep. Takes anything,
    also what is no JSON, and is right about as much of it as a decoder would read."""
    if json.count(b"{") + json.count(b"[") <= limit:
        return False
    steps = _STRING.sub(b"", json).translate(_STEPS, _OTHERS)
    # As signed bytes: 1 for what opens, -1 for what closes.
    return max(accumulate(memoryview(steps).cast("b")), default=0) > limit


def place_deeper(json: bytes, limit: int) -> list[str | int]:
    """Names and numbers of the members around the first place that is nested more than `limit` deep; empty
    when that is not among the first tokens."""
    place: list[str | int] = []
    last = b""
    for token in islice(_TOKEN.finditer(json), _TOKENS_MAX):
        kind = token[0][:1]
        if kind == b'"':
            last = token[0]
        elif kind in b"{[":
            if len(place) >= limit:
                return place
            place.append(0 if kind == b"[" else "")
        elif kind in b"}]":
            if place:
                place.pop()
        elif kind == b":":
            if place:
                place[-1] = _name_of(last)
        elif place and isinstance(place[-1], int):
            place[-1] += 1
    return []


def _name_of(string: bytes) -> str:
    try:
        return msgspec.json.decode(string, type=str)
    except (msgspec.DecodeError, UnicodeError):
        return ""
