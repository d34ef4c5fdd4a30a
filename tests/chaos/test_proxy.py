"""Goal: the proxy does to a connection what it says, and nothing else: bytes arrive in order, once, or not.

Method: an echoing server behind it, and a client that sends through it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .proxy import Proxy

_numbers = itertools.count()

MESSAGE = bytes(range(256)) * 40


class Echo:
    """Sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.ended = asyncio.Event()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(1_000):
                self.got += piece
                writer.write(piece)
        except OSError:
            pass
        finally:
            writer.close()
            self.ended.set()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(server_folder: Path, echo: Echo) -> AsyncIterator[Proxy]:
    path = str(server_folder / f"echo-{next(_numbers)}.sock")
    server = await asyncio.start_unix_server(echo.accept, path)
    async with Proxy(path, seed=1).running() as proxy:
        yield proxy
    server.close()


async def ask(proxy: Proxy) -> bytes:
    """Everything that comes back of one message, until as much as was sent or the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(MESSAGE)
        got = bytearray()
        try:
            while len(got) < len(MESSAGE) and (piece := await reader.read(65_536)):
                got += piece
        except OSError:
            pass
        return bytes(got)
    finally:
        writer.close()


async def test_bytes_arrive_once_and_in_order_when_nothing_is_done(proxy: Proxy, echo: Echo) -> None:
    assert await ask(proxy) == MESSAGE
    assert bytes(echo.got) == MESSAGE


async def test_bytes_arrive_later_when_they_are_delayed(proxy: Proxy, echo: Echo) -> None:
    proxy.delay(0.05)
    loop = asyncio.get_running_loop()
    began = loop.time()

    assert await ask(proxy) == MESSAGE
    # There and back; an instant less than a tenth of a second is the timers' rounding.
    assert loop.time() - began > 0.09
    assert bytes(echo.got) == MESSAGE


async def test_request_arrives_in_part_when_it_is_cut(proxy: Proxy, echo: Echo) -> None:
    proxy.cut_midway("request")

    got = await ask(proxy)

    await echo.ended.wait()
    assert len(echo.got) < len(MESSAGE)
    assert MESSAGE.startswith(bytes(echo.got))
    assert got == b""
    assert (proxy.cuts, proxy.cuts_waiting()) == (1, 0)


async def test_reply_arrives_in_part_when_it_is_cut(proxy: Proxy, echo: Echo) -> None:
    proxy.cut_midway("reply")

    got = await ask(proxy)

    assert len(got) < len(MESSAGE)
    assert MESSAGE.startswith(got)
    assert (proxy.cuts, proxy.cuts_waiting()) == (1, 0)


@pytest.mark.parametrize("drop", [False, True])
async def test_bytes_wait_when_the_line_stalls_and_go_on_or_are_gone(
    proxy: Proxy, echo: Echo, drop: bool
) -> None:
    proxy.stall()
    asking = asyncio.create_task(ask(proxy))
    await asyncio.sleep(0.1)
    assert not echo.got

    proxy.resume(drop=drop)

    assert await asking == (b"" if drop else MESSAGE)
    assert bytes(echo.got) == (b"" if drop else MESSAGE)
    assert await ask(proxy) == MESSAGE
