"""What browsers and caches are told: CORS, preflights, `Cache-Control`, `Vary`, and the same-site rule."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httpx
import pytest
from cartstore_api import callers as callers_module
from cartstore_api import cors as cors_module
from conftest import bearer

FRONT = "https://front.example"
CALLER = {"Authorization", "Cookie", "X-Cart-Token"}
ORDER = CALLER | {"X-Order-Token"}
TOKEN = {"Authorization"}

ANSWERS: list[tuple[str, str, int, str, set[str]]] = [
    ("GET", "/v1/cart", 200, "private, no-cache", CALLER),
    ("HEAD", "/v1/cart", 200, "private, no-cache", CALLER),
    ("GET", "/v1/cart/summary", 200, "private, no-store", CALLER),
    ("POST", "/v1/cart/items", 400, "private, no-store", CALLER),
    ("DELETE", "/v1/cart/items/NOPE", 404, "private, no-store", CALLER),
    ("DELETE", "/v1/cart", 200, "private, no-store", CALLER),
    ("POST", "/v1/guest", 201, "private, no-store", CALLER),
    ("GET", "/v1/orders", 200, "private, no-store", ORDER),
    ("GET", "/v1/orders/o0-a-1", 404, "private, no-store", ORDER),
    ("GET", "/v1/payments/p0-a", 404, "private, no-store", ORDER),
    ("GET", "/v1/admin/orders", 403, "private, no-store", CALLER),
    ("BREW", "/v1/cart", 405, "private, no-store", CALLER),
    ("GET", "/nothing/here", 404, "private, no-store", CALLER),
    ("GET", "/v1/stock/MUG", 200, "no-store", TOKEN),
    ("GET", "/v1/stock/NOPE", 404, "no-store", TOKEN),
    ("POST", "/v1/webhooks/none", 404, "no-store", TOKEN),
    ("GET", "/health/live", 200, "no-store", TOKEN),
    ("GET", "/health/ready", 200, "no-store", TOKEN),
    ("GET", "/metrics", 200, "no-store", TOKEN),
]
PUBLIC: list[tuple[str, int, str]] = [
    ("/v1/products", 200, "public, no-cache"),
    ("/v1/products/p-MUG", 200, "public, no-cache"),
    ("/v1/products/nope", 404, "no-store"),
    ("/schema/openapi.json", 200, "public, no-cache"),
    ("/schema", 200, "public, no-cache"),
    ("/", 307, "public, no-cache"),
]


def told(response: httpx.Response) -> tuple[list[str], set[str]]:
    """Every `Cache-Control` of an answer, and what its one `Vary` names."""
    (vary,) = response.headers.get_list("vary")
    return response.headers.get_list("cache-control"), set(vary.split(", "))


@pytest.mark.parametrize("origins", ["", FRONT])
async def test_caches_are_told_what_to_do_with_every_answer(make_api: Any, origins: str) -> None:
    api = await make_api(cors_origins=origins)
    await api.sell()
    added = {"Origin"} if origins else set()

    for headers in ({}, {"Origin": FRONT}):
        for method, path, status, control, vary in ANSWERS:
            response = await api.ana.request(method, path, headers=headers)
            if headers and not origins and path == "/v1/guest":
                status = 403

            assert response.status_code == status, (method, path)
            assert told(response) == ([control], vary | added), (method, path)
        for path, status, control in PUBLIC:
            response = await api.anyone.get(path, headers=headers)
            named = await api.ana.get(path, headers=headers)

            assert (response.status_code, told(response)) == (status, ([control], TOKEN | added)), path
            # A shared cache that heeds no `Vary` must not give to others what somebody's token was answered.
            assert told(named) == (["private, no-store"], TOKEN | added), path


async def test_a_cart_that_is_unchanged_is_told_like_the_cart(api: Any) -> None:
    await api.sell()
    await api.add()
    read = await api.ana.get("/v1/cart")

    same = await api.ana.get("/v1/cart", headers={"If-None-Match": read.headers["etag"]})

    assert same.status_code == 304
    assert told(same) == told(read) == (["private, no-cache"], CALLER)


async def test_caches_are_told_when_a_request_is_cut_off(api: Any, monkeypatch: Any) -> None:
    async def cut_off(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(api.store, "clear_cart", cut_off)

    response = await api.ana.delete("/v1/cart")

    assert (response.status_code, response.json()["code"]) == (504, "OUTCOME_UNKNOWN")
    assert told(response) == (["private, no-store"], CALLER)
    assert len(response.headers.get_list("x-request-id")) == 1


async def test_pages_read_answers_only_when_their_origin_is_listed(make_api: Any) -> None:
    api = await make_api(cors_origins=f"{FRONT}/, HTTPS://Shop.Example:443")
    await api.sell()

    for origin, is_listed in (
        (FRONT, True),
        ("https://shop.example", True),
        ("https://front.example.evil.example", False),
        ("https://evil-front.example", False),
        ("http://front.example", False),
        ("https://front.example:8443", False),
        ("null", False),
        ("", False),
    ):
        for method, path in (("GET", "/v1/cart"), ("GET", "/nothing"), ("BREW", "/v1/cart")):
            headers = (await api.ana.request(method, path, headers={"Origin": origin})).headers

            if is_listed:
                assert headers["access-control-allow-origin"] == origin
                assert headers["access-control-allow-credentials"] == "true"
                exposed = set(headers["access-control-expose-headers"].split(", "))
                assert {"ETag", "Cart-Token", "Idempotent-Replayed", "Retry-After"} <= exposed
                assert {"RateLimit", "RateLimit-Policy"} <= exposed
            else:
                assert not any(name.startswith("access-control-") for name in headers), origin


async def test_preflight_names_what_pages_may_send(make_api: Any) -> None:
    api = await make_api(cors_origins=FRONT, cors_headers="X-Shop-Page, x-csrf")
    asked = {"Origin": FRONT, "Access-Control-Request-Method": "PATCH"}

    for path in ("/v1/cart/items", "/v1/cart/items/MUG", "/nothing"):
        response = await api.anyone.options(path, headers=asked)

        headers = response.headers
        assert (response.status_code, response.content) == (204, b"")
        assert headers["access-control-allow-origin"] == FRONT
        assert headers["access-control-allow-credentials"] == "true"
        assert set(headers["access-control-allow-methods"].split(", ")) >= {"PATCH", "PUT", "DELETE"}
        names = {name.lower() for name in headers["access-control-allow-headers"].split(", ")}
        assert names >= {"authorization", "content-type", "idempotency-key", "if-match", "x-cart-token"}
        assert names >= {"traceparent", "tracestate", "baggage", "x-shop-page", "x-csrf"}
        assert told(response)[0] == ["no-store"]
        assert told(response)[1] >= {"Origin", "Access-Control-Request-Headers"}

    foreign = await api.anyone.options("/v1/cart", headers={**asked, "Origin": "https://evil.example"})
    plain = await api.anyone.options("/v1/cart", headers={"Origin": FRONT})
    assert not any(name.startswith("access-control-") for name in foreign.headers)
    assert plain.headers["allow"] == "DELETE, GET, HEAD, OPTIONS"


def test_all_headers_that_are_read_pass_the_preflight() -> None:
    allowed = {name.lower() for name in cors_module.REQUEST_HEADERS}

    assert {"idempotency-key", "if-match", "if-none-match", "prefer", "x-order-token"} <= allowed


SAME_SITE = [
    # PUBLIC_URL, headers, whether the cookie of the guest is taken
    ("", {}, True),
    ("", {"Origin": "http://shop.test"}, True),
    ("", {"Origin": "http://shop.test:80"}, False),
    ("", {"Origin": "http://shop.test:3000"}, False),
    ("", {"Origin": "http://shop.test", "Host": "shop.test:80"}, True),
    ("", {"Origin": "https://shop.test", "Host": "shop.test"}, True),
    ("", {"Origin": "https://shop.test", "Host": "SHOP.test:443"}, True),
    ("", {"Origin": "https://shop.test", "Host": "shop.test:80"}, False),
    ("", {"Origin": "http://[::1]:8000", "Host": "[::1]:8000"}, True),
    ("", {"Origin": "http://shop.test@evil.example"}, False),
    ("", {"Origin": "http://shop.test/x"}, False),
    ("", {"Origin": "ftp://shop.test"}, False),
    ("", {"Origin": "//shop.test"}, False),
    ("", {"Origin": "shop.test"}, False),
    ("", {"Origin": "http://evil.example"}, False),
    ("", {"Origin": "null"}, False),
    ("", {"Origin": ""}, False),
    ("", {"Origin": "http://[bad"}, False),
    ("", {"Sec-Fetch-Site": "same-origin"}, True),
    ("", {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:3000"}, True),
    ("", {"Sec-Fetch-Site": "cross-site"}, False),
    ("", {"Sec-Fetch-Site": "same-site"}, False),
    ("", {"Sec-Fetch-Site": "none"}, False),
    ("", {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"}, False),
    ("", {"Sec-Fetch-Site": "same-site", "Origin": "http://www.shop.test"}, False),
    ("", {"Sec-Fetch-Site": "same-site", "Origin": "http://shop.test"}, True),
    ("", {"Sec-Fetch-Site": "cross-site", "Origin": FRONT}, True),
    ("https://Shop.example:443/api", {"Origin": "https://shop.example"}, True),
    ("https://shop.example", {"Origin": "http://shop.example"}, False),
    ("https://shop.example", {"Origin": "https://www.shop.example"}, False),
    ("https://shop.example", {"Origin": "https://shop.example.evil.example"}, False),
    # The Host counts no more: behind a proxy it is that of the process, or what the caller says.
    ("https://shop.example", {"Origin": "http://shop.test"}, False),
    ("https://shop.example", {"Origin": FRONT}, True),
    ("https://shop.example", {"Sec-Fetch-Site": "same-origin"}, True),
]


async def test_cookies_are_taken_only_from_pages_of_our_own_origins(make_api: Any) -> None:
    apis = {url: await make_api(public_url=url, cors_origins=FRONT) for url in {row[0] for row in SAME_SITE}}

    for url, headers, is_taken in SAME_SITE:
        api = apis[url]
        guest = api.client()
        token = (await guest.post("/v1/guest")).json()["token"]

        cleared = await guest.delete("/v1/cart", headers=headers)
        issued = await api.client().post("/v1/guest", headers=headers)
        cancelled = await guest.post("/v1/orders/o0-a-1/cancel", headers=headers)
        others = [
            await guest.get("/v1/cart", headers=headers),
            await api.client().delete("/v1/cart", headers={**headers, "X-Cart-Token": token}),
            await api.anyone.delete("/v1/cart", headers={**headers, **bearer("ana")}),
        ]

        case = url, headers
        if is_taken:
            assert (cleared.status_code, issued.status_code, cancelled.status_code) == (200, 201, 404), case
        else:
            for refused in (cleared, issued, cancelled):
                assert (refused.status_code, refused.json()["code"]) == (403, "CSRF_FAILED"), case
                assert "set-cookie" not in refused.headers
        assert [answer.status_code for answer in others] == [200, 200, 200], case


async def test_first_cookie_that_verifies_counts_when_there_are_several(api: Any) -> None:
    await api.sell()
    good, other = [(await api.client().post("/v1/guest")).json()["token"] for _ in range(2)]
    forged = ("A" if good[0] != "A" else "B") + good[1:]
    mine = (await api.client().get("/v1/cart", headers={"X-Cart-Token": good})).json()["id"]
    sent: list[list[str]] = [
        [f"cart={good}"],
        [f"cart={forged}; cart={good}"],
        [f"cart={good}; cart={forged}"],
        [f"cart={good}; cart={other}"],
        [f'cart=; cart="{good}"'],
        [f"a=b; cart={forged}", f"cart=x; cart={good}; cart={other}"],
    ]

    for lines in sent:
        headers = [("Cookie", line) for line in lines]
        read = await api.client().get("/v1/cart", headers=headers)
        cleared = await api.client().delete("/v1/cart", headers=headers)

        assert read.json()["id"] == mine, lines
        assert "set-cookie" not in cleared.headers, lines


async def test_remembered_tokens_are_bounded_in_bytes_when_headers_are_padded(
    api: Any, monkeypatch: Any
) -> None:
    callers = api.app.state.services.callers
    verified: list[bytes] = []
    verify = callers._verify
    monkeypatch.setattr(callers, "_verify", lambda token: verified.append(token) or verify(token))
    header = bearer("ana")["Authorization"]

    for number in range(50):
        padded = header.replace(" ", " " * (number + 2)) + " " * 10_000
        response = await api.anyone.get("/v1/cart", headers={"Authorization": padded})
        assert response.status_code == 200

    assert (len(verified), len(callers._verified)) == (1, 1)

    monkeypatch.setattr(callers_module, "_VERIFIED_BYTES_MAX", 200_000)
    for number in range(100):
        # Long ones of one issuer, full of scopes that nobody asks for.
        token = bearer(f"u{number}", " ".join(f"s{n}" for n in range(400)))
        assert (await api.anyone.get("/v1/cart", headers=token)).status_code == 200

    remembered = {**callers._verified._young, **callers._verified._old}
    assert 20 <= len(remembered) <= 100
    assert not any(claims.scopes for claims in remembered.values())
    assert sum(sys.getsizeof(key) for key in remembered) < 200_000
