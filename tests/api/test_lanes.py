"""Every kind of hot request, through the fast lane and through Litestar: the answers must be the same.

Each case is sent over HTTP to two servers of one store, one with the lane and one without, by two callers in
the same situation; what must differ (ids of requests, versions, times, who asks) is struck out before it is
compared.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import httpx
import msgspec
import pytest
from cartstore_api.app import create_app
from conftest import Api, bearer, listening, nobody_hears, port_of, serving, token_of

from cartstore import open_store
from cartstore.settings import Settings

LINE = "/v1/cart/items/MUG"
ITEMS = "/v1/cart/items"

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "add": ("POST", ITEMS, {"json": {"sku": "MUG", "quantity": 2}}),
    "add properties": ("POST", ITEMS, {"json": {"sku": "MUG", "properties": {"text": "Ann"}}}),
    "add by product": ("POST", ITEMS, {"json": {"product_id": "p-MUG"}}),
    "add whole cart": (
        "POST",
        ITEMS,
        {"json": {"sku": "MUG"}, "headers": {"Prefer": "return=representation"}},
    ),
    "add too many": ("POST", ITEMS, {"json": {"sku": "MUG", "quantity": 50}}),
    "add none": ("POST", ITEMS, {"json": {"sku": "MUG", "quantity": 0}}),
    "add negative": ("POST", ITEMS, {"json": {"sku": "MUG", "quantity": -1}}),
    "add huge": ("POST", ITEMS, {"json": {"sku": "MUG", "quantity": 10**30}}),
    "add text": ("POST", ITEMS, {"json": {"sku": "MUG", "quantity": "1"}}),
    "add unknown sku": ("POST", ITEMS, {"json": {"sku": "NOPE"}}),
    "add unknown field": ("POST", ITEMS, {"json": {"sku": "MUG", "price": 1}}),
    "add nothing": ("POST", ITEMS, {}),
    "add empty": ("POST", ITEMS, {"content": b"", "headers": {"Content-Type": "application/json"}}),
    "add no json": ("POST", ITEMS, {"content": b"{", "headers": {"Content-Type": "application/json"}}),
    "add not utf-8": ("POST", ITEMS, {"content": b'{"sku":"\xff"}'}),
    "add form": ("POST", ITEMS, {"data": {"sku": "MUG"}}),
    "add array": ("POST", ITEMS, {"json": []}),
    "add control": ("POST", ITEMS, {"json": {"sku": "MU\x00G"}}),
    "add too large": ("POST", ITEMS, {"content": b"x" * 70_000}),
    "add deep": ("POST", ITEMS, {"content": b"[" * 30_000}),
    "add many wrong": ("POST", ITEMS, {"json": {"sku": 1, "quantity": -1, "properties": {"a": "\x01"}}}),
    "add wrong product": ("POST", ITEMS, {"json": {"sku": "x" * 200, "options": {"a": 1}, "price": 1}}),
    "set many wrong": ("PATCH", LINE, {"json": {"quantity": "1", "price": 1}}),
    "add no json by nobody": ("POST", ITEMS, {"content": b"{", "headers": {"Authorization": "Bearer x.y"}}),
    "set no json by nobody": ("PATCH", LINE, {"content": b"{", "headers": {"Authorization": "Bearer x.y"}}),
    "add other version": ("POST", ITEMS, {"json": {"sku": "MUG"}, "headers": {"If-Match": '"1"'}}),
    "add odd version": ("POST", ITEMS, {"json": {"sku": "MUG"}, "headers": {"If-Match": "x"}}),
    "add with key": ("POST", ITEMS, {"json": {"sku": "MUG"}, "headers": {"Idempotency-Key": "k1"}}),
    "add odd key": ("POST", ITEMS, {"json": {"sku": "MUG"}, "headers": {"Idempotency-Key": '"k'}}),
    "set": ("PATCH", LINE, {"json": {"quantity": 3}}),
    "set 0": ("PATCH", LINE, {"json": {"quantity": 0}}),
    "set too many": ("PATCH", LINE, {"json": {"quantity": 90}}),
    "set absent": ("PATCH", ITEMS + "/NOPE", {"json": {"quantity": 1}}),
    "set odd id": ("PATCH", ITEMS + "/a%20b%00", {"json": {"quantity": 1}}),
    "set nothing": ("PATCH", LINE, {}),
    "set nothing there": ("PATCH", ITEMS + "/", {"json": {"quantity": 1}}),
    "set deeper": ("PATCH", LINE + "/x", {"json": {"quantity": 1}}),
    "remove": ("DELETE", LINE, {}),
    "remove with body": ("DELETE", LINE, {"json": {"a": 1}}),
    "remove absent": ("DELETE", ITEMS + "/NOPE", {}),
    "read": ("GET", "/v1/cart", {}),
    "read with query": ("GET", "/v1/cart?x=1", {}),
    "read slash": ("GET", "/v1/cart/", {}),
    "read twice the slash": ("GET", "/v1//cart", {}),
    "read in upper case": ("GET", "/V1/CART", {}),
    "read escaped": ("GET", "/v1/%63art", {}),
    "read compressed": ("GET", "/v1/cart", {"headers": {"Accept-Encoding": "gzip, br"}}),
    "read as a page": ("GET", "/v1/cart", {"headers": {"Accept": "text/html"}}),
    "read with body": ("GET", "/v1/cart", {"json": {"sku": "MUG"}}),
    "read unless": ("GET", "/v1/cart", {"headers": {"If-None-Match": '"0-0", *'}}),
    "head": ("HEAD", "/v1/cart", {}),
    "head summary": ("HEAD", "/v1/cart/summary", {}),
    "head items": ("HEAD", ITEMS, {}),
    "head line": ("HEAD", LINE, {}),
    "summary": ("GET", "/v1/cart/summary", {}),
    "summary slash": ("GET", "/v1/cart/summary/", {}),
    "add slash": ("POST", ITEMS + "/", {"json": {"sku": "MUG"}}),
    "add with query": ("POST", ITEMS + "?quantity=9&sku=X", {"json": {"sku": "MUG"}}),
    "add compressed": ("POST", ITEMS, {"json": {"sku": "MUG"}, "headers": {"Accept-Encoding": "gzip"}}),
    "add null": ("POST", ITEMS, {"json": None, "content": b"null"}),
    "add nulls": ("POST", ITEMS, {"json": {"sku": None, "product_id": None}}),
    "add both": ("POST", ITEMS, {"json": {"sku": "MUG", "product_id": "p-MUG"}}),
    "add sku and options": ("POST", ITEMS, {"json": {"sku": "MUG", "options": {}}}),
    "add options": ("POST", ITEMS, {"json": {"product_id": "p-MUG", "options": {"Size": "M"}}}),
    "add unknown product": ("POST", ITEMS, {"json": {"product_id": "none"}}),
    "add long sku": ("POST", ITEMS, {"json": {"sku": "M" * 129}}),
    "add odd sku": ("POST", ITEMS, {"json": {"sku": "M/U G"}}),
    "add odd text": ("POST", ITEMS, {"json": {"sku": "MUG", "properties": {"ü": "\x85"}}}),
    "add wide text": ("POST", ITEMS, {"json": {"sku": "MUG", "properties": {"ü": "漢字 \u2028"}}}),
    "set slash": ("PATCH", LINE + "/", {"json": {"quantity": 1}}),
    "set with query": ("PATCH", LINE + "?quantity=7", {"json": {"quantity": 2}}),
    "set long id": ("PATCH", ITEMS + "/" + "M" * 300, {"json": {"quantity": 1}}),
    "set escaped id": ("PATCH", ITEMS + "/M%55G", {"json": {"quantity": 2}}),
    "set id with slash": ("PATCH", ITEMS + "/M%2FG", {"json": {"quantity": 2}}),
    "set id of dots": ("PATCH", ITEMS + "/..", {"json": {"quantity": 2}}),
    "remove wide id": ("DELETE", ITEMS + "/漢", {}),
    "remove whole cart": ("DELETE", LINE, {"headers": {"Prefer": "return=representation"}}),
    "remove other version": ("DELETE", LINE, {"headers": {"If-Match": 'W/"1-ab"'}}),
    "any method": ("BREW", "/v1/cart", {}),
    "options": ("OPTIONS", "/v1/cart/items", {}),
    "wrong method": ("PUT", "/v1/cart/summary", {}),
    "bad token": ("GET", "/v1/cart", {"headers": {"Authorization": "Bearer x.y.z"}}),
    "bad scheme": ("POST", ITEMS, {"json": {"sku": "MUG"}, "headers": {"Authorization": "Basic eDp5"}}),
    "expired": ("POST", ITEMS, {"json": {"sku": "MUG"}, "headers": bearer("x", exp=1)}),
    "other site": (
        "POST",
        ITEMS,
        {"json": {"sku": "MUG"}, "headers": {"Authorization": "", "Sec-Fetch-Site": "cross-site"}},
    ),
}

JSON = (b"content-type", b"application/json")
ONE = b'{"sku":"MUG"}'
FORM = (b"content-type", b"text/plain")
MINE, OTHERS = b"{mine}", b"{others}"
"""Replaced by the caller's own access token and by one that is not ours."""

RAW: dict[str, tuple[str, str, list[tuple[bytes, bytes]], list[bytes]]] = {
    "two tokens": ("GET", "/v1/cart", [(b"authorization", MINE), (b"authorization", OTHERS)], []),
    "two tokens, a bad one first": (
        "GET",
        "/v1/cart",
        [(b"authorization", OTHERS), (b"authorization", MINE)],
        [],
    ),
    "no token": ("GET", "/v1/cart", [(b"authorization", b"")], []),
    "a token after spaces": ("GET", "/v1/cart", [(b"authorization", b"  " + MINE + b" ")], []),
    "scheme in upper case": ("GET", "/v1/cart", [(b"authorization", MINE.upper())], []),
    "token of no bytes we know": ("GET", "/v1/cart", [(b"authorization", b"Bearer \xff\xfe")], []),
    "empty guest token": ("POST", ITEMS, [JSON, (b"x-cart-token", b"")], [ONE]),
    "two guest tokens": ("POST", ITEMS, [JSON, (b"x-cart-token", b"a"), (b"x-cart-token", b"b")], [ONE]),
    "guest token of odd bytes": ("POST", ITEMS, [JSON, (b"x-cart-token", b"\xff" * 56)], [ONE]),
    "cookies": ("GET", "/v1/cart", [(b"cookie", b"a=1; cart=x; =; ;b; cart")], []),
    "two cookie headers": ("GET", "/v1/cart", [(b"cookie", b"a=1"), (b"cookie", b"cart=x")], []),
    "empty cookie": ("POST", ITEMS, [JSON, (b"cookie", b"")], [ONE]),
    "cookie of odd bytes": ("POST", ITEMS, [JSON, (b"cookie", b'cart="\xff%zz"')], [ONE]),
    "type with charset": (
        "POST",
        ITEMS,
        [(b"authorization", MINE), (b"content-type", b"Application/JSON; charset=UTF-8")],
        [ONE],
    ),
    "type with another charset": (
        "POST",
        ITEMS,
        [(b"authorization", MINE), (b"content-type", b"application/json; charset=latin-1")],
        [ONE],
    ),
    "another type of JSON": (
        "POST",
        ITEMS,
        [(b"authorization", MINE), (b"content-type", b"application/merge-patch+json")],
        [ONE],
    ),
    "no type": ("POST", ITEMS, [(b"authorization", MINE)], [ONE]),
    "empty type": ("POST", ITEMS, [(b"authorization", MINE), (b"content-type", b"")], [ONE]),
    "odd type": ("POST", ITEMS, [(b"authorization", MINE), (b"content-type", b"json\xff")], [ONE]),
    "two types": ("POST", ITEMS, [(b"authorization", MINE), JSON, FORM], [ONE]),
    "two types, a bad one first": ("POST", ITEMS, [(b"authorization", MINE), FORM, JSON], [ONE]),
    "wrong type and no body": ("POST", ITEMS, [(b"authorization", MINE), FORM], []),
    "wrong type and no JSON": ("POST", ITEMS, [(b"authorization", MINE), FORM], [b"{"]),
    "right type and no body": ("PATCH", LINE, [(b"authorization", MINE), JSON], []),
    "body in pieces": ("POST", ITEMS, [(b"authorization", MINE), JSON], [b'{"sku"', b"", b':"MUG"}']),
    "chunked": (
        "POST",
        ITEMS,
        [(b"authorization", MINE), JSON, (b"transfer-encoding", b"chunked")],
        [b'{"sku"', b':"MUG"}'],
    ),
    "chunked and too large": (
        "POST",
        ITEMS,
        [(b"authorization", MINE), JSON, (b"transfer-encoding", b"chunked")],
        [b" " * 40_000, b" " * 40_000],
    ),
    "length": ("POST", ITEMS, [(b"authorization", MINE), JSON, (b"content-length", b"13")], [ONE]),
    "length at the bound": (
        "POST",
        ITEMS,
        [(b"authorization", MINE), JSON, (b"content-length", b"65536")],
        [ONE + b" " * (65_536 - len(ONE))],
    ),
    "length above the bound": (
        "POST",
        ITEMS,
        [(b"authorization", MINE), JSON, (b"content-length", b"65537")],
        [ONE + b" " * (65_537 - len(ONE))],
    ),
    "length no number": ("POST", ITEMS, [(b"authorization", MINE), (b"content-length", b"x")], [ONE]),
    "length negative": ("POST", ITEMS, [(b"authorization", MINE), (b"content-length", b"-1")], [ONE]),
    "length empty": ("POST", ITEMS, [(b"authorization", MINE), (b"content-length", b"")], [ONE]),
    "length huge": ("POST", ITEMS, [(b"authorization", MINE), (b"content-length", b"9" * 30)], [ONE]),
    "length of many digits": (
        "POST",
        ITEMS,
        [(b"authorization", MINE), JSON, (b"content-length", b"0" * 5_000 + b"13")],
        [ONE],
    ),
    "body that is not waited for": (
        "GET",
        "/v1/cart",
        [(b"authorization", MINE), (b"content-length", b"13")],
        [],
    ),
    "body of a removal that is not waited for": (
        "DELETE",
        LINE,
        [(b"authorization", MINE), (b"content-length", b"13")],
        [],
    ),
    "id longer than a URL": ("DELETE", ITEMS + "/" + "M" * 70_000, [(b"authorization", MINE)], []),
    "any version": ("POST", ITEMS, [(b"authorization", MINE), JSON, (b"if-match", b"*")], [ONE]),
    "no version": ("POST", ITEMS, [(b"authorization", MINE), JSON, (b"if-match", b" ")], [ONE]),
    "two versions": (
        "POST",
        ITEMS,
        [(b"authorization", MINE), JSON, (b"if-match", b"*"), (b"if-match", b"x")],
        [ONE],
    ),
    "version of odd bytes": ("DELETE", LINE, [(b"authorization", MINE), (b"if-match", b"\xb2")], []),
    "wrong token and wrong key": (
        "DELETE",
        LINE,
        [(b"authorization", b"\xff"), (b"idempotency-key", b"\xe9")],
        [],
    ),
    "wrong token and wrong version": ("DELETE", LINE, [(b"authorization", OTHERS), (b"if-match", b"x")], []),
    "empty key": ("DELETE", LINE, [(b"authorization", MINE), (b"idempotency-key", b'""')], []),
    "long key": ("DELETE", LINE, [(b"authorization", MINE), (b"idempotency-key", b"k" * 256)], []),
    "key of odd bytes": ("DELETE", LINE, [(b"authorization", MINE), (b"idempotency-key", b"\xe9")], []),
    "preferences": (
        "DELETE",
        LINE,
        [(b"authorization", MINE), (b"prefer", b"x, y=1"), (b"prefer", b'Return = "Representation";a=1')],
        [],
    ),
    "other preferences": ("DELETE", LINE, [(b"authorization", MINE), (b"prefer", b"return=minimal")], []),
    "own site": ("POST", ITEMS, [JSON, (b"host", b"shop.test"), (b"origin", b"http://shop.test")], [ONE]),
    "no site": ("POST", ITEMS, [JSON, (b"host", b"shop.test"), (b"origin", b"null")], [ONE]),
    "another site": ("POST", ITEMS, [JSON, (b"sec-fetch-site", b" Cross-Site ")], [ONE]),
    "an origin and an empty host": (
        "DELETE",
        LINE,
        [(b"host", b""), (b"origin", b"http://shop.test")],
        [],
    ),
    "own request id": ("GET", "/v1/cart/summary", [(b"x-request-id", b"me-1")], []),
    "two request ids": ("GET", "/v1/cart", [(b"x-request-id", b"a"), (b"x-request-id", b"b")], []),
}

_STRUCK = [
    (re.compile(r'"version":\d+'), '"version":0'),
    (re.compile(r"version is \d+"), "version is 0"),
    (re.compile(r'"request_id":"[^"]*"'), '"request_id":""'),
    (re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z"), "then"),
    (re.compile(r'"expires_in_seconds":\d+'), '"expires_in_seconds":0'),
    (re.compile(r'"id":"[ug]\.[^"]*"'), '"id":""'),
]
_STRUCK_HEADERS = {"x-request-id", "etag", "cart-token", "set-cookie", "date"}


def comparable(response: httpx.Response) -> tuple[int, dict[str, str], str]:
    body = response.text
    for pattern, replacement in _STRUCK:
        body = pattern.sub(replacement, body)
    headers = {
        name: value if name != "content-length" or not body else "some"
        for name, value in response.headers.items()
        if name not in _STRUCK_HEADERS
    }
    present = dict.fromkeys(_STRUCK_HEADERS & response.headers.keys(), "there")
    return response.status_code, headers | present, body


MakeLanes = Callable[..., Awaitable[list[Api]]]


@pytest.fixture
async def make_lanes(settings: Settings) -> AsyncIterator[MakeLanes]:
    async with AsyncExitStack() as stack:

        async def make(**changes: Any) -> list[Api]:
            chosen = msgspec.structs.replace(settings, **changes)
            apis = []
            for has_lane in (True, False):
                app = create_app(chosen, open_store=partial(open_store, doorbell=nobody_hears))
                await stack.enter_async_context(serving(app))
                server = await stack.enter_async_context(listening(app, has_lane=has_lane))
                apis.append(Api(app, chosen, stack, port_of(server)))
            await apis[0].sell("MUG", stock=40)
            return apis

        yield make


@pytest.fixture
async def lanes(make_lanes: MakeLanes) -> list[Api]:
    return await make_lanes()


async def test_answers_are_the_same_when_requests_take_either_lane(lanes: list[Api]) -> None:
    differing = {}
    for name, (method, path, request) in CASES.items():
        answers = []
        for number, api in enumerate(lanes):
            caller = api.client({"Authorization": f"Bearer {token_of(f'{name} {number}')}"})
            await api.done(caller.post(ITEMS, json={"sku": "MUG"}))
            headers = {key: value for key, value in request.get("headers", {}).items() if value}
            if request.get("headers", {}).get("Authorization") == "":
                caller = api.client()
            answers.append(comparable(await caller.request(method, path, **{**request, "headers": headers})))
            await caller.delete("/v1/cart")
        if answers[0] != answers[1]:
            differing[name] = answers

    assert not differing


async def test_depth_is_bounded_the_same_when_requests_take_either_lane(lanes: list[Api]) -> None:
    for depth in (31, 32, 33, 35, 36, 64, 256, *range(970, 990), 1_000, 5_000):
        properties = b'{"a":' * depth + b"1" + b"}" * depth
        answers = []
        for api in lanes:
            added = await api.ana.post(ITEMS, content=b'{"sku":"MUG","properties":%b}' % properties)
            answers.append(comparable(added))
            if depth > 32:
                assert (added.status_code, added.json()["field"]) == (422, "properties"), depth
                assert "32 levels" in added.json()["detail"]
            else:
                assert added.status_code == 201, depth
                assert (await api.ana.get("/v1/cart")).content.count(b"{" + b'"a":') == depth
            await api.ana.delete("/v1/cart")
        assert answers[0] == answers[1], depth


async def sent_raw(
    api: Api, method: str, path: str, headers: list[tuple[bytes, bytes]], pieces: list[bytes]
) -> httpx.Response:
    """What the server answers to exactly these headers; how long the body is is told if it need be."""
    body = b"".join(pieces)
    names = {name for name, _ in headers}
    if b"transfer-encoding" in names:
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    elif body and b"content-length" not in names:
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    if b"host" not in names:
        headers = [(b"host", b"shop.test"), *headers]
    lines = [f"{method} {path} HTTP/1.1".encode(), *(b"%b: %b" % header for header in headers)]
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"\r\n".join([*lines, b"", b""]))
    answered = asyncio.create_task(_answer_of(reader))
    for start in range(0, len(body), 8_000):
        # One that is refused is refused before all of it is there, and then the server hears no more.
        await asyncio.wait([answered], timeout=0.01 if start else 0)
        if not answered.done():
            writer.write(body[start : start + 8_000])
    try:
        async with asyncio.timeout(20):
            return await answered
    finally:
        writer.close()


async def _answer_of(reader: asyncio.StreamReader) -> httpx.Response:
    head = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    found = [(name, value) for name, _, value in (line.partition(b": ") for line in head[1:-2])]
    told = await reader.readexactly(int(dict(found).get(b"content-length", b"0")))
    return httpx.Response(int(head[0].split(b" ")[1]), headers=found, content=told)


async def test_answers_are_the_same_when_headers_and_bodies_are_odd(lanes: list[Api]) -> None:
    differing, statuses = {}, set()
    for name, (method, path, headers, pieces) in RAW.items():
        answers = []
        for number, api in enumerate(lanes):
            mine = f"Bearer {token_of(f'{name} {number}')}".encode()
            others = f"Bearer {token_of('x', secret='another secret, as long as it must be')}".encode()
            caller = api.client({"Authorization": mine.decode()})
            await api.done(caller.post(ITEMS, json={"sku": "MUG"}))
            exact = [(key, value.replace(MINE, mine).replace(OTHERS, others)) for key, value in headers]
            answer = await sent_raw(api, method, path, exact, pieces)
            answers.append(comparable(answer))
            await caller.delete("/v1/cart")
            if "cart-token" in answer.headers:
                guest = {"X-Cart-Token": answer.headers["cart-token"]}
                await api.done(api.client().delete("/v1/cart", headers=guest))
        statuses.add(answers[0][0])
        if answers[0] != answers[1]:
            differing[name] = answers

    assert not differing
    assert statuses == {200, 201, 400, 401, 403, 413, 415, 422, 431}


async def test_request_ids_are_echoed_when_they_take_either_lane(lanes: list[Api]) -> None:
    for api in lanes:
        for sent, is_kept in ((b"me-1", True), (b"a b", False), (b"", False), (b"x" * 129, False)):
            answer = await sent_raw(api, "GET", "/v1/cart", [(b"x-request-id", sent)], [])

            assert (answer.headers["x-request-id"].encode() == sent) is is_kept


async def test_origins_are_answered_the_same_when_other_sites_are_allowed(make_lanes: MakeLanes) -> None:
    lanes = await make_lanes(cors_origins="https://front.example")
    for origin in (b"https://front.example", b"https://evil.example", b"", b"\xff"):
        answers = []
        for api in lanes:
            token = (await api.client().post("/v1/guest")).json()["token"].encode()
            headers = [(b"x-cart-token", token), JSON, (b"origin", origin)]
            answers.append(
                [
                    comparable(await sent_raw(api, method, path, headers, [body]))
                    for method, path, body in (
                        ("POST", ITEMS, ONE),
                        ("GET", "/v1/cart", b""),
                        ("DELETE", LINE, b""),
                    )
                ]
            )

        assert answers[0] == answers[1], origin


async def test_guests_are_known_again_when_they_change_lanes(lanes: list[Api]) -> None:
    quick, slow = lanes
    guest = quick.client()
    added = await quick.done(guest.post(ITEMS, json={"sku": "MUG"}))
    other = slow.client({"X-Cart-Token": guest.cookies["cart"]})

    read = await other.get("/v1/cart")
    again = await guest.get("/v1/cart", headers={"If-None-Match": read.headers["etag"]})

    assert read.json()["version"] == added["version"]
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", read.headers["etag"])


async def test_replays_are_the_same_when_they_change_lanes(lanes: list[Api]) -> None:
    quick, slow = lanes
    headers = {"Idempotency-Key": "once"}
    body = {"sku": "MUG", "quantity": 2}
    first = await quick.ana.post(ITEMS, json=body, headers=headers)

    repeated = await slow.ana.post(ITEMS, json=body, headers=headers)

    assert repeated.headers["idempotent-replayed"] == "true"
    assert repeated.json()["summary"] == first.json()["summary"]


async def test_limits_in_force_are_named_by_either_lane(make_lanes: MakeLanes) -> None:
    lanes = await make_lanes(max_quantity_per_line=7, max_body_bytes=2_000)
    await lanes[0].sell("PEN", max_quantity=4, min_quantity=2, multiple_of=2)
    await lanes[0].sell("BOX", max_quantity=500)
    requests: list[tuple[str, str, Any, str]] = [
        ("POST", ITEMS, {"sku": "MUG", "quantity": -1}, "quantity must be 1 to 7."),
        ("POST", ITEMS, {"sku": "MUG", "quantity": 10**12}, "quantity must be 1 to 7."),
        ("POST", ITEMS, {"sku": "PEN", "quantity": -1}, "quantity must be 1 to 4."),
        (
            "POST",
            ITEMS,
            {"sku": "PEN", "quantity": 6},
            "The line's quantity must be 2 to 4 in multiples of 2.",
        ),
        ("POST", ITEMS, {"sku": "BOX", "quantity": 501}, "The line's quantity must be 1 to 7."),
        ("PATCH", LINE, {"quantity": -1}, "quantity must be 0 to 7."),
        ("PATCH", ITEMS + "/PEN", {"quantity": -1}, "quantity must be 0 to 4."),
        ("POST", ITEMS, {"sku": 1, "quantity": 8}, "quantity must be 1 to 7."),
        ("PATCH", LINE, {"quantity": 8, "price": 1}, "quantity must be 0 to 7."),
        ("POST", ITEMS, {"sku": "M" * 3_000}, "This path takes bodies of at most 2000 bytes."),
    ]

    for api in lanes:
        for method, path, body, detail in requests:
            answer = (await api.ana.request(method, path, json=body)).json()

            assert detail in (answer["detail"], *(error["detail"] for error in answer.get("errors", ())))
