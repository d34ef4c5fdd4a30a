"""Answers as bytes, made once and sent by either lane. Owns the fixed parts of response heads."""

from __future__ import annotations

from typing import Any, Final

from litestar import Response
from litestar.types import Send

from cartstore_api.context import RawHeader

JSON: Final[RawHeader] = (b"content-type", b"application/json")
PROBLEM: Final[RawHeader] = (b"content-type", b"application/problem+json")
REPLAYED: Final[RawHeader] = (b"idempotent-replayed", b"true")
NO_HEADERS: Final[tuple[RawHeader, ...]] = ()


class Answer:
    """A whole answer. `headers` are those beside the type and the length; an empty body has neither."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        body: bytes,
        status: int = 200,
        headers: tuple[RawHeader, ...] = NO_HEADERS,
        content_type: RawHeader = JSON,
    ) -> None:
        self.body = body
        self.status = status
        self.headers = headers
        self.content_type = content_type

    def response(self) -> Response[Any]:
        """The same for Litestar to send."""
        return Response(
            self.body,
            status_code=self.status,
            media_type=self.content_type[1].decode("ascii"),
            headers={name.decode("ascii"): value.decode("latin-1") for name, value in self.headers},
        )

    async def send(self, send: Send) -> None:
        """Send it past Litestar."""
        sent = [*self.headers]
        if self.body:
            sent += (self.content_type, (b"content-length", b"%d" % len(self.body)))
        start: Any = {"type": "http.response.start", "status": self.status, "headers": sent}
        await send(start)
        await send({"type": "http.response.body", "body": self.body, "more_body": False})
