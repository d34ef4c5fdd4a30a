"""A shop that really runs: `cartstore up` and further API processes, and ways into its engine and database.

Owns processes and folders, and ends them. What is asked of a shop over HTTP is in `calling.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import asyncpg
import httpx
import jwt
import redis
from packed import line_held
from redis.client import NEVER_DECODE

PATIENCE_SECONDS = 90.0
"""Only there to end a test that hangs: nothing is measured with it."""

_POLL_SECONDS = 0.02
_TAG = "{main:0}:"


class Shop:
    """One `cartstore up` on a data dir of its own. Not started before `start`."""

    def __init__(
        self, data_dir: Path, *, processes: int = 2, catalogs: tuple[Path, ...] = (), **settings: object
    ) -> None:
        """`settings` are those of `CARTSTORE_<NAME>`, without the prefix and in lower case."""
        self.data_dir = data_dir
        self.output = data_dir.with_name(data_dir.name + ".txt")
        self._arguments = ["--processes", str(processes)]
        for catalog in catalogs:
            self._arguments += ["--catalog", str(catalog)]
        self._settings = settings
        self._port = free_port()
        """Chosen once: callers keep their address over a restart."""
        self._process: subprocess.Popen[bytes] | None = None

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start and wait until it says that it is ready."""
        self.spawn()
        self.until_ready()

    def spawn(self) -> None:
        """Start, and wait for nothing."""
        with self.output.open("w") as output:
            self._process = _spawn(
                ["up", "--port", str(self._port), "--data-dir", str(self.data_dir), *self._arguments],
                _environment(self._settings),
                output,
            )

    def until_ready(self) -> None:
        eventually(lambda: "is ready" in self.text() or self.exit_status() is not None)
        assert "is ready" in self.text(), self.text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill_tree(self) -> None:
        """SIGKILL to it and everything below it, at one moment."""
        assert self._process is not None
        # Stopped, it starts no further children while they are counted.
        self._process.send_signal(signal.SIGSTOP)
        for pid in _tree_of(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(PATIENCE_SECONDS)
        self._process = None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal and wait; gives the exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        status = self._process.wait(PATIENCE_SECONDS)
        self._process = None
        return status

    def exit_status(self) -> int | None:
        return self._process.poll() if self._process is not None else None

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def text(self) -> str:
        """Everything that it printed since its last start."""
        return self.output.read_text()

    def logs(self) -> str:
        return "".join(log.read_text(errors="replace") for log in (self.data_dir / "log").iterdir())

    # --- children ------------------------------------------------------------------------------

    def pids(self, name: str) -> list[int]:
        """What `run/<name>.pid` says: engine, postgres, api or worker."""
        with suppress(FileNotFoundError):
            return [int(line) for line in (self.data_dir / "run" / f"{name}.pid").read_text().split()]
        return []

    def kill(self, name: str) -> list[int]:
        """SIGKILL to every process of that name and nothing else; gives their numbers."""
        pids = self.pids(name)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pids

    def has_replaced(self, name: str, before: list[int]) -> bool:
        """Whether all of them were started again and the pid file says so."""
        now = self.pids(name)
        return len(now) == len(before) and not set(now) & set(before) and all(map(is_alive, now))

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Processes of that name with all their children stand still meanwhile (SIGSTOP, SIGCONT)."""
        pids = [pid for top in self.pids(name) for pid in _tree_of(top)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def api_beside(self, **settings: object) -> Iterator[str]:
        """One more API process on the same parts, with settings of its own; gives its address."""
        with api_process(self.data_dir, self.output.with_suffix(".api.txt"), settings) as url:
            yield url

    # --- ways in -------------------------------------------------------------------------------

    @property
    def services(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data_dir / "run" / "services.json").read_text())
        return found

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def jwt_secret(self) -> str:
        secret: str = json.loads((self.data_dir / "secrets.json").read_text())["jwt_secret"]
        return secret

    def token(self, user: str, scope: str = "") -> str:
        return token(self.jwt_secret, user, scope)

    def books(self) -> Books:
        services = self.services
        return Books(services["redis_url"], services["database_url"])


class Books:
    """The numbers themselves, past the API: in the engine and in PostgreSQL."""

    def __init__(self, redis_url: str, database_url: str) -> None:
        self._redis_url = redis_url
        self.database_url = database_url

    @contextmanager
    def engine(self) -> Iterator[redis.Redis]:
        with redis.Redis.from_url(self._redis_url, decode_responses=True) as client:
            yield client

    @asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.database_url)
        try:
            yield connection
        finally:
            await connection.close()

    def counters(self, sku: str) -> dict[str, int]:
        """on_hand, held and sold as the engine has them, lapsed holds included."""
        with self.engine() as engine:
            values = engine.hmget(f"{_TAG}sku:{sku}", "on_hand", "held", "sold", "backordered")
        return dict(zip(("on_hand", "held", "sold", "backordered"), map(int, values), strict=True))

    def events_in_outbox(self) -> int:
        """Events that PostgreSQL may not have: all but the last archived one, which stays as proof."""
        with self.engine() as engine:
            return max(0, int(engine.xlen(f"{_TAG}outbox")) - 1)

    async def rows(self, sql: str, *arguments: object) -> list[dict[str, Any]]:
        async with self.database() as connection:
            return [dict(row) for row in await connection.fetch(sql, *arguments)]

    async def until_archived(self) -> None:
        """Wait until PostgreSQL has every event that the engine has issued."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with self.engine() as engine:
                issued = int(engine.hget(f"{_TAG}gate", "seq") or 0)
            (cursor,) = await self.rows("SELECT seq FROM outbox_cursor")
            if cursor["seq"] >= issued:
                return
            assert time.monotonic() < deadline, f"event {issued} was never archived ({cursor['seq']} was)"
            time.sleep(_POLL_SECONDS)  # noqa: ASYNC251 (nothing else is to run meanwhile)

    async def assert_agree(self, received: dict[str, int]) -> None:
        """For each SKU with what it received: engine, PostgreSQL, ledger and orders tell one story.

        Waits for the archive first. Holds may be there: `held` is what carts and open payments account for.
        """
        await self.until_archived()
        assert not await self.rows("SELECT * FROM rejected_events")
        stock = {row["sku"]: row for row in await self.rows("SELECT * FROM stock")}
        ledger = {
            row["sku"]: row
            for row in await self.rows(
                "SELECT sku, sum(delta)::bigint AS on_hand,"
                " (sum(-delta) FILTER (WHERE kind = 'sale'))::bigint AS sold FROM stock_ledger GROUP BY sku"
            )
        }
        paid = {
            row["sku"]: row["units"]
            for row in await self.rows(
                "SELECT sku, sum(quantity)::bigint AS units FROM order_lines JOIN orders USING (order_id)"
                " WHERE status = 'paid' AND mode <> 'untracked' GROUP BY sku"
            )
        }
        for sku, units in received.items():
            engine = self.counters(sku)
            assert engine["on_hand"] + engine["sold"] - engine["backordered"] == units, (sku, engine)
            assert 0 <= engine["held"] <= engine["on_hand"], (sku, engine)
            assert engine["held"] == self._recorded_holds(sku), (sku, engine)
            assert (stock[sku]["on_hand"], stock[sku]["sold"]) == (engine["on_hand"], engine["sold"]), sku
            assert ledger[sku]["on_hand"] == engine["on_hand"], sku
            assert (ledger[sku]["sold"] or 0) == engine["sold"] == paid.get(sku, 0), sku

    def _recorded_holds(self, sku: str) -> int:
        """Units of every holder that the SKU's own index names, read where the holder keeps them."""
        units = 0
        with self.engine() as engine:
            for holder in engine.zrange(f"{_TAG}holds:{sku}", 0, -1):
                kind, owner, *rest = holder.split("\x1f")
                if kind == "c":
                    line = f"{_TAG}cart:{owner}", f"l:{rest[0]}"
                    units += line_held(engine.execute_command("HGET", *line, **{NEVER_DECODE: True}))
                    continue
                order = engine.hgetall(f"{_TAG}order:{owner}")
                lines = [order[name].split("\x1f") for name in order if name[0] == "l" and name[1:].isdigit()]
                units += sum(int(line[3]) for line in lines if line[1] == sku)
        return units


# --- processes -----------------------------------------------------------------------------------------


@contextmanager
def api_process(data_dir: Path, output: Path, settings: dict[str, object]) -> Iterator[str]:
    """`cartstore api` on whatever runs on the data dir, or is named by the settings; gives its address."""
    port = free_port()
    with output.open("w") as file:
        process = _spawn(
            ["api", "--port", str(port), "--data-dir", str(data_dir)], _environment(settings), file
        )
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: _is_live(url) or process.poll() is not None)
        assert process.poll() is None, output.read_text()
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


@contextmanager
def private_folder() -> Iterator[Path]:
    """Not pytest's tmp_path: its long names leave no room for a unix socket's."""
    folder = Path(tempfile.mkdtemp(prefix="cartstore-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_shop(
    *, processes: int = 2, catalogs: tuple[Path, ...] = (), **settings: object
) -> Iterator[Shop]:
    """A shop in a folder of its own, started, stopped and removed."""
    with private_folder() as folder:
        shop = Shop(folder / "shop", processes=processes, catalogs=catalogs, **settings)
        try:
            shop.start()
            yield shop
        finally:
            if shop.is_running():
                shop.stop()


def eventually(holds: Callable[[], object]) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(_POLL_SECONDS)


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def token(secret: str, user: str, scope: str = "", *, lifetime_seconds: int = 3_600) -> str:
    """An access token as `cartstore token` prints it, without the cost of a process."""
    now = int(time.time())
    claims = {"sub": user, "iat": now, "exp": now + lifetime_seconds}
    return jwt.encode(claims | ({"scope": scope} if scope else {}), secret, algorithm="HS256")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def cartstore(*arguments: str, **settings: object) -> tuple[int, str]:
    """One command to its end: exit status and everything that it printed."""
    ended = subprocess.run(
        [sys.executable, "-m", "cartstore.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        env=_environment(settings),
    )
    return ended.returncode, ended.stdout


def _spawn(arguments: list[str], environment: dict[str, str], output: TextIO) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "cartstore.cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
    )


def _environment(settings: dict[str, object]) -> dict[str, str]:
    """Ours without any setting of a shop, and these settings."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("CARTSTORE_")}
    environment["CARTSTORE_RATE_LIMIT"] = "off"
    environment["CARTSTORE_DRAIN_SECONDS"] = "0"
    return environment | {f"CARTSTORE_{name.upper()}": str(value) for name, value in settings.items()}


def _is_live(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health/live", timeout=5).status_code == 200
    return False


def _tree_of(pid: int) -> list[int]:
    """A process and all its descendants, itself first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo[0])
        todo += children.get(todo.pop(0), [])
    return found
