"""Builds the Litestar application. Owns the order of the parts and what lives as long as the application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from litestar import Litestar, Response, Router
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import License, Tag
from litestar.routes import HTTPRoute

from cartstore import open_store
from cartstore.redis.heart import beating
from cartstore.settings import Settings
from cartstore.store import CartStore
from cartstore_api import operations, problems
from cartstore_api.caching import Caching
from cartstore_api.callers import Callers
from cartstore_api.client_address import ClientAddresses
from cartstore_api.controllers import admin, cart, catalog, orders, service
from cartstore_api.cors import Cors, cors_of
from cartstore_api.docs import DocsPage, Document
from cartstore_api.doorbell import Doorbell
from cartstore_api.edge import Edge
from cartstore_api.field_checks import Bounds, bounds_of
from cartstore_api.guards import before_body
from cartstore_api.lane import Lane
from cartstore_api.observing import Observer
from cartstore_api.services import Services

VERSION = "1"

_DESCRIPTION = """\
Carts that hold stock the moment something is added, checkouts that are archived for good, and no unit sold
twice.

Money is a decimal string in the named currency, times are RFC 3339 in UTC. Guests are known by a signed
token (cookie or `X-Cart-Token`), signed-in callers by `Authorization: Bearer`. Every mutation takes
`Idempotency-Key` and `If-Match`. Errors are RFC 9457 problems: `code` is stable, and `fix` is a request that
solves the problem, to be sent as it is. Each operation lists its codes, also as `x-codes`; more may come.
Any request may be answered with `MALFORMED_REQUEST`, `REQUEST_TIMEOUT`, `NOT_FOUND`, `METHOD_NOT_ALLOWED`,
`HEADERS_TOO_LARGE`, `RATE_LIMITED` and `INTERNAL`.
"""

_TAGS = {
    "Cart": "One active cart per caller, and the holds of its lines.",
    "Checkout": "From a cart to orders that are paid for together.",
    "Orders": "What was bought.",
    "Payments": "The one payment of a checkout, and what gateways tell of it.",
    "Catalog": "What is sold, and how much of it there is. Public.",
    "Admin: catalog": "Changing what is sold. Scope `catalog:write`.",
    "Admin: stock": "Changing what is there to be sold. Scope `stock:write`; reading `ops:read`.",
    "Admin: operations": "Looking into the machine. Scope `ops:read`; changing `admin`.",
    "Service": "Health and metrics.",
}


class Application(Litestar):
    """Litestar, and what the connections of the server need (connection.py)."""

    settings: Settings
    observer: Observer
    client_addresses: ClientAddresses
    caching: Caching
    cors: Cors | None
    bounds: Bounds
    lane: Lane


OpenStore = Callable[[Settings], AbstractAsyncContextManager[CartStore]]


def create_app(
    settings: Settings,
    *,
    data_dir: Path | None = None,
    open_store: OpenStore | None = None,
) -> Application:
    """The application of these settings; its store is opened when it starts and closed when it ends.

    Raises ConfigurationError when the settings do not allow to serve.
    """
    callers = Callers(settings)
    # Access lines are of level info.
    observer = Observer(settings.access_log if settings.log_level in ("debug", "info") else "off")
    client_addresses = ClientAddresses(settings.trusted_proxies)
    opened = open_store or _with_doorbell(data_dir)

    @asynccontextmanager
    async def serving(app: Litestar) -> AsyncIterator[None]:
        try:
            # Before the store is open: opening it may take a whole rebuild.
            async with beating(settings, "api"), opened(settings) as store:
                services = Services(settings, store, callers, observer, client_addresses)
                app.state.services = services
                lane.services = services
                yield
        finally:
            observer.close()

    app = Application(
        route_handlers=[
            *cart.CONTROLLERS,
            *orders.CONTROLLERS,
            *catalog.CONTROLLERS,
            *admin.CONTROLLERS,
            *service.CONTROLLERS,
        ],
        lifespan=[serving],
        exception_handlers={Exception: problems.handle},
        guards=[before_body],
        request_max_body_size=settings.max_body_bytes,
        openapi_config=OpenAPIConfig(
            title="cartstore",
            version=VERSION,
            description=_DESCRIPTION,
            license=License(name="MIT", identifier="MIT"),
            components=operations.components(callers.cookie_name),
            tags=[Tag(name=name, description=text) for name, text in _TAGS.items()],
            render_plugins=[DocsPage(), Document()],
            use_handler_docstrings=True,
            openapi_router=Router(
                "/schema", route_handlers=[], include_in_schema=False, after_request=_problem_when_absent
            ),
        ),
        logging_config=None,
    )
    cors = cors_of(settings)
    caching = Caching(has_cors=cors is not None)
    app.asgi_handler = Edge(app.asgi_handler, _methods_of(app), observer, caching, cors)
    app.settings, app.observer, app.client_addresses = settings, observer, client_addresses
    app.caching, app.cors, app.bounds = caching, cors, bounds_of(settings)
    app.lane = lane = Lane(observer, caching, cors, app.bounds, body_bytes_max=settings.max_body_bytes)
    return app


def _methods_of(app: Litestar) -> dict[str, set[str]]:
    """The methods that each path takes, over all routes of it."""
    methods: dict[str, set[str]] = {}
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            methods.setdefault(route.path_format, set()).update(route.methods)
    return methods


def _with_doorbell(data_dir: Path | None) -> OpenStore:
    @asynccontextmanager
    async def opened(settings: Settings) -> AsyncIterator[CartStore]:
        if not settings.redis_url:
            # The embedded engine of this process: its store archives its own events.
            async with open_store(settings, data_dir=data_dir) as store:
                yield store
            return
        with Doorbell(settings) as doorbell:
            async with open_store(settings, data_dir=data_dir, doorbell=doorbell) as store:
                yield store

    return opened


def _problem_when_absent(response: Response[Any]) -> Response[Any]:
    """Litestar answers unknown paths beside the documentation with a page of its own."""
    if response.status_code == 404:
        raise NotFoundException
    return response
