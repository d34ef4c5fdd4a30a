"""Who is calling: access tokens, guest tokens, and requests from other sites."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import jwt
import pytest
from cartstore_api import callers as callers_module
from cartstore_api.app import create_app
from conftest import SECRET, bearer, token_of

from cartstore.errors import ConfigurationError
from cartstore.settings import Settings

ADMIN_ROUTES = [
    ("PUT", "/v1/admin/products/p", "catalog:write"),
    ("POST", "/v1/admin/products/import", "catalog:write"),
    ("POST", "/v1/admin/stock/S/adjust", "stock:write"),
    ("POST", "/v1/admin/stock/adjust", "stock:write"),
    ("PUT", "/v1/admin/stock/S", "stock:write"),
    ("GET", "/v1/admin/stock/S/ledger", "ops:read"),
    ("GET", "/v1/admin/orders", "ops:read"),
    ("GET", "/v1/admin/orders/o0-a-1", "ops:read"),
    ("POST", "/v1/admin/orders/o0-a-1/fulfilment", "admin"),
    ("POST", "/v1/admin/orders/o0-a-1/refunded", "admin"),
    ("GET", "/v1/admin/carts/u.ana", "ops:read"),
    ("GET", "/v1/admin/events", "ops:read"),
    ("GET", "/v1/admin/reconcile", "ops:read"),
    ("POST", "/v1/admin/reconcile", "admin"),
    ("GET", "/v1/admin/stats", "ops:read"),
]
BODIES: dict[str, Any] = {
    "/v1/admin/products/p": {"title": "T", "variants": [{"sku": "S", "price": "1"}]},
    "/v1/admin/stock/S/adjust": {"delta": 1, "reason": "r", "reference": "1"},
    "/v1/admin/stock/adjust": [{"sku": "S", "delta": 1, "reason": "r", "reference": "1"}],
    "/v1/admin/orders/o0-a-1/fulfilment": {"state": "shipped"},
    "/v1/admin/stock/S": {"on_hand": 1, "reason": "r", "reference": "1"},
}


def _part(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


async def test_tokens_are_refused_when_they_are_not_ours(api: Any) -> None:
    now = int(time.time())
    unsigned = f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part({'sub': 'ana', 'exp': now + 600})}."
    stripped = token_of("ana").rpartition(".")[0] + "."
    other_algorithm = jwt.encode({"sub": "ana", "exp": now + 600}, SECRET * 2, algorithm="HS512")
    longer = jwt.encode({"sub": "ana", "exp": now + 600}, SECRET * 2, algorithm="HS256")
    bad = {
        "alg none": unsigned,
        "no signature": stripped,
        "another algorithm": other_algorithm,
        "another secret": longer,
        "expired": token_of("ana", exp=now - 60),
        "no expiry": token_of("ana", exp=None),
        "not yet": token_of("ana", nbf=now + 600),
        "no sub": token_of("ana", sub=None),
        "empty sub": token_of(""),
        "long sub": token_of("a" * 129),
        "control in sub": token_of("a\x00b"),
        "scope no text": token_of("ana", scope=["admin"]),
        "expiry no number": token_of("ana", exp="soon"),
        "noise": "a.b.c",
        "nested": f"{base64.urlsafe_b64encode(b'[' * 3000).decode().rstrip('=')}.e30.x",
        "endless": "a" * 5000,
        "empty": "",
    }

    for name, token in bad.items():
        for method, path in (("GET", "/v1/cart"), ("DELETE", "/v1/cart"), ("GET", "/v1/admin/stats")):
            response = await api.anyone.request(method, path, headers={"Authorization": f"Bearer {token}"})

            assert (response.status_code, response.json().get("code")) == (401, "UNAUTHENTICATED"), name
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert "set-cookie" not in response.headers


@pytest.mark.parametrize("value", ["", "Basic YTpi", "Bearer", "Bearer  ", "bearer a b", token_of("ana")])
async def test_authorization_is_refused_when_it_is_no_bearer_token(api: Any, value: str) -> None:
    response = await api.anyone.get("/v1/cart", headers={"Authorization": value})

    assert response.status_code == 401


async def test_token_is_refused_when_it_expires_after_it_was_verified(api: Any, monkeypatch: Any) -> None:
    headers = bearer("ana")
    assert (await api.anyone.get("/v1/cart", headers=headers)).status_code == 200

    later = time.time() + 3600
    monkeypatch.setattr(callers_module.time, "time", lambda: later)
    response = await api.anyone.get("/v1/cart", headers=headers)

    assert (response.status_code, response.json()["detail"]) == (401, "The token has expired.")


async def test_token_is_refused_when_the_clock_is_before_its_time_after_it_was_verified(
    api: Any, monkeypatch: Any
) -> None:
    now = time.time()
    headers = bearer("ana", nbf=int(now))
    assert (await api.anyone.get("/v1/cart", headers=headers)).status_code == 200

    monkeypatch.setattr(callers_module.time, "time", lambda: now - 60)
    response = await api.anyone.get("/v1/cart", headers=headers)

    assert (response.status_code, response.json()["code"]) == (401, "UNAUTHENTICATED")


async def test_tokens_are_remembered_up_to_a_bound_when_many_come(api: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(callers_module, "_VERIFIED_MAX", 8)
    callers = api.app.state.services.callers
    verified: list[bytes] = []
    verify = callers._verify
    monkeypatch.setattr(callers, "_verify", lambda token: verified.append(token) or verify(token))
    regular, guest = bearer("regular"), (await api.anyone.post("/v1/guest")).json()["token"]

    for number in range(40):
        token = (await api.client().post("/v1/guest")).json()["token"]
        for headers in (regular, bearer(f"u{number}"), {"X-Cart-Token": guest}, {"X-Cart-Token": token}):
            assert (await api.anyone.get("/v1/cart", headers=headers)).status_code == 200
        assert len(callers._verified) <= 8
        assert len(callers._guests) <= 8

    # One that is used all the time outlives those that came once.
    assert len(verified) == 41


def test_tokens_are_known_when_no_more_than_half_of_the_bound_came_since(monkeypatch: Any) -> None:
    monkeypatch.setattr(callers_module, "_VERIFIED_MAX", 20)
    recent: callers_module.Recent[int] = callers_module.Recent()
    numbers = [number * 7 % 10 for number in range(10)]
    for number in numbers:
        recent.remember(b"%d" % number, number)

    for _ in range(5):
        for number in reversed(numbers):
            assert recent.find(b"%d" % number) == number
        recent.remember(b"once", 0)
        recent.forget(b"once")


async def test_token_is_not_remembered_when_it_is_forged(api: Any) -> None:
    callers = api.app.state.services.callers
    good = token_of("ana")
    assert (await api.anyone.get("/v1/cart", headers={"Authorization": f"Bearer {good}"})).status_code == 200
    head, payload, signature = good.split(".")
    forged = [
        token_of("ana", secret="another secret, as long as it must be"),
        f"{head}.{token_of('ben').split('.')[1]}.{signature}",
        f"{head}.{payload}.{signature[:-4]}AAAA",
    ]

    for token in forged * 2:
        response = await api.anyone.get("/v1/cart", headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 401

    assert len(callers._verified) == 1


async def test_guest_token_is_not_remembered_when_it_is_forged(api: Any) -> None:
    callers = api.app.state.services.callers
    token = (await api.anyone.post("/v1/guest")).json()["token"]
    mine = (await api.client().get("/v1/cart", headers={"X-Cart-Token": token})).json()["id"]
    forged = [("A" if token[0] != "A" else "B") + token[1:], token[:-1] + ("A" if token[-1] != "A" else "B")]

    for sent in forged * 2:
        read = (await api.client().get("/v1/cart", headers={"X-Cart-Token": sent})).json()
        assert read["id"] != mine

    assert len(callers._guests) == 1


async def test_remembered_token_is_of_no_use_when_the_secret_is_another(make_api: Any) -> None:
    before, after = await make_api(), await make_api(jwt_secret="the secret that came after, long enough")
    headers = bearer("ana")
    guest = {"X-Cart-Token": (await before.anyone.post("/v1/guest")).json()["token"]}
    mine = (await before.client().get("/v1/cart", headers=guest)).json()["id"]

    assert (await before.anyone.get("/v1/cart", headers=headers)).status_code == 200
    assert (await after.anyone.get("/v1/cart", headers=headers)).status_code == 401
    assert (await after.client().get("/v1/cart", headers=guest)).json()["id"] != mine


async def test_issuer_and_audience_are_checked_when_they_are_set(make_api: Any) -> None:
    api = await make_api(jwt_issuer="shop", jwt_audience="carts")
    claims = [
        ({"iss": "shop", "aud": "carts"}, 200),
        ({"iss": "shop", "aud": ["x", "carts"]}, 200),
        ({"iss": "shop", "aud": "other"}, 401),
        ({"iss": "shop"}, 401),
        ({"aud": "carts"}, 401),
        ({"iss": "other", "aud": "carts"}, 401),
    ]

    for claim, status in claims:
        assert (await api.anyone.get("/v1/cart", headers=bearer("ana", **claim))).status_code == status, claim


async def test_admin_routes_ask_for_their_scope_when_they_are_called(api: Any) -> None:
    await api.sell("S")

    for method, path, scope in ADMIN_ROUTES:
        body = BODIES.get(path)
        content = b"x" if path.endswith("import") else None
        wrong = {"catalog:write": "stock:write ops:read", "admin": "catalog:write stock:write ops:read"}.get(
            scope, "catalog:write"
        )
        nobody = await api.anyone.request(method, path, json=body, content=content)
        lacking = await api.anyone.request(
            method, path, json=body, content=content, headers=bearer("x", wrong)
        )
        allowed = [
            await api.anyone.request(method, path, json=body, content=content, headers=bearer("x", having))
            for having in (scope, f"other {scope}", "admin")
        ]

        assert (nobody.status_code, nobody.json()["code"]) == (401, "UNAUTHENTICATED"), path
        assert (lacking.status_code, lacking.json()["code"]) == (403, "FORBIDDEN"), path
        assert {answer.status_code for answer in allowed}.isdisjoint({401, 403}), path


async def test_guest_gets_a_token_when_asking_for_one(api: Any) -> None:
    response = await api.anyone.post("/v1/guest")

    assert response.status_code == 201
    token = response.json()["token"]
    assert response.headers["Cart-Token"] == token
    cookie = response.headers["Set-Cookie"]
    assert cookie.startswith(f"cart={token}; Path=/; Max-Age=")
    assert cookie.endswith("; HttpOnly; SameSite=Lax")


async def test_guest_is_known_by_cookie_and_header_when_a_mutation_issued_a_token(api: Any) -> None:
    await api.sell()
    guest = api.client()

    added = await guest.post("/v1/cart/items", json={"sku": "MUG"})
    token = added.headers["Cart-Token"]
    again = await guest.post("/v1/cart/items", json={"sku": "MUG"})
    by_header = await api.client().get("/v1/cart", headers={"X-Cart-Token": token})

    assert "Cart-Token" not in again.headers
    assert (await guest.get("/v1/cart")).json()["items"][0]["quantity"] == 2
    assert by_header.json()["items"][0]["quantity"] == 2
    assert by_header.json()["owner"] == "guest"
    assert by_header.json()["id"].startswith("g.")
    assert token not in by_header.text


async def test_reading_sets_no_cookie_when_the_token_is_unknown(api: Any) -> None:
    await api.sell()
    token = (await api.anyone.post("/v1/guest")).json()["token"]
    forged = ("A" if token[0] != "A" else "B") + token[1:]

    for sent in (
        None,
        "",
        "x",
        forged,
        token + "A",
        token[:-1],
        "ü" * 56,
        "a" * 52,
        "a" * 56,
        token[:-1] + "\n",
    ):
        headers = {"X-Cart-Token": sent.encode("latin-1")} if sent else {}
        response = await api.client().get("/v1/cart", headers=headers)

        assert response.status_code == 200
        assert (response.json()["items"], response.json()["version"]) == ([], 0)
        assert "set-cookie" not in response.headers
        assert "cart-token" not in response.headers


async def test_mutation_issues_a_fresh_token_when_the_token_is_not_ours(api: Any) -> None:
    await api.sell()
    token = (await api.anyone.post("/v1/guest")).json()["token"]
    forged = ("A" if token[0] != "A" else "B") + token[1:]

    response = await api.client().post(
        "/v1/cart/items", json={"sku": "MUG"}, headers={"X-Cart-Token": forged}
    )

    fresh = response.headers["Cart-Token"]
    assert fresh not in (forged, token)
    seen = await api.client().get("/v1/cart", headers={"X-Cart-Token": fresh})
    assert seen.json()["items_count"] == 1


async def test_token_is_renewed_then_dead_when_time_passes(api: Any, monkeypatch: Any) -> None:
    await api.sell()
    guest = api.client()
    token = (await guest.post("/v1/cart/items", json={"sku": "MUG"})).headers["Cart-Token"]
    guest.cookies.clear()
    headers = {"X-Cart-Token": token}
    now = time.time()

    monkeypatch.setattr(callers_module.time, "time", lambda: now + 2 * 86_400)
    renewed = await guest.post("/v1/cart/items", json={"sku": "MUG"}, headers=headers)
    guest.cookies.clear()
    monkeypatch.setattr(callers_module.time, "time", lambda: now + 9 * 86_400)
    dead = await guest.get("/v1/cart", headers=headers)
    alive = await guest.get("/v1/cart", headers={"X-Cart-Token": renewed.headers["Cart-Token"]})
    fresh = await guest.post("/v1/cart/items", json={"sku": "MUG"}, headers=headers)

    assert renewed.headers["Cart-Token"] != token
    assert renewed.json()["line"]["quantity"] == 2
    assert "Set-Cookie" in renewed.headers
    assert dead.json()["items"] == []
    assert alive.json()["items"][0]["quantity"] == 2
    assert fresh.json()["line"]["quantity"] == 1


async def test_cart_is_the_users_when_a_guest_token_comes_along(api: Any) -> None:
    await api.sell()
    guest = api.client()
    token = (await guest.post("/v1/cart/items", json={"sku": "MUG"})).headers["Cart-Token"]

    response = await api.ana.post("/v1/cart/items", json={"sku": "MUG"}, headers={"X-Cart-Token": token})

    assert response.json()["line"]["quantity"] == 1
    assert "Cart-Token" not in response.headers
    assert (await api.ana.get("/v1/cart", headers={"X-Cart-Token": token})).json()["id"] == "u.ana"


async def test_guests_are_refused_when_they_have_no_carts(make_api: Any) -> None:
    api = await make_api(guest_carts="off")
    await api.sell()

    for method, path in (("POST", "/v1/guest"), ("POST", "/v1/cart/items"), ("DELETE", "/v1/cart")):
        response = await api.anyone.request(
            method, path, json={"sku": "MUG"} if path.endswith("items") else None
        )
        assert (response.status_code, response.json()["code"]) == (422, "FEATURE_OFF")
    assert (await api.anyone.get("/v1/cart")).status_code == 200
    assert (await api.ana.post("/v1/cart/items", json={"sku": "MUG"})).status_code == 201


async def test_cookie_is_secure_when_it_is_production() -> None:
    settings = Settings(
        env="production",
        redis_url="redis://a",
        database_url="postgresql://a",
        jwt_secret=SECRET,
        public_url="https://shop.test",
    )

    app = create_app(settings)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="https://shop.test"
    ) as client:
        app.state.services = type("Services", (), {"callers": callers_module.Callers(settings)})()
        cookie = (await client.post("/v1/guest")).headers["Set-Cookie"]

    assert cookie.startswith("__Host-cart=")
    assert cookie.endswith("; HttpOnly; SameSite=Lax; Secure")
    assert "Path=/;" in cookie


def test_create_app_refuses_when_tokens_could_not_be_checked() -> None:
    with pytest.raises(ConfigurationError):
        create_app(Settings(jwt_secret=""))


OLD_TOKENS = json.loads((Path(__file__).parents[1] / "upgrade" / "tokens.json").read_text())


@pytest.mark.parametrize("its", OLD_TOKENS["tokens"], ids=lambda its: its["token"][:4])
async def test_guest_keeps_the_cart_when_the_token_is_of_the_form_before(
    make_api: Any, its: dict[str, str]
) -> None:
    api = await make_api(jwt_secret=OLD_TOKENS["secret"])

    cart = (await api.client().get("/v1/cart", headers={"X-Cart-Token": its["token"]})).json()

    assert cart["id"] == its["cart_id"]


async def test_guest_gets_the_present_form_for_the_same_cart_when_the_one_before_is_renewed(
    make_api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With whatever the answer is: nothing is sold here."""
    api = await make_api(jwt_secret=OLD_TOKENS["secret"])
    its = OLD_TOKENS["tokens"][0]
    later = 4_000_000_000 + callers_module._RENEW_AFTER_SECONDS + 1
    monkeypatch.setattr(callers_module, "time", SimpleNamespace(time=lambda: later))

    added = await api.client().post(
        "/v1/cart/items", json={"sku": "MUG"}, headers={"X-Cart-Token": its["token"]}
    )
    renewed = added.headers["Cart-Token"]
    cart = (await api.client().get("/v1/cart", headers={"X-Cart-Token": renewed})).json()

    assert cart["id"] == its["cart_id"]
    decoded = base64.urlsafe_b64decode(renewed)
    assert (len(decoded), decoded[:3]) == (42, b"\x01\x00\x00")


@pytest.mark.parametrize("head", [b"\x02\x00\x00", b"\x01\x00\x01"], ids=["version", "partition"])
async def test_guest_token_is_of_nobody_when_its_version_or_partition_is_another(
    api: Any, head: bytes
) -> None:
    """It has our signature: a later version, or a deployment with more partitions, has issued it."""
    callers = api.app.state.services.callers
    mine = (await api.client().get("/v1/cart")).json()["id"]
    signed = head + bytes(16) + (4_000_000_000).to_bytes(5, "big")
    token = base64.urlsafe_b64encode(signed + callers._mac(signed)).decode()

    cart = (await api.client().get("/v1/cart", headers={"X-Cart-Token": token})).json()

    assert cart["id"] == mine
