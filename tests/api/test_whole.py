"""Answers on the wire: the same bytes whether the server gets them whole or in ASGI's two messages."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec
import pytest
import uvicorn
from cartstore_api import answers
from cartstore_api.app import create_app
from conftest import nobody_hears, token_of

from cartstore import open_store
from cartstore.settings import Settings

BODY = b'{"sku":"MUG"}'
JSON = b"content-type: application/json\r\ncontent-length: 13\r\n"
POST = b"POST /v1/cart/items HTTP/1.1\r\nhost: a\r\n" + JSON + b"%b%b\r\n"
GET = b"GET /v1/cart HTTP/1.1\r\nhost: a\r\n%b%b\r\n"

_STRUCK = [
    (re.compile(rb"\r\ndate: [^\r]*"), b"\r\ndate: now"),
    (re.compile(rb'(x-request-id: |"request_id":")[0-9a-f]+'), rb"\1id"),
    (re.compile(rb"\d{4}-\d\d-\d\dT[0-9:.]+Z"), b"then"),
    (re.compile(rb'"version":\d+'), b'"version":0'),
    (re.compile(rb'etag: "[^"]*"'), b"etag: some"),
    (re.compile(rb'"expires_in_seconds":\d+'), b'"expires_in_seconds":0'),
    (re.compile(rb"content-length: \d\d+"), b"content-length: some"),
    (re.compile(rb'"available_quantity":\d+'), b'"available_quantity":0'),
    (re.compile(rb'"id":"u\.[^"]*"'), b'"id":""'),
    (re.compile(rb"(cart-token: |cart=)[A-Za-z0-9_-]{52}"), rb"\1token"),
]


@pytest.fixture
async def port(settings: Settings) -> AsyncIterator[int]:
    app = create_app(settings, open_store=partial(open_store, doorbell=nobody_hears))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app.front, http="httptools", ws="none", lifespan="on", access_log=False, log_config=None
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        for _ in range(600):
            if server.started or task.done():
                break
            await asyncio.sleep(0.05)
        assert server.started
        await _sell(app.state.services.store)
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            await task


async def _sell(store: Any) -> None:
    from cartstore.model import Product, Variant

    await store.put_product(
        Product(id="p", title="The MUG", currency="USD", variants=(Variant(sku="MUG", price_minor=999),))
    )
    await store.adjust_stock("MUG", 1_000, reason="test", reference="1")


async def _said(port: int, *pieces: bytes, wait_for: int) -> list[bytes]:
    """What the server says on one connection: `wait_for` answers, and whether it closes after them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard: list[bytes] = []
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        for _ in range(wait_for):
            async with asyncio.timeout(20):
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                is_bare = b" 304 " in head or pieces[0].startswith(b"HEAD")
                body = b"" if is_bare or length is None else await reader.readexactly(int(length[1]))
            heard.append(head + body)
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        async with asyncio.timeout(20):
            heard.append((await reader.read(12)) or b"closed")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return heard


def _struck(answers: list[bytes]) -> list[Any]:
    """Without what differs each time; headers in any order."""
    found = []
    for answer in answers:
        for pattern, replacement in _STRUCK:
            answer = pattern.sub(replacement, answer)
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *headers = head.split(b"\r\n")
        found.append((status, sorted(headers), body))
    return found


def _conversations(user: str) -> dict[str, tuple[tuple[bytes, ...], int]]:
    mine = b"authorization: Bearer %b\r\n" % token_of(user).encode()
    add = POST % (mine, b"") + BODY
    return {
        "add": ((add,), 1),
        "add again on one connection": ((add, add), 2),
        "pipelined": ((add + GET % (mine, b"") + add,), 3),
        "in pieces": ((add[:-6], add[-6:]), 1),
        "close": ((POST % (mine, b"connection: close\r\n") + BODY,), 1),
        "1.0": ((add.replace(b"HTTP/1.1", b"HTTP/1.0"),), 1),
        "continue": ((POST % (mine, b"expect: 100-continue\r\n"), BODY), 2),
        "as guest": ((POST % (b"", b"") + BODY,), 1),
        "read": ((GET % (mine, b""),), 1),
        "read close": ((GET % (mine, b"connection: close\r\n"),), 1),
        "unchanged": ((GET % (mine, b"if-none-match: *\r\n"),), 1),
        "head": ((b"HEAD" + (GET % (mine, b""))[3:],), 1),
        "refused": ((add.replace(b"MUG", b"CUP"),), 1),
        "bad token": ((GET % (b"authorization: Bearer x\r\n", b""),), 1),
    }


async def test_bytes_are_the_same_when_answers_are_handed_over_whole(port: int, monkeypatch: Any) -> None:
    handed_over = []
    hand_over = answers.hand_over
    monkeypatch.setattr(answers, "hand_over", lambda *parts: handed_over.append(1) or hand_over(*parts))
    whole = {}
    for name, (pieces, count) in _conversations("ana").items():
        whole[name] = _struck(await _said(port, *pieces, wait_for=count))
    monkeypatch.setattr(answers, "connection_of", lambda send: None)
    many = len(handed_over)

    in_two = {}
    for name, (pieces, count) in _conversations("ben").items():
        in_two[name] = _struck(await _said(port, *pieces, wait_for=count))

    assert whole == in_two
    assert (many, len(handed_over)) == (16, 16)
    assert {said[-1][0] for said in whole.values()} == {b"HTTP/1.1 200", b"closed"}
    assert [name for name, said in whole.items() if said[-1][0] == b"closed"] == [
        "close",
        "1.0",
        "read close",
    ]


async def test_server_goes_on_when_callers_leave_before_their_answer(port: int) -> None:
    ((add,), _) = _conversations("ana")["add"]
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(add)
        await writer.drain()
        writer.transport.abort()

    (answer, _) = await _said(port, add, wait_for=1)

    assert msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])["line"]["quantity"] > 1
