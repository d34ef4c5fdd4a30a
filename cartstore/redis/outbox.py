"""RedisOutbox: the engine's side of the drain (`archive.drain.Outbox`). Owns how an event is spelled in the
stream; refuses to know what the record does with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cartstore import limits
from cartstore.errors import StoreRecovering
from cartstore.model import Event, Position
from cartstore.redis.caller import translate
from cartstore.redis.scripts import script
from cartstore.redis.store import RedisEngine

UNREADABLE: Final = "unreadable"
"""Type of an event whose stream entry is not as scripts write it."""

_AT_MS_MAX = 1 << 53
"""More than any clock tells; the engine's scripts count exactly up to it."""

_TRIM_BATCH = 500
_READ_PIECE = 250

_log = logging.getLogger("cartstore.redis")


class RedisOutbox:
    """One partition's stream of events. `client` decodes responses."""

    def __init__(self, engine: RedisEngine, client: Redis) -> None:
        self._engine = engine
        self._client = client
        self._keys = engine.keys
        self._found_in_epoch = 0

    async def read(self, after: Position, count: int) -> list[Event]:
        """Up to `count` events strictly after a position, oldest first. Raises StoreUnavailable."""
        found: list[Event] = []
        while True:
            # In pieces: neither the engine's other callers nor this process's are to wait for a long one.
            wanted = min(_READ_PIECE, count - len(found))
            piece = await self._range(f"({found[-1].position if found else after}", "+", wanted)
            found += piece
            if len(piece) < wanted or len(found) == count:
                return found

    async def find(self, position: Position) -> Event | None:
        """Exactly this entry, if the stream has it. Raises StoreUnavailable."""
        # Before the look: an absence is only a proof against the gate that it was seen behind.
        try:
            self._found_in_epoch = int(await self._client.hget(self._keys.gate, "epoch") or 0)
        except (RedisError, OSError, TimeoutError) as error:
            raise translate(error, sent=False) from error
        found = await self._range(str(position), str(position), 1)
        return found[0] if found else None

    async def trim(self, through: Position) -> None:
        """Forget what is before a position; the entry at it stays. Raises StoreRecovering when the stream
        does not have that entry: it is then not the stream that the record was written from."""
        while True:
            reply = await self._engine.call(
                script("outbox_trim"),
                (self._keys.gate, self._keys.outbox),
                str(through),
                limits.TOMBSTONE_MS,
                _TRIM_BATCH,
            )
            if reply[0] == "DIVERGED":
                raise StoreRecovering("The outbox is not the one that the record was written from.")
            if int(reply[1]) < _TRIM_BATCH:
                return

    async def announce(self, position: Position) -> None:
        """Wake who waits for an acknowledgement. Lost announcements are made good by their polling."""
        try:
            await self._client.publish(self._keys.archived_channel, str(position))
        except RedisError:
            return

    async def freeze(self, skus: Sequence[str]) -> None:
        """Stop the sale of these SKUs. Raises StoreRecovering, StoreUnavailable, OutcomeUnknown."""
        await self._engine.freeze_skus(skus, frozen=True)

    async def fence(self, reason: str, *, epoch: int | None = None) -> None:
        """Stop the partition's writes until it is recovered, unless it is not in `epoch` any more: by default
        that in which `find` looked.

        Raises StoreUnavailable; StoreRecovering when it is fenced already.
        """
        proved_in = self._found_in_epoch if epoch is None else epoch
        reply = await self._engine.call(script("gate_fence"), (self._keys.gate,), proved_in, reason)
        if reply[1] == "1":
            _log.error("partition %s fenced: %s", self._engine.partition.tag, reason)

    async def length(self) -> int:
        """Entries in the stream, the last applied one included. Raises StoreUnavailable."""
        try:
            return int(await self._client.xlen(self._keys.outbox))
        except RedisError as error:
            raise translate(error, sent=False) from error

    async def last_position(self) -> Position:
        """Of the last event in the stream; 0-0 when there is none. Raises StoreUnavailable."""
        try:
            found = cast(Any, await self._client.xrevrange(self._keys.outbox, count=1))
        except (RedisError, OSError, TimeoutError) as error:
            raise translate(error, sent=False) from error
        return Position.parse(found[0][0]) if found else Position(0, 0)

    async def last_event_ms(self) -> int:
        """When the last event in the stream was written, by the engine's clock; 0 when there is none.
        Raises StoreUnavailable."""
        try:
            found = cast(Any, await self._client.xrevrange(self._keys.outbox, count=1))
        except (RedisError, OSError, TimeoutError) as error:
            raise translate(error, sent=False) from error
        return int(found[0][1]["at"]) if found else 0

    async def _range(self, first: str, last: str, count: int) -> list[Event]:
        try:
            found = await self._client.xrange(self._keys.outbox, first, last, count=count)
        except (RedisError, OSError, TimeoutError) as error:
            raise translate(error, sent=False) from error
        return [read_event(position, fields) for position, fields in cast(Any, found)]


def read_event(position: str, fields: Mapping[str, str]) -> Event:
    """The event of one stream entry. An entry that no script writes becomes an event of type `unreadable`,
    which the record refuses: it keeps its place in the chain, so that it blocks no event behind it."""
    where, previous = Position.parse(position), fields.get("previous")
    # PostgreSQL takes no NUL; `previous` is spelled alike, or the chain would break.
    nonce = _without_nul(fields.get("nonce", ""))
    previous = _without_nul(previous) if previous is not None else None
    try:
        kind, at_ms = fields["type"], int(fields["at"])
        if "\x00" in kind or abs(at_ms) > _AT_MS_MAX:
            raise ValueError
        return Event(
            position=where,
            nonce=nonce,
            type=kind,
            at_ms=at_ms,
            body_json=fields["body"],
            cart_version=int(fields.get("cart_version", 0)),
            previous=previous,
        )
    except (KeyError, ValueError):
        body_json = msgspec.json.encode(fields).decode(errors="replace")
        return Event(
            position=where, nonce=nonce, type=UNREADABLE, at_ms=0, body_json=body_json, previous=previous
        )


def _without_nul(text: str) -> str:
    return text.replace("\x00", "\\x00")
