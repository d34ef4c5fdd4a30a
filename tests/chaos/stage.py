"""A shop in parts of its own, each of which may be killed, stopped, emptied or replaced at any moment.

Owns the processes and addresses: an engine behind a name that moves when a replica takes over, a database, a
Redis of RQ's own, two API processes (one reaches the engine directly, one through a proxy), two workers.
Unlike `cartstore up` it starts what died at once and knows no pauses: the attacks decide when.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import asyncpg
import redis.asyncio as redis
from acceptance.running import private_folder

from cartstore.archive import migrate
from cartstore.embedded import Database, Engine
from cartstore.embedded.parts import start_parts, stop_parts
from cartstore.embedded.process import Process

from .bounds import Terms
from .http import Connection, NeverSent, NoAnswer
from .proxy import Proxy

AckMode = Literal["engine", "archived"]

PATIENCE_SECONDS = 60.0
"""After which something that should come about is taken for a failure."""

TERMS = Terms(guest_seconds=5.0, member_seconds=8.0, window_seconds=20.0)
SETTINGS: Mapping[str, object] = {
    "hold_ttl_guest_seconds": 5,
    "hold_ttl_member_seconds": 8,
    "hold_cap_seconds": 40,
    "payment_window_seconds": 20,
    "snapshot_seconds": 1,
    "reconcile_seconds": 2,
    "ack_timeout_ms": 3_000,
    "rate_limit": "off",
    "drain_seconds": 0,
}
"""Holds and windows short enough to end while it lasts."""

_STOP_SECONDS = 6.0


class NeverCalm(Exception):
    """The shop does not come back by itself."""


class Stage:
    """Everything that runs. Made by `staged`."""

    def __init__(self, folder: Path, proxy: Proxy, listeners: Sequence[socket.socket]) -> None:
        self.folder = folder
        self.proxy = proxy
        self.jwt_secret = secrets.token_hex(24)
        self.password = secrets.token_hex(16)
        self.engine = self.new_engine("engine-1")
        self.queue = Engine(
            folder / "queue", password=self.password, config=["appendonly no", "appendfsync no"]
        )
        # Nothing here takes the machine's power away, so nothing is won by waiting for its disk.
        self.database = Database(folder / "postgres", durable=False)
        self.api: list[Process] = []
        self.workers: list[Process] = []
        self.ack: AckMode = "engine"
        self.backup_at = float("inf")
        """When the latest backup of the database was made."""
        self._listeners = listeners
        self._engines = 1

    # --- addresses -----------------------------------------------------------------------------------

    @property
    def ports(self) -> list[int]:
        return [listener.getsockname()[1] for listener in self._listeners]

    @property
    def engine_path(self) -> Path:
        """A name of the engine's socket that moves with the engine."""
        return self.folder / "current.sock"

    @property
    def engine_url(self) -> str:
        return f"unix://{quote(str(self.engine_path))}?password={self.password}&db=0"

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.engine.url(), decode_responses=True)

    # --- engines -------------------------------------------------------------------------------------

    def new_engine(self, name: str) -> Engine:
        return Engine(self.folder / name, password=self.password)

    def next_engine(self) -> Engine:
        self._engines += 1
        return self.new_engine(f"engine-{self._engines}")

    def point_at(self, engine: Engine) -> None:
        """From here on whoever connects reaches this engine."""
        new = self.engine_path.with_name("next.sock")
        new.unlink(missing_ok=True)
        new.symlink_to(Path(engine.log).parent / "engine.sock")
        new.rename(self.engine_path)
        self.engine = engine

    async def restart_engine(self) -> None:
        """It has been killed."""
        await start_parts([self.engine])

    def urls(self) -> tuple[str, str]:
        """Of engine and database."""
        return self.engine.url(), self.database.url()

    async def epoch(self) -> int:
        """How often the gate was opened; 0: no gate is open."""
        async with self.client() as client:
            state, epoch = await client.hmget("{main:0}:gate", "status", "epoch")
        return int(epoch) if state == "open" else 0

    # --- database ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.database.url(), timeout=PATIENCE_SECONDS)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    @property
    def _backup(self) -> Path:
        return self.folder / "backup"

    async def back_up(self) -> None:
        """A copy of the database's folder as of now; it is stopped for that."""
        await stop_parts([self.database])
        self.backup_at = time.time()
        await asyncio.to_thread(_copy, self.folder / "postgres", self._backup)
        await start_parts([self.database])

    async def restore(self) -> None:
        """Put the copy in the place of the database's folder. It has been killed."""
        folder = self.folder / "postgres"
        # The old server's backends live on for a moment, and must not write into the new folder.
        await until(lambda: not _is_used(folder))
        await asyncio.to_thread(shutil.rmtree, folder)
        await asyncio.to_thread(_copy, self._backup, folder)
        await start_parts([self.database])

    # --- processes -----------------------------------------------------------------------------------

    async def start_api(self, ack: AckMode) -> None:
        """Start both API processes, or start them anew with another mode of acknowledgement."""
        # Out of the keeper's sight first, or it would start what ends here once more.
        before, self.api = self.api, []
        await stop_parts(before, _STOP_SECONDS)
        self.ack = ack
        through_proxy = f"redis://:{self.password}@127.0.0.1:{self.proxy.port}/0"
        self.api = [
            self._python(f"api-{number}", ["cartstore_api", "--fd", str(fd)], fd, redis_url=url)
            for number, (fd, url) in enumerate(
                zip(
                    [listener.fileno() for listener in self._listeners],
                    [self.engine_url, through_proxy],
                    strict=True,
                )
            )
        ]
        await start_parts(self.api)

    async def start_workers(self) -> None:
        self.workers = [self._python(f"worker-{number}", ["cartstore_workers"]) for number in range(2)]
        await start_parts(self.workers)

    async def keep_running(self) -> None:
        """Start processes again that ended by themselves, as supervisors do. Attacks start what they kill."""
        while True:
            for process in [*self.api, *self.workers]:
                if process.poll() is not None:
                    process.spawn()
            await asyncio.sleep(0.05)

    def _python(self, name: str, arguments: list[str], fd: int | None = None, **settings: object) -> Process:
        # What is killed by SIGKILL has no coverage to tell of, and measuring it only slows the attacks down.
        environment = {
            name: text for name, text in os.environ.items() if not name.startswith(("CARTSTORE_", "COV"))
        }
        settings = {
            **SETTINGS,
            "redis_url": self.engine_url,
            "database_url": self.database.url(),
            "queue_url": self.queue.url(),
            "jwt_secret": self.jwt_secret,
            "checkout_ack": self.ack,
            **settings,
        }
        environment |= {f"CARTSTORE_{name.upper()}": str(value) for name, value in settings.items()}
        argv = [sys.executable, "-m", *arguments]
        return Process(name, self.folder / f"{name}.log", argv, environment, [] if fd is None else [fd])

    @asynccontextmanager
    async def quiet_workers(self) -> AsyncIterator[None]:
        """The workers stand still meanwhile."""
        for worker in self.workers:
            worker.send(signal.SIGSTOP)
        try:
            yield
        finally:
            for worker in self.workers:
                worker.send(signal.SIGCONT)

    async def until_ready(self) -> None:
        """Until both API processes say that every part is well."""
        await asyncio.gather(*(_until_ready(port) for port in self.ports))

    def logs(self) -> str:
        return "".join(log.read_text(errors="replace") for log in self.folder.rglob("*.log"))


@asynccontextmanager
async def staged(*, seed: int) -> AsyncIterator[Stage]:
    """Start engine, database, queue and workers; the API processes are started by `start_api`."""
    with private_folder() as folder:
        listeners = [socket.create_server(("127.0.0.1", 0), backlog=1_024) for _ in range(2)]
        async with Proxy(str(folder / "current.sock"), seed=seed).running() as proxy:
            stage = Stage(folder, proxy, listeners)
            try:
                await start_parts([stage.engine, stage.queue, stage.database])
                stage.point_at(stage.engine)
                await migrate(stage.database.url())
                await stage.start_workers()
                keeper = asyncio.create_task(stage.keep_running())
                try:
                    yield stage
                finally:
                    keeper.cancel()
                    await asyncio.gather(keeper, return_exceptions=True)
            finally:
                await stop_parts([*stage.api, *stage.workers], _STOP_SECONDS)
                await stop_parts([stage.engine, stage.queue, stage.database])
                for listener in listeners:
                    listener.close()


async def until(holds: Any, seconds: float = PATIENCE_SECONDS) -> None:
    """Poll a function, or a function that gives an awaitable. TimeoutError when it never holds."""
    async with asyncio.timeout(seconds):
        while True:
            found = holds()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.02)


async def _until_ready(port: int) -> None:
    wire = Connection(port, 5.0)
    told = b"nothing"
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with suppress(NeverSent, NoAnswer):
                    answer = await wire.ask(b"GET /health/ready HTTP/1.1\r\nHost: shop\r\n\r\n")
                    # Degraded is not calm: a part is away, or the record is behind.
                    if answer.status == 200 and b'"status":"ok"' in answer.body:
                        return
                    told = answer.body
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise NeverCalm(f"never ready: {told.decode()}") from error
    finally:
        wire.close()


def _copy(source: Path, target: Path) -> None:
    # Owners and modes too: the database may run as another user.
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def _is_used(folder: Path) -> bool:
    """Whether a process works in the folder."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder:
                return True
    return False
