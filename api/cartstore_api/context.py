"""What is known of one request while it is served. Owns the place where it is kept in the ASGI scope."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Any

SCOPE_KEY = "cartstore"

_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~-]{1,128}\Z")


class RequestContext:
    """Made by the edge for every request; handlers add response headers, problems leave their code."""

    __slots__ = ("code", "headers", "request_id")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.code: str | None = None
        """Of the problem that the request ended in."""
        self.headers: list[tuple[bytes, bytes]] = []
        """Sent with whatever the answer is, a problem included: a fresh guest token must reach its caller
        also when the outcome of the mutation is unknown, or the repeated call would miss its cart."""


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's own id when it is sane, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _SANE_REQUEST_ID.match(value):
            return value.decode("ascii")
    return secrets.token_hex(8)


def context_of(scope: Any) -> RequestContext:
    """The context of the request that this ASGI scope is of."""
    context: RequestContext = scope[SCOPE_KEY]
    return context
