"""Hands a whole answer to the server in one write, where the server is the one that we ship with.

ASGI sends an answer in two messages, and uvicorn looks at each header of each answer anew. Of the hot answers
everything is known and ours, so their bytes are put together here and given to the connection at once; the
connection's state is left as the two messages would leave it. Any other server gets the two messages.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from cartstore_api.context import RawHeader

_last_defaults: list[Any] = [None, b""]
"""The server's own headers (the date, a new list every second) and their bytes."""

_NO_BODY: Final = frozenset({204, 304})


def connection_of(send: Any) -> RequestResponseCycle | None:
    """The server's side of this request, when an answer can be handed to it whole just now."""
    cycle = getattr(send, "__self__", None)
    if type(cycle) is not RequestResponseCycle or cycle.response_started or cycle.flow.write_paused:
        return None
    return cycle


def hand_over(
    cycle: RequestResponseCycle,
    status: int,
    content_type: bytes,
    headers: Iterable[RawHeader],
    request_id: bytes,
    body: bytes,
) -> None:
    """Write an answer; `headers` are those beside type, length and request id. All must be safe to send."""
    if cycle.disconnected:
        return
    if _last_defaults[0] is not cycle.default_headers:
        _last_defaults[:] = [cycle.default_headers, _lines_of(cycle.default_headers)]
    others = _lines_of(headers) if headers else b""
    if not cycle.keep_alive:
        others += b"connection: close\r\n"
    if status not in _NO_BODY:
        others += b"content-type: %b\r\ncontent-length: %d\r\n" % (content_type, len(body))
    cycle.response_started = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(
        b"%b%b%bx-request-id: %b\r\n\r\n%b"
        % (STATUS_LINE[status], _last_defaults[1], others, request_id, body)
    )
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


def _lines_of(headers: Iterable[RawHeader]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])
