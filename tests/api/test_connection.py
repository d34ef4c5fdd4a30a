"""Hot requests on a connection of the server: the same bytes, and what may go on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import weakref
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, ClassVar

import msgspec
import pytest
from cartstore_api.app import Application, create_app
from cartstore_api.connection import Connection, Exchange
from conftest import listening, nobody_hears, port_of, serving, token_of

from cartstore import open_store
from cartstore.model import Owner, Product, Variant
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
    (re.compile(rb"(cart-token: |cart=)[A-Za-z0-9_-]{56}"), rb"\1token"),
]


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[Application]:
    app = create_app(settings, open_store=partial(open_store, doorbell=nobody_hears))
    async with serving(app):
        await _sell(app.state.services.store)
        yield app


@pytest.fixture
async def port(app: Application) -> AsyncIterator[int]:
    async with listening(app) as server:
        yield port_of(server)


async def _sell(store: Any) -> None:
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


async def test_bytes_are_the_same_when_requests_are_taken_on_the_connection(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    serve = Connection.serve
    monkeypatch.setattr(Connection, "serve", lambda *parts: taken.append(parts) or serve(*parts))
    quick, slow = {}, {}
    async with listening(app) as server:
        for name, (pieces, count) in _conversations("ana").items():
            quick[name] = _struck(await _said(port_of(server), *pieces, wait_for=count))
    many = len(taken)
    async with listening(app, has_lane=False) as server:
        for name, (pieces, count) in _conversations("ben").items():
            slow[name] = _struck(await _said(port_of(server), *pieces, wait_for=count))

    assert quick == slow
    # Not: 1.0, the one that waits to be told to go on, HEAD, and what comes before its turn.
    assert (many, len(taken)) == (11, 11)
    assert {said[-1][0] for said in quick.values()} == {b"HTTP/1.1 200", b"closed"}
    assert [name for name, said in quick.items() if said[-1][0] == b"closed"] == [
        "close",
        "1.0",
        "read close",
    ]


async def test_connection_is_read_again_when_a_large_body_was_answered_unread(port: int) -> None:
    large = b"POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000

    answer, after = await _said(port, large, wait_for=1)

    assert (answer[:12], after) == (b"HTTP/1.1 404", b"HTTP/1.1 200")


async def test_server_goes_on_when_callers_leave_before_their_answer(app: Application) -> None:
    ((add,), _) = _conversations("ana")["add"]
    async with listening(app) as server:
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            writer.write(add)
            await writer.drain()
            writer.transport.abort()

        (answer, _) = await _said(port_of(server), add, wait_for=1)

        assert _body_of(answer)["line"]["quantity"] > 1
        assert await _comes(lambda: not server.server_state.tasks and not server.server_state.connections)


async def test_nothing_is_left_of_a_connection_when_it_was_closed(app: Application) -> None:
    ((add,), _) = _conversations("ana")["add"]
    async with listening(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(add)
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

        assert await _comes(lambda: not server.server_state.connections)
        assert not server.registry.count
        assert not server.server_state.tasks


async def test_a_closed_connection_is_no_cycle_when_it_had_a_hot_request(app: Application) -> None:
    ((add,), _) = _conversations("ana")["add"]
    async with listening(app) as server:
        gc.collect()
        gc.disable()
        try:
            held = []
            for piece in (add, add[:-3]):
                reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
                writer.write(piece)
                if piece is add:
                    await reader.readuntil(b"\r\n\r\n")
                assert await _comes(lambda: len(server.server_state.connections) == 1)
                assert await _comes(lambda: next(iter(server.server_state.connections)).cycle is not None)
                (connection,) = server.server_state.connections
                if piece is add:
                    assert connection.cycle.request.body == b"", "kept while the connection is idle"
                held.append(weakref.ref(connection))
                del connection
                writer.close()
                assert await _comes(lambda: not server.server_state.connections)
            del reader, writer
            assert await _comes(lambda: not any(reference() for reference in held))
        finally:
            gc.enable()


async def test_access_is_noted_when_a_caller_leaves_before_its_body(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((add,), _) = _conversations("ana")["add"]
    noted = _noted(app, monkeypatch)
    async with listening(app) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(add[:-3])
        assert await _comes(lambda: bool(server.server_state.tasks))
        writer.transport.abort()
        assert await _comes(lambda: not server.server_state.connections)

    assert noted == [(400, "MALFORMED_JSON")]


@pytest.mark.parametrize(
    ("moment", "status", "code"),
    [
        ("before the last bytes", 503, "STORE_UNAVAILABLE"),
        ("with the last bytes", 504, "OUTCOME_UNKNOWN"),
    ],
)
async def test_nothing_is_begun_when_a_body_comes_as_the_server_waits_no_longer(
    app: Application, monkeypatch: pytest.MonkeyPatch, moment: str, status: int, code: str
) -> None:
    ((add,), _) = _conversations("ana")["add"]
    noted = _noted(app, monkeypatch)
    async with listening(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(add[:-3])
        assert await _comes(lambda: bool(server.server_state.tasks))
        (exchange,) = server.server_state.tasks
        (connection,) = server.server_state.connections
        if moment == "before the last bytes":
            exchange.cancel()
            connection.data_received(add[-3:])
        else:
            connection.data_received(add[-3:])
            exchange.cancel()
        async with asyncio.timeout(10):
            said = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert await _comes(lambda: not server.server_state.tasks)

    assert said.startswith(b"HTTP/1.1 %d" % status)
    assert noted == [(status, code)]


async def test_connection_ends_when_an_answer_cannot_be_made(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((add,), _) = _conversations("ana")["add"]

    async def fail(request: Any) -> Any:
        raise RuntimeError("no answer")

    monkeypatch.setattr(app.lane, "answer", fail)
    async with listening(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(add)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
        assert await _comes(lambda: not server.server_state.tasks and not server.server_state.connections)


@pytest.mark.parametrize(
    ("is_told", "expected"), [(False, (400, "MALFORMED_JSON")), (True, (504, "OUTCOME_UNKNOWN"))]
)
async def test_access_is_noted_once_when_a_caller_leaves_whom_the_server_gave_up(
    app: Application, monkeypatch: pytest.MonkeyPatch, is_told: bool, expected: tuple[int, str]
) -> None:
    ((add,), _) = _conversations("ana")["add"]
    noted = _noted(app, monkeypatch)
    async with listening(app) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(add[:-3])
        assert await _comes(lambda: bool(server.server_state.tasks))
        (exchange,) = server.server_state.tasks
        (connection,) = server.server_state.connections
        exchange.cancel()
        if is_told:
            assert await _comes(lambda: bool(noted))
        connection.connection_lost(None)
        writer.transport.abort()
        await asyncio.sleep(0.05)
        assert not server.server_state.tasks

    assert noted == [expected]


class _HeldTurns:
    """Turns that come when the test says so."""

    waiting: ClassVar[list[Exchange]] = []

    def __init__(self) -> None:
        self.waiting.clear()

    def take(self, request: Exchange) -> None:
        self.waiting.append(request)

    def end(self) -> None:
        pass

    @classmethod
    def come(cls) -> None:
        while cls.waiting:
            cls.waiting.pop(0).begin()


@pytest.fixture
def held_turns(monkeypatch: pytest.MonkeyPatch) -> type[_HeldTurns]:
    monkeypatch.setattr("cartstore_api.server.Turns", _HeldTurns)
    return _HeldTurns


async def test_request_is_served_when_its_caller_leaves_before_its_turn(
    app: Application, held_turns: type[_HeldTurns], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is on the other way, where it would have begun: a caller that hears nothing cannot know."""
    ((add,), _) = _conversations("ana")["add"]
    noted = _noted(app, monkeypatch)
    async with listening(app) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(add)
        assert await _comes(lambda: bool(held_turns.waiting))
        writer.transport.abort()
        assert await _comes(lambda: not server.server_state.connections)
        assert (noted, len(server.server_state.tasks)) == ([], 1)
        held_turns.come()
        assert await _comes(lambda: not server.server_state.tasks)

    assert noted == [(201, None)]
    cart = await app.state.services.store.read_cart(Owner("user", "ana"))
    assert [line.quantity for line in cart.lines] == [1]


@pytest.mark.parametrize("moment", ["before it is told", "after it was told"])
async def test_nothing_is_begun_when_the_turn_comes_after_the_server_gave_up(
    app: Application, held_turns: type[_HeldTurns], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    ((add,), _) = _conversations("ana")["add"]
    noted = _noted(app, monkeypatch)
    async with listening(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(add)
        assert await _comes(lambda: bool(held_turns.waiting))
        (exchange,) = server.server_state.tasks
        exchange.cancel()
        if moment == "after it was told":
            assert await _comes(lambda: bool(noted))
        held_turns.come()
        async with asyncio.timeout(10):
            said = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert await _comes(lambda: not server.server_state.tasks)

    assert said.startswith(b"HTTP/1.1 503")
    assert noted == [(503, "STORE_UNAVAILABLE")]


async def test_answer_is_given_when_the_server_is_told_to_stop_before_the_turn_comes(
    app: Application, held_turns: type[_HeldTurns]
) -> None:
    ((add,), _) = _conversations("ana")["add"]
    async with listening(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(add)
        assert await _comes(lambda: bool(held_turns.waiting))
        server.should_exit = True
        (connection,) = server.server_state.connections
        assert await _comes(lambda: not connection.cycle.keep_alive)
        held_turns.come()
        async with asyncio.timeout(10):
            said = await reader.read()
        writer.close()

    assert said.startswith(b"HTTP/1.1 201")
    assert b"connection: close\r\n" in said


async def test_shares_of_a_crowd_begin_when_it_comes_on_many_connections(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one turn of the loop, which real sockets would not always do. Each is served in its own context,
    whoever opened the turn; and a second crowd finds nothing of the first one."""
    carried = ContextVar[int]("carried")
    begun: list[int] = []
    serve, add_line, count = Connection.serve, app.state.services.store.add_line, 50

    def note(connection: Connection, exchange: Exchange) -> Any:
        begun[-1] += 1
        return serve(connection, exchange)

    async def add_later(*parts: Any, **named: Any) -> Any:
        served.append(carried.get())
        await asyncio.sleep(0.3)
        return await add_line(*parts, **named)

    monkeypatch.setattr(Connection, "serve", note)
    monkeypatch.setattr(app.state.services.store, "add_line", add_later)
    adds = [_conversations(f"user-{n}")["add"][0][0] for n in range(count)]
    async with listening(app) as server:
        pairs = [await asyncio.open_connection("127.0.0.1", port_of(server)) for _ in range(count)]
        assert await _comes(lambda: len(server.server_state.connections) == count)
        for _ in range(2):
            served: list[int] = []
            begun[:] = [0]
            for number, connection in enumerate(list(server.server_state.connections)):
                context = copy_context()
                context.run(carried.set, number)
                context.run(connection.data_received, adds[number])
            for _ in range(6):
                begun.append(0)
                await asyncio.sleep(0)

            assert begun == [8, 10, 10, 10, 10, 2, 0]
            assert await _comes(lambda: not server.server_state.tasks)
            assert served == list(range(count))
        for _, writer in pairs:
            writer.close()


async def test_every_request_is_answered_when_many_come_at_once(app: Application) -> None:
    """Many connections in the same moment, so that most requests wait for a turn."""
    calls: list[int] = []
    count = 120
    adds = [_conversations(f"user-{n}")["add"][0][0] for n in range(count)]
    async with listening(app) as server:
        pairs = [await asyncio.open_connection("127.0.0.1", port_of(server)) for _ in range(count)]
        for _ in range(3):
            for (_, writer), add in zip(pairs, adds, strict=True):
                writer.write(add)
            for reader, _ in pairs:
                async with asyncio.timeout(20):
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.partition(b"content-length: ")[2].split(b"\r")[0])
                    body = msgspec.json.decode(await reader.readexactly(length))
                calls.append(body["line"]["quantity"])
        for _, writer in pairs:
            writer.close()

    assert calls == [1] * count + [2] * count + [3] * count


def _noted(app: Application, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str | None]]:
    noted: list[tuple[int, str | None]] = []
    monkeypatch.setattr(
        app.lane, "note", lambda request, status: noted.append((status, request.context.code))
    )
    return noted


async def test_answers_have_the_headers_of_the_server_when_these_change(app: Application) -> None:
    ((add,), _) = _conversations("ana")["add"]
    async with listening(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        heads = []
        for _ in range(2):
            writer.write(add)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r")[0]))
            heads.append(head)
            server.config.encoded_headers = [(b"x-more", b"1")]
            assert await _comes(lambda: (b"x-more", b"1") in server.server_state.default_headers)
        writer.close()

    assert [b"\r\nx-more: 1\r\n" in head for head in heads] == [False, True]
    assert all(b"\r\ndate: " in head for head in heads)


async def test_answers_keep_their_order_when_a_caller_sends_without_reading(app: Application) -> None:
    mine = b"authorization: Bearer %b\r\n" % token_of("ana").encode()
    adds = []
    for number in range(20):
        body = b'{"sku":"MUG","properties":{"%d":"%b"}}' % (number, b"x" * 1_900)
        adds.append((POST % (mine, b"")).replace(b"13", b"%d" % len(body)) + body)
    paused, unsent, count = 0, 0, 300
    async with listening(app) as server:
        said = await _said(port_of(server), *adds, wait_for=len(adds))
        assert said[-2].startswith(b"HTTP/1.1 201")
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        for number in range(count):
            writer.write(GET % (mine, b"x-request-id: n%d.\r\n" % number))
            await asyncio.sleep(0.002)
            (connection,) = server.server_state.connections
            paused += connection.flow.write_paused
            unsent = max(unsent, connection.transport.get_write_buffer_size())
        ids = []
        async with asyncio.timeout(60):
            for _ in range(count):
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                assert length is not None
                await reader.readexactly(int(length[1]))
                ids.append(head.partition(b"x-request-id: n")[2].partition(b".")[0])
        writer.close()

    assert paused, "the answers were not enough to fill what is between us"
    assert unsent < 300_000
    assert [int(number) for number in ids] == list(range(count))


async def test_connection_is_closed_when_it_was_idle_for_too_long(app: Application) -> None:
    ((add,), _) = _conversations("ana")["add"]
    async with listening(app, timeout_keep_alive=1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        times = []
        for pause in (0.6, 0.6, 0.6):
            # The clock begins anew with every answer, or the third would find nobody.
            writer.write(add)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r")[0]))
            await asyncio.sleep(pause)
            times.append(head[:12])
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            rest = await reader.read()
        waited = asyncio.get_running_loop().time() - began
        writer.close()

    assert (times, rest) == ([b"HTTP/1.1 201"] * 3, b"")
    assert waited > 0.1


async def test_connection_stays_when_a_request_takes_longer_than_it_may_be_idle(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((add,), _) = _conversations("ana")["add"]
    _delay_adds(app, monkeypatch, seconds=1.5)
    async with listening(app, timeout_keep_alive=1) as server:
        first, second, _ = await _said(port_of(server), add, add, wait_for=2)

    assert (first[:12], second[:12]) == (b"HTTP/1.1 201", b"HTTP/1.1 201")


async def test_connection_stays_when_a_request_comes_in_slowly(app: Application) -> None:
    ((add,), _) = _conversations("ana")["add"]
    async with listening(app, timeout_keep_alive=1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        for piece in (add, add[:20], add[20:]):
            writer.write(piece)
            await asyncio.sleep(0.7)
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        async with asyncio.timeout(10):
            said = await reader.read()
        writer.close()

    assert said.count(b"HTTP/1.1 201") == 2


async def test_answer_is_given_when_the_server_is_told_to_stop_meanwhile(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((add,), _) = _conversations("ana")["add"]
    _delay_adds(app, monkeypatch, seconds=0.5)
    async with listening(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(add)
        assert await _comes(lambda: bool(server.server_state.tasks))
        server.should_exit = True
        async with asyncio.timeout(10):
            said = await reader.read()
        writer.close()

    assert said.startswith(b"HTTP/1.1 201")
    assert b"connection: close\r\n" in said


async def test_outcome_is_unknown_when_the_server_waits_no_longer(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((add,), _) = _conversations("ana")["add"]
    _delay_adds(app, monkeypatch, seconds=60)
    async with listening(app, timeout_graceful_shutdown=1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(add)
        assert await _comes(lambda: bool(server.server_state.tasks))
        server.should_exit = True
        async with asyncio.timeout(10):
            said = await reader.read()
        writer.close()

    assert said.startswith(b"HTTP/1.1 504")
    assert _body_of(said)["code"] == "OUTCOME_UNKNOWN"


async def test_outcome_is_unknown_when_a_body_does_not_come_before_the_end(app: Application) -> None:
    ((add,), _) = _conversations("ana")["add"]
    async with listening(app, timeout_graceful_shutdown=1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(add[:-3])
        assert await _comes(lambda: bool(server.server_state.tasks))
        server.should_exit = True
        async with asyncio.timeout(10):
            said = await reader.read()
        writer.close()

    assert said.startswith(b"HTTP/1.1 504")
    assert _body_of(said)["code"] == "OUTCOME_UNKNOWN"


async def test_nothing_is_waited_for_when_a_caller_leaves_before_its_body(app: Application) -> None:
    ((add,), _) = _conversations("ana")["add"]
    async with listening(app) as server:
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            writer.write(add[:-3])
            assert await _comes(lambda: bool(server.server_state.tasks))
            writer.transport.abort()
            assert await _comes(lambda: not server.server_state.tasks)


def _delay_adds(app: Application, monkeypatch: pytest.MonkeyPatch, *, seconds: float) -> None:
    store = app.state.services.store
    add_line = store.add_line

    async def delayed(*parts: Any, **named: Any) -> Any:
        await asyncio.sleep(seconds)
        return await add_line(*parts, **named)

    monkeypatch.setattr(store, "add_line", delayed)


def _body_of(answer: bytes) -> Any:
    return msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])


async def _comes(condition: Callable[[], bool]) -> bool:
    for _ in range(500):
        if condition():
            return True
        await asyncio.sleep(0.01)
    return False
