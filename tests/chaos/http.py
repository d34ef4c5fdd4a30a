"""One kept-alive HTTP connection that costs its caller little: bytes out, status and body back.

Owns framing, and the line between what never left and what may have arrived. Knows no path of the API.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httptools


class NeverSent(Exception):
    """No connection came about: the request did not leave."""


class NoAnswer(Exception):
    """It was sent, and the connection broke or the time was over."""


class Answer:
    """Of one request."""

    __slots__ = ("body", "is_replay", "status")

    def __init__(self, status: int, body: bytes, is_replay: bool) -> None:
        self.status = status
        self.body = body
        self.is_replay = is_replay


class Connection(asyncio.Protocol):
    """To one address. One request at a time; after a failure the next request connects anew."""

    def __init__(self, port: int, timeout_seconds: float) -> None:
        self._port = port
        self._timeout_seconds = timeout_seconds
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None

    async def ask(self, request: bytes) -> Answer:
        """Raises NeverSent or NoAnswer."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await loop.create_connection(lambda: self, "127.0.0.1", self._port)
            except (OSError, TimeoutError) as error:
                raise NeverSent from error
        transport = self._transport
        assert transport is not None
        self._waiting = loop.create_future()
        self._begin()
        transport.write(request)
        # A timer of the loop and not asyncio.timeout, which costs more than the rest of this method.
        timer = loop.call_later(self._timeout_seconds, self._give_up)
        try:
            return await self._waiting
        finally:
            timer.cancel()
            self._waiting = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _give_up(self) -> None:
        # An answer that came later would be taken for that of the next request.
        self.close()
        self._fail()

    def _fail(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(NoAnswer())

    # --- asyncio ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._give_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail()

    # --- httptools -------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._parser: Any = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._is_replay = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"idempotent-replayed":
            self._is_replay = True

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            status = self._parser.get_status_code()
            self._waiting.set_result(Answer(status, b"".join(self._body), self._is_replay))
