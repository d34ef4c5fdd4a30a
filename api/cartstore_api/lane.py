"""The fast lane: the five hot routes of the cart, without Litestar's request, routing and encoding.

Both lanes run the same calls (`cart_calls`) with the same context, body reading, problems and answers; what
this one leaves out is only the way there. Whatever is unusual about a request (another method or path, no
host or two, a body that announces itself as too large or not at all) goes the other way. tests/api sends each
request through both and compares the answers. How requests get here is in connection.py.
"""

from __future__ import annotations

import asyncio
import re
from time import perf_counter
from typing import Final

from cartstore.errors import OutcomeUnknown, StoreUnavailable
from cartstore_api import cart_calls, framing, problems, schemas
from cartstore_api.answers import Answer
from cartstore_api.bodies import BodyDecoder, read_body
from cartstore_api.caching import Caching
from cartstore_api.context import RawHeader, RequestContext
from cartstore_api.cors import Cors
from cartstore_api.field_checks import Bounds
from cartstore_api.observing import Observer
from cartstore_api.services import Services

CART: Final = "/v1/cart"
SUMMARY: Final = "/v1/cart/summary"
ITEMS: Final = "/v1/cart/items"

_LINE_TEMPLATE: Final = "/v1/cart/items/{line_id:str}"
_LINE_AT: Final = len(ITEMS) + 1
_LINE: Final = re.compile(rb"/v1/cart/items/[!-~]+\Z")
_ODD: Final = re.compile(rb"[%?#/]")
"""What a line's id cannot have without being escaped, and what would not be part of it."""

_URL_MAX: Final = 2_048
_LENGTH_DIGITS_MAX: Final = 12
"""Beyond these the server has limits of its own, and answers itself."""

_PATHS: Final = {
    (b"POST", b"/v1/cart/items"): ("POST", ITEMS),
    (b"GET", b"/v1/cart"): ("GET", CART),
    (b"GET", b"/v1/cart/summary"): ("GET", SUMMARY),
}
_NOT_THERE: Final = "", ""
_LINE_METHODS: Final = {b"PATCH": "PATCH", b"DELETE": "DELETE"}
_WITH_BODY: Final = frozenset({"POST", "PATCH"})
_UNUSUAL: Final = frozenset({b"expect", b"transfer-encoding", b"upgrade"})

_add_item = BodyDecoder(schemas.AddItem)
_set_quantity = BodyDecoder(schemas.SetQuantity)


class HotRequest:
    """One request of a hot route; `body` is filled in by who made it."""

    __slots__ = ("body", "context", "method", "path", "started", "template")

    def __init__(self, method: str, path: str, template: str, context: RequestContext) -> None:
        self.method = method
        self.path = path
        self.template = template
        self.context = context
        self.body = b""
        self.started = perf_counter()


class Lane:
    """Takes hot requests, and answers them."""

    def __init__(
        self, observer: Observer, caching: Caching, cors: Cors | None, bounds: Bounds, *, body_bytes_max: int
    ) -> None:
        self.services: Services | None = None
        """Set when the application has started; until then nothing is taken."""

        self._host: bytes | None = None
        """The last value of `Host` that was found to be one: nearly always the same."""

        self._observer = observer
        self._bounds = bounds
        self._body_bytes_max = body_bytes_max
        self._caching = caching
        self._cors = cors

    def take(self, method: bytes, url: bytes, headers: list[RawHeader]) -> HotRequest | None:
        """The request that begins like this; None when it has to go the other way."""
        name, path = _PATHS.get((method, url), _NOT_THERE)
        template = path
        if not name:
            name = _LINE_METHODS.get(method, "")
            if not name or len(url) > _URL_MAX or not _LINE.match(url) or _ODD.search(url, _LINE_AT):
                return None
            path, template = url.decode("ascii"), _LINE_TEMPLATE
        if self.services is None:
            return None
        context = RequestContext(headers)
        known = context.known
        host = known.get(b"host")
        if host != self._host:
            if host is None or not framing.is_host(host):
                return None
            self._host = host
        if len(known) != len(headers) and sum(name == b"host" for name, _ in headers) > 1:
            return None
        length = known.get(b"content-length")
        if length is not None and (
            len(length) > _LENGTH_DIGITS_MAX
            # What needs no body is answered without waiting for one.
            or int(length) > (self._body_bytes_max if name in _WITH_BODY else 0)
        ):
            return None
        if not _UNUSUAL.isdisjoint(known):
            return None
        if self._cors is not None:
            self._cors.mark(context)
        return HotRequest(name, path, template, context)

    async def answer(self, request: HotRequest) -> Answer:
        """What a request is answered, whatever becomes of it."""
        services, context, method = self.services, request.context, request.method
        assert services is not None, "taken before the start"
        try:
            if method in _WITH_BODY and b"authorization" in context.known:
                # Before the body is looked at: who may not be here is told that, whatever was sent.
                services.callers.claims_of(context)
            if method == "POST":
                added = read_body(context, request.body, _add_item, self._bounds)
                return await cart_calls.add_line(services, context, added)
            if method == "GET":
                read = cart_calls.read if request.path is CART else cart_calls.read_summary
                return await read(services, context)
            line_id = request.path[_LINE_AT:]
            if method == "PATCH":
                wanted = read_body(context, request.body, _set_quantity, self._bounds)
                return await cart_calls.set_quantity(services, context, line_id, wanted)
            return await cart_calls.remove_line(services, context, line_id)
        except asyncio.CancelledError:
            return self.unknown(request)
        except Exception as error:
            return problems.answer(context, error, method, request.path)

    def caching_lines(self, request: HotRequest, status: int) -> bytes:
        """The header lines that tell caches what to do with an answer."""
        caching = self._caching
        return caching.cart_read if request.path is CART and status < 400 else caching.cart

    def unknown(self, request: HotRequest) -> Answer:
        """What is said when the process stops and waits no longer: the change may have been applied."""
        return problems.answer(request.context, OutcomeUnknown(), request.method, request.path)

    def never_begun(self, request: HotRequest) -> Answer:
        """What is said when the process stops before the request had its turn."""
        error = StoreUnavailable("The service stops; the change was not applied.")
        return problems.answer(request.context, error, request.method, request.path)

    def note(self, request: HotRequest, status: int) -> None:
        """Note an answered request."""
        self._observer.note(
            request.context, request.method, request.template, status, perf_counter() - request.started
        )

    def note_left(self, request: HotRequest) -> None:
        """Note a request whose caller left before all of it was there."""
        request.context.code = "MALFORMED_JSON"
        self.note(request, 400)
