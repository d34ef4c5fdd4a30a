"""`Cache-Control` and `Vary` of every answer. Owns who may keep an answer, and what tells callers apart.

What belongs to somebody is not kept; a cart that was read with its ETag may be kept by its own buyer, who
asks each time whether it changed. Products are for everybody, as long as the request has no access token: a
caller with one may be told more. Problems are never kept. A path that is not listed belongs to somebody.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cartstore_api.context import RawHeader

NO_STORE: Final = b"no-store"
PRIVATE: Final = b"private, no-store"
REVALIDATED: Final = b"private, no-cache"
PUBLIC: Final = b"public, no-cache"

_CALLER: Final = "Authorization, Cookie, X-Cart-Token"
_ORDERS: Final = ("/v1/orders", "/v1/payments")
_CATALOG_AND_DOCS: Final = ("/v1/products", "/schema")
_NOBODYS: Final = ("/v1/stock/", "/v1/webhooks/", "/health/", "/metrics")
_OWNED: Final = frozenset({b"cache-control", b"vary"})


class Caching:
    """The rules of one application."""

    def __init__(self, *, has_cors: bool) -> None:
        origin = ", Origin" if has_cors else ""
        self._vary_by_caller = f"{_CALLER}{origin}".encode()
        self._vary_by_order = f"{_CALLER}, X-Order-Token{origin}".encode()
        self._vary_by_token = f"Authorization{origin}".encode()
        preflight = "Access-Control-Request-Headers, Access-Control-Request-Method"
        self._vary_by_preflight = f"{preflight}{origin}".encode()
        self.cart_read: Final = self._lines(REVALIDATED)
        """Header lines of a cart that was read, and of the answer that it is unchanged."""

        self.cart: Final = self._lines(PRIVATE)
        """Header lines of any other answer of the cart's routes."""

    def _lines(self, control: bytes) -> bytes:
        return b"cache-control: %b\r\nvary: %b\r\n" % (control, self._vary_by_caller)

    def headers_of(
        self, path: str, method: str, status: int, *, has_etag: bool, has_token: bool
    ) -> tuple[RawHeader, RawHeader]:
        """The two headers of an answer. `has_token`: the request has an `Authorization`."""
        is_kept = method in ("GET", "HEAD") and status < 400
        if path.startswith(_CATALOG_AND_DOCS) or path == "/":
            vary = self._vary_by_token
            control = PRIVATE if has_token else PUBLIC if is_kept else NO_STORE
        elif path.startswith(_NOBODYS):
            control, vary = NO_STORE, self._vary_by_token
        else:
            control = REVALIDATED if is_kept and has_etag else PRIVATE
            vary = self._vary_by_order if path.startswith(_ORDERS) else self._vary_by_caller
        if method == "OPTIONS":
            control, vary = NO_STORE, self._vary_by_preflight
        return (b"cache-control", control), (b"vary", vary)


def without_own(headers: Iterable[RawHeader]) -> list[RawHeader]:
    """The headers of an answer without those that only this module decides."""
    return [header for header in headers if header[0].lower() not in _OWNED]
