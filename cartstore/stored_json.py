"""Stored JSON that is handed on as it is. Owns the question whether it can be: a text that is no JSON, or is
nested so deep that readers fail at it, would spoil the whole answer that it becomes a part of."""

from __future__ import annotations

from typing import Final

import msgspec

from cartstore.limits import JSON_DEPTH_MAX
from cartstore.nesting import is_deeper

EMPTY: Final = msgspec.Raw(b"{}")

_skim = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def passed_through(text: str | None) -> msgspec.Raw | None:
    """A stored JSON object, undecoded, to be written into an answer; none stored is an empty one. None when
    it cannot be handed on: it is no JSON object, or nested more than JSON_DEPTH_MAX deep."""
    if not text:
        return EMPTY
    try:
        json = text.encode()
        if is_deeper(json, JSON_DEPTH_MAX):
            return None
        # Skips over the members' values: checks their syntax and makes nothing of them.
        _skim(json)
    except (msgspec.DecodeError, UnicodeError):
        return None
    return msgspec.Raw(json)
