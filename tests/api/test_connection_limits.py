"""Connections that take too long, send too much or leave: what they and all others see of it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec
import pytest
from cartstore_api.app import Application, create_app
from cartstore_api.connection_limits import Limits
from cartstore_api.connection_watch import BETWEEN
from cartstore_api.metrics import CUT
from cartstore_api.server import Server
from conftest import comes, listening, nobody_hears, port_of, serving, token_of

from cartstore import open_store
from cartstore.model import Product, Variant
from cartstore.settings import Settings

ONE = b'{"sku":"MUG"}'
ADD = b"POST /v1/cart/items HTTP/1.1\r\nhost: a\r\ncontent-length: 13\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nhost: a\r\n"
QUICK = Limits(
    head_seconds=0.1, body_window_seconds=0.1, answer_seconds=0.2, drain_seconds=0.1, watch_seconds=0.02
)
BOTH_WAYS = pytest.mark.parametrize("has_lane", [True, False])


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[Application]:
    chosen = msgspec.structs.replace(settings, trusted_proxies="127.0.0.1")
    app = create_app(chosen, open_store=partial(open_store, doorbell=nobody_hears))
    async with serving(app):
        store = app.state.services.store
        variants = (Variant(sku="MUG", price_minor=999),)
        await store.put_product(Product(id="p", title="The MUG", currency="USD", variants=variants))
        await store.adjust_stock("MUG", 10_000, reason="test", reference="1")
        yield app


async def _answer(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """The next answer: its status and, for a problem, its code; and its head."""
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1])) if length else b""
    status = head.split(b" ")[1].decode()
    if b"application/problem+json" in head:
        status += " " + msgspec.json.decode(body)["code"]
    return status, head


async def _rest(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(20):
        return await reader.read()


def _has_read(server: Server) -> bool:
    """Whether some bytes of a request have come."""
    connections: Any = server.server_state.connections
    return any(one.stage != BETWEEN or one.cycle is not None for one in connections)


def _cut(reason: str) -> float:
    return float(CUT.labels(reason)._value.get())


@BOTH_WAYS
async def test_a_head_that_does_not_come_is_answered_408(app: Application, has_lane: bool) -> None:
    async with listening(app, has_lane=has_lane, limits=QUICK) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(LIVE)

        status, head = await _answer(reader)
        assert (status, await _rest(reader)) == ("408 REQUEST_TIMEOUT", b"")
        assert b"\r\nconnection: close\r\n" in head
        writer.close()


async def test_a_later_head_that_does_not_come_is_answered_408(app: Application) -> None:
    async with listening(app, limits=QUICK) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(LIVE + b"\r\n" + b"G")

        assert [(await _answer(reader))[0] for _ in range(2)] == ["200", "408 REQUEST_TIMEOUT"]
        writer.close()


async def test_a_silent_connection_is_closed_without_an_answer(app: Application) -> None:
    before = _cut("silent")
    async with listening(app, limits=QUICK) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))

        assert await _rest(reader) == b""
        assert _cut("silent") == before + 1
        writer.close()


@BOTH_WAYS
async def test_a_body_that_does_not_come_is_answered_408(app: Application, has_lane: bool) -> None:
    before = _cut("request_timeout")
    async with listening(app, has_lane=has_lane, limits=QUICK) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(ADD + b"\r\n" + ONE[:-3])

        status, head = await _answer(reader)
        assert (status, await _rest(reader)) == ("408 REQUEST_TIMEOUT", b"")
        assert b"\r\nconnection: close\r\n" in head
        assert _cut("request_timeout") == before + 1
        writer.close()
        await comes(lambda: not server.server_state.tasks)


async def test_an_answer_that_nobody_reads_is_cut(app: Application) -> None:
    before = _cut("answer_unread")
    async with listening(app, limits=QUICK) as server:
        with socket.create_connection(("127.0.0.1", port_of(server))) as client:
            client.setblocking(False)
            asked = b"GET /schema/openapi.json HTTP/1.1\r\nhost: a\r\n\r\n" * 200
            await asyncio.get_running_loop().sock_sendall(client, asked)

            await comes(lambda: _cut("answer_unread") == before + 1)
            await comes(lambda: not server.server_state.connections and not server.server_state.tasks)


@BOTH_WAYS
async def test_a_refusal_is_heard_by_a_client_that_goes_on_sending(app: Application, has_lane: bool) -> None:
    """Half-closed and drained: a close with bytes unread would be a reset, which fails the client's next
    write before it has looked for an answer."""
    refused = {
        "413 BODY_TOO_LARGE": ADD.replace(b"13", b"9000000") + b"\r\n",
        "431 HEADERS_TOO_LARGE": LIVE + b"x: ",
        "400 MALFORMED_REQUEST": LIVE + b"host: b\r\n\r\n",
    }
    statuses = []
    async with listening(app, has_lane=has_lane, limits=Limits(drain_seconds=20)) as server:
        for request in refused.values():
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            writer.write(request + b"x" * 50_000)
            status, _ = await _answer(reader)
            for _ in range(40):
                writer.write(b"x" * 50_000)
                await writer.drain()
            assert await _rest(reader) == b""
            statuses.append(status)
            writer.close()
            await comes(lambda: not server.server_state.connections)

    assert statuses == list(refused)


async def test_a_drained_connection_is_closed_when_its_client_does_not(app: Application) -> None:
    async with listening(app, limits=QUICK) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(b"junk\r\n\r\n")

        await comes(lambda: server.registry.count == 1)
        await comes(lambda: not server.server_state.connections)
        writer.close()


async def test_a_body_that_nobody_needs_is_not_read_for_ever(app: Application) -> None:
    limits = Limits(discarded_bytes_max=100_000, drain_seconds=20)
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    async with listening(app, limits=limits) as server:
        port = port_of(server)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r\n")
        _, announced = await _answer(reader)
        assert await _rest(reader) == b""
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /nowhere HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + chunk)
        _, chunked = await _answer(reader)
        for _ in range(10):
            writer.write(chunk)
        assert await _rest(reader) == b""
        writer.close()

    # Or the client would send its next request on a connection that ends: Go did, and took it for lost.
    assert [b"connection: close" in head for head in (announced, chunked)] == [True, True]


async def test_a_connection_that_was_said_to_be_kept_is_kept(app: Application) -> None:
    """What was read of a body before its request was answered is not counted to what comes afterwards."""
    async with listening(app, limits=Limits(discarded_bytes_max=100_000)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        await comes(lambda: bool(server.server_state.connections))
        (connection,) = server.server_state.connections
        head = b"POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 150000\r\n\r\n"
        connection.data_received(head + b"x" * 60_000)  # type: ignore[union-attr]
        _, kept = await _answer(reader)
        writer.write(b"x" * 90_000 + LIVE + b"\r\n")
        status, _ = await _answer(reader)
        writer.close()

    assert b"connection: close" not in kept
    assert status == "200"


async def test_good_clients_are_served_when_silent_sockets_take_every_place(app: Application) -> None:
    before = _cut("evicted")
    async with listening(app, limits=Limits(connections_max=10)) as server:
        port = port_of(server)
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        await comes(lambda: _cut("evicted") == before + 30)
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(ADD + b"\r\n" + ONE)
            assert (await _answer(reader))[0] == "201"
            writer.close()
        await comes(lambda: server.registry.count <= 10)
        for one in silent:
            one.close()


async def test_an_unfinished_head_is_answered_408_when_its_place_is_needed(app: Application) -> None:
    async with listening(app, limits=Limits(connections_max=1)) as server:
        port = port_of(server)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(LIVE)
        await comes(lambda: _has_read(server))
        _, other = await asyncio.open_connection("127.0.0.1", port)

        assert (await _answer(reader))[0] == "408 REQUEST_TIMEOUT"
        writer.close()
        other.close()


async def test_an_address_is_told_when_it_has_too_many_connections(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.client_addresses, "group_of", lambda peer: "203.0.113.7")
    _delay_adds(app, monkeypatch, gate := asyncio.Event())
    async with listening(app, limits=Limits(connections_per_address_max=1)) as server:
        port = port_of(server)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ADD + b"\r\n" + ONE)
        await comes(lambda: bool(server.server_state.tasks))
        late, other = await asyncio.open_connection("127.0.0.1", port)

        assert ((await _answer(late))[0], await _rest(late)) == ("429 RATE_LIMITED", b"")
        gate.set()
        assert (await _answer(reader))[0] == "201"
        writer.close()
        other.close()


def _delay_adds(app: Application, monkeypatch: pytest.MonkeyPatch, gate: asyncio.Event) -> None:
    store = app.state.services.store
    add_line = store.add_line

    async def delayed(*parts: Any, **named: Any) -> Any:
        await gate.wait()
        return await add_line(*parts, **named)

    monkeypatch.setattr(store, "add_line", delayed)


def _reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@BOTH_WAYS
async def test_nothing_is_logged_as_an_error_when_clients_reset(
    app: Application, has_lane: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ADD + b"authorization: Bearer %b\r\n\r\n" % token_of("ana").encode() + ONE
    requests = [
        b"",
        LIVE,
        add[:-3],
        add,
        add * 3,
        (LIVE + b"\r\n") * 3 + add[:-3],
        add + b"junk",
        ADD + b"expect: 100-continue\r\n\r\n",
        ADD.replace(b"content-length: 13", b"transfer-encoding: chunked") + b"\r\nd\r\n" + ONE,
        b"POST /v1/admin/products/import HTTP/1.1\r\nhost: a\r\ncontent-type: text/csv\r\n"
        b"authorization: Bearer %b\r\ncontent-length: 900000\r\n\r\nHandle,"
        % token_of("root", "admin").encode(),
        b"GET /schema/openapi.json HTTP/1.1\r\nhost: a\r\n\r\n" * 50,
    ]
    _delay_adds(app, monkeypatch, gate := asyncio.Event())
    with caplog.at_level(logging.WARNING):
        async with listening(app, has_lane=has_lane) as server:
            for request in requests:
                gate.clear()
                client = socket.create_connection(("127.0.0.1", port_of(server)))
                client.setblocking(False)
                await asyncio.get_running_loop().sock_sendall(client, request)
                if request:
                    await comes(lambda: _has_read(server))
                    for _ in range(20):
                        await asyncio.sleep(0)
                _reset(client)
                for _ in range(20):
                    await asyncio.sleep(0)
                # One that reads no more, for the requests that wait, hears of the reset only now.
                gate.set()
                await comes(lambda: not server.server_state.tasks and not server.server_state.connections)

    assert [
        record.getMessage() for record in caplog.records if record.name != "cartstore.api.connections"
    ] == []


@BOTH_WAYS
async def test_the_clients_address_is_known_when_a_trusted_proxy_tells_it(
    app: Application, has_lane: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    tell = app.client_addresses.of
    monkeypatch.setattr(app.observer, "note", lambda context, *rest: told.append(tell(context)))
    async with listening(app, has_lane=has_lane) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(ADD + b"x-forwarded-for: 198.51.100.1, 203.0.113.7\r\n\r\n" + ONE)
        await _answer(reader)
        writer.write(LIVE + b"\r\n")
        await _answer(reader)
        writer.close()

    assert told == ["203.0.113.7", "127.0.0.1"]


def test_the_soft_limit_on_open_files_is_raised_to_the_hard_one() -> None:
    code = (
        "import resource; from cartstore_api.connection_limits import raise_descriptor_limit as raised; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512)); raised(); "
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )

    assert found.stdout.split() == ["512", "512"]


async def test_requests_wait_as_bytes_when_very_many_come_at_once(app: Application) -> None:
    """Each queued request costs a hundred times its bytes; a piece of the network can bring ten thousand."""
    count = 3_000
    async with listening(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        await comes(lambda: bool(server.server_state.connections))
        (connection,) = server.server_state.connections
        connection.data_received(b"GET / HTTP/1.1\r\nhost:\r\n\r\n" * count)  # type: ignore[union-attr]
        queued = len(connection.pipeline)
        connection.data_received(LIVE + b"connection: close\r\n\r\n")  # type: ignore[union-attr]
        heard = await _rest(reader)
        writer.close()

    assert 0 < queued < 1_000
    assert heard.count(b"HTTP/1.1 307") == count
    assert heard.endswith(b'{"status":"ok"}')
