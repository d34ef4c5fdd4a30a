"""One HTTP/1.1 connection of the server that we ship with: uvicorn's, made safe to stand at the edge.

Owns what is read from a client and what is not: bytes in slices, heads within their limits, requests for
another protocol, trailers; how a request is refused that cannot be read; and how a connection ends so that
its last answer is heard. Refuses to know what a head may say (framing.py), what the limits are
(connection_limits.py), how long things may take (connection_watch.py), and what requests are about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from cartstore_api import framing, problems
from cartstore_api.connection_limits import ConnectionRegistry
from cartstore_api.connection_watch import BETWEEN, BODY, HEAD, Watch, too_late
from cartstore_api.context import RawHeader, RequestContext
from cartstore_api.edge import UNMATCHED
from cartstore_api.problems import ProblemError

_SLICE_BYTES: Final = 16 * 1_024
"""Bytes that the parser gets at once, so that what one piece of the network brings can be stopped half way:
by a pause, or by a limit."""

_FRAMING_FACTOR: Final = 8
"""Bytes of chunk sizes, extensions and trailers for each byte of a body; a chunk of one byte has five."""


class _Flow(FlowControl):
    """uvicorn's, for a transport that may be closed already and a reader that may have bytes left."""

    def __init__(self, transport: asyncio.Transport, go_on: Callable[[], None]) -> None:
        super().__init__(transport)
        self._go_on: Callable[[], None] | None = go_on

    def resume_reading(self) -> None:
        if self.read_paused:
            if self._go_on is None:
                self.read_paused = False
            else:
                super().resume_reading()
                self._go_on()

    def lose(self) -> None:
        """The transport is closed."""
        self._go_on = None


class _Outlet:
    """In place of the transport for uvicorn's cycles: a caller that has left is no error, and what its caller
    has not sent yet does not take the answer from it."""

    __slots__ = ("_connection",)

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection

    def write(self, data: bytes) -> None:
        if not self.is_closing():
            self._connection.transport.write(data)

    def is_closing(self) -> bool:
        connection = self._connection
        return connection.ended_at is not None or connection.transport.is_closing()

    def close(self) -> None:
        self._connection.finish()


class HttpConnection(HttpToolsProtocol):
    """uvicorn's connection with limits, and with problems as the answers to what is no request."""

    cycle: Any
    flow: Any
    headers: list[RawHeader]

    def __init__(self, registry: ConnectionRegistry, **parts: Any) -> None:
        super().__init__(**parts)
        self.registry = registry
        self.limits = registry.limits
        self.peer: str | None = None
        """The address at the other end."""

        self.stage = BETWEEN
        """What the parser reads."""

        self.url = b""
        self.headers = []

        self.is_deaf = False
        """Nothing is read any more; what comes is thrown away."""

        self.ended_at: float | None = None
        """By the registry's clock: since when our half of the connection is closed."""

        self._running: Any = None
        """The cycle that the application answers now; `cycle` is the last one that was read."""

        self._is_upgrade = False
        """The head that was just read asks for another protocol: it is read again without that."""

        self._head_bytes: int | None = None
        """Of a head that came in more than one piece: bytes of all pieces after the first."""

        self._body_bytes = self._body_fed = 0
        """Of the body that is being read: its bytes, and those in which it came."""

        self._backlog = bytearray()
        """Bytes that came and were not given to the parser yet."""

        self._refusal: Exception | None = None
        """Answered behind everything that is under way."""

        self._watch = Watch(self, registry.now)

    # --- from the transport --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self._read_backlog_soon)
        self.peer = self.client[0] if self.client else None
        self.registry.add(self, self.peer)

    def data_received(self, data: bytes) -> None:
        if self.is_deaf:
            return
        if len(data) > _SLICE_BYTES or self._backlog:
            self._backlog += data
            self._read_backlog()
        else:
            self._feed(data)

    def _read_backlog_soon(self) -> None:
        if self._backlog:
            # Not at once: who resumes reading is in the middle of something.
            self.loop.call_soon(self._read_backlog)

    def _read_backlog(self) -> None:
        backlog = self._backlog
        while backlog and not self.flow.read_paused and not self.is_deaf and self.parser is not None:
            piece = bytes(backlog[:_SLICE_BYTES])
            del backlog[:_SLICE_BYTES]
            self._feed(piece)

    def _feed(self, data: bytes) -> None:
        """Give bytes to the parser."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as pause:
                # The parser takes a request for another protocol as one without a body, and what follows as
                # that protocol. We speak no other: the head is read once more, as if it did not ask.
                self._is_upgrade = False
                head = framing.head_without_upgrade(*self._head(), self.headers)
                data = head + data[pause.args[0] :]
                self.parser = _new_parser(self)
                continue
            except httptools.HttpParserError as error:
                self.give_up(framing.refusal_of(error, b"" if self.url else data))
                return
            break
        if self.stage != BETWEEN:
            self._check_piece(len(data))

    def _check_piece(self, count: int) -> None:
        """Refuse a head, or the framing of a body, that has become too large without having ended."""
        try:
            if self.stage == HEAD:
                self._head_bytes = 0 if self._head_bytes is None else self._head_bytes + count
                self._check_head_size(self._head_bytes)
            else:
                self._check_body_framing(count)
        except ProblemError as error:
            self.give_up(error)

    def _check_body_framing(self, count: int) -> None:
        self._body_fed += count
        # The first piece may also have been that of the head.
        rest = self._body_fed - self._body_bytes - _SLICE_BYTES - self.limits.head_bytes_max
        if rest > _FRAMING_FACTOR * self._body_bytes:
            raise ProblemError("HEADERS_TOO_LARGE", "Chunk extensions and trailers are too large.")
        self._check_field_count("trailer")

    def _check_head_size(self, count: int) -> None:
        """Raise HEADERS_TOO_LARGE; `count`: bytes that certainly are the head's."""
        known = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if max(known, count) > self.limits.head_bytes_max:
            detail = f"A request's head may have at most {self.limits.head_bytes_max} bytes."
            raise ProblemError("HEADERS_TOO_LARGE", detail)
        self._check_field_count("header")

    def _check_field_count(self, kind: str) -> None:
        if len(self.headers) > self.limits.head_fields_max:
            detail = f"A request may have at most {self.limits.head_fields_max} {kind} fields."
            raise ProblemError("HEADERS_TOO_LARGE", detail)

    def _head(self) -> tuple[bytes, str, bytes]:
        return self.parser.get_method(), self.parser.get_http_version(), self.url

    # --- from the parser -----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.stage = HEAD

    def on_header(self, name: bytes, value: bytes) -> None:
        # Spaces behind a value are not part of it (RFC 9110, 5.5); the parser leaves them there.
        self.headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        """Hand a request over to the application. Raises ProblemError when its head is not allowed."""
        self._check_whole_head()
        method, version, url = self._head()
        url, headers = framing.check_head(method, version, url, self.headers)
        if self.parser.should_upgrade():
            self._is_upgrade = True
            return
        super().on_message_begin()
        self.on_url(url)
        for name, value in headers:
            super().on_header(name, value)
        if version == "1.0":
            # It knows of no interim answer (RFC 9110, 10.1.1).
            self.expect_100_continue = False
        super().on_headers_complete()
        cycle = self.cycle
        cycle.transport = _Outlet(self)
        cycle.refusal = None
        if version == "1.0":
            cycle.keep_alive = self.parser.should_keep_alive()
        # Trailers are no headers: what comes from here on must not get into the request's.
        self.headers = []
        self._body_bytes = self._body_fed = 0
        self.stage = BODY

    def _check_whole_head(self) -> None:
        """Raise HEADERS_TOO_LARGE. A head that came in one piece is within the limit of bytes."""
        if self._head_bytes is not None:
            self._head_bytes = None
            self._check_head_size(0)
        elif len(self.headers) > self.limits.head_fields_max:
            self._check_field_count("header")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_upgrade:
            self.stage = BETWEEN
            super().on_message_complete()

    # --- requests that end in a refusal ---------------------------------------------------------

    def give_up(self, refusal: Exception) -> None:
        """Read nothing more. Whatever is under way is answered, and then the refusal is told."""
        self.is_deaf = True
        self._backlog.clear()
        if isinstance(refusal, ProblemError):
            self.registry.note(refusal.code.lower())
        cycle = self.cycle
        if self.stage == BODY and cycle is not None:
            self.refuse_body(refusal)
            return
        self._refusal = refusal
        if cycle is None or cycle.response_complete:
            self._write_refusal()

    def refuse_body(self, refusal: Exception) -> None:
        """End a request whose body does not come."""
        self.is_deaf = True
        cycle = self.cycle
        cycle.keep_alive = False
        if cycle.response_complete:
            self.finish()
        else:
            # The application answers it, in its turn, as soon as it wants to read on.
            cycle.refusal = refusal
            cycle.message_event.set()

    def _write_refusal(self) -> None:
        """Answer what never became a request, and end."""
        refusal, self._refusal = self._refusal, None
        assert refusal is not None
        self.is_deaf = True
        if self.transport.is_closing():
            return
        is_head, method, path = False, "", "/"
        headers: list[RawHeader] = []
        if self.stage == HEAD:
            headers = self.headers
            if self.url:
                # The parser has no method before the target begins.
                method, path = self.parser.get_method().decode("ascii"), self.url.decode("latin-1")
                is_head = method == "HEAD"
        context, path = RequestContext(headers), path.partition("?")[0]
        cors, caching = self.registry.cors, self.registry.caching
        if cors is not None:
            cors.mark(context)
        has_token = b"authorization" in context.known
        answer = problems.answer(context, refusal, method, path)
        head = lines_of(
            [
                *self.server_state.default_headers,
                *answer.headers,
                *context.headers,
                *caching.headers_of(path, method, answer.status, has_etag=False, has_token=has_token),
                (b"connection", b"close"),
                answer.content_type,
                (b"content-length", b"%d" % len(answer.body)),
                (b"x-request-id", context.request_id.encode("ascii")),
            ]
        )
        self.transport.write(
            b"%b%b\r\n%b" % (STATUS_LINE[answer.status], head, b"" if is_head else answer.body)
        )
        self.registry.observer.note(context, method or "other", UNMATCHED, answer.status, 0.0)
        self.finish()

    def refuse(self, code: str, detail: str) -> None:
        """Answer with a problem before anything was read, and close at once: there is no room to wait for
        what the client may be sending."""
        self._refusal = ProblemError(code, detail)
        self._write_refusal()
        self.transport.close()

    # --- the end of a connection ----------------------------------------------------------------

    def finish(self) -> None:
        """Half-close after the last answer, and throw away what still comes, for a while.

        A close with bytes unread makes the kernel send a reset, which takes the answer away from a client
        that has not read it yet; and whether more bytes are on their way nobody knows.
        """
        self.is_deaf = True
        self._backlog.clear()
        self.pipeline.clear()
        if self.ended_at is None and not self.transport.is_closing():
            self.ended_at = self.registry.now
            self.flow.resume_reading()
            self.transport.write_eof()

    # --- what the application does ----------------------------------------------------------------

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, partial(self._run, cycle, app))

    async def _run(self, cycle: Any, app: Any, scope: Any, receive: Any, send: Any) -> None:
        """Call the application; a body that is refused on its way is a problem where it is read."""

        async def receiving() -> Any:
            message = await receive()
            if cycle.refusal is not None:
                raise cycle.refusal
            return message

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = self._complete_start(cycle, message)
            await send(message)

        await app(scope, receiving, sending)

    def _complete_start(self, cycle: Any, message: Any) -> Any:
        """Decide whether the connection is kept after an answer, at the time when it can still be said."""
        if cycle.more_body and (
            # A client that hears the answer instead of "100 Continue" may send the body or leave it out.
            cycle.waiting_for_100_continue or self._may_discard_too_much(cycle.scope["headers"])
        ):
            cycle.keep_alive = False
        if cycle.keep_alive and cycle.scope["http_version"] == "1.0":
            headers = list(message.get("headers", ()))
            if all(name.lower() != b"connection" for name, _ in headers):
                return {**message, "headers": [*headers, (b"connection", b"keep-alive")]}
        return message

    def _may_discard_too_much(self, headers: Iterable[RawHeader]) -> bool:
        """Whether more of an unread body may come than is thrown away to keep the connection. How much comes
        in chunks nobody knows: a client that was told that the connection is kept would send its next request
        on one that ends."""
        length = _length_of(headers)
        return length is None or length - self._body_bytes > self.limits.discarded_bytes_max

    def on_response_complete(self) -> None:
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._refusal is not None:
            self._write_refusal()

    def connection_lost(self, exc: Exception | None) -> None:
        self.registry.remove(self)
        self.flow.lose()
        if self._running is not None and not self._running.response_complete:
            # uvicorn tells the last request that was read, which may still wait for its turn.
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)
        # What is under way holds this connection; that must not hold it in turn.
        self.cycle = self._running = self._refusal = None
        self._watch.forget()
        self.pipeline.clear()
        self._backlog.clear()

    # --- for the registry -----------------------------------------------------------------------

    def watch(self, now: float) -> None:
        """Cut what takes too long. `now`: seconds of the registry's clock."""
        self._watch.look(now)

    def body_bytes(self) -> int:
        """Bytes that have come of the body that is being read."""
        return self._body_bytes

    def is_answering(self) -> bool:
        """Whether a whole request is being answered."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        return self.stage != BODY or bool(self.pipeline)

    def unfinished_since(self) -> float | None:
        """Since when there is no whole request to be answered, by the registry's clock; None while there is
        one. What is ending already comes before everything else."""
        if self.ended_at is not None:
            return -1.0
        return None if self.is_answering() else self._watch.since

    def evict(self) -> None:
        """Close at once, for a newer connection."""
        if self.stage == HEAD and self.ended_at is None and not self.is_answering():
            self._refusal = too_late("The request was not there yet when newer ones needed its place.")
            self._write_refusal()
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()


def _new_parser(connection: HttpConnection) -> Any:
    parser = httptools.HttpRequestParser(connection)
    # As uvicorn has it: what comes behind the last request is thrown away instead of being an error.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _length_of(headers: Iterable[RawHeader]) -> int | None:
    return next((int(value) for name, value in headers if name == b"content-length"), None)


def lines_of(headers: Iterable[RawHeader]) -> bytes:
    """Headers as they are sent."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])
