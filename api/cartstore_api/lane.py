"""The fast lane: the five hot routes of the cart, without routing, signatures and serialization plans.

It runs the very handlers that Litestar has, with the same request object, body decoder, callers and problem
answers; what it leaves out is only the way there. Whatever is unusual about a request (another method or
path, a cross-origin page, a body that announces itself as too large) goes through Litestar. tests/api sends
every request through both and compares the answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from litestar import Litestar, Request, Response
from litestar.exceptions import ClientException
from litestar.types import ASGIApp, Receive, Send

from cartstore_api import problems, schemas
from cartstore_api.bodies import check_media_type, decode
from cartstore_api.controllers.cart import CartController

Handler = Callable[..., Awaitable[Response[Any]]]

_encode = msgspec.json.Encoder().encode
_add_item = msgspec.json.Decoder(schemas.AddItem)
_set_quantity = msgspec.json.Decoder(schemas.SetQuantity)

CART: Final = "/v1/cart"
SUMMARY: Final = "/v1/cart/summary"
ITEMS: Final = "/v1/cart/items"
_ITEM_PREFIX: Final = ITEMS + "/"
_ITEM_TEMPLATE: Final = "/v1/cart/items/{line_id:str}"

_JSON: Final = (b"content-type", b"application/json")


class _Route:
    """One hot route: its template, its handler, and the decoder of its body, if it takes one."""

    __slots__ = ("call", "decoder", "handler", "template")

    def __init__(self, template: str, handler: Any, decoder: msgspec.json.Decoder[Any] | None) -> None:
        self.template = template
        self.handler = handler
        self.call: Handler = handler.fn
        self.decoder = decoder


class Lane:
    """Wraps Litestar's ASGI handler; answers hot requests itself."""

    def __init__(self, app: Litestar, beyond: ASGIApp) -> None:
        self._app = app
        self._beyond = beyond
        self._body_bytes_max = int(app.request_max_body_size or 0)  # type: ignore[arg-type]
        self._has_cors = app.cors_config is not None
        controller = CartController
        self._by_path = {
            ("GET", CART): _Route(CART, controller.read, None),
            ("GET", SUMMARY): _Route(SUMMARY, controller.read_summary, None),
            ("POST", ITEMS): _Route(ITEMS, controller.add_line, _add_item),
        }
        self._by_line = {
            "PATCH": _Route(_ITEM_TEMPLATE, controller.set_quantity, _set_quantity),
            "DELETE": _Route(_ITEM_TEMPLATE, controller.remove_line, None),
        }

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        method: str = scope["method"] if scope["type"] == "http" else ""
        arguments: dict[str, Any] = {}
        route = self._by_path.get((method, path))
        if route is None and method in self._by_line and path.startswith(_ITEM_PREFIX):
            line_id = path[len(_ITEM_PREFIX) :]
            if line_id and "/" not in line_id:
                route = self._by_line[method]
                arguments["line_id"] = line_id
        if route is None or self._is_unusual(scope, route):
            await self._beyond(scope, receive, send)
            return
        scope["litestar_app"] = self._app
        scope["path_template"] = route.template
        scope["route_handler"] = route.handler
        request: Request[Any, Any, Any] = Request(scope, receive, send)
        try:
            if route.decoder is not None:
                body = await self._body_of(receive)
                check_media_type(request.headers.get("content-type"))
                if not body:
                    raise problems.body_required()
                arguments["data"] = decode(body, route.decoder)
            response = await route.call(None, request, **arguments)
        except Exception as error:
            response = problems.answer(request, error)
        await send_whole(response, send)

    def _is_unusual(self, scope: Any, route: _Route) -> bool:
        for name, value in scope["headers"]:
            if name == b"content-length":
                if not value.isdigit() or len(value) > 9 or int(value) > self._body_bytes_max:
                    return True
            elif name == b"transfer-encoding" or (name == b"origin" and self._has_cors):
                return True
        return False

    async def _body_of(self, receive: Receive) -> bytes:
        message: Any = await receive()
        body: bytes = message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise ClientException("disconnected")
        if not message.get("more_body"):
            return body
        parts = [body]
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientException("disconnected")
            parts.append(message.get("body", b""))
        return b"".join(parts)


async def send_whole(response: Response[Any], send: Send) -> None:
    """Send an answer whose content is one of the contract's shapes, past Litestar."""
    body = b"" if response.content is None else _encode(response.content)
    headers: list[tuple[bytes, bytes]] = []
    if body:
        media_type = response.media_type
        headers.append(_JSON if not media_type else (b"content-type", str(media_type).encode()))
        headers.append((b"content-length", str(len(body)).encode()))
    for name, value in response.headers.items():
        headers.append((name.lower().encode(), value.encode()))
    start: Any = {"type": "http.response.start", "status": response.status_code, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})
