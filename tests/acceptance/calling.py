"""Callers of a shop over HTTP, and the history of what they were told.

Every call is recorded as ok (2xx, 304), refused (4xx, or a 5xx that says that nothing was applied) or unknown
(no answer, 504, anything else). Every problem is held to the contract as it comes in, whatever test sent it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Literal

import httpx
import msgspec

from .running import PATIENCE_SECONDS
from .shapes import check_answer

Verdict = Literal["ok", "refused", "unknown"]

ADDRESS = {"street": "1 Quay", "city": "Leith", "postal_code": "EH6", "country": "GB"}

_keys = itertools.count(1)
_CONNECTIONS = 120


class Call(msgspec.Struct, kw_only=True):
    """One call and what came of it. `status` is 0 when no answer came."""

    caller: str
    method: str
    path: str
    sent: Any
    verdict: Verdict
    status: int
    body: Any
    headers: dict[str, str]

    @property
    def code(self) -> str | None:
        """Of a problem."""
        return self.body.get("code") if isinstance(self.body, dict) and self.status >= 400 else None

    @property
    def is_replay(self) -> bool:
        return self.headers.get("idempotent-replayed") == "true"

    def __repr__(self) -> str:
        return (
            f"<{self.caller}: {self.method} {self.path} {self.sent!r} -> {self.status} {self.body!r:.600} "
            f"({self.verdict})>"
        )


class History(list[Call]):
    """Calls in the order in which their answers came."""

    def of(self, verdict: Verdict) -> list[Call]:
        return [call for call in self if call.verdict == verdict]

    def assert_no_defect(self) -> None:
        """No answer was a 500, and nothing was left unanswered."""
        bad = [call for call in self if call.verdict == "unknown" or call.status == 500]
        assert not bad, bad[:5]


class Caller:
    """Somebody who calls: a member or an administrator by access token, or a guest by guest token."""

    def __init__(self, client: httpx.AsyncClient, history: History, name: str, **headers: str) -> None:
        self.client = client
        self.history = history
        self.name = name
        self.headers = {name.replace("_", "-"): text for name, text in headers.items()}

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        content: bytes | None = None,
        content_type: str = "application/json",
        **headers: str,
    ) -> Call:
        """Send one request; raises nothing. `key` is the Idempotency-Key."""
        sent = dict(self.headers)
        if body is not None:
            content = msgspec.json.encode(body)
        if content is not None:
            sent["Content-Type"] = content_type
        if key is not None:
            sent["Idempotency-Key"] = key
        sent.update({name.replace("_", "-"): text for name, text in headers.items()})
        verdict: Verdict
        try:
            answer = await self.client.request(method, path, content=content, headers=sent)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            # It never left this machine.
            verdict, status, told, got = "refused", 0, repr(error), {}
        except httpx.TransportError as error:
            verdict, status, told, got = "unknown", 0, repr(error), {}
        else:
            status, got = answer.status_code, {k.lower(): v for k, v in answer.headers.items()}
            told = _decoded(answer)
            verdict = _verdict_of(status)
            check_answer(method, path, answer, told)
            if "x-cart-token" not in {name.lower() for name in sent} and "cart-token" in got:
                self.headers.setdefault("X-Cart-Token", got["cart-token"])
        call = Call(
            caller=self.name,
            method=method,
            path=path,
            sent=body if content is None or body is not None else content[:200],
            verdict=verdict,
            status=status,
            body=told,
            headers=got,
        )
        self.history.append(call)
        return call

    async def get(self, path: str, **headers: str) -> Any:
        """The body of a GET that must be answered with 200."""
        call = await self.call("GET", path, **headers)
        assert call.status == 200, call
        return call.body

    # --- the verbs that most tests need ----------------------------------------------------------

    async def add(self, sku: str, quantity: int = 1, *, key: str | None = None, **more: Any) -> Call:
        return await self.call("POST", "/v1/cart/items", {"sku": sku, "quantity": quantity, **more}, key=key)

    async def check_out(self, *, key: str | None = None, **more: Any) -> Call:
        body = {"payment_method": "card", "gateway": "simulated", "shipping_address": ADDRESS, **more}
        return await self.call("POST", "/v1/checkout", body, key=key or new_key())

    async def pay(self, payment_id: str, outcome: str = "succeed") -> Call:
        return await self.call("POST", f"/v1/payments/{payment_id}/simulate", {"outcome": outcome})

    async def cancel(self, order_id: str) -> Call:
        return await self.call("POST", f"/v1/orders/{order_id}/cancel")

    async def send_fix(self, problem: Call, *, key: str | None = None) -> Call:
        """The `fix` of a problem, exactly as it came."""
        fix = problem.body["fix"]
        return await self.call(fix["method"], fix["path"], fix["body"], key=key)

    # --- what administrators do ------------------------------------------------------------------

    async def put_product(
        self,
        product_id: str,
        *skus: str,
        price: str = "10.00",
        stock: int | None = None,
        seller: str | None = "Quay & Sons",
        **variant: Any,
    ) -> None:
        """A product with one variant per SKU (the option "Kind" tells them apart), and their stock."""
        options = ["Kind"] if len(skus) > 1 else []
        body = {
            "title": product_id.title(),
            "seller": seller,
            "options": options,
            "currency": "USD",
            "variants": [
                {"sku": sku, "price": price, "options": {"Kind": sku} if options else {}, **variant}
                for sku in skus
            ],
        }
        put = await self.call("PUT", f"/v1/admin/products/{product_id}", body)
        assert put.status == 200, put
        for sku in skus if stock is not None else ():
            await self.put_stock(sku, stock)

    async def put_stock(self, sku: str, on_hand: int | None) -> None:
        body = {"on_hand": on_hand, "reason": "count", "reference": new_key()}
        put = await self.call("PUT", f"/v1/admin/stock/{sku}", body)
        assert put.status == 200, put


@asynccontextmanager
async def calling(url: str, *, timeout_seconds: float = PATIENCE_SECONDS) -> AsyncIterator[Callers]:
    """Callers of the shop at this address, who share a pool of connections but no cookies."""
    limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
    # One client serves many callers: a cookie that one is given must not be sent by another.
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    async with httpx.AsyncClient(
        base_url=url, timeout=timeout_seconds, limits=limits, cookies=no_cookies, trust_env=False
    ) as client:
        yield Callers(client)


class Callers:
    """Makes callers; all of them write into one history."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.history = History()

    def guest(self, name: str = "guest") -> Caller:
        """Has no token yet; keeps the first one that an answer brings."""
        return Caller(self.client, self.history, name)

    def bearer(self, name: str, token: str) -> Caller:
        return Caller(self.client, self.history, name, Authorization=f"Bearer {token}")


def new_key() -> str:
    """A key or reference that nobody else of this process uses."""
    return f"acceptance-{next(_keys)}"


async def until(holds: Any, timeout_seconds: float = PATIENCE_SECONDS) -> Any:
    """Poll a coroutine function until it gives something true; gives that."""
    async with asyncio.timeout(timeout_seconds):
        while not (found := await holds()):  # noqa: ASYNC110 (the shop sets no event here)
            await asyncio.sleep(0.05)
    return found


def _decoded(answer: httpx.Response) -> Any:
    if "json" in answer.headers.get("content-type", "") and answer.content:
        return msgspec.json.decode(answer.content)
    return answer.text


def _verdict_of(status: int) -> Verdict:
    if 200 <= status < 300 or status == 304:
        return "ok"
    return "refused" if 400 <= status < 500 or status == 503 else "unknown"
