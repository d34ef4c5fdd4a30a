"""The fast lane: the five hot routes of the cart, without Litestar's request, routing and encoding.

Both lanes run the same calls (`cart_calls`) with the same context, body reading, problems and answers; what
this one leaves out is only the way there. Whatever is unusual about a request (another method or path, a
cross-origin page, a body that announces itself as too large or not at all) goes the other way. tests/api
sends every request through both and compares the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import perf_counter
from typing import Any, Final

import msgspec
from litestar.exceptions import ClientException
from litestar.types import ASGIApp, Receive, Send

from cartstore.errors import OutcomeUnknown
from cartstore_api import cart_calls, problems, schemas
from cartstore_api.bodies import read_body
from cartstore_api.context import RequestContext
from cartstore_api.observing import Observer
from cartstore_api.services import Services

CART: Final = "/v1/cart"
SUMMARY: Final = "/v1/cart/summary"
ITEMS: Final = "/v1/cart/items"
_LINE: Final = ITEMS + "/"
_LINE_AT: Final = len(_LINE)
_LINE_TEMPLATE: Final = "/v1/cart/items/{line_id:str}"

_add_item = msgspec.json.Decoder(schemas.AddItem)
_set_quantity = msgspec.json.Decoder(schemas.SetQuantity)


class Lane:
    """Stands before `beyond`, which takes every request that this lane does not."""

    def __init__(self, beyond: ASGIApp, observer: Observer, *, body_bytes_max: int, has_cors: bool) -> None:
        self.services: Services | None = None
        """Set when the application has started; until then every request goes beyond."""

        self._beyond = beyond
        self._observer = observer
        self._body_bytes_max = body_bytes_max
        self._has_cors = has_cors

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        services = self.services
        if scope["type"] != "http" or services is None:
            await self._beyond(scope, receive, send)
            return
        path: str = scope["path"]
        method: str = scope["method"]
        template = path
        if path == ITEMS:
            is_hot = method == "POST"
        elif path in (CART, SUMMARY):
            is_hot = method == "GET"
        else:
            is_hot = (
                (method == "PATCH" or method == "DELETE")
                and path.startswith(_LINE)
                and len(path) > _LINE_AT
                and path.find("/", _LINE_AT) < 0
            )
            template = _LINE_TEMPLATE
        if not is_hot:
            await self._beyond(scope, receive, send)
            return
        started = perf_counter()
        context = RequestContext(scope["headers"])
        if self._is_unusual(context.known):
            await self._beyond(scope, receive, send)
            return
        status = 500
        try:
            try:
                if method == "POST":
                    added = read_body(context, await _body_of(receive), _add_item)
                    answer = await cart_calls.add_line(services, context, added)
                elif method == "GET":
                    read = cart_calls.read if path == CART else cart_calls.read_summary
                    answer = await read(services, context)
                elif method == "PATCH":
                    wanted = read_body(context, await _body_of(receive), _set_quantity)
                    answer = await cart_calls.set_quantity(services, context, path[_LINE_AT:], wanted)
                else:
                    answer = await cart_calls.remove_line(services, context, path[_LINE_AT:])
            except asyncio.CancelledError:
                # The process stops and waits no longer: without our answer the server would give a 500.
                answer = problems.answer(context, OutcomeUnknown(), method, path)
            except Exception as error:
                answer = problems.answer(context, error, method, path)
            status = answer.status
            await answer.send(context, send)
        finally:
            self._observer.note(context, method, template, status, perf_counter() - started)

    def _is_unusual(self, known: Mapping[bytes, bytes]) -> bool:
        length = known.get(b"content-length")
        if length is not None and not (
            length.isdigit() and len(length) <= 9 and int(length) <= self._body_bytes_max
        ):
            return True
        return b"transfer-encoding" in known or (self._has_cors and b"origin" in known)


async def _body_of(receive: Receive) -> bytes:
    message: Any = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body") and message["type"] != "http.disconnect":
        return body
    parts = [body]
    while message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
    if message["type"] == "http.disconnect":
        raise ClientException("disconnected")
    return b"".join(parts)
