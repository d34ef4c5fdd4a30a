"""What belongs to one process and event loop, and what a forked child can do to its parent's connections."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from forking import told_by_child
from wire_server import ECHO

from cartstore.affinity import Affinity, watch
from cartstore.errors import OtherEventLoop, OtherProcess, StoreUnavailable
from cartstore.redis.wire import WireCaller

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture
def path(server_folder: Path, request: pytest.FixtureRequest) -> Path:
    return server_folder / f"{abs(hash(request.node.nodeid)):x}.sock"


class Holder:
    """Has the connection."""


async def raised_by(act: Callable[[], Any]) -> str:
    """The name of the error."""
    try:
        await act()
    except Exception as error:
        return type(error).__name__
    return "nothing"


async def check(affinity: Affinity) -> None:
    affinity.check()


def test_check_raises_when_the_loop_is_another_one() -> None:
    affinity = Affinity()
    asyncio.run(check(affinity))

    with pytest.raises(OtherEventLoop, match="another event loop; open a store in each"):
        asyncio.run(check(affinity))


@pytest.mark.parametrize("is_same_loop", [True, False])
def test_check_raises_when_the_process_is_a_forked_one(is_same_loop: bool) -> None:
    affinity = Affinity()
    with asyncio.Runner() as runner:
        runner.run(check(affinity))
        run = runner.run if is_same_loop else asyncio.run

        assert told_by_child(lambda: run(raised_by(lambda: check(affinity)))) == OtherProcess.__name__

        assert not affinity.is_lost
        runner.run(check(affinity))


def test_what_was_not_used_before_the_fork_belongs_to_the_child() -> None:
    affinity = Affinity()

    assert told_by_child(lambda: asyncio.run(raised_by(lambda: check(affinity)))) == "nothing"


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize("ends", ["writes", "closes", "aborts", "reads"])
def test_server_and_parent_notice_nothing_of_what_a_child_does(
    new_loop: Callable[[], asyncio.AbstractEventLoop], ends: str
) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with theirs, asyncio.Runner(loop_factory=new_loop) as runner:
        loop = runner.get_loop()
        reader = asyncio.StreamReader(loop=loop)
        transport, _ = runner.run(
            loop.create_connection(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), sock=ours)
        )
        holder = Holder()
        watch(holder, lambda _: transport)

        def harm() -> str:
            if ends == "writes":
                transport.write(b"QUIT")
            elif ends == "closes":
                transport.write(b"Terminate")
                transport.close()
            elif ends == "aborts":
                transport.abort()
            gc.collect()
            return str(runner.run(rest()))

        async def rest() -> bytes:
            # Whatever the loop has planned is done, and what lies in the socket could be read.
            with suppress(OSError):
                return await reader.read()
            return b""

        theirs.send(b"for the parent")

        assert told_by_child(harm) == "b''"

        with pytest.raises(BlockingIOError):
            theirs.recv(100)
        assert runner.run(reader.readexactly(14)) == b"for the parent"
        theirs.send(b"and this")
        assert runner.run(reader.readexactly(8)) == b"and this"
        transport.write(b"answer")
        runner.run(asyncio.sleep(0))
        assert theirs.recv(100) == b"answer"
        transport.close()
        runner.run(asyncio.sleep(0))


def test_caller_that_was_never_used_connects_in_the_child(path: Path) -> None:
    caller = WireCaller.open(f"unix://{path}", wait_seconds=0.02)

    async def ask() -> None:
        await caller.call(ECHO, ("gate",), (1,))

    assert told_by_child(lambda: asyncio.run(raised_by(ask))) == StoreUnavailable.__name__
