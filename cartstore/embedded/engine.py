"""Owns the private engine: a Valkey server whose files, socket and password belong to one data dir.

Every write is fsynced before it is answered (`appendfsync always`) and nothing is ever evicted, because
stock counters live here. It listens on a unix socket and on one loopback port, both behind a generated
password that stands in a private file, never on the command line.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cartstore.datadir import write_file
from cartstore.embedded.allocator import engine_environment
from cartstore.embedded.binaries import engine_program
from cartstore.embedded.leftovers import end_orphans
from cartstore.embedded.memory import engine_memory_bytes
from cartstore.embedded.process import LEFTOVER_SECONDS, Process, end_leftover
from cartstore.embedded.salvage import damage_beyond_salvage, damaged_file_of, salvage
from cartstore.errors import StoreUnavailable

_logger = logging.getLogger("cartstore.embedded")

_LOG_BYTES = 64 * 1024
"""What the engine may print in one start."""

SPAWNS_MAX = 5
"""Attempts of one start: the free port that we found may be taken before the server binds it."""

PROGRAMS = ("valkey-server",)
"""What runs on the folder, by the names of the executables."""


class Engine(Process):
    """A Valkey server on `folder`. `config` lines come last and override ours; tests use that."""

    stop_signal = signal.SIGTERM

    def __init__(
        self,
        folder: Path,
        *,
        password: str,
        socket_folder: Path | None = None,
        log: Path | None = None,
        memory_bytes: int | None = None,
        config: Sequence[str] = (),
    ) -> None:
        """`memory_bytes`: its `maxmemory`; by default a share of what there is."""
        super().__init__("The engine", log or folder / "engine.log", environment=engine_environment())
        self._folder = folder.absolute()
        self._password = password
        self._socket = (socket_folder or self._folder).absolute() / "engine.sock"
        self.memory_bytes = engine_memory_bytes() if memory_bytes is None else memory_bytes
        self.takes_writes: Callable[[], bool] = lambda: True
        """Asked at each start. False: it starts with a memory bound that is below what it has, which refuses
        every command that may need more. For a full disk."""
        self._extra = list(config)
        self._spawns = 0
        self.port = 0

    def argv(self) -> list[str]:
        bound = [] if self.takes_writes() else ["--maxmemory", "1"]
        return [str(engine_program()), str(self._config_file), *bound]

    @property
    def _config_file(self) -> Path:
        return self._folder / "engine.conf"

    @property
    def _pid_file(self) -> Path:
        return self._folder / "engine.pid"

    def url(self, database: int = 0) -> str:
        """A `unix://` URL with the password, as redis-py understands it."""
        return f"unix://{quote(str(self._socket))}?password={quote(self._password, safe='')}&db={database}"

    def tcp_url(self, database: int = 0) -> str:
        """The same by the loopback port, for clients that know no unix sockets."""
        return f"redis://:{quote(self._password, safe='')}@127.0.0.1:{self.port}/{database}"

    def prepare(self, leftover_seconds: float = LEFTOVER_SECONDS) -> None:
        engine_program()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        end_leftover(self._pid_file, str(self._config_file), self.stop_signal, leftover_seconds)
        end_orphans(self._folder, PROGRAMS)
        # Half a log of a rewrite that was killed. The engine writes a new one and never removes these.
        for name in ("temp-*.aof", "temp-*.rdb"):
            for file in [*self._folder.glob(name), *self._folder.glob(f"appendonlydir/{name}")]:
                file.unlink(missing_ok=True)
        self._spawns = 0

    def spawn(self) -> None:
        self._spawns += 1
        self.port = self._choose_port()
        try:
            write_file(self._config_file, "\n".join([*self._config(), *self._extra, ""]))
        except OSError:
            # On a full disk the file of the last start does, if there is one: it says the same but for the
            # port.
            if not self._config_file.exists():
                raise
        super().spawn()
        with suppress(OSError):
            # Without it a later start still finds the process by the folder it works in.
            write_file(self._pid_file, f"{self.pid}\n")

    def ready(self) -> bool:
        try:
            self.raise_if_ended()
        except StoreUnavailable:
            if self._spawns >= SPAWNS_MAX or "bind" not in self.log_tail():
                raise
            self.spawn()
            return False
        # Its own retries would sleep for seconds; whoever waits for us asks again at once.
        client = redis.Redis(
            unix_socket_path=str(self._socket), password=self._password, retry=Retry(NoBackoff(), 0)
        )
        with client, suppress(redis.RedisError):
            # Refused while the server still reads its log, so an answer means that the data is there.
            return bool(client.ping())
        return False

    def repair(self) -> bool:
        """Salvage the log when the engine refused it as damaged; see salvage.py. May read for minutes."""
        damaged = damaged_file_of(self.log_of_start())
        if damaged is None:
            return False
        try:
            report = salvage(self._folder, damaged)
        except OSError as error:
            _logger.error("the engine's log %s is damaged and cannot be salvaged: %s", damaged, error)
            return False
        if report is None:
            return False
        _logger.error("%s", report.summary, extra={"fields": {"report": report.kept_in}})
        return True

    def _is_disk_full(self) -> bool:
        found = os.statvfs(self._folder)
        return bool(found.f_bavail * found.f_frsize < _LOG_BYTES)

    def complaint(self, what: str) -> str:
        # Neither while it runs nor when it was told to end does a log that was not read whole mean damage.
        was_ended = self.poll() in (None, 0, -signal.SIGTERM, -signal.SIGKILL)
        # On a full disk the engine's messages end anywhere.
        damage = None if was_ended or self._is_disk_full() else damage_beyond_salvage(self.log_of_start())
        if damage is None:
            return super().complaint(what)
        return (
            f"{super().complaint(what)}. It seems that {damage}; nothing was changed or discarded. "
            'docs/operations.md, "The engine\'s log is damaged", says what to do.'
        )

    def _config(self) -> list[str]:
        return [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"unixsocket {_quoted(self._socket)}",
            "unixsocketperm 700",
            f"requirepass {_quoted(self._password)}",
            "databases 16",
            f"dir {_quoted(self._folder)}",
            'save ""',
            "appendonly yes",
            "appendfsync always",
            f"maxmemory {self.memory_bytes}",
            "maxmemory-policy noeviction",
            # A rewrite needs space for a second log, so whoever watches the disk starts it (disk.py).
            "auto-aof-rewrite-percentage 0",
            "daemonize no",
            # The command line keeps the config file's path: by it a leftover is known as ours.
            "set-proc-title no",
        ]

    def _choose_port(self) -> int:
        """The port of last time if it is free, else any free one: addresses survive a restart."""
        file = self._folder / "port"
        try:
            wanted = int(file.read_text())
        except (OSError, ValueError):
            wanted = 0
        with socket.socket() as probe:
            # As the server itself does; without it a port in TIME_WAIT would look taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except (OSError, OverflowError):
                probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port != wanted:
            with suppress(OSError):
                file.write_text(f"{port}\n")
        return port


def _quoted(value: Path | str) -> str:
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
