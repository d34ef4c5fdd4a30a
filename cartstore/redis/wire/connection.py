"""Connection: script calls over one stream. Owns packing, the order of replies and the engine's identity;
refuses to know deadlines, waiting calls and what comes after it was lost.

The engine answers in the order of the commands, and an answer names no command. So each command has one slot
in `_in_flight` from the moment its bytes are handed over until its reply is there. Whoever stops waiting
(cancelled, or out of time) leaves the slot where it is, and the reply is thrown away when it comes: taking
the slot out would hand every later caller the reply of another. Calls that leave as one command
(`Script.several`) have a slot each, and take their parts of its one reply.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

import hiredis
from redis.exceptions import ResponseError

from cartstore.affinity import cut_off, watch
from cartstore.errors import ContractError, PartlyApplied, StoreUnavailable
from cartstore.redis.caller import MISSED, Reply
from cartstore.redis.identity import SHIFTED, identity_in, identity_question
from cartstore.redis.rights import MissingRights, refusal_of
from cartstore.redis.scripts import Script
from cartstore.redis.wire.calls import Call, meaning_of, pack, refuse, unanswered
from cartstore.redis.wire.several import SEVERAL_MIN, alike, packed_several

WRITE_BYTES: Final = 1024 * 1024
"""Packed into one write, or a little more: 2,500 adds that go alone, more than may be in flight of those that
leave together. What is beyond meets a transport that may have asked for a pause meanwhile."""

WRITE_BUFFER_BYTES: Final = 64 * 1024
"""Unsent bytes at which the transport asks for a pause."""

_CLOSED: Final = "The engine closed the connection."
_NOTHING: Final = object()

_ELSEWHERE: Final = ("READONLY", "MOVED")
"""Refusals after which another node may be behind the same name."""

_NEVER_LOADS: Final = ("NOPERM", "ERR unknown")
"""Refusals of FUNCTION LOAD that will be the same the next time."""

_EVALUATE_FROM: Final = 2
"""A call that twice met an engine without its script brings the text itself, which cannot be missed."""


def _check_rights(reply: Any) -> None:
    """Raises MissingRights. An engine that loads its data, or is busy, does not tell now; it refuses calls
    for the same reason."""
    if isinstance(reply, ResponseError):
        if str(reply).startswith("NOPERM"):
            raise MissingRights("The engine's user lacks rights: eval, and perhaps others.")
    elif isinstance(reply, BaseException):
        raise reply
    elif (refusal := refusal_of(reply)) is not None:
        raise refusal


class Owner(Protocol):
    """What a connection tells the caller that it belongs to."""

    def on_room(self) -> None:
        """Replies came, or the transport takes bytes again: waiting calls may be sent."""

    def on_missed(self, call: Call) -> None:
        """The engine did not know the script, nothing ran: send the call again."""

    def on_partly_applied(self, call: Call, error: PartlyApplied) -> None:
        """The engine cut a script off: what the call was about has to be looked at."""

    def on_elsewhere(self, connection: Connection) -> None:
        """This node takes no calls of ours any more; another may."""

    def on_lost(self, connection: Connection, error: Exception | None) -> None:
        """The connection is gone, and what was under way on it has been told."""


class Connection(asyncio.Protocol):
    """One stream to one engine, of one event loop. `tick`: the caller's clock, in which calls are dated;
    `call_ticks`: how long one may take."""

    def __init__(self, owner: Owner, *, in_flight_max: int, tick: int, call_ticks: int) -> None:
        self.identity = ""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owner = owner
        self._in_flight_max = in_flight_max
        self._tick = tick
        self._call_ticks = call_ticks
        self._in_flight: deque[Call] = deque()
        self._missing: set[Script] = set()
        self._carries_several = True
        """Until the engine refuses for good to be given what carries them."""

        self._errors: list[str] = []
        self._is_open = False
        self._is_paused = False
        self._is_stalled = False
        self._is_retired = False
        self._is_asking = False
        self._has_ended = False
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        watch(self, lambda connection: connection._transport)
        self._reader: Any = hiredis.Reader(
            replyError=self._note_error,
            encoding="utf-8",
            # A reply that is no UTF-8 must still be taken off the stream, or the next one would not be found.
            errors="surrogateescape",
            notEnoughData=_NOTHING,
        )

    # --- sending -------------------------------------------------------------------------------

    def send(self, waiting: deque[Call]) -> None:
        """Write what is waiting, oldest first, as far as there is room; the rest stays where it is."""
        in_flight, room = self._in_flight, self._in_flight_max
        while waiting and self._takes_calls():
            chunks: list[bytes] = []
            size = 0
            while waiting and len(in_flight) < room and size < WRITE_BYTES:
                call = waiting.popleft()
                if call.future.done():
                    # Nobody waits for it any more, and nothing of it was sent.
                    continue
                script = call.script
                if script is None:
                    chunks.append(self._await_identity(call))
                    continue
                if script.several is None or call.goes_alone or not self._carries_several:
                    chunk = self._pack(call, script)
                else:
                    chunk = self._pack_several(script, alike(call, waiting, room - len(in_flight)))
                chunks.append(chunk)
                size += len(chunk)
            if chunks:
                self._transport.write(b"".join(chunks))

    def _takes_calls(self) -> bool:
        return (
            self._is_open
            and not self._is_paused
            and not self._is_stalled
            and len(self._in_flight) < self._in_flight_max
            and not self._transport.is_closing()
        )

    def _pack(self, call: Call, script: Script) -> bytes:
        """The bytes of one call, which has its slot then; none of one that cannot be packed."""
        try:
            if call.misses or self._missing:
                chunk = self._pack_unknown(call, script)
            else:
                keys = call.keys
                # The identity that is known now, as the bytes are handed over, of the engine on this stream.
                chunk = pack((*script.command, len(keys), *keys, self.identity, *call.args))
        except (TypeError, ValueError) as error:
            refusal = ContractError(f"A call of {script} cannot be packed: {error}")
            refusal.__cause__ = error
            call.future.set_exception(refusal)
            return b""
        self._in_flight.append(call)
        return chunk

    def _pack_several(self, script: Script, calls: Sequence[Call]) -> bytes:
        """The bytes of calls of one script, as one command if they are several and all can be packed."""
        several = cast(Script, script.several)
        if len(calls) >= SEVERAL_MIN:
            try:
                chunk = packed_several(several, calls, self.identity)
            except (TypeError, ValueError, OverflowError):
                # One of them; alone it is told so.
                pass
            else:
                loading = b""
                if several in self._missing:
                    self._missing.discard(several)
                    loading = self._load(several)
                calls[0].carried = len(calls)
                self._in_flight.extend(calls)
                return loading + chunk
        return b"".join([self._pack(call, script) for call in calls])

    def _pack_unknown(self, call: Call, script: Script) -> bytes:
        """The first call brings the script; those behind it on this stream find it known."""
        command: tuple[str, ...] = script.command
        is_to_load = False
        if call.misses >= _EVALUATE_FROM or (script in self._missing and not script.library):
            command = ("EVAL", script.text)
        elif script in self._missing:
            is_to_load = True
        packed = pack((*command, len(call.keys), *call.keys, self.identity, *call.args))
        self._missing.discard(script)
        return (self._load(script) if is_to_load else b"") + packed

    def _load(self, script: Script) -> bytes:
        """The bytes that make a function known, which have their slot then."""
        loaded: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        loaded.add_done_callback(self._on_loaded)
        self._in_flight.append(self._question(loaded))
        return pack(("FUNCTION", "LOAD", "REPLACE", script.library))

    def _on_loaded(self, loaded: asyncio.Future[Reply]) -> None:
        # Where it is refused, the call that follows is missed again, and tells. A full engine may take it
        # later.
        if str(loaded.exception() or "").startswith(_NEVER_LOADS):
            self._carries_several = False

    # --- greeting and identity -----------------------------------------------------------------

    async def greet(
        self, commands: Sequence[tuple[str, ...]], client_name: str, rights: tuple[str, ...] = ()
    ) -> None:
        """Say who we are and learn which engine this is, in one round trip; calls are taken afterwards.

        `rights`: the command that asks for missing rights (redis/rights.py); none: they are not asked for.
        Raises ResponseError when the engine refuses us, MissingRights, StoreUnavailable when the connection
        is lost.
        """
        if self._transport.is_closing():
            raise StoreUnavailable(_CLOSED)
        loop = asyncio.get_running_loop()
        asked: list[asyncio.Future[Reply]] = [loop.create_future() for _ in commands]
        identity: asyncio.Future[Reply] = loop.create_future()
        allowed: asyncio.Future[Reply] = loop.create_future()
        named: asyncio.Future[Reply] = loop.create_future()
        self._in_flight.extend(self._question(future) for future in asked)
        question = self._await_identity(self._question(identity))
        if rights:
            self._in_flight.append(self._question(allowed))
        else:
            allowed.set_result(())
        # Last, because its refusal is passed over: an engine that has no room for one more client says so in
        # place of the first reply.
        self._in_flight.append(self._question(named))
        name = ("CLIENT", "SETNAME", client_name)
        questions = [question, *([pack(rights)] if rights else []), pack(name)]
        self._transport.write(b"".join([*map(pack, commands), *questions]))
        *replies, lacking, _ = await asyncio.gather(*asked, identity, allowed, named, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        _check_rights(lacking)
        if self._has_ended:
            # The engine answered and closed before this turn of the loop came.
            raise StoreUnavailable(_CLOSED)
        self._is_open = True

    def _question(self, future: asyncio.Future[Reply]) -> Call:
        return Call(future, None, (), (), self._tick)

    def ask_identity(self) -> None:
        """Learn the identity anew, unless that question is under way."""
        if self._is_asking or self._is_paused or self._is_stalled or self._is_retired:
            return
        if not self._is_open or self._transport.is_closing():
            return
        self._is_asking = True
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        future.add_done_callback(self._on_asked)
        self._transport.write(self._await_identity(self._question(future)))

    def _on_asked(self, future: asyncio.Future[Reply]) -> None:
        self._is_asking = False
        if future.exception() is not None and self._is_open:
            # An engine that does not say who it is any more; the next greeting will tell why.
            self._owner.on_elsewhere(self)

    def _await_identity(self, call: Call) -> bytes:
        """The bytes of the question, whose replies have their slots then; the last one answers the call."""
        loop = asyncio.get_running_loop()
        nonce, commands = identity_question()
        slots: list[asyncio.Future[Reply]] = [loop.create_future() for _ in commands]

        def learn(_: asyncio.Future[Reply]) -> None:
            # All are looked at: one that nobody looks at is reported as forgotten.
            error = next(filter(None, [slot.exception() for slot in slots]), None)
            if error is None:
                identity = identity_in(nonce, [slot.result() for slot in slots])
                if identity is None:
                    error = StoreUnavailable(SHIFTED)
                    # No other reply on this stream can be trusted either.
                    self.abort(error)
                else:
                    self.identity = identity
            if call.future.done():
                return
            if error is None:
                call.future.set_result(self.identity)
            else:
                call.future.set_exception(error)

        slots[-1].add_done_callback(learn)
        self._in_flight.extend(self._question(slot) for slot in slots)
        return b"".join(map(pack, commands))

    # --- receiving -----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        gets = self._reader.gets
        take_slot = self._in_flight.popleft
        errors = self._errors
        try:
            self._reader.feed(data)
            while (reply := gets()) is not _NOTHING:
                call = take_slot()
                if call.carried:
                    self._on_several(call, reply)
                elif errors:
                    text = errors[0]
                    errors.clear()
                    self._on_error(call, reply, text)
                elif not (future := call.future).done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            # A broken reply, or one that nothing asked for: from here on no reply could be matched.
            self.abort(error)
            return
        self._is_stalled = False
        if self._is_retired and not self._in_flight:
            self.abort(None)
        self._owner.on_room()

    def _note_error(self, text: str) -> ResponseError:
        """Called by the parser for every error, also for one inside of an array."""
        self._errors.append(text)
        return ResponseError(text)

    def _on_several(self, first: Call, reply: Reply) -> None:
        """The reply to calls that left together: to each its own part, or to all what refuses them."""
        calls = [first, *(self._in_flight.popleft() for _ in range(first.carried - 1))]
        first.carried = 0
        errors, several = self._errors, cast(Script, cast(Script, first.script).several)
        text = errors[0] if errors else ""
        has_errors = bool(errors)
        errors.clear()
        if not isinstance(reply, list):
            if text.startswith(MISSED):
                # Nothing ran. Whether the engine knows the calls' own script will be seen when they go alone.
                self._missing.add(several)
                for call in calls:
                    self._on_missed(call)
                return
            for call in calls:
                self._on_error(call, reply, text)
            return
        if len(reply) != len(calls):
            text = f"{len(reply)} replies to {len(calls)} calls"
            for call in calls:
                refuse(call, ContractError(f"{several} gave {text}"))
            return
        for call, part in zip(calls, reply, strict=True):
            if has_errors and isinstance(part, ResponseError):
                # Whatever it says, it was said by a script that ran: it is never sent again.
                self._refuse(call, meaning_of(str(part), cast(Script, call.script), is_inside=True))
            elif (
                has_errors and isinstance(part, list) and any(isinstance(one, ResponseError) for one in part)
            ):
                self._on_error(call, part, text)
            elif not call.future.done():
                call.future.set_result(part)

    def _on_error(self, call: Call, reply: Reply, text: str) -> None:
        script = call.script
        if script is None:
            refuse(call, ResponseError(text))
            return
        if isinstance(reply, list):
            # The script ran to its end and returned it among its values, which no script of ours does.
            refuse(call, ContractError(f"{script} answered an error inside of a reply: {text}"))
            return
        if text.startswith(MISSED):
            self._missing.add(script)
            call.misses += 1
            self._on_missed(call)
            return
        self._refuse(call, meaning_of(text, script))
        if text.startswith(_ELSEWHERE):
            self._owner.on_elsewhere(self)
        elif text.startswith("LOADING"):
            # It was restarted, and while it loads its replication id may still change.
            self.ask_identity()

    def _refuse(self, call: Call, error: Exception) -> None:
        refuse(call, error)
        if isinstance(error, PartlyApplied):
            self._owner.on_partly_applied(call, error)

    def _on_missed(self, call: Call) -> None:
        call.goes_alone = True
        self._owner.on_missed(call)

    # --- time and end --------------------------------------------------------------------------

    def expire(self, tick: int) -> None:
        """Give up on calls that took too long. While the oldest of them has no reply nothing more is sent,
        since that would be unknown too; when it has none for as long again, the connection is taken for dead.
        """
        self._tick = tick
        if not self._in_flight:
            return
        overdue = tick - self._call_ticks
        for call in self._in_flight:
            if call.tick <= overdue and not call.future.done():
                refuse(call, unanswered(call, None))
        oldest = self._in_flight[0].tick
        self._is_stalled = oldest <= overdue
        if oldest <= overdue - self._call_ticks:
            self.abort(TimeoutError("The engine does not answer."))

    def retire(self) -> None:
        """Take no more calls, and end when those under way are answered."""
        self._is_retired = True
        if not self._in_flight:
            self.abort(None)

    def abort(self, error: Exception | None) -> None:
        """End at once: what is under way stays unknown."""
        if self._transport is not None:
            self._transport.abort()
        self._end(error)

    def cut_off(self) -> None:
        """In a forked child: end without a word to the engine, whose connection is the parent's."""
        if self._transport is not None:
            cut_off(self._transport)

    def _end(self, error: Exception | None) -> None:
        was_open, self._is_open = self._is_open, False
        self._has_ended = True
        in_flight = list(self._in_flight)
        self._in_flight.clear()
        for call in in_flight:
            if not call.future.done():
                refuse(call, unanswered(call, error))
        if was_open:
            self._owner.on_lost(self, error)

    # --- what the transport says ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._owner.on_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionResetError(_CLOSED))
        if not self.closed.done():
            self.closed.set_result(None)
