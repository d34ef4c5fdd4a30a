"""RFC 9112's rules of framing as a table, over both ways: the fast lane and Litestar.

Each case is the bytes that a client sends on one connection, and what it is answered. A last request, which
asks for the connection's end, comes behind them: when it is answered ("live"), the server has read exactly
what the client meant, and nothing of it has run as another request. A case that the server must refuse ends
with its refusal instead. Every case is sent as one piece and byte by byte.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec
import pytest
from cartstore_api.app import Application, create_app
from cartstore_api.connection import Connection
from cartstore_api.server import Server
from conftest import comes, listening, nobody_hears, port_of, serving, token_of

from cartstore import open_store
from cartstore.model import Product, Variant
from cartstore.settings import Settings

ITEMS = b"POST /v1/cart/items HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n"
ADD = ITEMS + b"content-length: 13\r\n"
CHUNKED = ITEMS + b"transfer-encoding: chunked\r\n"
ONE = b'{"sku":"MUG"}'
CART = b"GET /v1/cart HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nhost: a\r\n"
LAST = b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
ONE_CHUNK = b"d\r\n" + ONE + b"\r\n0\r\n\r\n"

MALFORMED = "400 MALFORMED_REQUEST"
LARGE = "431 HEADERS_TOO_LARGE"

Case = tuple[bytes, list[str]]

LENGTHS: dict[str, Case] = {
    "length": (ADD + b"\r\n" + ONE, ["201", "live"]),
    "length of zero": (CART + b"content-length: 0\r\n\r\n", ["200", "live"]),
    "length after spaces": (ITEMS + b"content-length: \t 13 \t\r\n\r\n" + ONE, ["201", "live"]),
    "length with zeros before": (ITEMS + b"content-length: 0013\r\n\r\n" + ONE, ["201", "live"]),
    "length of a request that needs no body": (CART + b"content-length: 13\r\n\r\n" + ONE, ["200", "live"]),
    "no length": (ITEMS + b"\r\n", ["400 MALFORMED_JSON", "live"]),
    "two equal lengths": (ADD + b"content-length: 13\r\n\r\n" + ONE, [MALFORMED]),
    "two unequal lengths": (ADD + b"content-length: 3\r\n\r\n" + ONE, [MALFORMED]),
    "list of lengths": (ITEMS + b"content-length: 13, 13\r\n\r\n" + ONE, [MALFORMED]),
    "length with a sign": (ITEMS + b"content-length: +13\r\n\r\n" + ONE, [MALFORMED]),
    "negative length": (ITEMS + b"content-length: -13\r\n\r\n" + ONE, [MALFORMED]),
    "hexadecimal length": (ITEMS + b"content-length: 0xd\r\n\r\n" + ONE, [MALFORMED]),
    "length with an underscore": (ITEMS + b"content-length: 1_3\r\n\r\n" + ONE, [MALFORMED]),
    "length with a space inside": (ITEMS + b"content-length: 1 3\r\n\r\n" + ONE, [MALFORMED]),
    "empty length": (ITEMS + b"content-length:\r\n\r\n" + ONE, [MALFORMED]),
    "length beyond 64 bits": (ITEMS + b"content-length: 99999999999999999999\r\n\r\n" + ONE, [MALFORMED]),
    "length of many digits": (ITEMS + b"content-length: " + b"0" * 30 + b"13\r\n\r\n" + ONE, [MALFORMED]),
    "length and chunks": (ADD + b"transfer-encoding: chunked\r\n\r\n" + ONE_CHUNK, [MALFORMED]),
    "chunks and length": (CHUNKED + b"content-length: 13\r\n\r\n" + ONE_CHUNK, [MALFORMED]),
    "length and another coding": (ADD + b"transfer-encoding: x\r\n\r\n" + ONE, [MALFORMED]),
}

CODINGS: dict[str, Case] = {
    "chunks": (CHUNKED + b"\r\n" + ONE_CHUNK, ["201", "live"]),
    "chunks in upper case": (
        ITEMS + b"Transfer-Encoding: CHUNKED\r\n\r\n" + ONE_CHUNK.replace(b"d\r", b"D\r"),
        ["201", "live"],
    ),
    "chunks with zeros before": (CHUNKED + b"\r\n0000000000000" + ONE_CHUNK, ["201", "live"]),
    "chunks with extensions": (
        CHUNKED + b'\r\nd;a=b;c="d;e"\r\n' + ONE + b"\r\n0;x\r\n\r\n",
        ["201", "live"],
    ),
    "identity": (ITEMS + b"transfer-encoding: identity\r\n\r\n" + ONE, [MALFORMED]),
    "gzip and chunked": (ITEMS + b"transfer-encoding: gzip, chunked\r\n\r\n" + ONE_CHUNK, [MALFORMED]),
    "chunked and gzip": (ITEMS + b"transfer-encoding: chunked, gzip\r\n\r\n" + ONE_CHUNK, [MALFORMED]),
    "chunked twice": (CHUNKED + b"transfer-encoding: chunked\r\n\r\n" + ONE_CHUNK, [MALFORMED]),
    "chunked in a list twice": (
        ITEMS + b"transfer-encoding: chunked, chunked\r\n\r\n" + ONE_CHUNK,
        [MALFORMED],
    ),
    "two codings": (ITEMS + b"transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n", [MALFORMED]),
    "unknown coding": (ITEMS + b"transfer-encoding: xchunked\r\n\r\n" + ONE_CHUNK, [MALFORMED]),
    "coding with a parameter": (ITEMS + b"transfer-encoding: chunked;q=1\r\n\r\n" + ONE_CHUNK, [MALFORMED]),
    "quoted coding": (ITEMS + b'transfer-encoding: "chunked"\r\n\r\n' + ONE_CHUNK, [MALFORMED]),
    "coding after a vertical tab": (
        ITEMS + b"transfer-encoding: \x0bchunked\r\n\r\n" + ONE_CHUNK,
        [MALFORMED],
    ),
    "empty coding": (ITEMS + b"transfer-encoding:\r\n\r\n" + ONE_CHUNK, [MALFORMED]),
    "chunks in HTTP/1.0": (
        (CHUNKED + b"connection: keep-alive\r\n\r\n" + ONE_CHUNK).replace(b"HTTP/1.1", b"HTTP/1.0"),
        [MALFORMED],
    ),
    "chunk size with spaces": (CHUNKED + b"\r\nd \r\n" + ONE + b"\r\n0\r\n\r\n", [MALFORMED]),
    "chunk size with a sign": (CHUNKED + b"\r\n+" + ONE_CHUNK, [MALFORMED]),
    "chunk size with 0x": (CHUNKED + b"\r\n0x" + ONE_CHUNK, [MALFORMED]),
    "empty chunk size": (CHUNKED + b"\r\n\r\n" + ONE_CHUNK, [MALFORMED]),
    "chunk size beyond 64 bits": (CHUNKED + b"\r\n" + b"f" * 17 + b"\r\n" + ONE, [MALFORMED]),
    "chunk that is too short": (CHUNKED + b"\r\nc" + ONE_CHUNK[1:], [MALFORMED]),
    "chunk without its end": (CHUNKED + b"\r\nd\r\n" + ONE + b"0\r\n\r\n", [MALFORMED]),
    "chunk size before a bare LF": (CHUNKED + b"\r\nd\n" + ONE + b"\n0\n\n", [MALFORMED]),
    "extension before a bare LF": (CHUNKED + b"\r\nd;a\n" + ONE + b"\r\n0\r\n\r\n", [MALFORMED]),
    "extension with a control character": (
        CHUNKED + b"\r\nd;a\x01\r\n" + ONE + b"\r\n0\r\n\r\n",
        [MALFORMED],
    ),
    "endless extension": (CHUNKED + b"\r\nd;" + b"a" * 120_000, [LARGE]),
    "few trailers in one piece": (CHUNKED + b"\r\n" + ONE_CHUNK[:-2] + b"a: b\r\n\r\n", ["201", "live"]),
    "trailers": (CHUNKED + b"\r\n" + ONE_CHUNK[:-2] + b"x-t: 1\r\nhost: evil\r\n\r\n", ["201", "live"]),
    "trailer that is a token": (
        (CHUNKED + b"\r\n" + ONE_CHUNK[:-2]).replace(b"authorization: Bearer {token}\r\n", b"")
        + b"authorization: Bearer wrong\r\n\r\n",
        ["201", "live"],
    ),
    "trailer that is a length": (
        CHUNKED + b"\r\n" + ONE_CHUNK[:-2] + b"content-length: 5\r\n\r\n",
        [MALFORMED],
    ),
    "too many trailers": (CHUNKED + b"\r\n" + ONE_CHUNK[:-2] + b"a: b\r\n" * 6_000, [LARGE]),
    "endless trailer": (CHUNKED + b"\r\n" + ONE_CHUNK[:-2] + b"a: " + b"b" * 120_000, [LARGE]),
}

FIELDS: dict[str, Case] = {
    "folded field": (LIVE + b"x: a\r\n b\r\n\r\n", [MALFORMED]),
    "folded first field": (LIVE.replace(b"host", b" host") + b"\r\n", [MALFORMED]),
    "space before the colon": (LIVE + b"x : a\r\n\r\n", [MALFORMED]),
    "tab before the colon": (ITEMS + b"content-length\t: 13\r\n\r\n" + ONE, [MALFORMED]),
    "no colon": (LIVE + b"x\r\n\r\n", [MALFORMED]),
    "no name": (LIVE + b": x\r\n\r\n", [MALFORMED]),
    "name of odd bytes": (LIVE + b"x\xff: a\r\n\r\n", [MALFORMED]),
    "bare LF": (LIVE.replace(b"\r\n", b"\n") + b"\n", [MALFORMED]),
    "one bare LF": (LIVE + b"x: a\ny: b\r\n\r\n", [MALFORMED]),
    "bare CR": (LIVE + b"x: a\ry: b\r\n\r\n", [MALFORMED]),
    "CR before CRLF": (LIVE + b"x: a\r\r\n\r\n", [MALFORMED]),
    "head that ends in a bare LF": (LIVE + b"\n", [MALFORMED]),
    "NUL in a value": (LIVE + b"x: a\x00b\r\n\r\n", [MALFORMED]),
    "control character in a value": (LIVE + b"x: a\x01b\r\n\r\n", [MALFORMED]),
    "odd bytes in a value": (LIVE + b"x: a\xffb\r\n\r\n", ["live", "live"]),
    "value before spaces": (CART.replace(b"{token}", b"{token} \t ") + b"\r\n", ["200", "live"]),
    "empty value": (LIVE + b"x:\r\n\r\n", ["live", "live"]),
    "a hundred fields": (LIVE + b"a: b\r\n" * 99 + b"\r\n", ["live", "live"]),
    "more than a hundred fields": (LIVE + b"a: b\r\n" * 100 + b"\r\n", [LARGE]),
    "more than a hundred hot fields": (CART + b"a: b\r\n" * 99 + b"\r\n", [LARGE]),
    "large head": (LIVE + b"x: " + b"a" * 32_000 + b"\r\n\r\n", ["live", "live"]),
    "too large a head": (LIVE + b"x: " + b"a" * 32_768 + b"\r\n\r\n", [LARGE]),
    "too large a hot head": (CART + b"x: " + b"a" * 32_768 + b"\r\n\r\n", [LARGE]),
    "too large a target": (b"GET /" + b"a" * 33_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", [LARGE]),
    "endless field": (LIVE + b"x: " + b"a" * 70_000, [LARGE]),
    "no host": (LIVE.replace(b"host: a\r\n", b"") + b"\r\n", [MALFORMED]),
    "no host, hot": (CART.replace(b"host: a\r\n", b"") + b"\r\n", [MALFORMED]),
    "two hosts": (LIVE + b"host: b\r\n\r\n", [MALFORMED]),
    "two hosts, hot": (CART + b"host: b\r\n\r\n", [MALFORMED]),
    "two equal hosts, hot": (CART + b"host: a\r\n\r\n", [MALFORMED]),
    "two hosts in HTTP/1.0": (LIVE.replace(b"1.1", b"1.0") + b"host: b\r\n\r\n", [MALFORMED]),
    "host with a path": (LIVE.replace(b"host: a", b"host: a/b") + b"\r\n", [MALFORMED]),
    "list of hosts, hot": (CART.replace(b"host: a", b"host: a, b") + b"\r\n", [MALFORMED]),
    "host with a user": (CART.replace(b"host: a", b"host: u@a") + b"\r\n", [MALFORMED]),
    "host before spaces": (CART.replace(b"host: a", b"host: a \t") + b"\r\n", ["200", "live"]),
    "host with a port": (CART.replace(b"host: a", b"host: a:8000") + b"\r\n", ["200", "live"]),
    "host of IPv6": (CART.replace(b"host: a", b"host: [::1]:8000") + b"\r\n", ["200", "live"]),
    "empty host": (CART.replace(b"host: a", b"host:") + b"\r\n", ["200", "live"]),
}

TARGETS: dict[str, Case] = {
    "absolute form": (CART.replace(b"/v1", b"http://b/v1") + b"\r\n", ["200", "live"]),
    "absolute form without a path": (
        LIVE.replace(b"/health/live", b"http://b") + b"\r\n",
        ["307", "live"],
    ),
    "absolute form with a query only": (
        LIVE.replace(b"/health/live", b"http://b?x") + b"\r\n",
        ["307", "live"],
    ),
    "absolute form with a user": (LIVE.replace(b"/health", b"http://u@b/health") + b"\r\n", [MALFORMED]),
    "absolute form of another scheme": (LIVE.replace(b"/health", b"ftp://b/health") + b"\r\n", [MALFORMED]),
    "absolute form without a host in HTTP/1.1": (
        LIVE.replace(b"/health", b"http://b/health").replace(b"host: a\r\n", b"") + b"\r\n",
        [MALFORMED],
    ),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", ["204", "live"]),
    "OPTIONS of a host": (b"OPTIONS http://b HTTP/1.1\r\nhost: a\r\n\r\n", ["204", "live"]),
    "GET *": (b"GET * HTTP/1.1\r\nhost: a\r\n\r\n", [MALFORMED]),
    "authority form": (b"GET a:80 HTTP/1.1\r\nhost: a\r\n\r\n", [MALFORMED]),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n" + LIVE + b"\r\n", ["405 METHOD_NOT_ALLOWED"]),
    "no target": (b"GET HTTP/1.1\r\nhost: a\r\n\r\n", [MALFORMED]),
    "relative target": (b"GET health/live HTTP/1.1\r\nhost: a\r\n\r\n", [MALFORMED]),
    "fragment": (LIVE.replace(b"live", b"live#x") + b"\r\n", [MALFORMED]),
    "odd bytes in the target": (LIVE.replace(b"live", b"liv\xe9") + b"\r\n", [MALFORMED]),
    "odd bytes in the query": (LIVE.replace(b"live", b"live?\xe9") + b"\r\n", [MALFORMED]),
    "control character in the target": (LIVE.replace(b"live", b"live\x01") + b"\r\n", [MALFORMED]),
    "unknown method": (b"BREW /v1/cart HTTP/1.1\r\nhost: a\r\n\r\n", [MALFORMED]),
    "method in lower case": (LIVE.replace(b"GET", b"get") + b"\r\n", [MALFORMED]),
    "tab behind the method": (LIVE.replace(b"GET ", b"GET\t") + b"\r\n", [MALFORMED]),
    "HTTP/0.9": (LIVE.replace(b"HTTP/1.1", b"HTTP/0.9") + b"\r\n", [MALFORMED]),
    "HTTP/1.2": (LIVE.replace(b"HTTP/1.1", b"HTTP/1.2") + b"\r\n", [MALFORMED]),
    "HTTP/2.0": (CART.replace(b"HTTP/1.1", b"HTTP/2.0") + b"\r\n", [MALFORMED]),
    "HTTP/2 by prior knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [MALFORMED]),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 100, [MALFORMED]),
    "empty lines before": (b"\r\n\r\n" + LIVE + b"\r\n", ["live", "live"]),
    "space before": (b" " + LIVE + b"\r\n", [MALFORMED]),
}

CONNECTIONS: dict[str, Case] = {
    "pipelined": (ADD + b"\r\n" + ONE + CART + b"\r\n" + LIVE + b"\r\n", ["201", "200", "live", "live"]),
    "junk behind": (ADD + b"\r\n" + ONE + b"\x00junk", ["201", MALFORMED]),
    "junk behind several": (
        ADD + b"\r\n" + ONE + LIVE + b"\r\n" + CART + b"\r\n" + b"junk\r\n\r\n",
        ["201", "live", "200", MALFORMED],
    ),
    "refused head behind several": (
        CART + b"\r\n" + CART + b"\r\n" + CART.replace(b"host: a\r\n", b"") + b"\r\n",
        ["200", "200", MALFORMED],
    ),
    "broken chunk behind several": (
        LIVE + b"\r\n" + CART + b"\r\n" + CHUNKED + b"\r\nx\r\n",
        ["live", "200", MALFORMED],
    ),
    "behind the last": (CART + b"connection: close\r\n\r\n" + CART + b"\r\n", ["200"]),
    "close among others": (CART + b"connection: x, CLOSE\r\n\r\n" + CART + b"\r\n", ["200"]),
    "close in a second field": (
        CART + b"connection: keep-alive\r\nconnection: close\r\n\r\n" + CART + b"\r\n",
        ["200"],
    ),
    "HTTP/1.0": (LIVE.replace(b"1.1", b"1.0") + b"\r\n", ["live"]),
    "HTTP/1.0 without a host": (b"GET /health/live HTTP/1.0\r\n\r\n", ["live"]),
    "HTTP/1.0 that is kept": (
        LIVE.replace(b"1.1", b"1.0") + b"connection: Keep-Alive\r\n\r\n",
        ["live", "live"],
    ),
    "hot HTTP/1.0 that is kept": (
        CART.replace(b"1.1", b"1.0") + b"connection: keep-alive\r\n\r\n",
        ["200", "live"],
    ),
    "HTTP/1.0 with a body that is kept": (
        (ADD + b"\r\n" + ONE).replace(b"1.1\r\n", b"1.0\r\nconnection: keep-alive\r\n"),
        ["201", "live"],
    ),
    "continue": (ADD + b"expect: 100-continue\r\n\r\n" + ONE, ["100", "201", "live"]),
    "continue in HTTP/1.0": (
        (ADD + b"expect: 100-continue\r\nconnection: keep-alive\r\n\r\n" + ONE).replace(b"1.1", b"1.0"),
        ["201", "live"],
    ),
    "other expectation": (ADD + b"expect: x\r\n\r\n" + ONE, ["201", "live"]),
    "HEAD": (b"HEAD" + CART[3:] + b"\r\n", ["200", "live"]),
    "HEAD with a body": (b"HEAD" + CART[3:] + b"content-length: 13\r\n\r\n" + ONE, ["200", "live"]),
    "HEAD that is refused": (b"HEAD" + CART[3:] + b"host: b\r\n\r\n", ["400"]),
}

H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
HIDDEN = b"DELETE /v1/cart HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n"

UPGRADES: dict[str, Case] = {
    "upgrade": (ADD + H2C + b"\r\n" + ONE, ["201", "live"]),
    "upgrade without a body": (CART + H2C + b"\r\n", ["200", "live"]),
    "upgrade with a request for a body": (
        ITEMS + H2C + b"content-length: {hidden}\r\n\r\n" + HIDDEN,
        ["400 MALFORMED_JSON", "live"],
    ),
    "upgrade with chunks": (CHUNKED + H2C + b"\r\n" + ONE_CHUNK, ["201", "live"]),
    "upgrade of a websocket": (
        CART + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n",
        ["200", "live"],
    ),
    "upgrade and close": (CART + b"connection: close, upgrade\r\nupgrade: h2c\r\n\r\n" + HIDDEN, ["200"]),
    "upgrades that are pipelined": (
        (ADD + H2C + b"\r\n" + ONE) * 2 + CART + H2C + b"\r\n",
        ["201", "201", "200", "live"],
    ),
    "upgrade behind others": (CART + b"\r\n" + ADD + H2C + b"\r\n" + ONE, ["200", "201", "live"]),
    "upgrade in HTTP/1.0": (
        (ADD + H2C + b"\r\n" + ONE).replace(b"HTTP/1.1", b"HTTP/1.0"),
        ["201"],
    ),
    "upgrade and no host": (CART.replace(b"host: a\r\n", b"") + H2C + b"\r\n", [MALFORMED]),
    "upgrade with both lengths": (
        ADD + H2C + b"transfer-encoding: chunked\r\n\r\n" + ONE_CHUNK,
        [MALFORMED],
    ),
    "upgrade that is not meant": (ADD + b"upgrade: h2c\r\n\r\n" + ONE, ["201", "live"]),
    "many upgrades at once": (
        b"GET /health/live HTTP/1.1\r\nhost:\r\nconnection:upgrade\r\nupgrade:a\r\n\r\n" * 200,
        ["live"] * 201,
    ),
}

TABLES = {
    "lengths": LENGTHS,
    "codings": CODINGS,
    "fields": FIELDS,
    "targets": TARGETS,
    "connections": CONNECTIONS,
    "upgrades": UPGRADES,
}


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[Application]:
    app = create_app(settings, open_store=partial(open_store, doorbell=nobody_hears))
    async with serving(app):
        store = app.state.services.store
        variants = (Variant(sku="MUG", price_minor=999),)
        await store.put_product(Product(id="p", title="The MUG", currency="USD", variants=variants))
        await store.adjust_stock("MUG", 10_000, reason="test", reference="1")
        yield app


async def _conversation(server: Server, data: bytes, *, is_split: bool) -> list[dict[str, Any]]:
    """What is answered on one connection, until the server ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    try:
        if is_split:
            await comes(lambda: bool(server.server_state.connections))
            (connection,) = server.server_state.connections
            for number in range(len(data)):
                connection.data_received(data[number : number + 1])
        else:
            writer.write(data)
        writer.write(LAST)
        async with asyncio.timeout(5):
            said = await reader.read()
    except TimeoutError:
        return [{"status": "nothing", "headers": {}, "body": b""}]
    finally:
        writer.close()
    await comes(lambda: not server.server_state.connections)
    return _answers(said, is_bodiless=data.startswith(b"HEAD"))


def _answers(said: bytes, *, is_bodiless: bool) -> list[dict[str, Any]]:
    found = []
    while said:
        head, _, said = said.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        headers = dict(line.partition(b": ")[::2] for line in lines[1:])
        length = 0 if is_bodiless else int(headers.get(b"content-length", b"0"))
        body, said = said[:length], said[length:]
        assert len(body) == length
        is_bodiless = False
        found.append({"status": lines[0].split(b" ")[1].decode(), "headers": headers, "body": body})
    return found


def _told(answer: dict[str, Any]) -> str:
    if answer["headers"].get(b"content-type") == b"application/problem+json" and answer["body"]:
        return f"{answer['status']} {msgspec.json.decode(answer['body'])['code']}"
    return "live" if answer["body"] == b'{"status":"ok"}' else str(answer["status"])


@pytest.mark.parametrize("table", TABLES)
async def test_requests_are_framed_as_the_standard_says(app: Application, table: str) -> None:
    wrong = {}
    for has_lane in (True, False):
        async with listening(app, has_lane=has_lane) as server:
            for name, (data, expected) in TABLES[table].items():
                token = token_of(f"{table} {has_lane}").encode()
                data = data.replace(b"{token}", token)
                data = data.replace(b"{hidden}", b"%d" % len(HIDDEN.replace(b"{token}", token)))
                for is_split in (False, True):
                    told = [_told(answer) for answer in await _conversation(server, data, is_split=is_split)]
                    if told != expected:
                        wrong[name, has_lane, is_split] = told

    assert wrong == {}


async def test_refusals_say_what_is_wrong(app: Application) -> None:
    said = {}
    async with listening(app) as server:
        for name, data in {
            "tls": TARGETS["TLS"][0],
            "http2": TARGETS["HTTP/2 by prior knowledge"][0],
            "host": FIELDS["no host"][0],
            "hosts": FIELDS["two hosts"][0],
            "length": LENGTHS["two unequal lengths"][0],
            "method": TARGETS["unknown method"][0],
        }.items():
            (answer,) = await _conversation(server, data, is_split=False)
            problem = msgspec.json.decode(answer["body"])
            said[name] = problem["detail"]
            assert problem["request_id"] == answer["headers"][b"x-request-id"].decode()
            assert answer["headers"][b"connection"] == b"close"
            assert b"date" in answer["headers"]

    assert said == {
        "tls": "These are bytes of TLS; plain HTTP/1.1 is served here.",
        "http2": "HTTP/2 is not served here; HTTP/1.1 is.",
        "host": "The request has no Host.",
        "hosts": "The request has more than one Host.",
        "length": "The request is not HTTP/1.1: Duplicate Content-Length.",
        "method": "The request does not begin with a method of HTTP and a space.",
    }


async def test_http_1_0_is_told_when_its_connection_is_kept(app: Application) -> None:
    async with listening(app) as server:
        kept, _ = await _conversation(server, CONNECTIONS["HTTP/1.0 that is kept"][0], is_split=False)
        (closed,) = await _conversation(server, CONNECTIONS["HTTP/1.0"][0], is_split=False)

    assert (kept["headers"][b"connection"], closed["headers"][b"connection"]) == (b"keep-alive", b"close")


async def test_options_of_everything_tells_all_methods(app: Application) -> None:
    async with listening(app) as server:
        answer, _ = await _conversation(server, TARGETS["OPTIONS *"][0], is_split=False)

    assert answer["headers"][b"allow"] == b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


@pytest.mark.parametrize("has_lane", [True, False])
async def test_connection_ends_when_an_answer_comes_instead_of_continue(
    app: Application, has_lane: bool
) -> None:
    """The client may send the body or leave it out: nobody could tell what comes next."""
    request = b"POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 13\r\nexpect: 100-continue\r\n\r\n"
    async with listening(app, has_lane=has_lane) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(request)
        async with asyncio.timeout(20):
            (answer,) = _answers(await reader.read(), is_bodiless=False)
        writer.close()

    assert (answer["status"], answer["headers"][b"connection"]) == ("404", b"close")


async def test_host_of_an_absolute_target_counts_when_host_says_another(app: Application) -> None:
    """The rule against other sites compares Origin with it."""
    statuses = []
    async with listening(app) as server:
        for target in (b"http://shop.test/v1/guest", b"/v1/guest"):
            request = b"POST %b HTTP/1.1\r\nhost: evil.test\r\norigin: http://shop.test\r\n" % target
            request += b"cookie: cart=x\r\n\r\n"
            statuses.append((await _conversation(server, request, is_split=False))[0]["status"])

    assert statuses == ["201", "403"]


async def test_a_refusal_is_noted_when_no_request_came_of_it(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[Any] = []
    monkeypatch.setattr(app.observer, "note", lambda context, *rest: noted.append((context.code, *rest[:3])))
    async with listening(app) as server:
        await _conversation(server, FIELDS["two hosts"][0], is_split=False)
        await _conversation(server, b"junk\r\n\r\n", is_split=False)

    assert noted == [
        ("MALFORMED_REQUEST", "GET", "unmatched", 400),
        ("MALFORMED_REQUEST", "other", "unmatched", 400),
    ]


async def test_hot_requests_take_the_lane_when_they_ask_for_another_protocol(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = []
    serve = Connection.serve
    monkeypatch.setattr(Connection, "serve", lambda *parts: served.append(parts) or serve(*parts))
    data = UPGRADES["upgrade"][0].replace(b"{token}", token_of("ana").encode())
    async with listening(app) as server:
        added, _ = await _conversation(server, data, is_split=False)

    assert (added["status"], len(served)) == ("201", 1)
    assert re.search(rb'"sku":"MUG"', added["body"])
