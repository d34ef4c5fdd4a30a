"""What pages of other origins may do: the CORS headers of every answer, and the answers to preflights.

Litestar's middleware replaces `Vary`, answers refused preflights with plain text, and is not there for
answers that are made outside of Litestar (the fast lane, a process that stops). The headers of one origin
are made once, so marking a request costs one look-up. Owns the lists of headers that pages may send and read.
"""

from __future__ import annotations

from typing import Final

from cartstore.origins import items_of
from cartstore.settings import Settings
from cartstore_api.answers import Answer
from cartstore_api.context import RawHeader, RequestContext

MAX_AGE_SECONDS: Final = 600
"""How long a browser may keep the answer to a preflight."""

METHODS: Final = "DELETE, GET, HEAD, PATCH, POST, PUT"
REQUEST_HEADERS: Final = (
    *("Accept", "Accept-Language", "Authorization", "Content-Language", "Content-Type"),
    *("Idempotency-Key", "If-Match", "If-None-Match", "Prefer", "X-Cart-Token", "X-Order-Token"),
    # Added by tracing libraries to what they watch; a preflight that refuses them breaks the page.
    *("X-Request-Id", "baggage", "traceparent", "tracestate"),
)
EXPOSED_HEADERS: Final = (
    *("Allow", "Cart-Token", "ETag", "Idempotent-Replayed", "Preference-Applied"),
    *("RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-Id"),
)


class Cors:
    """The rules of the origins in CORS_ORIGINS."""

    def __init__(self, settings: Settings) -> None:
        exposed = (b"access-control-expose-headers", ", ".join(EXPOSED_HEADERS).encode())
        self._marks: dict[bytes, tuple[RawHeader, ...]] = {
            origin.encode(): (
                (b"access-control-allow-origin", origin.encode()),
                (b"access-control-allow-credentials", b"true"),
                exposed,
            )
            for origin in settings.allowed_origins
        }
        allowed = ", ".join((*REQUEST_HEADERS, *items_of(settings.cors_headers)))
        self._preflight: tuple[RawHeader, ...] = (
            (b"access-control-allow-methods", METHODS.encode()),
            (b"access-control-allow-headers", allowed.encode()),
            (b"access-control-max-age", b"%d" % MAX_AGE_SECONDS),
        )

    def mark(self, context: RequestContext) -> None:
        """Let the page that sent this request read the answer, whatever that is, if its origin is listed."""
        origin = context.known.get(b"origin")
        if origin is not None:
            context.headers += self._marks.get(origin, ())

    def preflight(self, method: str, context: RequestContext) -> Answer | None:
        """The answer to a preflight of a listed origin; None for any other request.

        A method or a header that is not in the lists is refused by the browser.
        """
        known = context.known
        if (
            method != "OPTIONS"
            or b"access-control-request-method" not in known
            or known.get(b"origin") not in self._marks
        ):
            return None
        return Answer(b"", 204, self._preflight)


def cors_of(settings: Settings) -> Cors | None:
    """The rules of these settings; None when no origin is listed."""
    return Cors(settings) if settings.allowed_origins else None
