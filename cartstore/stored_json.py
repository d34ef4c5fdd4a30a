"""Stored data that may be unreadable. Owns the question whether stored JSON can be handed on undecoded: a
text that is no JSON, or is nested so deep that readers fail at it, would spoil the whole answer that it
becomes a part of. And how it is logged that something stored cannot be read.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from cartstore.limits import JSON_DEPTH_MAX
from cartstore.nesting import is_deeper

EMPTY: Final = msgspec.Raw(b"{}")

_log = logging.getLogger("cartstore.stored")

_TOLD_MAX: Final = 1_000
_told: set[tuple[str, str, str]] = set()

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


def note_unreadable(kind: str, name: str, part: str, error: Exception | None = None) -> None:
    """Log, once in the life of a process, that a part of something stored cannot be read: lists are read
    again and again, and go on without it."""
    key = kind, name, part
    if key in _told:
        return
    if len(_told) < _TOLD_MAX:
        _told.add(key)
    fields = {"kind": kind, "name": name, "part": part, "error": repr(error) if error is not None else ""}
    _log.error("stored data cannot be read", extra={"fields": fields})
