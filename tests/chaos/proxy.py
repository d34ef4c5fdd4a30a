"""A TCP proxy between the API and its engine, with a hand on the cable.

It passes bytes on, late, in part or not at all, and never twice. Owns the connections of both sides; knows
nothing of what the bytes say, except where a line of the protocol ends, so that a cut can be in its middle.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

READ_BYTES = 64 * 1024

Way = Literal["request", "reply"]


class Proxy:
    """From a loopback port to the unix socket at `target`, looked up anew by each connection."""

    def __init__(self, target: str, *, seed: int = 0) -> None:
        self.target = target
        self.port = 0
        self._chance = random.Random(seed)
        self._delay_seconds = 0.0
        self._cuts: dict[Way, int] = {}
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pairs: set[_Pair] = set()
        self.cuts = 0
        """Connections that were cut in the middle."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=READ_BYTES)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self._flowing.set()
            self.drop_all()
            await asyncio.gather(*(pair.ended.wait() for pair in list(self._pairs)))

    # --- the hand on the cable -----------------------------------------------------------------------

    def delay(self, seconds: float) -> None:
        """Hold every piece back for so long; 0: no more."""
        self._delay_seconds = seconds

    def stall(self) -> None:
        """Pass nothing on, in either direction, and keep the connections."""
        self._flowing.clear()

    def resume(self, *, drop: bool) -> None:
        """Go on after a stall; `drop`: the pieces that waited are gone, and so are their connections."""
        if drop:
            self.drop_all()
        self._flowing.set()

    def cut_midway(self, way: Way, count: int = 1) -> None:
        """The next `count` pieces that go this way are passed on in part, and their connections cut."""
        self._cuts[way] = self._cuts.get(way, 0) + count

    def cuts_waiting(self) -> int:
        return sum(self._cuts.values())

    def drop_all(self) -> None:
        """Cut every connection where it stands."""
        for pair in list(self._pairs):
            pair.cut()

    # --- passing on ----------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_unix_connection(self.target, limit=READ_BYTES)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(writer, back)
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._pass_on("request", reader, back, pair), self._pass_on("reply", there, writer, pair)
            )
        finally:
            pair.cut()
            self._pairs.discard(pair)
            pair.ended.set()

    async def _pass_on(
        self, way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter, pair: _Pair
    ) -> None:
        # uvloop's transports raise a RuntimeError where they were closed meanwhile.
        with suppress(OSError, RuntimeError):
            while piece := await source.read(READ_BYTES):
                if self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                await self._flowing.wait()
                if pair.is_cut:
                    return
                if self._cuts.get(way):
                    self._cuts[way] -= 1
                    self.cuts += 1
                    sink.write(piece[: self._chance.randrange(len(piece))])
                    # Sent, not thrown away with the connection: the other side is to see half a message.
                    with suppress(OSError, TimeoutError):
                        async with asyncio.timeout(1):
                            await sink.drain()
                    sink.close()
                    pair.cut(spare=sink)
                    return
                sink.write(piece)
                await sink.drain()
        pair.cut()


class _Pair:
    """Both connections of one caller."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self._writers = writers
        self.is_cut = False
        self.ended = asyncio.Event()

    def cut(self, spare: asyncio.StreamWriter | None = None) -> None:
        self.is_cut = True
        for writer in self._writers:
            if writer is not spare:
                writer.transport.abort()
