"""Everything that a benchmark starts: a private engine and database, API processes, the bare app. Owns where
they run (which CPU), their settings and their end; nothing outlives its context.

Pinning, with two CPUs: what is measured has the first alone; engine, database and load generator share the
second, so that the service never waits for the CPU because of its own load. With more CPUs each of them gets
one of its own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import redis

from cartstore.embedded import Database, Engine
from cartstore.embedded.process import Process
from cartstore.settings import ENVIRONMENT_PREFIX, Settings

ROOT: Final = Path(__file__).resolve().parent.parent
SECRET: Final = "of the benchmarks, and of nothing else at all"
NAMESPACE: Final = "main"
HUGE: Final = 2**31
READY_SECONDS: Final = 30.0

CPUS: Final = sorted(os.sched_getaffinity(0))
CPU_APP: Final = {CPUS[0]}
CPU_ENGINE: Final = {CPUS[1 % len(CPUS)]}
CPU_LOAD: Final = {CPUS[2]} if len(CPUS) > 2 else CPU_ENGINE
CPU_REST: Final = {CPUS[3]} if len(CPUS) > 3 else CPU_LOAD


def pin(pid: int, cpus: set[int]) -> None:
    """All threads of a process; children that it starts later inherit it."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cpus)


@contextmanager
def pinned(cpus: set[int]) -> Iterator[None]:
    """This process, for a while."""
    before = os.sched_getaffinity(0)
    pin(os.getpid(), cpus)
    try:
        yield
    finally:
        pin(os.getpid(), before)


def memory_of(pid: int) -> int:
    """Resident bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_of(*pids: int) -> float:
    """Seconds that all threads of these processes have run."""
    files = [file for pid in pids for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


class Servers:
    """A private engine, and a database if asked for, with what talks to them."""

    def __init__(self, folder: Path, engine: Engine, database: Database | None, password: str) -> None:
        self.folder = folder
        self.engine = engine
        self.database = database
        self.password = password
        self.client: redis.Redis = redis.Redis.from_url(engine.url(), decode_responses=True)

    @property
    def socket_path(self) -> str:
        return str(self.folder / "engine.sock")

    def fsync(self, when: str) -> None:
        """`always` as shipped, or `everysec`: without waiting for the disk after every turn of the engine's
        loop, so that no cost of ours can hide behind it."""
        self.client.config_set("appendfsync", when)

    def settings(self, **changes: Any) -> Settings:
        """Of a store on these servers, with limits that no benchmark meets."""
        return Settings(
            redis_url=self.engine.url(),
            database_url=self.database.url() if self.database else "",
            namespace=NAMESPACE,
            jwt_secret=SECRET,
            max_quantity_per_line=HUGE,
            max_items_per_cart=HUGE,
            max_held_per_owner=HUGE,
            rate_limit="off",
            **changes,
        )

    def environment(self, **changes: Any) -> dict[str, str]:
        """The same for a process."""
        settings = self.settings(**changes)
        fields = {name: getattr(settings, name) for name in Settings.__struct_fields__}
        ours = {ENVIRONMENT_PREFIX + name.upper(): str(value) for name, value in fields.items() if value}
        path = os.pathsep.join(str(ROOT / part) for part in (".", "api", "workers", "lua"))
        others = {
            name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)
        }
        # A zero is left out above, and there it stands for the default.
        ours[f"{ENVIRONMENT_PREFIX}DRAIN_SECONDS"] = "0"
        return {**others, **ours, "PYTHONPATH": path}

    def info(self) -> dict[str, Any]:
        """What the engine says of itself, without what is different in every run."""
        wanted = (
            *(
                "redis_version",
                "valkey_version",
                "server_name",
                "os",
                "arch_bits",
                "gcc_version",
                "io_threads_active",
            ),
            *("multiplexing_api", "mem_allocator", "maxmemory_policy", "aof_enabled", "used_memory_human"),
        )
        found: dict[str, Any] = self.client.info("everything")
        kept = {name: found[name] for name in wanted if name in found}
        for name in ("appendfsync", "io-threads", "hash-max-listpack-entries", "hash-max-listpack-value"):
            kept |= self.client.config_get(name)
        # The program says what it was built with; the library may have been put in front of that.
        if "jemalloc" in Path(f"/proc/{self.engine.pid}/maps").read_text():
            kept["mem_allocator"] = "jemalloc"
        return kept


@contextmanager
def servers(*, database: bool = True, fsync: str = "everysec") -> Iterator[Servers]:
    """Fresh, empty servers in a folder of their own."""
    folder = Path(tempfile.mkdtemp(prefix="cartbench-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        password = secrets.token_hex(16)
        # A rewrite of the log would fork in the middle of somebody's second.
        engine = Engine(
            folder / "engine",
            password=password,
            socket_folder=folder,
            config=["auto-aof-rewrite-percentage 0", f"appendfsync {fsync}"],
        )
        stack.callback(engine.stop)
        engine.start()
        assert engine.pid is not None
        pin(engine.pid, CPU_ENGINE)
        archive = None
        if database:
            archive = Database(folder / "postgres")
            with pinned(CPU_REST):
                stack.callback(archive.stop)
                archive.start()
        found = Servers(folder, engine, archive, password)
        stack.callback(found.client.close)
        yield found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Served:
    """One program that answers HTTP, in one or more processes on one port."""

    def __init__(self, name: str, port: int, processes: Sequence[Process]) -> None:
        self.name = name
        self.port = port
        self.processes = processes

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def memory(self) -> int:
        """Resident bytes of one process, on average."""
        return sum(memory_of(process.pid or 0) for process in self.processes) // len(self.processes)


@contextmanager
def api(found: Servers, *, processes: int = 1, cpus: set[int] = CPU_APP, **changes: Any) -> Iterator[Served]:
    """The service, as `cartstore up` starts it: each process accepts on one shared listening socket."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        argv = [sys.executable, "-m", "cartstore_api", "--fd", str(listener.fileno())]
        port = int(listener.getsockname()[1])
        fds = (listener.fileno(),)
        with _served("api", port, [argv] * processes, found.environment(**changes), cpus, found, fds) as it:
            yield it


@contextmanager
def bare(found: Servers, kind: str, *, canned: bytes = b"{}", cpus: set[int] = CPU_APP) -> Iterator[Served]:
    """The bare ASGI app (baselines/bare.py)."""
    file = found.folder / f"canned-{secrets.token_hex(4)}"
    file.write_bytes(canned)
    port = free_port()
    argv = [
        *(
            sys.executable,
            "-m",
            "benchmarks.baselines.bare",
            "--port",
            str(port),
            "--engine",
            found.engine.url(),
        ),
        *("--caller", kind, "--namespace", NAMESPACE, "--canned", str(file)),
    ]
    with _served("bare", port, [argv], found.environment(), cpus, found, ()) as it:
        yield it


@contextmanager
def worker(found: Servers, **changes: Any) -> Iterator[Process]:
    """The worker process that archives."""
    argv = [sys.executable, "-m", "cartstore_workers"]
    process = Process("worker", found.folder / "worker.log", argv, found.environment(**changes))
    process.start()
    assert process.pid is not None
    pin(process.pid, CPU_REST)
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def _served(
    name: str,
    port: int,
    commands: Sequence[Sequence[str]],
    environment: Mapping[str, str],
    cpus: set[int],
    found: Servers,
    fds: Sequence[int],
) -> Iterator[Served]:
    processes = [
        Process(f"{name} {n}", found.folder / f"{name}-{port}-{n}.log", argv, environment, fds)
        for n, argv in enumerate(commands)
    ]
    served = Served(name, port, processes)
    with ExitStack() as stack:
        with pinned(cpus):
            for process in processes:
                stack.callback(process.stop)
                process.start()
        _wait(served, "/health/ready" if name == "api" else "/carts/u.none")
        yield served


def _wait(served: Served, path: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        for process in served.processes:
            process.raise_if_ended()
        try:
            with urlopen(served.url + path, timeout=2) as answer:
                if answer.status < 500:
                    return
        except OSError:
            if time.monotonic() > deadline:
                raise TimeoutError(served.processes[0].complaint("does not answer")) from None
        time.sleep(0.05)


def output_of(*command: str) -> str:
    """What a program prints, or nothing when it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    except OSError:
        return ""
    return (done.stdout or done.stderr).strip()
