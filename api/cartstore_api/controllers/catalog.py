"""Products and stock, for everyone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from litestar import Controller, Request, Response, get
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, QueryParameter

from cartstore import limits
from cartstore.errors import FeatureOff
from cartstore_api import schemas, views
from cartstore_api.answers import Answer
from cartstore_api.bodies import check_text
from cartstore_api.conditions import matches_etag
from cartstore_api.context import context_of
from cartstore_api.operations import CachedRead, Public
from cartstore_api.paging import Cursor, Limit, check_cursor
from cartstore_api.problems import responses
from cartstore_api.services import answer, services_of

AnyRequest = Request[Any, Any, Any]

_UNCHANGED = ResponseSpec(None, description="The ETag of `If-None-Match` is still the current one.")

Words = Annotated[str | None, QueryParameter(description="Words that the title has, whatever the case.")]
Seller = Annotated[str | None, QueryParameter(description="Only products of this seller.")]


class ProductController(Controller):
    """What is sold. Browsing goes on while the engine is away: `available` is null then."""

    path = "/v1/products"
    tags = ("Catalog",)

    @get(
        operation_class=Public,
        operation_id="ListProducts",
        summary="List products",
        responses=responses(422, 503),
    )
    async def list(
        self,
        request: AnyRequest,
        q: Words = None,
        seller: Seller = None,
        limit: Limit = limits.PAGE_SIZE_DEFAULT,
        cursor: Cursor = None,
    ) -> Response[schemas.Products]:
        """By id. `available` of a variant may lag by a moment here; `GET /v1/stock/{sku}` is exact."""
        services = services_of(request)
        products, next_cursor = await services.store.list_products(
            q=check_text(q, "q", limits.TEXT_LENGTH_MAX) if q else None,
            seller=check_text(seller, "seller", limits.TEXT_LENGTH_MAX) if seller else None,
            limit=limit,
            cursor=check_cursor(cursor),
        )
        shows_stock = services.shows_stock(request)
        levels = await services.store.stock_of(products) if shows_stock else {}
        items = [views.product_view(product, levels) for product in products]
        return answer(schemas.Products(items=items, next_cursor=next_cursor))

    @get(
        "/{product_id:str}",
        operation_class=CachedRead,
        operation_id="ReadProduct",
        summary="Read a product",
        responses={**responses(404, 503), 304: _UNCHANGED},
    )
    async def read(self, request: AnyRequest, product_id: FromPath[str]) -> Response[schemas.Product]:
        """A product with all its variants. `ETag` changes with everything that is told."""
        services = services_of(request)
        product = await services.store.get_product(product_id)
        levels = await services.store.stock_of([product]) if services.shows_stock(request) else {}
        found = views.product_answer(product, levels)
        if matches_etag(context_of(request), found.headers[0][1]):
            return Answer(b"", 304, found.headers).response()
        return found.response()


class StockController(Controller):
    """Exact counters."""

    path = "/v1/stock"
    tags = ("Catalog",)

    @get(
        "/{sku:str}",
        operation_class=Public,
        operation_id="ReadStock",
        summary="Read a SKU's stock",
        responses=responses(401, 404, 422, 503),
    )
    async def read(self, request: AnyRequest, sku: FromPath[str]) -> Response[schemas.Stock]:
        """Exact: holds whose time is over are released first. `available` is null where stock does not limit
        sales."""
        services = services_of(request)
        if not services.shows_stock(request):
            raise FeatureOff("Stock numbers are not public here.")
        return answer(views.stock_view(await services.store.read_stock(sku)))


CONTROLLERS: Sequence[type[Controller]] = (ProductController, StockController)
