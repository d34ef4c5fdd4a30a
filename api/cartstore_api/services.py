"""What handlers stand on: made once when the application starts, kept in its state."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response

from cartstore import model
from cartstore.settings import Settings
from cartstore.store import CartStore
from cartstore_api import schemas, views
from cartstore_api.callers import UNKNOWN_GUEST, Callers
from cartstore_api.remedies import Remedies

_DAY_MS = 86_400_000


class Services:
    """The store, the callers, and the readings that several resources share."""

    def __init__(self, settings: Settings, store: CartStore, callers: Callers) -> None:
        self.settings = settings
        self.store = store
        self.callers = callers
        self.remedies = Remedies(store, self.read_cart)
        self._cart_ttl_ms = {
            "guest": settings.guest_cart_ttl_days * _DAY_MS,
            "user": settings.member_cart_ttl_days * _DAY_MS,
        }

    async def read_cart(self, owner: model.Owner) -> schemas.Cart:
        return (await self.read_cart_with_etag(owner))[0]

    async def read_cart_with_etag(self, owner: model.Owner) -> tuple[schemas.Cart, str]:
        """The cart as it is told, and its ETag. A guest without a cart is told an empty one."""
        cart = await self._cart_of(owner)
        products = await self.store.products_by_revision(views.revisions_of(cart.lines))
        return self.view(cart, products, owner.kind), views.etag_of(cart, products)

    def view(self, cart: model.Cart, products: views.Products, kind: model.OwnerKind) -> schemas.Cart:
        return views.cart_view(
            cart,
            products,
            owner=kind,
            currency=self.settings.currency,
            cart_ttl_ms=self._cart_ttl_ms[kind],
        )

    async def read_summary(self, owner: model.Owner) -> schemas.Summary:
        found = model.EMPTY_SUMMARY if owner is UNKNOWN_GUEST else await self.store.read_summary(owner)
        return self.summary(found)

    def summary(self, summary: model.Summary) -> schemas.Summary:
        return views.summary_view(summary, self.settings.currency)

    async def line_change(self, result: model.LineResult) -> schemas.LineChange:
        """What the mutation of one line answers."""
        line, summary = result.line, self.summary(result.summary)
        if line is None:
            return schemas.LineChange(line=None, summary=summary, version=summary.version)
        products = await self.store.products_by_revision(views.revisions_of((line,)))
        told = views.line_view(line, products, currency=summary.currency, now_ms=result.read_at_ms)
        return schemas.LineChange(line=told, summary=summary, version=summary.version)

    def shows_stock(self, request: Request[Any, Any, Any]) -> bool:
        """Whether this caller may be told stock numbers."""
        if self.settings.stock_counts_public == "on":
            return True
        claims = self.callers.claims_of(request)
        return claims is not None and (claims.allows("ops:read") or claims.allows("stock:write"))

    async def _cart_of(self, owner: model.Owner) -> model.Cart:
        if owner is UNKNOWN_GUEST:
            return _NO_CART
        return await self.store.read_cart(owner)


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


def replayed(is_replay: bool) -> dict[str, str]:
    """The header of an answer that repeats the first one."""
    return {"Idempotent-Replayed": "true"} if is_replay else {}


def answer(
    content: Any, *, status: int = 200, is_replay: bool = False, headers: dict[str, str] | None = None
) -> Response[Any]:
    return Response(content, status_code=status, headers={**replayed(is_replay), **(headers or {})})
