"""Owns what an unclean death leaves on a server's folder: living processes, and files that name dead ones.

Only for the holder of the data dir's lock. A process counts as a folder's when it runs one of the server's
programs and either works in the folder or has it on its command line. A number in a file proves nothing: it
may be a stranger's by now, or that of a zombie, which is dead.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

POLL_SECONDS = 0.01

ORPHAN_SECONDS = 2.0
"""Time for the backends of a killed server to notice it and end by themselves. Then they are killed."""


def processes_on(folder: Path, programs: Collection[str]) -> list[int]:
    """The living processes of a folder. `programs`: names of executables, without their path."""
    real = os.path.realpath(folder)
    names = {real, str(folder)}
    return [pid for pid in _all_pids() if _is_on(pid, real, names, programs)]


def end_orphans(folder: Path, programs: Collection[str], timeout_seconds: float = ORPHAN_SECONDS) -> None:
    """Wait until no process of a folder is left; kill what is left after `timeout_seconds`.

    Two servers on one folder would destroy it, and a server refuses a folder that a backend still uses.
    """
    deadline = time.monotonic() + timeout_seconds
    while left := processes_on(folder, programs):
        if time.monotonic() > deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def remove_socket_lock(lock: Path, program: str) -> None:
    """Remove the lock file of a PostgreSQL socket, unless the server that it names lives.

    PostgreSQL itself looks only whether any process has the number in the file. `lock`: its first line is the
    number, its second one the server's folder.
    """
    try:
        number, folder = lock.read_text(errors="replace").splitlines()[:2]
        pid = int(number)
    except FileNotFoundError:
        return
    except ValueError:
        # Cut short by the death that left it.
        pid, folder = 0, ""
    if pid and pid in processes_on(Path(folder), (program,)):
        return
    lock.unlink(missing_ok=True)


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _is_on(pid: int, real: str, names: set[str], programs: Collection[str]) -> bool:
    try:
        # Fails for a zombie, which has no executable any more, and for processes of other users.
        program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
        if os.path.basename(program) not in programs:
            return False
        if os.readlink(f"/proc/{pid}/cwd").removesuffix(" (deleted)") == real:
            return True
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return not names.isdisjoint(file.read().decode(errors="replace").split("\0"))
    except OSError:
        return False
