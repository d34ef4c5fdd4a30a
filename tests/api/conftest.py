"""The API on the real engine and the real database, called through ASGI.

    settings     the application's; change some with `make_api(guest_carts="off")`
    make_api     starts an application and gives an `Api` on it
    api          an `Api` on an application with the default settings

`Api` has one httpx client per kind of caller, and short words for what most tests arrange.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jwt
import msgspec
import pytest
import uvloop
from cartstore_api.app import Application, create_app
from cartstore_api.server import Server
from documented import check_documented
from litestar import Litestar

from cartstore import open_store
from cartstore.settings import Settings
from cartstore.store import CartStore

SECRET = "the secret of the tests, long enough"
ADDRESS = {"street": "1 Main St", "city": "Springfield", "country": "US"}

NODE_TOOLS = Path(__file__).parents[2] / "build" / "generators" / "node_modules"
# `make setup` says in one line that Node.js is missing; the generators of Python run everywhere.
collect_ignore = [] if NODE_TOOLS.is_dir() else ["test_node_generators.py"]

_numbers = itertools.count(1)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Connections are served by uvloop, which looks at sockets at other moments than asyncio does."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name == "test_connection.py":
        factories["uvloop"] = uvloop.new_event_loop
    elif item.path.name in ("test_connection_limits.py", "test_framing.py"):
        return {"uvloop": uvloop.new_event_loop}
    return factories


def token_of(user: str, scope: str = "", *, secret: str = SECRET, **claims: Any) -> str:
    """An access token as an issuer would make it; a claim of None is left out."""
    payload = {"sub": user, "exp": int(time.time()) + 600, "scope": scope, **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, secret, algorithm="HS256")


def bearer(user: str, scope: str = "", **claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token_of(user, scope, **claims)}"}


class Api:
    """An application under test and the callers of it, over HTTP when it has a `port`."""

    def __init__(
        self, app: Litestar, settings: Settings, stack: AsyncExitStack, port: int | None = None
    ) -> None:
        self.app = app
        self.settings = settings
        self.port = port
        self._stack = stack
        self.ana = self.client(bearer("ana"))
        self.ben = self.client(bearer("ben"))
        self.admin = self.client(bearer("root", "admin"))
        self.anyone = self.client()

    @property
    def store(self) -> CartStore:
        store: CartStore = self.app.state.services.store
        return store

    def client(self, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
        """A caller with a cookie jar of its own; its answers are held to the OpenAPI document."""
        hooks: dict[str, Any] = {"response": [check_documented]}
        if self.port is not None:
            # Not verified, since nothing is: reading the certificates of the world takes long.
            url = f"http://127.0.0.1:{self.port}"
            client = httpx.AsyncClient(base_url=url, headers=headers, verify=False, event_hooks=hooks)
        else:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            client = httpx.AsyncClient(
                transport=transport, base_url="http://shop.test", headers=headers, event_hooks=hooks
            )
        self._stack.push_async_callback(client.aclose)
        return client

    async def sell(
        self, sku: str = "MUG", *, stock: int | None = 10, price: str = "9.99", **variant: Any
    ) -> str:
        """A product of one variant, with this stock; its SKU."""
        product = {"title": f"The {sku}", "images": [f"https://img.test/{sku}.jpg"]}
        product.update(
            {name: variant.pop(name) for name in ("seller", "active", "currency") if name in variant}
        )
        product["variants"] = [{"sku": sku, "price": price, **variant}]
        await self.done(self.admin.put(f"/v1/admin/products/p-{sku}", json=product))
        if stock:
            await self.stock(sku, stock)
        return sku

    async def stock(self, sku: str, delta: int) -> None:
        body = {"delta": delta, "reason": "test", "reference": f"r{next(_numbers)}"}
        await self.done(self.admin.post(f"/v1/admin/stock/{sku}/adjust", json=body))

    async def add(self, sku: str = "MUG", quantity: int = 1, *, by: httpx.AsyncClient | None = None) -> Any:
        return await self.done(
            (by or self.ana).post("/v1/cart/items", json={"sku": sku, "quantity": quantity})
        )

    async def check_out(
        self, *, by: httpx.AsyncClient | None = None, key: str | None = None, **body: Any
    ) -> Any:
        return await self.done(self.checking_out(by=by, key=key, **body))

    async def checking_out(
        self, *, by: httpx.AsyncClient | None = None, key: str | None = None, **body: Any
    ) -> httpx.Response:
        asked = {"gateway": "simulated", "payment_method": "card", "shipping_address": ADDRESS, **body}
        headers = {"Idempotency-Key": key or f"k{next(_numbers)}"}
        return await (by or self.ana).post("/v1/checkout", json=asked, headers=headers)

    async def pay(
        self, payment_id: str, outcome: str = "succeed", *, by: httpx.AsyncClient | None = None
    ) -> Any:
        return await self.done(
            (by or self.ana).post(f"/v1/payments/{payment_id}/simulate", json={"outcome": outcome})
        )

    async def archive(self) -> None:
        """Carry everything that happened into the record."""
        await self.store.drain_outbox()

    async def fixed(
        self, problem: Any, *, by: httpx.AsyncClient | None = None, **headers: str
    ) -> httpx.Response:
        """Send a problem's fix as it is."""
        fix = problem["fix"]
        return await (by or self.ana).request(fix["method"], fix["path"], json=fix["body"], headers=headers)

    async def done(self, answer: Awaitable[httpx.Response]) -> Any:
        response = await answer
        assert response.is_success, response.text
        return response.json()


@pytest.fixture
def settings(redis_url: str, database_url: str) -> Settings:
    return Settings(redis_url=redis_url, database_url=database_url, jwt_secret=SECRET, checkout_ack="engine")


def nobody_hears() -> None:
    """No worker runs beside these tests: events wait for `Api.archive`, so that nothing happens by itself."""


MakeApi = Callable[..., Awaitable[Api]]


@asynccontextmanager
async def serving(app: Litestar) -> AsyncIterator[None]:
    """The application's lifespan in a task of its own: Litestar must leave it in the task that entered it,
    and pytest sets up and tears down in different ones."""
    started, over = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with app.lifespan():
            started.set()
            await over.wait()

    task = asyncio.create_task(live())
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not started.is_set():
        await task
    try:
        yield
    finally:
        over.set()
        await task


@asynccontextmanager
async def listening(app: Application, **flags: Any) -> AsyncIterator[Server]:
    """The application, started already, behind the server that we ship with; `port_of` tells where."""
    server = Server(app, **flags)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started:
                assert not task.done()
                await asyncio.sleep(0.01)
            yield server
        finally:
            server.should_exit = True
            await task


async def comes(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds that the server brings about."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (nothing tells when)
            await asyncio.sleep(0.001)


def port_of(server: Server) -> int:
    return int(server.servers[0].sockets[0].getsockname()[1])


@pytest.fixture
async def make_api(settings: Settings) -> AsyncIterator[MakeApi]:
    async with AsyncExitStack() as stack:

        async def make(**changes: Any) -> Api:
            chosen = msgspec.structs.replace(settings, **changes)
            app = create_app(chosen, open_store=partial(open_store, doorbell=nobody_hears))
            await stack.enter_async_context(serving(app))
            return Api(app, chosen, stack)

        yield make


@pytest.fixture
async def api(make_api: MakeApi) -> Api:
    return await make_api()
