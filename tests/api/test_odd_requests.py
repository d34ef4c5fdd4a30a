"""Thousands of odd requests over both ways, the fast lane and Litestar: the answers and what becomes of the
cart must be the same, none is a 5xx, every refusal is a valid problem, and no stored data breaks a list.

Each request is sent as bytes to two connections of the server, one of each kind, without sockets between:
what parses and answers them is what serves a shop. `make fuzz` sends more (N=, SEED=). A failure names seed
and number; with `FUZZ_SEED=<seed> FUZZ_FIRST=<number> FUZZ_N=1` the test sends that request alone.
"""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import msgspec
from cartstore_api.app import create_app
from cartstore_api.caching import NO_STORE, PRIVATE
from cartstore_api.context import RequestContext
from cartstore_api.problems import KINDS, MEDIA_TYPE, TYPE_PREFIX
from cartstore_api.server import Server
from conftest import Api, nobody_hears, serving, token_of
from odd_requests import FORGED, FRONT, GUEST, MINE, OTHERS, OddRequest, odd_request

from cartstore import open_store
from cartstore.model import Owner
from cartstore.settings import Settings

N = int(os.environ.get("FUZZ_N", "5000"))
SEED = int(os.environ.get("FUZZ_SEED", "15"))
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
AT_ONCE = 16

_STRUCK = [
    (re.compile(rb'"version":\d+'), b'"version":0'),
    (re.compile(rb"version is \d+"), b"version is 0"),
    (re.compile(rb'"request_id":"[^"]*"'), b'"request_id":""'),
    (re.compile(rb"\d{4}-\d\d-\d\dT[0-9:.]+Z"), b"then"),
    (re.compile(rb'"expires_in_seconds":\d+'), b'"expires_in_seconds":0'),
    (re.compile(rb'"available_quantity":\d+'), b'"available_quantity":0'),
    (re.compile(rb'"id":"[ug]\.[^"]*"'), b'"id":""'),
]
_DIFFER = {b"x-request-id", b"etag", b"cart-token", b"set-cookie", b"date"}
_COUNTED = {b"content-length"}


def struck(body: bytes) -> bytes:
    for pattern, replacement in _STRUCK:
        body = pattern.sub(replacement, body)
    return body


class Wire(asyncio.Transport):
    """What stands between a connection and its client: gathers one answer."""

    def __init__(self, *, is_head: bool) -> None:
        super().__init__({"peername": ("127.0.0.1", 50_000), "sockname": ("127.0.0.1", 8_000)})
        self.sent = bytearray()
        self.answered = asyncio.Event()
        self._is_head = is_head
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data
        head, end, body = bytes(self.sent).partition(b"\r\n\r\n")
        if not end or head.startswith(b"HTTP/1.1 100"):
            return
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if self._is_head or length is None or len(body) >= int(length[1]):
            self.answered.set()

    def close(self) -> None:
        self._is_closing = True
        self.answered.set()

    abort = close
    write_eof = close

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_reading(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0


class Answer(msgspec.Struct):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def value(self, name: bytes) -> bytes | None:
        return dict(self.headers).get(name)

    @property
    def is_problem(self) -> bool:
        return (self.value(b"content-type") or b"").decode() == MEDIA_TYPE

    @classmethod
    def of(cls, sent: bytes) -> Answer:
        head, _, body = sent.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]
        return cls(int(first.split(b" ")[1]), headers, body)


class Way:
    """One way of requests through the shop: a server, and the callers who use it."""

    def __init__(self, api: Api, *, has_lane: bool) -> None:
        self.api = api
        self.name = "lane" if has_lane else "asgi"
        self._server = Server(api.app, has_lane=has_lane)  # type: ignore[arg-type]
        self._server.config.load()
        self._callers = api.app.state.services.callers
        self._fixed = {
            OTHERS: token_of("x", secret="another secret, as long as it must be").encode(),
            b"{admin}": token_of("root", "admin").encode(),
        }

    async def send(self, request: OddRequest, user: str) -> tuple[Answer, list[bytes]]:
        """Send a request as a new caller; the answer, and the carts that it could have changed."""
        guest = self._callers.new_guest(RequestContext([]))[0].encode()
        mine = token_of(user).encode()
        owners = [Owner("user", user), self._owner_of(guest)]
        if request.has_line:
            for owner in owners:
                await self.api.store.add_line(owner, "MUG")
        head, _, signature = mine.rpartition(b".")
        tokens = {MINE: mine, GUEST: guest, FORGED: head + b"." + signature[::-1], **self._fixed}
        wire = Wire(is_head=request.method == b"HEAD")
        protocol: Any = self._server.config.http_protocol_class(
            config=self._server.config, server_state=self._server.server_state, app_state={}
        )
        protocol.connection_made(wire)
        protocol.data_received(request.bytes_for(tokens))
        async with asyncio.timeout(60):
            await wire.answered.wait()
        protocol.connection_lost(None)
        answer = Answer.of(bytes(wire.sent))
        issued = answer.value(b"cart-token")
        if issued is not None:
            owners.append(self._owner_of(issued))
        services = self.api.app.state.services
        return answer, [struck(await services.read_cart(owner)) for owner in owners]

    def _owner_of(self, token: bytes) -> Owner:
        owner: Owner = self._callers.reader(RequestContext([(b"x-cart-token", token)]))
        return owner


def comparable(request: OddRequest, answer: Answer) -> tuple[Any, ...]:
    """What must be the same on both ways."""
    counted = _COUNTED if answer.body else set()
    headers = sorted(header for header in answer.headers if header[0] not in _DIFFER | counted)
    present = {name for name, _ in answer.headers if name in _DIFFER}
    if request.is_of_shop:
        return ()
    is_told = request.is_of_cart or answer.is_problem
    return answer.status, headers, present, struck(answer.body) if is_told else b""


def faults_of(request: OddRequest, answer: Answer) -> list[str]:
    """What no answer may be."""
    faults = []
    names = [name for name, _ in answer.headers]
    if answer.status >= 500:
        faults.append("5xx")
    for name in (b"cache-control", b"vary", b"x-request-id"):
        if names.count(name) != 1:
            faults.append(f"{names.count(name)} {name.decode()}")
    if len(answer.body) != int(answer.value(b"content-length") or 0) and request.method != b"HEAD":
        faults.append("length")
    if answer.status >= 400 and request.method != b"HEAD":
        faults += _faults_of_problem(answer)
    elif answer.body and answer.value(b"content-type") == b"application/json":
        msgspec.json.decode(answer.body)
    if answer.status >= 400 and answer.value(b"cache-control") not in (NO_STORE, PRIVATE):
        faults.append("a problem that may be kept")
    return faults


def _faults_of_problem(answer: Answer) -> list[str]:
    if not answer.is_problem:
        return ["no problem"]
    problem = msgspec.json.decode(answer.body)
    code = problem["code"]
    kind = KINDS.get(code)
    if kind is None or (kind.status, problem["status"]) != (answer.status, answer.status):
        return [f"status of {code}"]
    if problem["type"] != TYPE_PREFIX + code.lower().replace("_", "-") or problem["title"] != kind.title:
        return ["type or title"]
    if problem["request_id"].encode() != answer.value(b"x-request-id"):
        return ["request id"]
    is_whole = all(isinstance(problem[name], str) and problem[name] for name in ("detail", "instance"))
    return [] if is_whole else ["detail or instance"]


async def test_odd_requests_are_answered_alike_and_well_on_both_ways(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        chosen = msgspec.structs.replace(settings, cors_origins=FRONT)
        app = create_app(chosen, open_store=partial(open_store, doorbell=nobody_hears))
        await stack.enter_async_context(serving(app))
        api = Api(app, chosen, stack)
        await api.sell("MUG", stock=1_000_000_000)
        await api.sell("RARE", stock=0)
        ways = [Way(api, has_lane=True), Way(api, has_lane=False)]
        found: dict[int, Any] = {}
        statuses: dict[int, int] = {}

        async def compare(number: int) -> None:
            request = odd_request(SEED, number)
            (quick, kept), (slow, kept_too) = [
                await way.send(request, f"{number} {way.name}") for way in ways
            ]
            statuses[quick.status] = statuses.get(quick.status, 0) + 1
            faults = [*faults_of(request, quick), *faults_of(request, slow)]
            if comparable(request, quick) != comparable(request, slow):
                faults.append("answers differ")
            if kept != kept_too:
                faults.append("carts differ")
            if faults:
                found[number] = faults, request, quick, slow, [] if kept == kept_too else [kept, kept_too]

        for start in range(FIRST, FIRST + N, AT_ONCE):
            await asyncio.gather(*(compare(n) for n in range(start, min(start + AT_ONCE, FIRST + N))))

        assert not found, (
            "\n\n".join(
                "\n".join([f"SEED={SEED} {number}", *(repr(part)[:1_500] for part in row)])
                for number, row in [*found.items()][:10]
            )
            + f"\n\n{len(found)} of {N}: {sorted(found)[:100]}"
        )
        if N >= 1_000:
            # They reach what they are for: requests that are taken, and each kind of refusal.
            assert {200, 201, 304, 400, 401, 403, 404, 405, 409, 412, 413, 415, 422} <= statuses.keys(), (
                statuses
            )
            assert statuses[200] + statuses[201] > N // 8, statuses
        await _read_all_orders(api)


async def _read_all_orders(api: Api) -> None:
    """Whatever checkouts were taken with, the shop's list of them can be read to its end."""
    await api.archive()
    count, cursor = 0, ""
    while True:
        page = await api.done(api.admin.get(f"/v1/admin/orders?limit=100{cursor}"))
        count += len(page["items"])
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert count or N < 1_000
