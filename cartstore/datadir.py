"""Owns the data dir: its layout, its version, its secrets, its lock and what it says of what runs on it.

    format            the layout's version; another one is refused
    secrets.json      generated once, private: the token secret and the engine's password
    lock              held (flock) by whoever runs servers on this data dir, with that process's number
    engine/ postgres/ the servers' files; engine/damaged-<time>/ a damaged log as it was found, with a report
    log/              one file per program
    run/              only of interest while something runs: <program>.pid, services.json, sockets, metrics/

Refuses a folder that is not its own: a wrong --data-dir must not be filled with files.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from cartstore.errors import ConfigurationError

FORMAT: Final = "1"
"""Of the layout above. Goes up when an older cartstore could not use the folder any more."""

LOG_BYTES_MAX: Final = 64 * 1024 * 1024
"""At start, a longer log becomes `<name>.log.1`, so that two of these are the most that is kept."""

_SOCKET_PATH_MAX = 107
_SOCKET_NAME_MAX = len("/.s.PGSQL.5432")
_LOCK_PATIENCE_SECONDS = 0.5


class Secrets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `secrets.json` holds."""

    jwt_secret: str
    engine_password: str


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """What `services.json` holds: where everything is while process `pid` runs it."""

    pid: int
    redis_url: str
    queue_url: str
    database_url: str
    api: str = ""
    """The HTTP address; empty when only the servers run."""


class DataDir:
    """One data dir that exists and has our format."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Make the folder when it is absent or empty, if `create`. ConfigurationError when it is not ours."""
        self.path = path.absolute()
        if not create and not (self.path / "format").exists():
            if not self.path.exists():
                raise ConfigurationError(f"There is no data dir {path}.")
            if self.path.is_dir() and not any(self.path.iterdir()):
                raise ConfigurationError(f"There is no store in {path}: the folder is empty.")
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._check_format()
            for name in ("run", "log"):
                (self.path / name).mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigurationError(f"The data dir {path} cannot be used: {error.strerror}.") from error

    def _check_format(self) -> None:
        file = self.path / "format"
        try:
            found = file.read_text(errors="replace").strip()
        except FileNotFoundError:
            strangers = [entry.name for entry in self.path.iterdir() if not entry.name.endswith(".new")]
            # Looked at again: another process may have made this data dir meanwhile.
            if strangers and not file.exists():
                raise ConfigurationError(
                    f"{self.path} is not a data dir of cartstore: it has files ({sorted(strangers)[0]}, ...) "
                    "but no format. Name another --data-dir, or a new one."
                ) from None
            write_file(file, FORMAT + "\n")
            return
        if found != FORMAT:
            raise ConfigurationError(
                f"The data dir {self.path} has format {found[:20]!r}, but this cartstore uses {FORMAT!r}. "
                "Use the cartstore that made it, or another --data-dir."
            )

    # --- secrets -------------------------------------------------------------------------------

    def secrets(self) -> Secrets:
        """The secrets of this data dir, generated at first use. ConfigurationError when unreadable."""
        file = self.path / "secrets.json"
        if not file.exists():
            new = Secrets(jwt_secret=secrets.token_urlsafe(48), engine_password=secrets.token_urlsafe(32))
            # Two processes may come here at once; the first to link decides for both.
            own = self.path / f"secrets.json.{secrets.token_hex(4)}"
            write_file(own, msgspec.json.encode(new).decode())
            with suppress(FileExistsError):
                os.link(own, file)
            own.unlink()
        try:
            return msgspec.json.decode(file.read_bytes(), type=Secrets)
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigurationError(f"{file} cannot be read: {error}.") from error

    # --- who runs on it ------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the data dir for this process. ConfigurationError, naming the holder, when another does."""
        deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not _try_flock(descriptor, fcntl.LOCK_EX):
                # Someone who only looks (`is_locked`) holds it for an instant.
                if time.monotonic() > deadline:
                    raise ConfigurationError(
                        f"The data dir {self.path} is in use by another cartstore, process {self._holder()}: "
                        "stop that one first, or name another --data-dir."
                    )
                time.sleep(0.02)
            # What a killed predecessor left would send clients to servers that are no more.
            self.forget_services()
            # Over what is there before the file is shortened: a full disk may have no block to give for it.
            holder = f"{os.getpid()}\n".encode()
            os.pwrite(descriptor, holder, 0)
            os.ftruncate(descriptor, len(holder))
            yield
        finally:
            os.close(descriptor)

    def is_locked(self) -> bool:
        """Whether some process, also this one, holds the data dir."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            return not _try_flock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def services(self) -> Services | None:
        """Where the servers of this data dir are, or None when nobody runs them (or not yet)."""
        try:
            services = msgspec.json.decode(self._services_file.read_bytes(), type=Services)
        except (OSError, msgspec.DecodeError):
            return None
        # The file outlives a SIGKILL, and its successor may have the lock but not removed it yet.
        return services if self.is_locked() and self._holder() == services.pid else None

    def announce(self, services: Services) -> None:
        """Tell others where the servers are; only for the holder of the lock."""
        write_file(self._services_file, msgspec.json.encode(services).decode())

    def forget_services(self) -> None:
        self._services_file.unlink(missing_ok=True)

    @property
    def _services_file(self) -> Path:
        return self.path / "run" / "services.json"

    def _holder(self) -> int:
        with suppress(OSError, ValueError):
            return int((self.path / "lock").read_text())
        return 0

    # --- files of programs ---------------------------------------------------------------------

    def write_pids(self, name: str, pids: Iterable[int]) -> None:
        """Set `run/<name>.pid`: one process number a line, no file when there are none."""
        file = self.path / "run" / f"{name}.pid"
        text = "".join(f"{pid}\n" for pid in pids)
        if text:
            write_file(file, text)
        else:
            file.unlink(missing_ok=True)

    def log_file(self, name: str) -> Path:
        """`log/<name>.log`, moved out of the way first when it has become too long."""
        file = self.path / "log" / f"{name}.log"
        if file.exists() and file.stat().st_size > LOG_BYTES_MAX:
            file.rename(file.with_suffix(".log.1"))
        return file

    def logs(self) -> list[Path]:
        """All logs that there are, without what was put aside."""
        return sorted((self.path / "log").glob("*.log"))

    @property
    def metrics_folder(self) -> Path:
        """`run/metrics`, where the processes share their metrics."""
        return self.path / "run" / "metrics"

    def empty_metrics_folder(self) -> None:
        """Drop the values of an earlier run, which would be added to this one's."""
        shutil.rmtree(self.metrics_folder, ignore_errors=True)
        # A process of the earlier run that is ending may have put a file there meanwhile.
        self.metrics_folder.mkdir(mode=0o700, exist_ok=True)

    def socket_folder(self) -> Path:
        """Where the unix sockets are: `run`, or a short private temporary folder when `run` is too long.

        The latter is noted in `run/sockets` and used again while it exists.
        """
        own, note = self.path / "run", self.path / "run" / "sockets"
        if len(os.fsencode(own)) + _SOCKET_NAME_MAX <= _SOCKET_PATH_MAX:
            return own
        if note.exists() and _is_private(Path(note.read_text().strip())):
            return Path(note.read_text().strip())
        folder = Path(tempfile.mkdtemp(prefix="cartstore-"))
        write_file(note, f"{folder}\n")
        return folder

    def drop_socket_folder(self) -> None:
        """Remove the temporary folder of the sockets, if there is one; after the servers have ended."""
        note = self.path / "run" / "sockets"
        if note.exists():
            folder = Path(note.read_text().strip())
            if _is_private(folder):
                shutil.rmtree(folder, ignore_errors=True)
            note.unlink()


def write_file(path: Path, text: str) -> None:
    """Set a private file's text whole or not at all."""
    # A name that no other thread or process chooses at the same moment.
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        new.rename(path)
    except OSError:
        # Of a full disk, say: half a file is left to nobody.
        new.unlink(missing_ok=True)
        raise


def _try_flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_private(folder: Path) -> bool:
    """Whether it is a folder that only we may enter; a name below /tmp could be anybody's by now."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return (
        folder.is_dir()
        and not folder.is_symlink()
        and status.st_uid == os.geteuid()
        and status.st_mode & 0o77 == 0
    )
