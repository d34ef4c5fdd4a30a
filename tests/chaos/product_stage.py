"""The whole product as an operator runs it: one `cartstore up` on a small file system of its own.

Owns starting and stopping it, and what a campaign asks of a stage. Nothing here starts again what dies: that
is the business of `up`, and only the fault that kills `up` itself starts it.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import asyncpg
from acceptance.running import Shop, private_folder

from .checker import Damage
from .http import Answer, Connection, NeverSent, NoAnswer
from .small_disk import Disk, small_disk
from .stage import SETTINGS, AckMode, NeverCalm, until

DISK_MB = 1_024
RESERVE_MB = 64
CONNECTIONS_MAX = 200

PATIENCE_SECONDS = 150.0
"""A worker that hangs is replaced after 60 s; a part that needs space is tried again every 10 s."""

_READY = b"GET /health/ready HTTP/1.1\r\nHost: shop\r\n\r\n"


class ProductStage:
    """Everything that runs. Made by `product_staged`. Checkouts are acknowledged on the engine's word."""

    ack: AckMode = "engine"
    backup_at = float("inf")

    def __init__(self, folder: Path, disk: Disk | None) -> None:
        self.disk = disk
        """None: the file system is the machine's, and must not be filled."""
        self.shop = Shop(
            folder / "shop",
            processes=1,
            **{
                **SETTINGS,
                "checkout_ack": self.ack,
                "disk_reserve_mb": RESERVE_MB if disk else 0,
                "max_connections": CONNECTIONS_MAX,
            },
        )
        self.shop.start()
        self.jwt_secret = self.shop.jwt_secret
        self.ports = [int(self.shop.url.rpartition(":")[2])]
        self.damage = Damage()
        self._told = ""

    @property
    def engine_folder(self) -> Path:
        return self.shop.data_dir / "engine"

    def urls(self) -> tuple[str, str]:
        """Of engine and database."""
        services = self.shop.services
        return services["redis_url"], services["database_url"]

    def start_again(self) -> None:
        """After the whole tree was killed. Waits for nothing."""
        self._told += self.shop.text()
        self.shop.spawn()

    def logs(self) -> str:
        return self._told + self.shop.text() + self.shop.logs()

    async def cursor(self) -> tuple[int, int]:
        """Epoch and number of the last event that the record has."""
        connection = await asyncpg.connect(self.urls()[1], timeout=PATIENCE_SECONDS)
        try:
            row = await connection.fetchrow("SELECT epoch, seq FROM outbox_cursor")
        finally:
            await connection.close(timeout=5)
        return row["epoch"], row["seq"]

    # --- health ------------------------------------------------------------------------------------

    async def is_ready(self) -> bool:
        """Whether readiness is 200 and `ok` on a connection that is new."""
        try:
            answer = await self._ask(_READY)
        except (NeverSent, NoAnswer):
            return False
        # Degraded is not well: a part is away, or the record is behind.
        return answer.status == 200 and b'"status":"ok"' in answer.body

    async def until_ready(self) -> None:
        try:
            await until(self.is_ready, PATIENCE_SECONDS)
        except TimeoutError as error:
            told = "nothing"
            with suppress(NeverSent, NoAnswer):
                told = (await self._ask(_READY)).body.decode()
            raise NeverCalm(f"never ready: {told}") from error

    async def _ask(self, request: bytes) -> Answer:
        wire = Connection(self.ports[0], 5.0)
        try:
            return await wire.ask(request)
        finally:
            wire.close()

    # --- processes ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def quiet_workers(self) -> AsyncIterator[None]:
        """The worker stands still meanwhile."""
        with self.shop.frozen("worker"):
            yield

    @contextmanager
    def without_descriptors(self) -> Iterator[None]:
        """Engine, API process and worker can open no file and take no connection meanwhile."""
        pids = [pid for name in ("engine", "api", "worker") for pid in self.shop.pids(name)]
        with ExitStack() as stack:
            for pid in pids:
                before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                highest = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, before[1]))
                stack.callback(_restore, pid, before)
            yield

    @contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """One process alone stands still meanwhile."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _restore(pid: int, limits: tuple[int, int]) -> None:
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


@asynccontextmanager
async def product_staged(*, has_disk: bool) -> AsyncIterator[ProductStage]:
    """Start the product. `has_disk`: on a small file system, which only root can mount."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(DISK_MB)) if has_disk else None
        folder = disk.path if disk else stack.enter_context(private_folder())
        stage = ProductStage(folder, disk)
        try:
            yield stage
        finally:
            if disk:
                disk.clear()
            if stage.shop.is_running():
                stage.shop.stop()
            shutil.rmtree(stage.shop.data_dir, ignore_errors=True)
