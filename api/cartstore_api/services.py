"""What handlers stand on: made once when the application starts, kept in its state."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from litestar import Request, Response

from cartstore import model
from cartstore.settings import Settings
from cartstore.store import CartStore
from cartstore_api.callers import UNKNOWN_GUEST, Callers
from cartstore_api.cart_text import CartText
from cartstore_api.client_address import ClientAddresses
from cartstore_api.context import context_of
from cartstore_api.observing import Observer
from cartstore_api.remedies import Remedies

READINESS_SECONDS: Final = 0.5
"""How long a look at engine and database serves whoever asks for health or metrics."""


class Services:
    """The store, the callers, and the readings that several resources share."""

    def __init__(
        self,
        settings: Settings,
        store: CartStore,
        callers: Callers,
        observer: Observer,
        client_addresses: ClientAddresses,
    ) -> None:
        self.settings = settings
        self.store = store
        self.callers = callers
        self.observer = observer
        self.client_addresses = client_addresses
        self.text = CartText(settings, store.products_by_revision)
        self.remedies = Remedies(store, self.read_cart)
        self.has_served = False
        """Whether this process has found the gate open once."""
        self._found: dict[str, Any] = {}
        self._found_at = float("-inf")
        self._looking = asyncio.Lock()

    async def readiness(self) -> dict[str, Any]:
        """What `CartStore.readiness` finds, READINESS_SECONDS old at most: however many ask, the engine and
        the database are asked once. Raises nothing."""
        async with self._looking:
            if time.monotonic() - self._found_at >= READINESS_SECONDS:
                self._found = await self.store.readiness()
                self._found_at = time.monotonic()
                if self._found["checks"].get("gate", {}).get("ok"):
                    self.has_served = True
            return self._found

    async def read_cart(self, owner: model.Owner) -> bytes:
        """The cart as it is told."""
        return (await self.read_cart_with_etag(owner))[0]

    async def read_cart_with_etag(self, owner: model.Owner) -> tuple[bytes, bytes]:
        """The cart as it is told, and its ETag. A guest without a cart is told an empty one."""
        cart = _NO_CART if owner is UNKNOWN_GUEST else await self.store.read_cart(owner)
        return await self.text.cart(cart, owner.kind)

    async def read_summary(self, owner: model.Owner) -> bytes:
        """The running totals as they are told."""
        found = model.EMPTY_SUMMARY if owner is UNKNOWN_GUEST else await self.store.read_summary(owner)
        return self.text.summary(found)

    def shows_stock(self, request: Request[Any, Any, Any]) -> bool:
        """Whether this caller may be told stock numbers."""
        if self.settings.stock_counts_public == "on":
            return True
        claims = self.callers.claims_of(context_of(request))
        return claims is not None and (claims.allows("ops:read") or claims.allows("stock:write"))


_NO_CART = model.Cart(
    cart_id=UNKNOWN_GUEST.cart_id,
    summary=model.EMPTY_SUMMARY,
    lines=(),
    created_at_ms=None,
    updated_at_ms=None,
    read_at_ms=0,
)


def services_of(request: Request[Any, Any, Any]) -> Services:
    services: Services = request.app.state.services
    return services


def answer(
    content: Any, *, status: int = 200, is_replay: bool = False, headers: dict[str, str] | None = None
) -> Response[Any]:
    replayed = {"Idempotent-Replayed": "true"} if is_replay else {}
    return Response(content, status_code=status, headers={**replayed, **(headers or {})})
