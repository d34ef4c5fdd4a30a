"""Owns the private database: a PostgreSQL server whose files and socket belong to one data dir.

It listens on a unix socket only, in a folder that nobody but its owner may enter; that folder is the whole
access control, so connections need no password.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from cartstore.embedded.binaries import database_program
from cartstore.embedded.identity import database_identity
from cartstore.embedded.leftovers import end_orphans, remove_socket_lock
from cartstore.embedded.process import (
    LEFTOVER_SECONDS,
    PR_SET_PDEATHSIG,
    Process,
    end_leftover,
    prctl,
)
from cartstore.errors import StoreUnavailable

DATABASE = "cartstore"
SPAWNS_MAX = 50
"""Attempts of one start. After a SIGKILL the old server's backends live on for a moment, and PostgreSQL
refuses the folder until the last one is gone."""

SOCKET_LOCK = ".s.PGSQL.5432.lock"
"""Beside the unix socket: who listens there, as PostgreSQL writes it."""

PROGRAMS = ("postgres", "initdb")
"""What runs on the folder, by the names of the executables."""

_REASONS = ("ERROR", "error:", "FATAL:", "PANIC:")
"""One of them is in the line that says why no database was made."""

_STATUS_LINE = 7
"""Of postmaster.pid, from 0: `ready` once connections are taken."""


class Database(Process):
    """A PostgreSQL server on `folder`, with one empty database `cartstore` made at first use.

    `durable=False` gives up crash safety for speed; for tests only.
    """

    # The fast shutdown: open transactions are rolled back, data is flushed.
    stop_signal = signal.SIGINT

    def __init__(
        self,
        folder: Path,
        *,
        socket_folder: Path | None = None,
        log: Path | None = None,
        durable: bool = True,
        config: Sequence[str] = (),
    ) -> None:
        super().__init__("The database", log or folder.parent / "postgres.log")
        self._folder = folder.absolute()
        self._socket_folder = (socket_folder or folder.parent).absolute()
        self._durable = durable
        self._extra = list(config)
        self._spawns = 0
        self._become: Callable[[], None] | None = None

    def argv(self) -> list[str]:
        options = [
            "listen_addresses=",
            f"unix_socket_directories={self._socket_folder}",
            "unix_socket_permissions=0700",
            "max_connections=200",
            "timezone=UTC",
            *([] if self._durable else ["fsync=off", "full_page_writes=off"]),
            *self._extra,
        ]
        command = [str(database_program("postgres")), "-D", str(self._folder)]
        return [*command, *(part for option in options for part in ("-c", option))]

    def identity(self) -> Callable[[], None] | None:
        return self._become

    def url(self, database: str = DATABASE) -> str:
        """A `postgresql://` URL that asyncpg, psql and SQLAlchemy take."""
        return f"postgresql://postgres@/{database}?host={quote(str(self._socket_folder), safe='/')}"

    def prepare(self, leftover_seconds: float = LEFTOVER_SECONDS) -> None:
        self._socket_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (self._folder / "PG_VERSION").exists():
            self._create()
        self._become = database_identity(self._folder)
        pid_file = self._folder / "postmaster.pid"
        end_leftover(pid_file, f"{self._folder}\0", self.stop_signal, leftover_seconds)
        end_orphans(self._folder, PROGRAMS)
        # What is left are files of a process that died. Its number may be a stranger's or a zombie's by now,
        # and PostgreSQL refuses to start while any process has it.
        pid_file.unlink(missing_ok=True)
        remove_socket_lock(self._socket_folder / SOCKET_LOCK, PROGRAMS[0])
        self._spawns = 0

    def spawn(self) -> None:
        self._spawns += 1
        super().spawn()

    def ready(self) -> bool:
        try:
            self.raise_if_ended()
        except StoreUnavailable:
            if self._spawns >= SPAWNS_MAX or "shared memory block" not in self.log_tail():
                raise
            self.spawn()
            return False
        with suppress(OSError, IndexError):
            lines = (self._folder / "postmaster.pid").read_text().splitlines()
            return lines[0].strip() == str(self.pid) and lines[_STATUS_LINE].strip() == "ready"
        return False

    def _telling(self, lines: Sequence[str]) -> Sequence[str]:
        # The last lines tell of the end only.
        return [line for line in lines if "FATAL:" in line or "PANIC:" in line][:1] or super()._telling(lines)

    def execute(self, sql: str, database: str = "postgres") -> str:
        """Run one statement as the owner of everything; gives the rows as unaligned text. For tests."""
        command = [str(database_program("psql")), "-XAtq", "-v", "ON_ERROR_STOP=1", self.url(database)]
        done = subprocess.run(  # noqa: S603 (programs of our own wheel)
            [*command, "-c", sql], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise StoreUnavailable(done.stderr.strip())
        return done.stdout.strip()

    def _create(self) -> None:
        """Make the cluster beside its place and move it there whole: a crash leaves no half of one."""
        new = self._folder.with_name(self._folder.name + ".new")
        # A creation that outlived its supervisor would go on writing there.
        end_orphans(new, PROGRAMS, timeout_seconds=0)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True, mode=0o700)
        become = database_identity(new)
        initdb = [
            *(str(database_program("initdb")), "-D", str(new), "--username=postgres", "--auth=trust"),
            # Sorting that depends on no library of the machine: the files may move to another.
            *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *("--no-instructions", *(() if self._durable else ("--no-sync",))),
        ]
        self._run(initdb, become)
        single = [str(database_program("postgres")), "--single", "-j", "-D", str(new), "template1"]
        self._run(single, become, f"CREATE DATABASE {DATABASE};\n\n")
        new.rename(self._folder)

    def _run(self, command: list[str], become: Callable[[], None] | None, text: str = "") -> None:
        def in_child() -> None:
            if become is not None:
                become()
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

        done = subprocess.run(  # noqa: S603 (programs of our own wheel)
            command, input=text, capture_output=True, text=True, preexec_fn=in_child, check=False
        )
        if done.returncode != 0 or "ERROR:" in done.stderr:
            lines = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
            # The rest is what the server did before and after it.
            reason = next((line for line in lines if any(mark in line for mark in _REASONS)), lines[-1])
            hint = next((f" ({line.partition('HINT:')[2].strip()})" for line in lines if "HINT:" in line), "")
            raise StoreUnavailable(f"The database could not be created in {self._folder}: {reason}{hint}")
