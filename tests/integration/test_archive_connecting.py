"""How connections to PostgreSQL are opened: failures by their cause, and a pooler that lends server
connections for one transaction at a time."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import asyncpg
import pytest
from archive_shop import Story

from cartstore.archive import Archive, migrate
from cartstore.archive.connecting import is_behind_pooler
from cartstore.archive.schema import BASE
from cartstore.errors import StoreUnavailable
from cartstore.model import Partition


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://u:p4ss@127.0.0.1:1/shop", "127.0.0.1 port 1 cannot be reached: connection refused."),
        (
            "postgresql:///shop?host=/nowhere",
            "socket in /nowhere cannot be reached: No such file or directory.",
        ),
    ],
)
async def test_open_tells_operators_server_and_cause_when_nobody_answers(url: str, says: str) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await Archive.open(url, Partition("main"))

    assert caught.value.message == "The database cannot be reached."
    assert caught.value.for_operators.endswith(says)
    assert "p4ss" not in caught.value.for_operators


async def test_open_tells_operators_the_server_s_words_when_the_database_is_not_there(
    database_url: str,
) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await Archive.open(database_url.replace("/test_", "/missing_"), Partition("main"))

    assert 'database "missing_' in caught.value.for_operators
    assert "missing" not in caught.value.message


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (asyncpg.InvalidPasswordError('password authentication failed for user "u"'), "password authentica"),
        (untrusted(), "certificate is not trusted (self-signed certificate)"),
        (ConnectionError("PostgreSQL server at x rejected SSL upgrade"), "has no TLS"),
        (socket.gaierror(-2, "Name or service not known"), "no such host (Name or service not known)"),
        (TimeoutError(), "no answer within 2 s"),
    ],
)
async def test_open_tells_operators_what_to_look_at_when_a_connection_fails(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(asyncpg, "connect", fail)

    with pytest.raises(StoreUnavailable) as caught:
        await Archive.open("postgresql://u:p4ss@one:5433,[::1]/shop", Partition("main"))

    assert caught.value.for_operators.startswith("The database at one port 5433, [::1] port 5432 cannot be")
    assert says in caught.value.for_operators


class Pooler:
    """Stands before a server as PgBouncer does, as far as a client can tell: it greets with a process number
    of its own, and notes what a client may not do where server connections are lent for one transaction."""

    def __init__(self, server: Path) -> None:
        self._server = server
        self.clients = 0
        self.named: list[bytes] = []
        """Statements that were prepared under a name."""
        self.outside: list[bytes] = []
        """Statements that were prepared while no transaction was open."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients += 1
        from_server, to_server = await asyncio.open_unix_connection(str(self._server))
        state = bytearray(b"I")
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            length = await reader.readexactly(4)
            to_server.write(length + await reader.readexactly(int.from_bytes(length) - 4))
            await asyncio.gather(
                self._pass_on(reader, to_server, lambda kind, body: self._note(kind, body, state)),
                self._pass_on(from_server, writer, lambda kind, body: self._disguise(kind, body, state)),
            )
        writer.close()
        to_server.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Any) -> None:
        try:
            while True:
                kind = await reader.readexactly(1)
                length = int.from_bytes(await reader.readexactly(4))
                body = change(kind, await reader.readexactly(length - 4))
                writer.write(kind + length.to_bytes(4) + body)
                await writer.drain()
        finally:
            writer.close()

    def _note(self, kind: bytes, body: bytes, state: bytearray) -> bytes:
        if kind == b"P":
            name, statement, *_ = body.split(b"\0")
            if name:
                self.named.append(statement)
            if state != b"T":
                self.outside.append(statement)
        return body

    def _disguise(self, kind: bytes, body: bytes, state: bytearray) -> bytes:
        if kind == b"Z":
            state[:] = body
        return (2**31 - 1).to_bytes(4) + body[4:] if kind == b"K" else body


@asynccontextmanager
async def pooled(database_url: str) -> AsyncIterator[tuple[Pooler, str]]:
    parts = urlsplit(database_url)
    pooler = Pooler(Path(dict(parse_qsl(parts.query))["host"]) / ".s.PGSQL.5432")
    async with await asyncio.start_server(pooler.serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield pooler, f"postgresql://{parts.username}@{host}:{port}{parts.path}?sslmode=disable"


async def test_pooler_is_recognized_by_a_process_number_that_is_not_the_server_s(database_url: str) -> None:
    async with pooled(database_url) as (_, url):
        assert await is_behind_pooler(url)
    assert not await is_behind_pooler(database_url)


async def test_nothing_is_prepared_under_a_name_or_outside_a_transaction_when_a_pooler_answers(
    database_url: str,
) -> None:
    async with pooled(database_url) as (pooler, url):
        await migrate(url, revision=BASE)
        await migrate(url)
        archive = await Archive.open(url, Partition("main"))
        story = Story()
        await archive.apply_events([story.adjusted("a", 5, on_hand=5)])
        # Twice, because a statement is cached when it has been prepared.
        for _ in range(2):
            await archive.ping()
            await archive.cursor()
            assert (await archive.stock_totals(["a"]))[1]["a"].on_hand == 5
        await archive.close()

    assert pooler.clients >= 4
    assert (pooler.named, pooler.outside) == ([], [])
