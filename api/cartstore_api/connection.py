"""The shorter way for hot requests on a connection of the server that we ship with.

ASGI gives every request a scope, a cycle, two channels and an answer in two messages. The hot routes need
none of it: their requests are whole when they are looked at, and so are their answers. So they are taken
where the connection has parsed them, and answered where it would write. Everything else, and every hot
request that comes in an unusual way, goes on to uvicorn as if it had been there from the beginning. Owns
the bytes of such answers' heads; refuses to know what a request is about (lane.py), when its turn is
(turns.py), and what a client may send (http_connection.py).
"""

from __future__ import annotations

import asyncio
from contextvars import Context, copy_context
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from cartstore_api import problems
from cartstore_api.answers import Answer
from cartstore_api.connection_limits import ConnectionRegistry
from cartstore_api.connection_watch import BETWEEN, BODY
from cartstore_api.http_connection import HttpConnection, lines_of
from cartstore_api.lane import HotRequest, Lane
from cartstore_api.turns import Turns

_NO_BODY: Final = frozenset({204, 304})


class _Nobody:
    """In place of the event that tells an ASGI application of a body: nobody waits for one."""

    def set(self) -> None:
        pass


class Exchange:
    """A hot request and its answer: in place of uvicorn's cycle, and of the task that it can cancel."""

    __slots__ = (
        *("_connection", "context", "disconnected", "is_given_up", "keep_alive"),
        *("request", "response_complete", "task"),
    )

    message_event: Final = _Nobody()

    def __init__(self, connection: Connection, request: HotRequest, keep_alive: bool) -> None:
        self._connection = connection
        self.request = request
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        self.is_given_up = False
        self.context: Context | None = None
        """From the moment when the request is whole: what it will be served in."""

        self.task: asyncio.Task[None] | None = None
        """From the moment when its turn has come."""

    @property
    def is_whole(self) -> bool:
        return self.context is not None

    def begin(self) -> bool:
        """Let the request be served, unless the server gave it up while it waited."""
        if self.is_given_up:
            return False
        connection = self._connection
        served = connection.serve(self)
        self.task = asyncio.Task(served, loop=connection.loop, name="hot request", context=self.context)
        return True

    def cancel(self, msg: Any = None) -> None:
        """The server waits no longer."""
        # Not now: the server goes through all that is under way, and a task that never ran a step would end
        # without an answer.
        self.is_given_up = True
        self._connection.loop.call_soon(self._connection.cut_off, self)


class Connection(HttpConnection):
    """A connection with a lane before the application."""

    def __init__(self, lane: Lane, turns: Turns, registry: ConnectionRegistry, **parts: Any) -> None:
        super().__init__(registry, **parts)
        self._lane = lane
        self._turns = turns
        self._exchanges: set[Any] = self.tasks
        """What is under way: the server waits for it at its end, and cancels it when that takes too long."""

        self._defaults: tuple[Any, bytes] = None, b""
        """The server's own headers (the date, a new list every second) and their bytes."""

    # --- from the parser -----------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        cycle = self.cycle
        # While an answer is under way or the caller reads none, requests queue up; uvicorn knows how.
        if (
            (cycle is None or cycle.response_complete)
            and not self.flow.write_paused
            and self.limit_concurrency is None
        ):
            parser = self.parser
            request = self._lane.take(parser.get_method(), self.url, self.headers)
            if request is not None and parser.get_http_version() == "1.1":
                self._check_whole_head()
                request.context.peer = self.peer
                self.cycle = exchange = Exchange(self, request, parser.should_keep_alive())
                self._exchanges.add(exchange)
                self.stage = BODY
                return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if type(cycle) is Exchange:
            cycle.request.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if type(cycle) is not Exchange or self._is_upgrade:
            super().on_message_complete()
        else:
            self.stage = BETWEEN
            cycle.context = copy_context()
            self._turns.take(cycle)

    # --- to the caller -------------------------------------------------------------------------

    async def serve(self, exchange: Exchange) -> None:
        """Answer a request that is whole."""
        try:
            self._write(exchange, await self._lane.answer(exchange.request))
        except BaseException:
            exchange.response_complete = True
            self._exchanges.discard(exchange)
            self.transport.close()
            raise
        finally:
            self._turns.end()

    def cut_off(self, exchange: Exchange) -> None:
        """Let a request end that will not be waited for: it is told that its outcome is unknown, or that
        nothing happened if it was whole and waited for its turn."""
        if exchange.task is not None:
            exchange.task.cancel()
        elif not exchange.response_complete:
            say = self._lane.never_begun if exchange.is_whole else self._lane.unknown
            self._write(exchange, say(exchange.request))

    def _write(self, exchange: Exchange, answer: Answer) -> None:
        exchange.response_complete = True
        self._exchanges.discard(exchange)
        self._lane.note(exchange.request, answer.status)
        if self.transport.is_closing():
            return
        context, body = exchange.request.context, answer.body
        exchange.request.body = b""
        defaults = self.server_state.default_headers
        if self._defaults[0] is not defaults:
            self._defaults = defaults, lines_of(defaults)
        headers = (*answer.headers, *context.headers) if context.headers else answer.headers
        others = self._lane.caching_lines(exchange.request, answer.status)
        if headers:
            others += lines_of(headers)
        if not exchange.keep_alive:
            others += b"connection: close\r\n"
        if answer.status not in _NO_BODY:
            others += b"content-type: %b\r\ncontent-length: %d\r\n" % (answer.content_type[1], len(body))
        head = STATUS_LINE[answer.status], self._defaults[1], others, context.request_id.encode("ascii")
        self.transport.write(b"%b%b%bx-request-id: %b\r\n\r\n%b" % (*head, body))
        if not exchange.keep_alive:
            self.finish()
        self.on_response_complete()

    def refuse_body(self, refusal: Exception) -> None:
        cycle = self.cycle
        if type(cycle) is not Exchange:
            super().refuse_body(refusal)
            return
        self.is_deaf = True
        cycle.keep_alive = False
        request = cycle.request
        self._write(cycle, problems.answer(request.context, refusal, request.method, request.path))

    def _check_body_framing(self, count: int) -> None:
        # The body of a hot request has no framing: its length was announced.
        if type(self.cycle) is not Exchange:
            super()._check_body_framing(count)

    def body_bytes(self) -> int:
        cycle = self.cycle
        return len(cycle.request.body) if type(cycle) is Exchange else super().body_bytes()

    def connection_lost(self, exc: Exception | None) -> None:
        cycle = self.cycle
        super().connection_lost(exc)
        if type(cycle) is Exchange and not cycle.is_whole and not cycle.response_complete:
            cycle.response_complete = True
            self._exchanges.discard(cycle)
            self._lane.note_left(cycle.request)
