"""What machines, disks and clients do to a whole `cartstore up`. Each fault strikes once and takes its cause
away again where somebody would have to; what `up` must do by itself it does not do.

Owns how each is done. What became of the shop is measured and checked elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
from contextlib import suppress
from typing import ClassVar

from acceptance.running import is_alive

from cartstore.embedded.append_only_file import Command, read_manifest, scan
from cartstore.embedded.salvage import LOG_FOLDER

from .faults import Fault
from .product_stage import CONNECTIONS_MAX, PATIENCE_SECONDS, RESERVE_MB, ProductStage
from .stage import until

EVENTS_WAITING = 6
"""At least so many wait for the record when the log is damaged."""

HOLE_BYTES = 100
"""At most so many on either side of the place that is damaged."""

SILENT_SOCKETS = 2 * CONNECTIONS_MAX

_HALF_A_HEAD = b"GET /health/live HTTP/1.1\r\n"


class ProductFault(Fault):
    """`goes_on`: the cause stays until `lift`, which is called when the shop is well again."""

    part = "product"
    goes_on: ClassVar[bool] = False
    needs_disk: ClassVar[bool] = False
    """Whether it fills a file system, which has to be one of its own."""

    def __init__(self, stage: ProductStage, chance: random.Random) -> None:
        super().__init__(stage, chance)  # type: ignore[arg-type]
        self.product = stage

    async def lift(self) -> None:
        """Take the cause away."""


# --- disk ----------------------------------------------------------------------------------------------


class DiskBelowReserve(ProductFault):
    name = "disk: free space below the reserve for 2 s"
    needs_disk = True
    left_mb: ClassVar = 0.8 * RESERVE_MB
    # The mark shuts the gate for a part of the calls, as an absence does.
    is_absence = True

    async def strike(self) -> None:
        disk = self.product.disk
        assert disk is not None
        self.broke()
        await asyncio.to_thread(disk.leave_mb, self.left_mb)
        try:
            await until(self._is_noticed)
            await asyncio.sleep(2)
        finally:
            disk.clear()

    async def _is_noticed(self) -> bool:
        return not await self.product.is_ready()


class DiskAlmostFull(DiskBelowReserve):
    name = "disk: free space below a quarter of the reserve for 2 s"
    left_mb = 0.15 * RESERVE_MB


class DiskFull(ProductFault):
    """All of it at once, and the watch of the free space stands still: the engine meets ENOSPC."""

    name = "disk: full at once, the engine ends (ENOSPC); space again 2 s later"
    needs_disk = True
    is_absence = True

    async def strike(self) -> None:
        shop, disk = self.product.shop, self.product.disk
        assert disk is not None
        (engine,) = shop.pids("engine")
        try:
            with self.product.stopped(shop.pid):
                self.broke()
                await asyncio.to_thread(disk.fill)
                await until(lambda: not is_alive(engine))
            await asyncio.sleep(2)
        finally:
            disk.clear()


# --- processes -----------------------------------------------------------------------------------------


class TreeKilled(ProductFault):
    name = "whole tree: SIGKILL, started again at once"
    is_absence = True

    async def strike(self) -> None:
        self.broke()
        self.product.shop.kill_tree()
        self.product.start_again()


class LogDamaged(ProductFault):
    """Events wait because the worker stands still. Then everything dies, and some bytes of one event are
    zeros when it starts again: of one that is not the last of its payment's."""

    name = "whole tree: SIGKILL, then zeros in one waiting event of the engine's log"
    is_upset = True

    async def strike(self) -> None:
        stage = self.product
        (worker,) = stage.shop.pids("worker")
        os.kill(worker, signal.SIGSTOP)
        cursor = await stage.cursor()
        waiting: list[tuple[Command, str, str]] = []

        def many_wait() -> bool:
            waiting[:] = self._waiting(cursor)
            return len(waiting) > EVENTS_WAITING

        await until(many_wait)
        self.broke()
        stage.shop.kill_tree()
        waiting = self._waiting(cursor)
        last_of = {payment_id: entry for entry, _, payment_id in waiting}
        # The very last event may be lost without a trace; see docs/operations.md.
        choice = [its for its in waiting[:-1] if last_of[its[2]] is its[0]]
        entry, position, payment_id = self.chance.choice(choice)
        stage.damage.events.add(position)
        stage.damage.payments.add(payment_id)
        log = self._log()
        data = bytearray(log.read_bytes())
        # The engine has no checksums: only a hole in the framing is noticed (`$` begins a length).
        framing = [
            entry.start + found.end() - 1 for found in re.finditer(rb"\r\n\$", data[entry.start : entry.end])
        ]
        place = self.chance.choice(framing)
        start = max(entry.start, place - self.chance.randrange(HOLE_BYTES))
        end = min(entry.end, place + 1 + self.chance.randrange(HOLE_BYTES))
        data[start:end] = bytes(end - start)
        log.write_bytes(data)
        stage.start_again()

    def _log(self):  # type: ignore[no-untyped-def]
        folder = self.product.engine_folder / LOG_FOLDER
        return folder / read_manifest(folder).increments[-1].name

    def _waiting(self, cursor: tuple[int, int]) -> list[tuple[Command, str, str]]:
        """Outbox entries behind the cursor: place, position, and payment."""
        found = []
        for part in scan(self._log().read_bytes()):
            if isinstance(part, Command) and part.name == b"XADD" and part.args[1].endswith(b":outbox"):
                fields = dict(zip(part.args[3::2], part.args[4::2], strict=True))
                position = part.args[2].decode()
                epoch, seq = map(int, position.split("-"))
                if (epoch, seq) > cursor and fields[b"type"] != b"anchor":
                    found.append((part, position, fields[b"subject"].decode()))
        return found


class WorkerHung(ProductFault):
    """Nobody does anything: readiness has to tell, and `up` has to replace it."""

    name = "worker: SIGSTOP, nobody continues it"

    async def strike(self) -> None:
        stage = self.product
        workers = stage.shop.pids("worker")
        self.broke()
        os.kill(workers[0], signal.SIGSTOP)

        async def is_told() -> bool:
            return not await stage.is_ready()

        await until(is_told)
        await until(lambda: stage.shop.has_replaced("worker", workers), PATIENCE_SECONDS)


# --- clients -------------------------------------------------------------------------------------------


class SilentSockets(ProductFault):
    """Twice as many as the process takes, most of them without a byte and the rest with half a head; whoever
    is cut comes again. They stay until the shop was found well beside them."""

    name = f"clients: {SILENT_SOCKETS} silent sockets on {CONNECTIONS_MAX} places, coming again"
    part = "clients"
    goes_on = True

    async def strike(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._coming = asyncio.create_task(self._keep_coming())
        self.broke()
        await until(lambda: len(self._sockets) == SILENT_SOCKETS)

    async def _keep_coming(self) -> None:
        while True:
            for place in range(SILENT_SOCKETS):
                if place not in self._sockets or _is_cut(self._sockets[place]):
                    await self._come(place)
            await asyncio.sleep(0.25)

    async def _come(self, place: int) -> None:
        if place in self._sockets:
            self._sockets[place].close()
        one = self._sockets[place] = socket.socket()
        one.setblocking(False)
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            await loop.sock_connect(one, ("127.0.0.1", self.product.ports[0]))
            if self.chance.random() < 0.3:
                await loop.sock_sendall(one, _HALF_A_HEAD)

    async def lift(self) -> None:
        self._coming.cancel()
        await asyncio.gather(self._coming, return_exceptions=True)
        for one in self._sockets.values():
            one.close()


def _is_cut(one: socket.socket) -> bool:
    """Whether the server has closed it, or never took it. Reads what there is."""
    try:
        while one.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


class DescriptorsExhausted(SilentSockets):
    """The limit on open files of engine, API process and worker falls to what is open, and silent sockets
    press on the API process; after 3 s the limit is as before, and the sockets are gone."""

    name = "descriptors: none left for engine, API and worker for 3 s, with silent sockets"
    goes_on = False

    async def strike(self) -> None:
        with self.product.without_descriptors():
            await super().strike()
            await asyncio.sleep(3)
            await self.lift()


QUICK: tuple[type[ProductFault], ...] = (TreeKilled, LogDamaged, SilentSockets, DescriptorsExhausted)
"""Which are struck more often than once in a round."""

PRODUCT_FAULTS: tuple[type[ProductFault], ...] = (
    DiskBelowReserve,
    DiskAlmostFull,
    DiskFull,
    *QUICK,
    WorkerHung,
)
