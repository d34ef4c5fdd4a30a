"""One HTTP connection of the server that we ship with: uvicorn's, with a shorter way for hot requests.

ASGI gives every request a scope, a cycle, two channels and an answer in two messages. The hot routes need
none of it: their requests are whole when they are looked at, and so are their answers. So they are taken
where uvicorn's connection has parsed them, and answered where it would write. Everything else, and every hot
request that comes in an unusual way, is handed to uvicorn as if it had been there from the beginning. Owns
the bytes of such answers' heads, and the time that a connection may be idle; refuses to know what a request
is about (lane.py), and when its turn is (turns.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import Context, copy_context
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from cartstore_api.answers import Answer
from cartstore_api.context import RawHeader
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


class Connection(HttpToolsProtocol):
    """uvicorn's connection with a lane before the application."""

    cycle: Any
    headers: list[RawHeader]

    def __init__(self, lane: Lane, turns: Turns, **parts: Any) -> None:
        super().__init__(**parts)
        self._lane = lane
        self._turns = turns
        self._exchanges: set[Any] = self.tasks
        """What is under way: the server waits for it at its end, and cancels it when that takes too long."""

        self._defaults: tuple[Any, bytes] = None, b""
        """The server's own headers (the date, a new list every second) and their bytes."""

        self._idle_since: float | None = None
        """By the loop's clock; None while a request is under way."""

    # --- from the parser -----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        cycle, parser = self.cycle, self.parser
        # While an answer is under way or the caller reads none, requests queue up; uvicorn knows how.
        if (
            (cycle is None or cycle.response_complete)
            and not self.flow.write_paused
            and self.limit_concurrency is None
        ):
            request = self._lane.take(parser.get_method(), self.url, self.headers)
            if request is not None and parser.get_http_version() == "1.1":
                self.cycle = exchange = Exchange(self, request, parser.should_keep_alive())
                self._exchanges.add(exchange)
                return
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.on_url(url)
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if type(cycle) is Exchange:
            cycle.request.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if type(cycle) is not Exchange:
            super().on_message_complete()
        else:
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
            self._defaults = defaults, _lines_of(defaults)
        headers = (*answer.headers, *context.headers) if context.headers else answer.headers
        others = _lines_of(headers) if headers else b""
        if not exchange.keep_alive:
            others += b"connection: close\r\n"
        if answer.status not in _NO_BODY:
            others += b"content-type: %b\r\ncontent-length: %d\r\n" % (answer.content_type[1], len(body))
        head = STATUS_LINE[answer.status], self._defaults[1], others, context.request_id.encode("ascii")
        self.transport.write(b"%b%b%bx-request-id: %b\r\n\r\n%b" % (*head, body))
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    # --- between requests ----------------------------------------------------------------------

    # One timer runs on and looks at the time when it rings: to set one after each answer and to cancel it at
    # the next request would be more work than finding out what the request wants.

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def on_response_complete(self) -> None:
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_after(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since is not None:
            left = self._idle_since + self.timeout_keep_alive - self.loop.time()
            if left > 0:
                self._look_after(left)
            else:
                super().timeout_keep_alive_handler()

    def _look_after(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        cycle = self.cycle
        if type(cycle) is Exchange and not cycle.is_whole and not cycle.response_complete:
            cycle.response_complete = True
            self._exchanges.discard(cycle)
            self._lane.note_left(cycle.request)
        # What is under way holds this connection; that must not hold it in turn.
        self.cycle = None
        self.pipeline.clear()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None


def _lines_of(headers: Iterable[RawHeader]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])
