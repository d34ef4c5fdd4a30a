"""Connection: script calls over one stream. Owns packing, the order of replies and the engine's identity;
refuses to know deadlines, waiting calls and what comes after it was lost.

The engine answers in the order of the commands, and an answer names no command. So each command has one slot
in `_in_flight` from the moment its bytes are handed over until its reply is there. Whoever stops waiting
(cancelled, or out of time) leaves the slot where it is, and the reply is thrown away when it comes: taking the
slot out would hand every later caller the reply of another.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

import hiredis
import msgspec
from redis.exceptions import ResponseError

from cartstore.errors import ContractError, OutcomeUnknown, StoreUnavailable
from cartstore.redis.caller import Reply, translate
from cartstore.redis.scripts import Script

BATCH_CALLS: Final = 256
"""Calls that are packed into one write, so that a long queue still meets a transport that asks for a pause."""

WRITE_BUFFER_BYTES: Final = 256 * 1024
"""Unsent bytes at which the transport asks for a pause."""

_NOTHING: Final = object()
_ASK_IDENTITY: Final = hiredis.pack_command(("INFO", "server")) + hiredis.pack_command(("INFO", "replication"))
_RUN_ID: Final = re.compile(r"^run_id:(\S*)", re.MULTILINE)
_REPLICATION_ID: Final = re.compile(r"^master_replid:(\S*)", re.MULTILINE)

_ELSEWHERE: Final = ("READONLY", "MOVED")
"""Refusals after which another node may be behind the same name."""

_EVALUATE_FROM: Final = 2
"""A call that twice met an engine without its script brings the text itself, which cannot be missed."""


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


class Owner(Protocol):
    """What a connection tells the caller that it belongs to."""

    def on_room(self) -> None:
        """Replies came, or the transport takes bytes again: waiting calls may be sent."""

    def on_missed(self, call: Call) -> None:
        """The engine did not know the script, nothing ran: send the call again."""

    def on_elsewhere(self, connection: Connection) -> None:
        """This node takes no calls of ours any more; another may."""

    def on_lost(self, connection: Connection, error: Exception | None) -> None:
        """The connection is gone, and what was under way on it has been told."""


class Connection(asyncio.Protocol):
    """One stream to one engine, of one event loop."""

    def __init__(self, owner: Owner, *, in_flight_max: int) -> None:
        self.identity = ""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owner = owner
        self._in_flight_max = in_flight_max
        self._in_flight: deque[Call] = deque()
        self._missing: set[Script] = set()
        self._errors: list[str] = []
        self._is_open = False
        self._is_paused = False
        self._is_stalled = False
        self._is_retired = False
        self._is_asking = False
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._reader: Any = hiredis.Reader(
            replyError=self._note_error,
            encoding="utf-8",
            # A reply that is no UTF-8 must still be taken off the stream, or the next one would not be found.
            errors="surrogateescape",
            notEnoughData=_NOTHING,
        )

    @property
    def in_flight(self) -> int:
        """Slots that wait for a reply, abandoned ones included."""
        return len(self._in_flight)

    # --- sending -------------------------------------------------------------------------------

    def send(self, waiting: deque[Call]) -> None:
        """Write what is waiting, oldest first, as far as there is room; the rest stays where it is."""
        in_flight = self._in_flight
        while waiting and self._takes_calls():
            chunks: list[bytes] = []
            for _ in range(min(len(waiting), BATCH_CALLS, self._in_flight_max - len(in_flight))):
                call = waiting.popleft()
                if call.future.done():
                    # Nobody waits for it any more, and nothing of it was sent.
                    continue
                if call.script is None:
                    chunks.append(_ASK_IDENTITY)
                    self._await_identity(call)
                    continue
                try:
                    chunks.append(self._pack(call, call.script))
                except (TypeError, ValueError) as error:
                    refusal = ContractError(f"A call of {call.script} cannot be packed: {error}")
                    refusal.__cause__ = error
                    call.future.set_exception(refusal)
                    continue
                in_flight.append(call)
            if chunks:
                self._transport.write(b"".join(chunks))

    def _takes_calls(self) -> bool:
        return (
            self._is_open
            and not self._is_paused
            and not self._is_stalled
            and not self._is_retired
            and len(self._in_flight) < self._in_flight_max
            and not self._transport.is_closing()
        )

    def _pack(self, call: Call, script: Script) -> bytes:
        """The identity is the one that is known now, as the bytes are handed over, of this very engine."""
        if call.misses or self._missing:
            return self._pack_unknown(call, script)
        return hiredis.pack_command(
            ("EVALSHA", script.sha, len(call.keys), *call.keys, self.identity, *call.args)
        )

    def _pack_unknown(self, call: Call, script: Script) -> bytes:
        verb, text = "EVALSHA", script.sha
        if script in self._missing or call.misses >= _EVALUATE_FROM:
            # The first call brings the text; those behind it on this stream find the script known.
            verb, text = "EVAL", script.source
        packed = hiredis.pack_command((verb, text, len(call.keys), *call.keys, self.identity, *call.args))
        self._missing.discard(script)
        return packed

    # --- greeting and identity -----------------------------------------------------------------

    async def greet(self, commands: Sequence[tuple[str, ...]], tick: int) -> None:
        """Say who we are and learn which engine this is, in one round trip; calls are taken afterwards.

        Raises StoreUnavailable when the engine refuses us or the connection is lost meanwhile.
        """
        loop = asyncio.get_running_loop()
        asked: list[asyncio.Future[Reply]] = [loop.create_future() for _ in commands]
        identity: asyncio.Future[Reply] = loop.create_future()
        self._in_flight.extend(Call(future, None, (), (), tick) for future in asked)
        self._await_identity(Call(identity, None, (), (), tick))
        self._transport.write(b"".join([*map(hiredis.pack_command, commands), _ASK_IDENTITY]))
        replies = await asyncio.gather(*asked, identity, return_exceptions=True)
        for command, reply in zip([*commands, ("INFO",)], replies, strict=True):
            if isinstance(reply, BaseException) and command[0] != "CLIENT":
                # The name is a courtesy to whoever reads CLIENT LIST; an ACL may forbid it.
                raise reply
        self._is_open = True

    def ask_identity(self, tick: int) -> None:
        """Learn the identity anew, unless that question is under way."""
        if self._is_asking or not self._is_open or self._is_paused or self._transport.is_closing():
            return
        self._is_asking = True
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        future.add_done_callback(self._on_asked)
        self._await_identity(Call(future, None, (), (), tick))
        self._transport.write(_ASK_IDENTITY)

    def _on_asked(self, future: asyncio.Future[Reply]) -> None:
        self._is_asking = False
        if future.exception() is not None and self._is_open:
            # An engine that does not say who it is any more; the next greeting will tell why.
            self._owner.on_elsewhere(self)

    def _await_identity(self, call: Call) -> None:
        """Two slots, one for each half of the identity; the second one answers the call."""
        loop = asyncio.get_running_loop()
        server: asyncio.Future[Reply] = loop.create_future()
        replication: asyncio.Future[Reply] = loop.create_future()

        def learn(_: asyncio.Future[Reply]) -> None:
            error = server.exception() or replication.exception()
            if error is None:
                run_id = _RUN_ID.search(server.result())
                replication_id = _REPLICATION_ID.search(replication.result())
                self.identity = (
                    f"{run_id[1] if run_id else ''}:{replication_id[1] if replication_id else ''}"
                )
            if call.future.done():
                return
            if error is None:
                call.future.set_result(self.identity)
            else:
                call.future.set_exception(error)

        replication.add_done_callback(learn)
        for future in (server, replication):
            self._in_flight.append(Call(future, None, (), (), call.tick))
