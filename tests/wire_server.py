"""What the tests of the multiplexed connection stand on.

FakeEngine        a server that greets a client, echoes scripts, and misbehaves on demand
sizes_of          how many calls each command carried
values_of         what one of them asks for
TappedEndpoint    between a caller and its transport: counts writes, asks for pauses
on_both_loops     runs a test on asyncio's loop and on uvloop's, and fails it for whatever the loop
                  would only have logged: a callback's error, a forgotten exception
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import hiredis
import msgspec
import pytest
import uvloop

from cartstore.redis.scripts import Script
from cartstore.redis.wire import Endpoint

ECHO = Script("echo", "return {'OK', ARGV[1], ARGV[2]}")
"""Answers the identity that it was called with, and its first argument."""

ECHO_FUNCTION = Script("echo", ECHO.source, library="#!lua name=echo_1\n", function="echo_1")
"""The same, kept by the engine as a function."""

ECHO_SEVERAL = Script(
    "echo",
    ECHO.source,
    library=ECHO_FUNCTION.library,
    function="echo_1",
    several=Script("echoes", ECHO.source, library="#!lua name=echoes_1\n", function="echoes_1"),
)
"""The same again, of which several calls may leave as one command."""

WAIT_SECONDS = 20.0
"""Until what a test waits for must have come."""

CALLS = (b"EVALSHA", b"EVAL", b"FCALL")

Command = list[bytes]


def values_of(packed: bytes) -> list[Any]:
    """MessagePack values that stand one after the other."""
    unpacker = msgspec.msgpack.Decoder()
    for count in range(16):
        with suppress(msgspec.DecodeError):
            found: list[Any] = unpacker.decode(bytes([0x90 | count]) + packed)
            return found
    raise ValueError(f"no values: {packed!r}")


class FakeEngine:
    """One engine behind a unix socket. Attributes may be changed at any time, but for the socket."""

    def __init__(self, path: Path, run_id: str = "run-1") -> None:
        self.path = path
        self.run_id = run_id
        self.replication_id = "replication-1"
        self.knows_script = True
        self.functions = {b"echo_1", b"echoes_1"}
        """Those that it knows."""

        self.takes_functions = True
        """Whether it lets FUNCTION LOAD pass."""

        self.forgets_functions = False
        """Whether it has forgotten what it was given before the next command comes."""

        self.commands: list[Command] = []
        """Everything received, over all connections."""

        self.accepted = 0
        self.answers: list[bytes | None] = []
        """Given to the next script calls in place of an echo, one each; None: no answer at all."""

        self.greeting_answer: Callable[[Command], bytes | None] = lambda command: None
        """May answer a command of the greeting in place of the usual."""

        self.is_silent = False
        """Answers nothing any more, not even a greeting."""

        self.reading = asyncio.Event()
        self.reading.set()
        """While cleared, nothing more is read after what came first."""

        self.piece_bytes = 0
        """When set, replies leave in pieces of so many bytes."""

        self.closes_on_accept = False
        self.held = asyncio.Event()
        self.held.set()
        """While cleared, script calls are received, and answered when it is set again."""

        self.received = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    @property
    def connections(self) -> int:
        """Those that are open now."""
        return len(self._writers)

    @property
    def calls(self) -> list[Command]:
        """The script calls among what was received."""
        return [command for command in self.commands if command[0] in CALLS]

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        """End as a crash does: every connection is cut."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self.path.unlink(missing_ok=True)
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Close every connection, with what it had not sent yet thrown away."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def wait_for_calls(self, count: int) -> None:
        """Until so many script calls were received in all."""
        await self.wait_until(lambda: len(self.calls) >= count)

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        """Until something is true of what was received or accepted."""
        async with asyncio.timeout(WAIT_SECONDS), self.received:
            await self.received.wait_for(holds)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        await self._notify()
        if self.closes_on_accept:
            writer.close()
            return
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        parser = hiredis.Reader()
        try:
            while data := await reader.read(1 << 16):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    self.commands.append(command)
                    await self._notify()
                    await self._answer(writer, command)
                await self.reading.wait()
        except (asyncio.CancelledError, OSError):
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()
            await self._notify()

    async def _notify(self) -> None:
        async with self.received:
            self.received.notify_all()

    async def _answer(self, writer: asyncio.StreamWriter, command: Command) -> None:
        is_call = command[0] in CALLS
        if is_call and not self.held.is_set():
            await self.held.wait()
        if self.is_silent or writer.is_closing():
            return
        reply = self._reply_to_call(command) if is_call else self._reply_to_greeting(command)
        if reply is None:
            return
        if not self.piece_bytes:
            writer.write(reply)
            return
        for start in range(0, len(reply), self.piece_bytes):
            writer.write(reply[start : start + self.piece_bytes])
            await writer.drain()
            if writer.is_closing():
                return
            # Without a turn of the loop between them the pieces would arrive as one.
            await asyncio.sleep(0)

    def _reply_to_greeting(self, command: Command) -> bytes | None:
        special = self.greeting_answer(command)
        if special is not None:
            return special
        if command[0] == b"FUNCTION":
            if not self.takes_functions:
                return b"-NOPERM no permissions to run the 'function|load' command\r\n"
            if not self.forgets_functions:
                self.functions.add(command[-1].split()[1].removeprefix(b"name="))
        if command[0] == b"ECHO":
            return bulk(command[1])
        if command == [b"INFO", b"server"]:
            return bulk(f"# Server\r\nredis_version:7.0.0\r\nrun_id:{self.run_id}\r\n".encode())
        if command == [b"INFO", b"replication"]:
            return bulk(f"# Replication\r\nmaster_replid:{self.replication_id}\r\n".encode())
        return b"+OK\r\n"

    def _reply_to_call(self, command: Command) -> bytes | None:
        if self.answers:
            return self.answers.pop(0)
        if command[0] == b"EVAL":
            self.knows_script = True
        elif command[0] == b"FCALL":
            if command[1] not in self.functions:
                return b"-ERR Function not found\r\n"
        elif not self.knows_script:
            return b"-NOSCRIPT No matching script.\r\n"
        keys = int(command[2])
        identity, *args = command[3 + keys :]
        if command[1] == b"echoes_1":
            each = [str(values_of(packed)[0]).encode() for packed in args]
            parts = [b"*3\r\n" + bulk(b"OK") + bulk(identity) + bulk(first) for first in each]
            return b"*%d\r\n%b" % (len(parts), b"".join(parts))
        return b"*3\r\n" + bulk(b"OK") + bulk(identity) + bulk(args[0])


def sizes_of(commands: Sequence[Command]) -> list[int]:
    """How many script calls each of these commands carries."""
    return [len(call) - 4 - int(call[2]) if call[1] == b"echoes_1" else 1 for call in commands]


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


@asynccontextmanager
async def running(path: Path, **settings: Any) -> AsyncIterator[FakeEngine]:
    engine = FakeEngine(path)
    for name, value in settings.items():
        setattr(engine, name, value)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


class _TappedTransport:
    def __init__(self, transport: asyncio.Transport, writes: list[bytes]) -> None:
        self._transport = transport
        self._writes = writes

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class TappedEndpoint:
    """Fulfils what a caller asks of an Endpoint."""

    def __init__(self, url: str) -> None:
        self._endpoint = Endpoint.from_url(url)
        self.writes: list[bytes] = []
        self.protocol: Any = None
        """Of the last connection: `pause_writing()` and `resume_writing()` may be called on it."""

        self.after_data: Callable[[bytes], None] = lambda data: None
        """Called in the same turn of the loop in which replies arrived, after they were read."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._endpoint, name)

    async def locate(self) -> Any:
        return self

    async def open(self, protocol: Callable[[], Any]) -> Any:
        def tapped() -> Any:
            self.protocol = inner = protocol()
            inner_made, inner_received = inner.connection_made, inner.data_received

            def received(data: bytes) -> None:
                inner_received(data)
                self.after_data(data)

            inner.data_received = received
            inner.connection_made = lambda transport: inner_made(_TappedTransport(transport, self.writes))
            return inner

        return await self._endpoint.open(tapped)


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test becomes a synchronous one that runs its own loop, so it can use no async fixtures."""

    @functools.wraps(test)
    def run(*, loop_kind: str, **fixtures: Any) -> None:
        complaints: list[dict[str, Any]] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            await test(**fixtures)

        factory = uvloop.new_event_loop if loop_kind == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
        assert not complaints, complaints

    signature = inspect.signature(test)
    kind = inspect.Parameter("loop_kind", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), kind])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop_kind", ["asyncio", "uvloop"])(run)


async def turns(count: int = 50) -> None:
    """Let the loop turn, so that whatever was going to happen by itself has happened."""
    for _ in range(count):
        await asyncio.sleep(0)
