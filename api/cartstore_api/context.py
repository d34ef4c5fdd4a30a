"""What is known of one request while it is served. Owns how request headers are read, and the place in the
ASGI scope where all of it is kept."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from litestar import Request

if TYPE_CHECKING:
    from cartstore_api.callers import Claims

SCOPE_KEY: Final = "cartstore"

_LIST_ITEM = re.compile(r'(?:[^,"]|"[^"]*"|")+')
"""An item of a list; a comma between quotes does not end it."""

_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~-]{1,128}\Z")

# A random part per process and a counter: as unique as random bytes per request, and cheaper. The counter
# starts where it has eight hexadecimal digits, so that ids are of one length.
_PREFIX = os.urandom(8).hex()
_numbers = itertools.count(0x1000_0000 + int.from_bytes(os.urandom(2), "big"))

RawHeader = tuple[bytes, bytes]


class RequestContext:
    """Made for every request; handlers add response headers, problems leave their code."""

    __slots__ = ("_raw", "claims", "code", "headers", "known", "peer", "request_id")

    def __init__(self, raw: Sequence[RawHeader]) -> None:
        self._raw = raw
        self.known: dict[bytes, bytes] = dict(reversed(raw))
        """The headers, by names in lower case. Of one that was sent more than once, the first."""

        sent = self.known.get(b"x-request-id")
        self.request_id = request_id_of(sent)
        self.peer: str | None = None
        """The address at the other end of the connection, which may be a proxy's (client_address.py)."""
        self.claims: Claims | None = None
        """Of the access token, once it was verified (callers.py)."""
        self.code: str | None = None
        """Of the problem that the request ended in."""
        self.headers: list[RawHeader] = []
        """Sent with whatever the answer is, a problem included: a fresh guest token must reach its caller
        also when the outcome of the mutation is unknown, or the repeated call would miss its cart."""

    def text(self, name: bytes) -> str | None:
        """A header as text; None when it was not sent."""
        value = self.known.get(name)
        return None if value is None else value.decode("latin-1")

    def values(self, name: bytes) -> Sequence[bytes]:
        """Every value of a header, in the order in which they were sent."""
        if name not in self.known:
            return ()
        return [value for sent, value in self._raw if sent == name]

    def items(self, name: bytes) -> list[str]:
        """The items of a header that is a comma-separated list; several lines of it are one list."""
        return [
            stripped
            for value in self.values(name)
            for item in _LIST_ITEM.findall(value.decode("latin-1"))
            if (stripped := item.strip())
        ]


def request_id_of(sent: bytes | None) -> str:
    """The caller's own id when it is sane, else a new one."""
    if sent is not None and _SANE_REQUEST_ID.match(sent):
        return sent.decode("ascii")
    return f"{_PREFIX}{next(_numbers):x}"


def context_of(request: Request[Any, Any, Any]) -> RequestContext:
    """The context of a request that goes through Litestar."""
    context: RequestContext = request.scope[SCOPE_KEY]  # type: ignore[typeddict-item]
    return context
