"""The outermost layer of what Litestar answers: what every request gets, whatever answers it.

Owns HEAD, complete `Allow` headers, preflights, and the headers that no handler gives: those in the request's
context, and what caches are told. Refuses to look at bodies.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any

from litestar.types import ASGIApp, Receive, Send

from cartstore.errors import OutcomeUnknown
from cartstore_api import problems
from cartstore_api.answers import Answer
from cartstore_api.caching import Caching, without_own
from cartstore_api.context import SCOPE_KEY, RawHeader, RequestContext
from cartstore_api.cors import Cors
from cartstore_api.observing import Observer

UNMATCHED = "unmatched"
"""The route of a request that no route takes: its path must not become a label."""


class Edge:
    """Wraps the application's ASGI handler."""

    def __init__(
        self,
        app: ASGIApp,
        methods: Mapping[str, Iterable[str]],
        observer: Observer,
        caching: Caching,
        cors: Cors | None,
    ) -> None:
        """`methods` are those of each route template."""
        self._app = app
        self._observer = observer
        self._caching = caching
        self._cors = cors
        self._allow = {
            template: ", ".join(sorted({*taken, "OPTIONS", *(["HEAD"] if "GET" in taken else [])})).encode()
            for template, taken in methods.items()
        }

        self._allow_any = ", ".join(sorted({"HEAD", "OPTIONS"}.union(*methods.values()))).encode()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        context = RequestContext(scope["headers"])
        client = scope.get("client")
        context.peer = client[0] if client else None
        method: str = scope["method"]
        cors = self._cors
        if cors is not None:
            cors.mark(context)
        is_head = method == "HEAD"
        # A copy: the server looks at its own scope's method to know that a HEAD has no body.
        inner: Any = {**scope, SCOPE_KEY: context, "method": "GET"} if is_head else scope
        inner[SCOPE_KEY] = context
        status, has_begun = 500, False

        async def answer(message: Any) -> None:
            nonlocal status, has_begun
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
                message = {**message, "headers": self._headers_of(inner, context, message)}
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            if scope["path"] == "*":
                # `OPTIONS *` asks what the whole server takes (RFC 9110, 9.3.7).
                await Answer(b"", 204, ((b"allow", self._allow_any),)).send(answer)
                return
            preflight = cors.preflight(method, context) if cors is not None else None
            if preflight is not None:
                await preflight.send(answer)
                return
            await self._app(inner, receive, answer)
        except asyncio.CancelledError:
            # The process stops and waits no longer: without an answer of ours the server would give a 500.
            if has_begun:
                raise
            unknown = problems.answer(context, OutcomeUnknown(), inner["method"], inner["path"])
            await unknown.send(answer)
        finally:
            self._observer.note(context, method, _template_of(inner), status, time.perf_counter() - started)

    def _headers_of(self, scope: Any, context: RequestContext, message: Any) -> list[RawHeader]:
        """The headers of an answer that begins with this message."""
        found = without_own(self._with_allow(scope, message.get("headers", ())))
        found += context.headers
        found += self._caching.headers_of(
            scope["path"],
            scope["method"],
            message["status"],
            has_etag=any(name == b"etag" for name, _ in found),
            has_token=b"authorization" in context.known,
        )
        found.append((b"x-request-id", context.request_id.encode("ascii")))
        return found

    def _with_allow(self, scope: Any, headers: Any) -> Any:
        """Complete `Allow`: Litestar names the methods of one handler, and does not know of HEAD."""
        for number, (name, value) in enumerate(headers):
            if name.lower() == b"allow":
                allow = self._allow.get(scope.get("path_template", ""))
                if allow is None:
                    taken = {*value.decode("ascii").split(", "), *(["HEAD"] if b"GET" in value else [])}
                    allow = ", ".join(sorted(taken)).encode()
                return [*headers[:number], (b"allow", allow), *headers[number + 1 :]]
        return headers


def _template_of(scope: Any) -> str:
    template = scope.get("path_template")
    return template if isinstance(template, str) and "route_handler" in scope else UNMATCHED
