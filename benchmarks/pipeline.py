"""Script calls as redis-benchmark sends them: packed beforehand, many in flight, on some connections, with no
client library in between. The engine is the limit then; `client_share` of a sample says how much of the time
this process was busy itself, so that nobody has to believe it.
"""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final

import hiredis

from benchmarks.measure import Sample
from benchmarks.servers import NAMESPACE, Servers
from cartstore.model import Partition
from cartstore.redis.keys import Keys
from cartstore.redis.scripts import Script, script, script_names
from cartstore.redis.store import RedisEngine

CONNECTIONS: Final = 8
CHUNK_BYTES: Final = 32_768
"""Calls that are handed to the kernel at once, and what waits there at most: twice what the engine reads in
one turn of its loop. More would only have to be waited for at the end."""

PREFIX: Final = Keys(Partition(NAMESPACE)).prefix
_READ_BYTES: Final = 1 << 20
_STOP_SECONDS: Final = 60.0
_HEAD: Final = re.compile(rb"\*\d+\r\n\$\d+\r\n([A-Z_]+)\r\n")
"""The start of a reply, up to its tag."""

_ERROR: Final = re.compile(rb"(?:\A|\r\n)(-[A-Z]{2,} )")
"""More than the sign of one: what scripts pack may have any bytes in it."""


class _CallRecordedError(Exception):
    def __init__(self, call: tuple[Script, Sequence[str], Sequence[str | int]]) -> None:
        self.call = call


class _Recorder:
    async def call(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        raise _CallRecordedError((script, keys, args))


class Packer:
    """Packs the very calls that the store would make, by asking its engine class for them."""

    def __init__(self, identity: str, *, now_ms: int | None = None) -> None:
        """`now_ms`: the time that the script is to believe; by default the engine's own."""
        self._identity = identity
        self.engine = RedisEngine(
            _Recorder(), Partition(NAMESPACE), now_ms=None if now_ms is None else lambda: now_ms
        )

    def packed(self, verb: Coroutine[Any, Any, Any], *, as_script: bool = False) -> bytes:
        """The bytes of the call that this verb of `engine` makes first; `as_script`: always by EVALSHA."""
        try:
            verb.send(None)
        except _CallRecordedError as recorded:
            script, keys, args = recorded.call
            called = Script(script.name, script.source) if as_script else script
            return pack(called, keys, args, identity=self._identity)
        finally:
            verb.close()
        raise AssertionError("the verb made no call")


def pack(script: Script, keys: Sequence[str], args: Sequence[str | int], *, identity: str) -> bytes:
    return hiredis.pack_command((*script.command, len(keys), *keys, identity, *args))


def load_scripts(found: Servers, *others: Script) -> None:
    for known in (*(script(name) for name in script_names()), *others):
        found.client.script_load(known.source)
        if known.library:
            found.client.function_load(known.library, replace=True)


class _Connection:
    def __init__(self, found: Servers) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK_BYTES)
        self.socket.connect(found.socket_path)
        self.socket.sendall(hiredis.pack_command(("AUTH", found.password)))
        assert self.socket.recv(64) == b"+OK\r\n"
        self.socket.setblocking(False)
        self.chunks: list[bytes] = []
        self.counts: list[int] = []
        self.place = 0
        self.rest = memoryview(b"")
        self.unanswered = 0
        self.tail = b""


def run(
    found: Servers,
    calls: Sequence[bytes],
    *,
    seconds: float | None = None,
    connections: int = CONNECTIONS,
    expected: bytes = b"OK",
) -> Sample:
    """Send the calls: all of them once, or again and again for some seconds.

    Every reply must be an array of bulk strings that starts with a tag; `failed` counts those whose tag is
    not `expected`.
    """
    links = [_Connection(found) for _ in range(min(connections, len(calls)))]
    for number, link in enumerate(links):
        _fill(link, calls[number :: len(links)])
    answered = as_expected = 0
    with selectors.DefaultSelector() as selector:
        for link in links:
            selector.register(link.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, link)
        started, busy = time.perf_counter(), time.thread_time()
        until = started + (seconds if seconds is not None else _STOP_SECONDS * 60)
        sending = len(links)
        counted, ended = 0, started
        buffer = bytearray(_READ_BYTES)
        view = memoryview(buffer)
        while sending or any(link.unanswered for link in links):
            for key, events in selector.select(_STOP_SECONDS):
                link = key.data
                if events & selectors.EVENT_READ:
                    size = link.socket.recv_into(view)
                    if size == 0:
                        raise ConnectionError("the engine closed a connection")
                    text = link.tail + view[:size].tobytes()
                    tags = _HEAD.findall(text)
                    link.unanswered -= len(tags)
                    answered += len(tags)
                    as_expected += tags.count(expected)
                    begun = text.rfind(b"*")
                    link.tail = text[begun:] if begun >= 0 and not _HEAD.match(text, begun) else b""
                    if error := _ERROR.search(text):
                        raise RuntimeError(f"the engine answered an error: {_after(text, error)}")
                if events & selectors.EVENT_WRITE and not _send(link, time.perf_counter() < until, seconds):
                    selector.modify(link.socket, selectors.EVENT_READ, link)
                    sending -= 1
            now = time.perf_counter()
            if now <= until or not counted:
                counted, ended = answered, now
        spent = time.thread_time() - busy
        whole = time.perf_counter() - started
    for link in links:
        link.socket.close()
    return Sample(
        rate=counted / (ended - started),
        count=answered,
        failed=answered - as_expected,
        details={"client_share": round(spent / whole, 3), "connections": len(links)},
    )


def _fill(link: _Connection, calls: Iterable[bytes]) -> None:
    waiting: list[bytes] = []
    size = 0
    for call in calls:
        waiting.append(call)
        size += len(call)
        if size >= CHUNK_BYTES:
            link.chunks.append(b"".join(waiting))
            link.counts.append(len(waiting))
            waiting, size = [], 0
    if waiting:
        link.chunks.append(b"".join(waiting))
        link.counts.append(len(waiting))


def _send(link: _Connection, may_begin: bool, seconds: float | None) -> bool:
    """Write what the kernel takes; False once there is nothing more to be written."""
    if not link.rest:
        if link.place == len(link.chunks):
            if seconds is None:
                return False
            link.place = 0
        if not may_begin:
            return False
        link.rest = memoryview(link.chunks[link.place])
        link.unanswered += link.counts[link.place]
        link.place += 1
    try:
        sent = link.socket.send(link.rest)
    except BlockingIOError:
        return True
    link.rest = link.rest[sent:]
    return True


def _after(text: bytes, found: re.Match[bytes]) -> str:
    return text[found.start(1) : found.start(1) + 120].decode(errors="replace")
