"""One call on its way, the bytes of a command, and what it means to who waits when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis
import msgspec
from redis.exceptions import ResponseError

from cartstore.errors import OutcomeUnknown, StoreUnavailable
from cartstore.redis.caller import Reply, translate
from cartstore.redis.scripts import Script

pack: Final[Callable[[tuple[Any, ...]], bytes]] = cast(Any, hiredis.pack_command)
"""The bytes of a command. Raises TypeError or ValueError for what cannot be packed."""


_OUR_FAULTS: Final = "CART"
"""How an error begins that a script returns on purpose, before its first write."""


class Call(msgspec.Struct):
    """One command and who waits for its reply. `script` None: no script call, a question of the connection's
    own, or one for the engine's identity."""

    future: asyncio.Future[Reply]
    script: Script | None
    keys: Sequence[str]
    args: Sequence[str | int]
    tick: int
    """When it was made, in ticks of the caller's clock."""

    misses: int = 0
    """How often the engine did not know the script."""

    goes_alone: bool = False
    """Whether it missed, be it by itself or among several: it is not carried any more."""

    carried: int = 0
    """Of the first of several that left as one command: how many they are. Of every other call 0."""


def refuse(call: Call, error: Exception) -> None:
    """Tell it to who waits, if somebody does."""
    if not call.future.done():
        call.future.set_exception(error)


def unanswered(call: Call, cause: Exception | None) -> Exception:
    """What a command that was sent and not answered means to who waits for it."""
    error = StoreUnavailable() if call.script is None else OutcomeUnknown()
    error.__cause__ = cause
    return error


def meaning_of(text: str, script: Script, *, is_inside: bool = False) -> Exception:
    """What an error that the engine answered to a call of `script` means to who waits for it. `is_inside`: it
    is of one of several calls that another script carried, which ran."""
    if text.startswith("MOVED"):
        return StoreUnavailable("The partition is on another engine now; the change was not applied.")
    is_inside = is_inside and not text.startswith(_OUR_FAULTS)
    return translate(ResponseError(text), sent=True, script=script, is_inside=is_inside)
